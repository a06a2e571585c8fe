package usernet

import "sync"

// inbox is what guests sent and nobody has looked at yet, all but TCP. Each
// guest has a queue of its own, and they are served in turn, one packet each:
// one that sends a flood waits for itself.
type inbox struct {
	limit int // of one guest

	mu    sync.Mutex
	turn  []*guest // those with packets, the next one first
	wake  chan struct{}
	ended bool
}

func newInbox(limit int) *inbox {
	return &inbox{limit: limit, wake: make(chan struct{}, 1)}
}

// put adds a packet of its guest's. It answers false when there are too many.
func (b *inbox) put(p *packet) bool {
	b.mu.Lock()
	g := p.guest
	if b.ended || len(g.waiting) >= b.limit {
		b.mu.Unlock()
		return false
	}
	if len(g.waiting) == 0 {
		b.turn = append(b.turn, g)
	}
	g.waiting = append(g.waiting, p)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// get is the next packet, nil when there is none.
func (b *inbox) get() *packet {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.turn) == 0 {
		return nil
	}
	g := b.turn[0]
	b.turn = b.turn[:copy(b.turn, b.turn[1:])]
	p := g.waiting[0]
	g.waiting = g.waiting[:copy(g.waiting, g.waiting[1:])]
	if len(g.waiting) > 0 {
		b.turn = append(b.turn, g)
	}
	return p
}

// end frees what waits, and takes nothing more.
func (b *inbox) end() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	for p := b.get(); p != nil; p = b.get() {
		p.free()
	}
}

// serve looks at packets until stop is closed.
func (n *Network) serve(stop <-chan struct{}) {
	for {
		for p := n.inbox.get(); p != nil; p = n.inbox.get() {
			n.handle(p)
			p.free()
		}
		select {
		case <-n.inbox.wake:
		case <-stop:
			return
		}
	}
}
