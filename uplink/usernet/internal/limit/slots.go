package limit

import (
	"fmt"
	"sync"
)

// Slots bounds how much is going on at once, for each key and in all. Its
// methods may be called concurrently.
type Slots[K comparable] struct {
	each, all int

	mu    sync.Mutex
	taken map[K]int // guarded by mu; no zeros
	sum   int       // guarded by mu
}

// NewSlots allows each key each at once, and all keys together all. Both are at
// least 1.
func NewSlots[K comparable](each, all int) (*Slots[K], error) {
	if each < 1 || all < 1 {
		return nil, fmt.Errorf("limit: %d at once for one guest, %d for all; both are at least 1", each, all)
	}
	return &Slots[K]{each: each, all: all, taken: map[K]int{}}, nil
}

// Take takes a slot for key. Without one it answers false.
func (s *Slots[K]) Take(key K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sum >= s.all || s.taken[key] >= s.each {
		return false
	}
	s.taken[key]++
	s.sum++
	return true
}

// Give gives back a slot that key took.
func (s *Slots[K]) Give(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := s.taken[key]; {
	case n < 1:
		panic("limit: a slot was given back that was not taken")
	case n == 1:
		delete(s.taken, key)
	default:
		s.taken[key] = n - 1
	}
	s.sum--
}

// InUse is how many slots are taken.
func (s *Slots[K]) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}
