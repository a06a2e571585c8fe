package virtqueue_test

import (
	"errors"
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// newPair makes a Pair that ends with the test.
func newPair(tb testing.TB, o vqtest.Options) *vqtest.Pair {
	tb.Helper()
	p, err := vqtest.NewPair(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

// formats are the two kinds of rings, by what asks for them.
var formats = map[string]virtio.Features{"split": 0, "packed": virtio.RingPacked}

// add puts a request into the ring, without publishing it.
func add(tb testing.TB, p *vqtest.Pair, r vqtest.Request) uint16 {
	tb.Helper()
	head, err := p.Driver.Add(r)
	if err != nil {
		tb.Fatal(err)
	}
	return head
}

// popAll pops until the ring is empty, at most limit chains.
func popAll(tb testing.TB, q *virtqueue.Queue, limit int) []virtqueue.Chain {
	tb.Helper()
	chains := make([]virtqueue.Chain, limit)
	n, err := q.Pop(chains)
	if err != nil {
		tb.Fatalf("Pop: %v", err)
	}
	return chains[:n]
}

// pushAll gives chains back with their writable length, in order.
func pushAll(q *virtqueue.Queue, chains []virtqueue.Chain) (call bool) {
	used := make([]virtqueue.Used, len(chains))
	for i := range chains {
		used[i] = virtqueue.Used{Head: chains[i].Head, Len: chains[i].Writable}
	}
	return q.Push(used)
}

// contents are the bytes in blocks, one after the other.
func contents(blocks []sharedmem.Block) string {
	var s strings.Builder
	for _, b := range blocks {
		part := make([]byte, b.Len())
		b.CopyTo(part, 0)
		s.Write(part)
	}
	return s.String()
}

// blocksLen is the number of bytes in blocks.
func blocksLen(blocks []sharedmem.Block) (n uint64) {
	for _, b := range blocks {
		n += b.Len()
	}
	return n
}

// wantBroken checks that the ring is broken for reason: the next Pop says so,
// and so does every later one; the err descriptor is handed out once.
func wantBroken(tb testing.TB, p *vqtest.Pair, reason virtqueue.Reason) {
	tb.Helper()
	chains := make([]virtqueue.Chain, 4)
	n, err := p.Queue.Pop(chains)
	var broken *virtqueue.BrokenError
	if n != 0 || !errors.As(err, &broken) {
		tb.Fatalf("Pop = %d, %v; want a *BrokenError", n, err)
	}
	if broken.Reason != reason {
		tb.Fatalf("broken for reason %d (%v), want %d", broken.Reason, err, reason)
	}
	if text := err.Error(); strings.Contains(text, "%!") || !strings.Contains(text, "is broken at avail position") {
		tb.Errorf("message %q", text)
	}
	if first, second := p.Queue.TakeErr(), p.Queue.TakeErr(); first != p.Err || second != nil {
		tb.Errorf("the err descriptor is handed out as %p, then %p; want %p, then none", first, second, p.Err)
	}
	_, again := p.Queue.Pop(chains)
	_, ready := p.Queue.Ready()
	for _, later := range []error{again, ready, p.Queue.Broken()} {
		if !errors.Is(later, err) {
			tb.Errorf("a later answer is %v, want the same %v", later, err)
		}
	}
	if p.Queue.Arm() || p.Queue.Armed() {
		tb.Error("a broken ring was armed: its owner would spin or wait")
	}
	if p.Queue.TakeErr() != nil {
		tb.Error("the err descriptor is handed out once more")
	}
}
