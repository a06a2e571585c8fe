// Package sys is the part of Linux that the rest of the program needs and the
// standard library does not give: descriptors with one owner, eventfds that a
// hostile peer cannot turn against us, epoll, memory reservations, memory
// files, descriptor passing over unix sockets, thread affinity. It is the only
// package that imports golang.org/x/sys, and it knows nothing of virtio.
//
// Linux 5.8 or newer is needed: older kernels cannot read an eventfd without
// the risk of waiting for it (see [Event]).
package sys
