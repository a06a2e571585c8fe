package nbl

import "testing"

// The names of packets are never used twice, however often a sender starts.
func TestSerials(t *testing.T) {
	const visit = 64
	var a, b Serial
	a.Reserve(visit)
	b.Reserve(visit)
	if a == b || a%SerialRange != 0 {
		t.Errorf("two senders begin at %#x and %#x", uint64(a), uint64(b))
	}
	a++
	before := a
	if a.Reserve(visit); a != before {
		t.Errorf("a range of which one name is used is given up")
	}
	a += SerialRange - 2 - visit
	before = a
	if a.Reserve(visit); a != before {
		t.Errorf("a range with %d names left is given up", visit+1)
	}
	a++
	if a.Reserve(visit); a/SerialRange == before/SerialRange || a%SerialRange != 0 {
		t.Errorf("behind %#x comes %#x, which has no room for a visit", uint64(before), uint64(a))
	}
	before = a
	if got := a.Next(); got != uint64(before)+1 {
		t.Errorf("behind %#x comes %#x", uint64(before), got)
	}
}
