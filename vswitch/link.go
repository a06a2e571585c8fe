package vswitch

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// SetLink takes a port's link down or up again. Ports begin up. While it is
// down, frames to the port and from it are dropped and counted for the port;
// its filters and static addresses stay, what was learned about it is
// forgotten. A worker that is inside Forward may still deliver: none does after
// the workers' next Quiesce. An unknown id is ignored. It may be called from any
// goroutine.
func (s *Switch) SetLink(id PortID, up bool) {
	s.mu.Lock()
	p := s.ports.Load().find(id)
	changed := p != nil && p.down.Swap(!up) == up
	s.mu.Unlock()
	if changed && !up {
		s.Forget(id)
	}
}

// unplugged drops what comes from a port whose link is down.
func (b *batch) unplugged(lists []*nbl.List) {
	for _, l := range lists {
		if !decided(l) {
			b.drop(l, metrics.ReasonLinkDown)
		}
	}
}
