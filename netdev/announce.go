package netdev

import "encoding/binary"

// announceSerial names announcements; no transmit ring counts from there.
const announceSerial = 1<<64 - 1

// rarpLen is the shortest Ethernet frame without its checksum.
const rarpLen = 60

// rarp is the frame by which a host asks for its own address: a request
// reverse for mac, from mac, to everybody (RFC 903).
func rarp(mac [6]byte) []byte {
	b := make([]byte, rarpLen)
	for i := range 6 {
		b[i] = 0xff
	}
	copy(b[6:], mac[:])
	binary.BigEndian.PutUint16(b[12:], 0x8035) // RARP
	binary.BigEndian.PutUint16(b[14:], 1)      // hardware: Ethernet
	binary.BigEndian.PutUint16(b[16:], 0x0800) // protocol: IPv4
	b[18], b[19] = 6, 4                        // address lengths
	binary.BigEndian.PutUint16(b[20:], 3)      // request reverse
	copy(b[22:], mac[:])                       // sender
	copy(b[32:], mac[:])                       // target
	return b
}
