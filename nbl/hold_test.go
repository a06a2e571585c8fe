package nbl

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// arena is host memory for the time of the test.
func arena(t testing.TB, n uint64) *sharedmem.Allocator {
	t.Helper()
	a, err := sharedmem.NewHostAllocator(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func newHolder(t testing.TB, lists int, n uint64) *Holder {
	t.Helper()
	h, err := NewHolder(HolderParameters{Tag: "test", Memory: arena(t, n), Lists: lists, Bytes: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// sent is a packet of a guest, and the memory it lies in.
func sent(t testing.TB, h virtio.NetHeader, frame []byte, split ...int) (*List, []byte) {
	t.Helper()
	memory := withHeader(h, frame)
	l := new(List)
	s := newSender(virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6)
	if r := wrap(s, l, pieces(memory, split...)); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	return l, memory
}

// A held packet is the same packet whatever its sender does to his memory.
func TestHoldCopies(t *testing.T) {
	h := newHolder(t, 2, 256<<10)
	tso := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	for _, frame := range [][]byte{ethernet(14), ethernet(60), ethernet(holdChunk), ethernet(holdChunk + 1), ethernet(MaxFrame)} {
		l, memory := sent(t, virtio.NetHeader{}, frame, 12, 7, 100)
		held, err := h.Hold(l, 3)
		if err != nil {
			t.Fatal(err)
		}
		clear(memory)
		if got := flat(held); !bytes.Equal(got, frame) {
			t.Errorf("frame of %d bytes differs at %d", len(frame), firstDifference(got, frame))
		}
		if held.Dst != l.Dst || held.Serial() != l.Serial() || held.Status != Pending {
			t.Errorf("held as %+v", held)
		}
		if err := h.Return(held); err != nil {
			t.Error(err)
		}
	}
	l, _ := sent(t, tso, tcp4(t, 5000))
	l.QueueID = 9
	held, err := h.Hold(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	if held.Offload != l.Offload || held.QueueID != 9 || !bytes.Equal(held.Header(), l.Header()) {
		t.Errorf("offload %+v, queue %d", held.Offload, held.QueueID)
	}
	if err := h.Return(held); err != nil {
		t.Error(err)
	}
}

// Wait is for one queue's packets, all of them, and for no others.
func TestHoldWait(t *testing.T) {
	h := newHolder(t, 4, 64<<10)
	l, _ := sent(t, virtio.NetHeader{}, ethernet(100))
	hold := func(q sharedmem.QueueID) *List {
		held, err := h.Hold(l, q)
		if err != nil {
			t.Fatal(err)
		}
		return held
	}
	a, b, other := hold(1), hold(1), hold(2)
	if h.Out(1) != 2 || h.Out(2) != 1 || h.Out(3) != 0 {
		t.Fatalf("out: %d, %d, %d", h.Out(1), h.Out(2), h.Out(3))
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := h.Wait(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("two are out: %v", err)
	}
	waited := make(chan error)
	go func() { waited <- h.Wait(t.Context(), 1) }()
	if err := h.Return(b); err != nil {
		t.Error(err)
	}
	if err := h.Wait(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("one is still out: %v", err)
	}
	if err := h.Return(a); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := h.Close(); err == nil {
		t.Error("closed while a packet of queue 2 is out")
	}
	if err := h.Return(other); err != nil {
		t.Error(err)
	}
}

func TestHoldRefusals(t *testing.T) {
	h, other := newHolder(t, 2, 8<<10), newHolder(t, 1, 8<<10)
	small, _ := sent(t, virtio.NetHeader{}, ethernet(100))
	big, _ := sent(t, virtio.NetHeader{}, ethernet(7<<10))
	a, err := h.Hold(big, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*List{"no memory": small, "no memory for a big one": big} {
		if _, err := h.Hold(l, 1); !errors.Is(err, ErrResources) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, l := range map[string]*List{"a sender's": small, "another holder's": other.free[0], "one that is in": h.free[0]} {
		if err := h.Return(l); !errors.Is(err, ErrParameter) {
			t.Errorf("return of %s: %v", name, err)
		}
	}
	if err := h.Return(a); err != nil {
		t.Error(err)
	}
	if err := h.Return(a); !errors.Is(err, ErrParameter) {
		t.Errorf("returned twice: %v", err)
	}
	b, err := h.Hold(small, 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Hold(small, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hold(small, 1); !errors.Is(err, ErrResources) {
		t.Errorf("no list: %v", err)
	}
	if err := errors.Join(h.Return(b), h.Return(c)); err != nil {
		t.Error(err)
	}
	for _, p := range []HolderParameters{{}, {Lists: 1, Bytes: 1 << 20}, {Bytes: 1 << 20, Memory: h.memory}, {Lists: 1, Bytes: 100, Memory: h.memory}} {
		if _, err := NewHolder(p); !errors.Is(err, ErrParameter) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// A sender whose memory is shorter than it says, or gone, leaves nothing out.
func TestHoldFault(t *testing.T) {
	h := newHolder(t, 1, 8<<10)
	l, _ := sent(t, virtio.NetHeader{}, ethernet(1000))
	l.Length++
	if _, err := h.Hold(l, 1); !errors.Is(err, ErrParameter) {
		t.Errorf("a chain that ends early: %v", err)
	}
	l.Length, l.MDLs = 1000, nil
	if _, err := h.Hold(l, 1); err == nil {
		t.Error("a chain of nothing was held")
	}
	if h.Out(1) != 0 || len(h.chunks) != 4 {
		t.Errorf("%d out, %d chunks left", h.Out(1), len(h.chunks))
	}
}

func TestHoldConcurrent(t *testing.T) {
	h := newHolder(t, 8, 64<<10)
	var wg sync.WaitGroup
	for q := range sharedmem.QueueID(4) {
		l, _ := sent(t, virtio.NetHeader{}, ethernet(100+int(q)))
		wg.Go(func() {
			for range 1000 {
				held, err := h.Hold(l, q)
				if err != nil {
					t.Error(err)
					return
				}
				if int(held.Length) != 100+int(q) || held.MDLs[0].Load8(20) != l.Header()[20] {
					t.Error("another's frame")
				}
				if err := h.Return(held); err != nil {
					t.Error(err)
				}
			}
			if err := h.Wait(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestHoldDoesNotAllocate(t *testing.T) {
	h := newHolder(t, 2, 128<<10)
	l, _ := sent(t, virtio.NetHeader{}, ethernet(9000))
	if n := testing.AllocsPerRun(100, func() {
		held, err := h.Hold(l, 1)
		if err == nil {
			err = h.Return(held)
		}
		if err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
