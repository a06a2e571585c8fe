package vutest

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestPagesOverlapNowhere allocates and frees at random and checks that no
// page is given twice and none is lost.
func TestPagesOverlapNowhere(t *testing.T) {
	layout := []Region{
		{GPA: 0, Size: 16 * pageSize}, {GPA: 16 * pageSize, Size: 8 * pageSize}, {GPA: 100 * pageSize, Size: 32 * pageSize},
	}
	var p pages
	p.cover(layout)
	type piece struct {
		gpa uint64
		n   int
	}
	owner := make(map[uint64]int) // page to allocation
	live := make(map[int]piece)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		if rng.IntN(2) == 0 {
			for j, a := range live {
				p.give(a.gpa, a.n)
				for at := a.gpa &^ (pageSize - 1); at < a.gpa+uint64(max(a.n, 1)); at += pageSize {
					delete(owner, at)
				}
				delete(live, j)
				break
			}
			continue
		}
		n, take := rng.IntN(5*pageSize), p.take
		if rng.IntN(8) == 0 {
			n, take = 2+rng.IntN(straddleMax-1), p.straddle
		}
		gpa, err := take(n)
		if err != nil {
			continue // full
		}
		for at := gpa &^ (pageSize - 1); at < gpa+uint64(max(n, 1)); at += pageSize {
			if _, taken := owner[at]; taken {
				t.Fatalf("step %d: page %#x was given twice", i, at)
			}
			owner[at] = i
		}
		live[i] = piece{gpa, n}
	}
	for _, a := range live {
		p.give(a.gpa, a.n)
	}
	for _, want := range []int{32, 15, 7} { // without the two pages at the border
		if _, err := p.take(want * pageSize); err != nil {
			t.Fatalf("%d pages in a row are not free again: %v", want, err)
		}
	}
	if gpa, err := p.straddle(100); err != nil || gpa != 16*pageSize-50 {
		t.Fatalf("the border is not free again: %#x, %v", gpa, err)
	}
}

// TestMemoryAcrossRegions writes across the border of two files.
func TestMemoryAcrossRegions(t *testing.T) {
	m, err := newMemory(layoutZones(4<<20), false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	want := []byte("on both sides of the border")
	at := uint64(1<<20 - 10)
	if err := m.write(at, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := m.read(at, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := m.write(3<<20-1, want); err == nil {
		t.Fatal("wrote behind the last zone below the hole")
	}
}
