// Package boot gives guests the files of one directory of the host, to boot
// from: by TFTP (RFC 1350, 2347 to 2349, 7440) and by HTTP. Nothing is written,
// and nothing outside the directory is reached, by no name and no symbolic
// link.
//
// A TFTP server is handed the payloads of UDP packets and calls back with those
// to send; it has no socket and no goroutine. All transfers are from the port
// that requests go to, which no client minds: it takes the answer's port for
// the server's, whichever that is. HTTP is served on a listener.
package boot
