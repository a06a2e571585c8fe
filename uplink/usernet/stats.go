package usernet

import "vhostnet/metrics"

type counter = metrics.Counter

// counters are what a Network counts beside its port.
type counters struct {
	connected, connectFailed, connectRefused, connectLimit, connectingLimit counter

	flows, flowLimit, flowRefused, flowErrors counter

	pings, pingForbidden counter

	forwarded, forwardFailed counter

	malformed, notForUs, unknown counter

	fragments, reassembled, fragmentOverlap, fragmentLost, fragmentLimit counter

	addressConflict, addressLimit, addressForeign counter

	inboxFull, outFull, noStation counter
}

// Snapshot is what a Network has counted and has open. Counters that move
// meanwhile are each right, but not from one moment.
type Snapshot struct {
	Port metrics.PortSnapshot

	Connections uint64 // open now
	Flows       uint64 // open now
	Addresses   uint64 // known now

	Connected       uint64 // TCP connections that guests made
	ConnectFailed   uint64 // that their destination did not take
	ConnectRefused  uint64 // to addresses that guests may not reach
	ConnectLimit    uint64 // refused, as there are too many
	ConnectingLimit uint64 // SYNs dropped, as too many of the guest's are not answered

	FlowsMade   uint64 // of UDP and ping
	FlowLimit   uint64 // packets dropped, as there are too many flows
	FlowRefused uint64 // packets to addresses that guests may not reach
	FlowErrors  uint64 // packets that the host did not send; the guest was told why

	Pings         uint64 // echo requests that were answered or sent on
	PingForbidden uint64 // echo requests that the host does not let us send

	Forwarded     uint64 // connections and flows that came in by a Forward
	ForwardFailed uint64 // of which the guest took none

	Malformed uint64 // packets that contradict themselves
	NotForUs  uint64 // frames to other stations, that were flooded
	Unknown   uint64 // packets of protocols that are not carried

	Fragments       uint64 // IP fragments that came
	Reassembled     uint64 // packets that were put together out of them
	FragmentOverlap uint64 // packets dropped, as their fragments contradict each other
	FragmentLost    uint64 // packets given up, as not all fragments came in time, or before too many others
	FragmentLimit   uint64 // fragments dropped, as too many wait

	AddressConflict uint64 // packets from an address that is another guest's
	AddressLimit    uint64 // packets from one address more than a guest may have
	AddressForeign  uint64 // packets from an address outside of the network

	InboxFull uint64 // packets of a guest dropped, as too many of its waited
	OutFull   uint64 // packets to guests dropped, as too many waited
	NoStation uint64 // packets to addresses that nobody has
}

// Snapshot may be called at any time.
func (n *Network) Snapshot() Snapshot {
	c := &n.counters
	return Snapshot{
		Port:        n.port.counters.Snapshot(),
		Connections: uint64(n.conns.count()), Flows: uint64(n.flows.count()), Addresses: uint64(n.stations.count()),
		Connected: c.connected.Value(), ConnectFailed: c.connectFailed.Value(), ConnectRefused: c.connectRefused.Value(),
		ConnectLimit: c.connectLimit.Value(), ConnectingLimit: c.connectingLimit.Value(),
		FlowsMade: c.flows.Value(), FlowLimit: c.flowLimit.Value(), FlowRefused: c.flowRefused.Value(), FlowErrors: c.flowErrors.Value(),
		Pings: c.pings.Value(), PingForbidden: c.pingForbidden.Value(),
		Forwarded: c.forwarded.Value(), ForwardFailed: c.forwardFailed.Value(),
		Malformed: c.malformed.Value(), NotForUs: c.notForUs.Value(), Unknown: c.unknown.Value(),
		Fragments: c.fragments.Value(), Reassembled: c.reassembled.Value(), FragmentOverlap: c.fragmentOverlap.Value(),
		FragmentLost: c.fragmentLost.Value(), FragmentLimit: c.fragmentLimit.Value(),
		AddressConflict: c.addressConflict.Value(), AddressLimit: c.addressLimit.Value(), AddressForeign: c.addressForeign.Value(),
		InboxFull: c.inboxFull.Value(), OutFull: c.outFull.Value(), NoStation: c.noStation.Value(),
	}
}
