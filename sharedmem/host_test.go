package sharedmem

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Pieces of the arena are zero, apart, aligned, and join again when freed.
func TestHostArena(t *testing.T) {
	baseline(t)
	a := host(t, 4*page-100) // rounded up
	if _, err := a.Allocate(Parameters{Usage: Other, Length: 4*page + 1}); !errors.Is(err, ErrResources) {
		t.Errorf("more than the arena: %v", err)
	}
	if _, err := a.Allocate(Parameters{Usage: Other, Length: math.MaxUint64}); !errors.Is(err, ErrResources) {
		t.Errorf("more than the world: %v", err)
	}
	whole := Parameters{Usage: Receive, Length: 4 * page, Flags: Contiguous}
	for range 3 {
		l := allocate(t, a, whole)
		if len(l.VA) != 1 || l.VA[0].Len() != 4*page || len(l.Bytes()) != 4*page {
			t.Fatalf("%d pieces", len(l.VA))
		}
		if i := bytes.IndexFunc(l.Bytes(), func(r rune) bool { return r != 0 }); i >= 0 {
			t.Fatalf("byte %d is left from before", i)
		}
		if _, err := a.Allocate(Parameters{Usage: Receive, Length: 1}); !errors.Is(err, ErrResources) {
			t.Errorf("a full arena: %v", err)
		}
		for i := range l.Bytes() {
			l.Bytes()[i] = 0xaa
		}
		free(t, a, l)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for _, n := range []uint64{0, maxMapBytes + 1} {
		if _, err := NewHostAllocator(n); !errors.Is(err, ErrParameter) {
			t.Errorf("an arena of %d bytes: %v", n, err)
		}
	}
}

// Any order of allocations and frees: pieces never overlap, accounts are
// exact, and the arena is whole in the end.
func TestHostArenaRandom(t *testing.T) {
	baseline(t)
	const size = 64 * page
	rng := rand.New(rand.NewPCG(1, 2))
	a := host(t, size)
	var held []*Allocation
	accounts := map[tag]uint64{}
	for step := range 20000 {
		if len(held) == 0 || rng.IntN(5) < 3 {
			p := Parameters{Queue: QueueID(rng.IntN(3)), Usage: Usage(1 + rng.IntN(9)), Length: 1 + rng.Uint64N(3*page), Flags: Flags(rng.IntN(2)), Node: Node(rng.IntN(2))}
			l, err := a.Allocate(p)
			if errors.Is(err, ErrResources) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var sum uint64
			for i, b := range l.VA {
				if b.Len() != l.SG[i].Length || !b.Aligned(0, arenaAlign) {
					t.Fatalf("asked %+v, got %+v", p, l)
				}
				sum += b.Len()
			}
			if l.Parameters != p || sum != p.Length || p.Flags == Contiguous && len(l.VA) != 1 {
				t.Fatalf("asked %+v, got %+v", p, l)
			}
			held = append(held, l)
			accounts[tag{p.Queue, p.Usage}] += p.Length
		} else {
			i := rng.IntN(len(held))
			free(t, a, held[i])
			accounts[tag{held[i].Parameters.Queue, held[i].Parameters.Usage}] -= held[i].Parameters.Length
			held = slices.Delete(held, i, i+1)
		}
		if step%500 != 0 {
			continue
		}
		var sorted []Segment
		for _, l := range held {
			sorted = append(sorted, l.SG...)
		}
		slices.SortFunc(sorted, func(x, y Segment) int { return cmp.Compare(x.Address, y.Address) })
		for i := 1; i < len(sorted); i++ {
			if x, y := sorted[i-1], sorted[i]; x.Address+x.Length > y.Address {
				t.Fatalf("%+v and %+v overlap", x, y)
			}
		}
		for tg, n := range accounts {
			if got := a.Bytes(tg.queue, tg.usage); got != n {
				t.Fatalf("queue %d %s: %d bytes accounted, %d held", tg.queue, tg.usage, got, n)
			}
		}
	}
	if err := a.Close(); len(held) > 0 && err == nil {
		t.Error("closed with memory allocated")
	}
	free(t, a, held...)
	if l := a.Accounts(); len(l) != 0 {
		t.Errorf("nothing is allocated, and accounted are %v", l)
	}
	if holes := a.provider.(*hostProvider).holes; len(holes) != 1 || holes[0] != (Segment{0, size}) {
		t.Errorf("the arena is in pieces: %v", holes)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
