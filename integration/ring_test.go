package integration

import (
	"errors"
	"testing"
)

// ringAt is a ring of four entries in which the driver has given head i%4 at
// each index i, and got back all below used.
func ringAt(avail, used uint16) RingState {
	s := RingState{Avail: avail, Used: used, heads: make([]uint16, 4), returned: make([]uint32, 4)}
	for i := avail - 4; i != avail; i++ {
		s.heads[i%4] = i % 4
	}
	for i := used - 4; i != used; i++ {
		s.returned[i%4] = uint32(i % 4)
	}
	return s
}

func TestRingCheck(t *testing.T) {
	for _, good := range [][2]uint16{{4, 4}, {4, 0}, {7, 5}, {2, 65535}, {1, 1}} {
		if err := ringAt(good[0], good[1]).Check(); err != nil {
			t.Errorf("avail %d, used %d: %v", good[0], good[1], err)
		}
	}
	for name, spoil := range map[string]func(*RingState){
		"returned more than given":   func(s *RingState) { s.Used = s.Avail + 1 },
		"given more than there are":  func(s *RingState) { s.Avail += 4 },
		"given twice":                func(s *RingState) { s.heads[1] = s.heads[2] },
		"out of the ring":            func(s *RingState) { s.heads[2] = 4 },
		"returned another":           func(s *RingState) { s.returned[0] = 3 },
		"returned with higher bits":  func(s *RingState) { s.returned[0] |= 1 << 16 },
		"one skipped, all the later": func(s *RingState) { s.returned[0] = 1 },
	} {
		s := ringAt(7, 5)
		spoil(&s)
		if err := s.Check(); !errors.Is(err, errHeads) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRingCheckFirst(t *testing.T) {
	before := ringAt(7, 4)
	if got := before.Pending(); len(got) != 3 || got[0] != 0 || got[2] != 2 {
		t.Errorf("pending %v", got)
	}
	for _, test := range []struct {
		used uint16
		want int
	}{{4, 0}, {5, 1}, {7, 3}, {8, 3}, {9, 0}} {
		if got, err := ringAt(9, test.used).CheckFirst(before); err != nil || got != test.want {
			t.Errorf("up to %d: %d compared, %v; want %d", test.used, got, err, test.want)
		}
	}
	after := ringAt(9, 6)
	after.returned[0] = 1
	if _, err := after.CheckFirst(before); !errors.Is(err, errHeads) {
		t.Errorf("another head came back first: %v", err)
	}
}
