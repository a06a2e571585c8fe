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
// [CopyFrames] is that copy, of many frames that each go into one receive buffer:
// virtio_net_hdr, the private header, then the payload out of the sender's MDLs.
// [WriteFrame] is the same for a frame that takes several buffers, through two
// [Cursor] values. A [Softener] makes
// complete frames for a receiver whose driver did not accept an offload.
//
// # The model
//
// NDIS, the network driver interface of Windows, describes a packet in three
// levels, and the names here are its:
//
//	List (NET_BUFFER_LIST)     a packet and what is known of it
//	  Buffer (NET_BUFFER)      its bytes: Length of them, Offset into a chain
//	    MDL                    one contiguous piece of memory
//
// Whoever has a packet reads it through these, and does not know whether the
// memory is a guest's, this process's, or both. Lists come from a [Pool] that was
// made ahead, and each goes back to the one it came from; a pool that is closed
// too early says whose Lists are missing. A [Source] is the receive side of a
// driver, with a pool, its own list of free Lists, and the rules of indication:
// without [Resources] the receiver owns the Lists until it returns them, with it
// only until the call returns. Uplinks receive so: [List.Own] is where a frame
// and its virtio_net_hdr are read to, [Sender.WrapOwn] what makes a packet of
// them, and [CopyOut] the way back.
//
// What can be done to a packet without copying it:
//
//   - [Buffer.Retreat] and [Buffer.Advance] move the start of the frame, for
//     headers that come and go, over an MDL of a [Headroom] if there is no room;
//   - [Buffer.Data] looks at the first bytes, wherever they lie;
//   - a [Deriver] makes Lists over the bytes of others: clones, fragments,
//     reassemblies. A parent counts its children and outlives them.
//
// [CopyBuffer] copies, and so does a [Holder], which keeps a packet beyond the
// call that brought it, in memory of this process, so that its sender's chain can
// go back; FREE_QUEUE waits until what is held of a queue was returned.
//
// [Info] is what is known of a packet beside its bytes, in NDIS's slots; it and
// virtio_net_hdr say the same (oob.go).
//
// # Speed
//
// The frame's way uses none of this but Lists over chains: Wrap, CopyFrame, and
// a Pool's Get and Put. A List's first cache line is what they look at; the rest
// of the model lies beside it (more.go says how). docs/ndis.md lists what the
// model claims, and the tests.
package nbl
