package vswitch

import "vhostnet/worker"

// Sender is the port whose frames are being delivered, for a Port that keeps
// accounts of its peers: addresses in a frame can be forged, the port that it
// came by cannot. It is meant for Deliver, on the Context that Deliver was
// given; outside of it the answer is 0.
func Sender(c *worker.Context) PortID {
	if from := batches.Get(c).from; from != nil {
		return from.id
	}
	return 0
}

// PortName is the name under which id was attached, "" when it is not attached
// any more.
func (s *Switch) PortName(id PortID) string {
	if p := s.ports.Load().find(id); p != nil {
		return p.options.Name
	}
	return ""
}
