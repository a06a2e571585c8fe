// Package nbl is the packet: a NET_BUFFER_LIST over memory that stays where
// its sender put it.
//
//	 transmit chain (guest memory)            List
//	+--------------+                         +---------------------------+
//	| virtio_net_  |  read once, checked --> | Offload                   |
//	| hdr          |                         |                           |
//	+--------------+                         |                           |
//	| Ethernet, IP |  copied once --------> | header (private, <= 256 B) |
//	+--------------+                         |                           |
//	| payload      | <-- MDLs, Offset ------ | Buffer                    |
//	+--------------+                         +---------------------------+
//
// A [Sender] wraps chains as Lists: virtio_net_hdr is decoded and checked, the
// frame's head is copied into the List, and from then on only the copy is
// looked at; the guest may change its memory as it likes. The payload is read
// once, by the copy to the receiver, and decides nothing.
//
// [CopyFrame] is that copy: private header first, then the payload through two
// [Cursor] values, from the sender's MDLs to the receiver's. A [Softener] makes
// complete frames for a receiver whose driver did not accept an offload.
//
// The names are those of NDIS: List (NET_BUFFER_LIST), Buffer (NET_BUFFER),
// MDL, Pool.
package nbl
