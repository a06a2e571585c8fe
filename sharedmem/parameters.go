package sharedmem

import (
	"fmt"
	"strconv"
)

// QueueID names a VM queue of an adapter; 0 is the adapter's default queue.
type QueueID uint32

// Usage says what memory is for (NDIS_SHARED_MEMORY_USAGE, same values).
type Usage uint8

// The usages. Guests' memory is allocated as Receive, Xmit or Other.
const (
	Undefined Usage = iota
	Xmit
	XmitHeader
	XmitData
	Receive
	ReceiveLookahead
	ReceivePostLookahead
	ReceiveHeader
	ReceiveData
	Other
	numUsages
)

var usageNames = [numUsages]string{
	"undefined", "xmit", "xmit-header", "xmit-data", "receive",
	"receive-lookahead", "receive-post-lookahead", "receive-header", "receive-data", "other",
}

// String is the usage in one word.
func (u Usage) String() string {
	if u < numUsages {
		return usageNames[u]
	}
	return fmt.Sprintf("usage-%d", uint8(u))
}

// Flags modify a request.
type Flags uint32

// Contiguous asks for one piece (NDIS_SHARED_MEM_PARAMETERS_CONTIGUOUS).
const Contiguous Flags = 1

// Node is a preference for memory of one NUMA node, or for none.
type Node int

// AnyNode is no preference (MM_ANY_NODE_OK).
const AnyNode Node = 0

// OnNode prefers the NUMA node of a number, as Linux counts them from 0.
func OnNode(number int) Node { return Node(number + 1) }

// Number is the number of the node, if one is preferred.
func (n Node) Number() (number int, ok bool) { return int(n) - 1, n > 0 }

// String is "any", or the node's number.
func (n Node) String() string {
	if number, ok := n.Number(); ok {
		return strconv.Itoa(number)
	}
	return "any"
}

// Parameters are one request for memory, and all of it
// (NDIS_SHARED_MEMORY_PARAMETERS): a [Provider] is given the same values.
type Parameters struct {
	Queue  QueueID
	Usage  Usage
	Length uint64 // bytes, at least one
	Flags  Flags
	Node   Node // preferred; Allocation.Node says what came of it
}

func (p *Parameters) check() error {
	switch {
	case p.Length == 0:
		return fmt.Errorf("sharedmem: allocate 0 bytes, at least 1 is needed: %w", ErrParameter)
	case p.Usage == Undefined || p.Usage >= numUsages:
		return fmt.Errorf("sharedmem: allocate for usage %s, which is none: %w", p.Usage, ErrParameter)
	case p.Flags&^Contiguous != 0:
		return fmt.Errorf("sharedmem: allocate with flags %#x, only Contiguous (%#x) is known: %w", uint32(p.Flags), uint32(Contiguous), ErrParameter)
	case p.Node < AnyNode:
		return fmt.Errorf("sharedmem: allocate on node %d, which is neither AnyNode nor OnNode of a number: %w", int(p.Node), ErrParameter)
	}
	return nil
}
