package nbl

import "fmt"

// Pool holds Lists made ahead, each with its Buffer, so that the packet's way
// allocates nothing (NDIS: a NET_BUFFER_LIST pool with fAllocateNetBuffer).
// One goroutine at a time may use a Pool.
type Pool struct {
	tag  string
	all  []List
	free []*List
}

// NewPool makes size Lists. tag names the pool's owner in a leak report.
func NewPool(tag string, size int) (*Pool, error) {
	if size < 1 {
		return nil, fmt.Errorf("nbl: pool %q of %d lists; at least one is needed", tag, size)
	}
	p := &Pool{tag: tag, all: make([]List, size), free: make([]*List, size)}
	for i := range p.all {
		p.free[i] = &p.all[size-1-i]
	}
	return p, nil
}

// Get fills dst with free Lists, the most recently returned first, and
// answers how many there were.
func (p *Pool) Get(dst []*List) int {
	n := min(len(dst), len(p.free))
	left := len(p.free) - n
	copy(dst, p.free[left:])
	p.free = p.free[:left]
	return n
}

// Put returns Lists of this pool. Their packets are gone.
func (p *Pool) Put(lists []*List) {
	p.free = append(p.free, lists...)
}

// Out is how many Lists are with their users.
func (p *Pool) Out() int { return len(p.all) - len(p.free) }

// Close reports Lists that were never returned, as an error that names the
// pool's owner.
func (p *Pool) Close() error {
	if n := p.Out(); n != 0 {
		return fmt.Errorf("nbl: pool %q closed with %d of %d lists out", p.tag, n, len(p.all))
	}
	return nil
}
