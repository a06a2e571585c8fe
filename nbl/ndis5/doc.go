// Package ndis5 is how a protocol driver of NDIS 5.1 keeps its packets: the
// model that NET_BUFFER_LISTs (package nbl) came after. Nothing of the frame's
// way uses it. It is there for programs that are written to the old model, and
// as the smaller of the two pictures.
//
//	PacketPool            BufferPool                 Heap
//	+----------+          +----------------------+   +-----------------+
//	| Packet   |--chain-->| Buffer --> Buffer    |   | Region, tag     |
//	| reserved |          |   |           |      |   |                 |
//	+----------+          +---|-----------|------+   +-----------------+
//	                          +-----------+--- map --->  ...
//
// A [Packet] is a descriptor: it holds no bytes, but a chain of [Buffer]s. A
// Buffer holds none either: it maps a range of memory that somebody allocated
// under a tag. Each of the three comes from its own place and goes back there,
// in the opposite order of the way it came:
//
//	packet pool, packet; buffer pool, memory, buffer; chain; send
//	unchain, free buffer, free memory; reinitialize or free packet; free pools
//
// A pool may be the driver's, made when it is loaded, or a binding's, made when
// the protocol is bound to an adapter, and gone with it ([Driver], [Binding]).
//
// What NDIS 5.1 leaves to the driver's care is checked here: a descriptor of
// another pool, a range outside of its memory, memory that is freed while it
// is mapped, a packet that is freed with its chain. One goroutine at a time may
// use a Driver and what belongs to it.
package ndis5

import "errors"

// Errors, named after the statuses of NDIS 5.1.
var (
	// ErrResources: a pool or the memory is used up (NDIS_STATUS_RESOURCES).
	ErrResources = errors.New("not enough resources")
	// ErrFailure: memory or a descriptor cannot be had (NDIS_STATUS_FAILURE).
	ErrFailure = errors.New("failure")
	// ErrParameter: the caller broke a rule. NDIS 5.1 does not notice.
	ErrParameter = errors.New("invalid parameter")
)
