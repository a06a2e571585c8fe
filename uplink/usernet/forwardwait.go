package usernet

import (
	"context"
	"net/netip"
	"sync"
)

// What waits at one way in until it is known who has its guest's address.
const (
	maxWaiting   = 64          // datagrams
	waitingBytes = maxDatagram // of all of them
)

// waiting are datagrams whose guest is looked for.
type waiting struct {
	mu    sync.Mutex
	asked bool // by a goroutine, which takes all of them when it ends
	list  []waitingDatagram
	bytes int
}

type waitingDatagram struct {
	from netip.AddrPort
	data []byte
}

// add sets one aside, as a copy; not ok: there is no room. The first one has to be
// asked for.
func (w *waiting) add(from netip.AddrPort, data []byte) (first, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) >= maxWaiting || w.bytes+len(data) > waitingBytes {
		return false, false
	}
	w.list, w.bytes = append(w.list, waitingDatagram{from, append([]byte(nil), data...)}), w.bytes+len(data)
	first, w.asked = !w.asked, true
	return first, true
}

// takeAll takes all of them out. Nobody asks any more.
func (w *waiting) takeAll() []waitingDatagram {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list, w.bytes, w.asked = nil, 0, false
	return list
}

// putAside keeps a datagram until it is known who has one of some addresses, or
// nobody is. It reports whether it does.
func (u *udpForward) putAside(from netip.AddrPort, data []byte, others []netip.AddrPort) bool {
	first, ok := u.waiting.add(from, data)
	if first && !u.n.start(func() { u.look(others) }) {
		u.waiting.takeAll()
		return false // the network ends
	}
	return ok
}

// look asks for addresses, and carries what has waited for it.
func (u *udpForward) look(others []netip.AddrPort) {
	ctx, cancel := context.WithTimeoutCause(u.n.ctx, resolveWait, errNobody)
	defer cancel()
	at, err := u.n.resolveOne(ctx, others)
	for _, d := range u.waiting.takeAll() {
		if err != nil {
			u.n.counters.forwardFailed.Add(1)
			continue
		}
		u.begin(d.from, others[at], d.data)
	}
}
