package usernet

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// testGuest is a VM in this process: a TCP/IP stack of its own behind a port of
// the switch, with Ethernet, ARP and neighbour discovery.
type testGuest struct {
	t        testing.TB
	s        *vswitch.Switch
	id       vswitch.PortID
	mac      [6]byte
	v4, v6   netip.Addr
	features virtio.Features
	gso      bool

	stack *stack.Stack
	up    atomic.Pointer[stack.NetworkDispatcher]
	soft  *nbl.Softener
	raw   atomic.Pointer[func(frame []byte)] // is shown what comes

	wake   *sys.Event
	asleep atomic.Bool
	mu     sync.Mutex
	queue  []sent
	source *nbl.Source
	sender nbl.Sender
	serial nbl.Serial
	held   []*nbl.List
	lists  [visitFrames]*nbl.List
	batch  [visitFrames]sent
}

// bareGuest is guest number i without a stack, and without a port.
func bareGuest(t testing.TB, i int, f virtio.Features) *testGuest {
	g := &testGuest{
		t: t, features: f, gso: f.Has(virtio.NetHostTSO4),
		mac:  [6]byte{2, 0, 0, 0, 1, byte(i)},
		v4:   netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i)}),
		soft: nbl.NewSoftener(make([]byte, nbl.SoftenerBytes)),
	}
	v6 := DefaultIPv6.Addr().As16()
	v6[15] = byte(100 + i)
	g.v6 = netip.AddrFrom16(v6)
	return g
}

// newTestGuest attaches guest number i, with offloads or without.
func newTestGuest(l *lab, i int, f virtio.Features) *testGuest {
	l.t.Helper()
	g := bareGuest(l.t, i, f)
	g.s = l.s
	memory, err := sharedmem.NewHostAllocator(sourceLists * sourceStride)
	l.must(err)
	g.source, err = nbl.NewSource(nbl.SourceParameters{
		Tag: "guest", Lists: sourceLists, DataSize: sourceBytes, Memory: memory,
		Indicate: func(batch []*nbl.List, _ nbl.IndicateFlags) { g.held = append(g.held, batch...) },
	})
	l.must(err)
	g.wake, err = sys.NewEvent()
	l.must(err)
	g.sender = nbl.NewSender(f|virtio.Version1, (*uint64)(&g.serial))
	g.newStack(l, (*guestLink)(g))
	g.id, err = l.s.Attach(g, vswitch.PortOptions{Name: "guest"})
	l.must(err)
	w := l.group.Pick()
	l.must(w.Add(context.Background(), g, worker.Adaptive))
	l.t.Cleanup(func() {
		l.s.Detach(g.id)
		g.up.Store(nil)
		l.must(w.Remove(context.Background(), g))
		l.must(l.group.Quiesce(context.Background()))
		g.stack.Destroy()
		l.must(g.source.Return(g.held))
		l.must(g.source.Halt())
		l.must(memory.Close())
		g.wake.Close()
	})
	return g
}

func (g *testGuest) newStack(l *lab, link stack.LinkEndpoint) {
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	recovery := tcpip.TCPRecovery(0)
	sack := tcpip.TCPSACKEnabled(true)
	l.mustStack(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &recovery))
	l.mustStack(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	l.mustStack(g.stack.CreateNIC(nicID, ethernet.New(link)))
	for _, a := range []netip.Prefix{netip.PrefixFrom(g.v4, 24), netip.PrefixFrom(g.v6, 64)} {
		l.mustStack(g.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(a.Addr()), PrefixLen: a.Bits()},
		}, stack.AddressProperties{}))
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, Gateway: stackAddress(DefaultIPv4.Addr()), NIC: nicID},
		{Destination: header.IPv6EmptySubnet, Gateway: stackAddress(DefaultIPv6.Addr()), NIC: nicID},
	})
	// On-link destinations come first.
	v4, v6 := DefaultIPv4.Masked(), DefaultIPv6.Masked()
	g.stack.AddRoute(tcpip.Route{Destination: subnet(v4), NIC: nicID})
	g.stack.AddRoute(tcpip.Route{Destination: subnet(v6), NIC: nicID})
}

func subnet(p netip.Prefix) tcpip.Subnet {
	a := tcpip.AddressWithPrefix{Address: stackAddress(p.Addr()), PrefixLen: p.Bits()}
	return a.Subnet()
}

// Deliver is the guest's receive side (vswitch.Port).
func (g *testGuest) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	g.soft.StartBurst()
	for i, l := range batch {
		if !nbl.Needed(l, g.features) {
			g.take(l)
			continue
		}
		segments, ok := g.soft.Soften(l)
		if !ok {
			return i, false
		}
		for j := range segments {
			g.take(&segments[j])
		}
	}
	return len(batch), false
}

// take gives a frame to the guest's stack, with a copy.
func (g *testGuest) take(l *nbl.List) {
	if f := g.raw.Load(); f != nil {
		b := make([]byte, l.Length)
		nbl.CopyOut(b, l, 0)
		(*f)(b)
	}
	if d := g.up.Load(); d != nil {
		payload, into := twoViews(int(l.Length))
		to := nbl.NewCursor([]nbl.MDL{sharedmem.BytesBlock(into[0]), sharedmem.BytesBlock(into[1])})
		nbl.WriteFrame(&to, l)
		inject(*d, payload)
	}
}

// twoViews is a packet of n bytes as a stack takes it with the least to copy: its
// headers in a piece of their own. They are to be written.
func twoViews(n int) (b buffer.Buffer, into [2][]byte) {
	first := buffer.NewViewSize(min(n, headView))
	b = buffer.MakeWithView(first)
	into[0] = first.AsSlice()
	if n > headView {
		second := buffer.NewViewSize(n - headView)
		into[1] = second.AsSlice()
		_ = b.Append(second) // fails for shared Buffers only
	}
	return b, into
}

func inject(d stack.NetworkDispatcher, payload buffer.Buffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	d.DeliverNetworkPacket(0, pkt)
	pkt.DecRef()
}

// sent is a frame on its way from a guest: one of its stack, or bytes with
// virtio_net_hdr in front.
type sent struct {
	pkt *stack.PacketBuffer
	raw []byte
}

// put writes virtio_net_hdr and frame into b, and lets go of the packet.
func (s *sent) put(b []byte) int {
	if s.pkt == nil {
		return copy(b, s.raw)
	}
	clear(b[:headerLen])
	if gso := s.pkt.GSOOptions; gso.Type != stack.GSONone && gso.NeedsCsum {
		h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: ethernetLen + gso.L3HdrLen, CsumOffset: gso.CsumOffset}
		if s.pkt.Size()-s.pkt.HeaderSize() > int(gso.MSS) {
			h.GSOType, h.GSOSize = virtio.GSOTCPv4, gso.MSS
			if gso.Type == stack.GSOTCPv6 {
				h.GSOType = virtio.GSOTCPv6
			}
		}
		h.Encode(b[:headerLen])
	}
	n := headerLen
	views, skip := s.pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		part := v.AsSlice()
		part = part[min(skip, len(part)):]
		skip = max(0, skip-v.Size())
		n += copy(b[n:], part)
	}
	s.pkt.DecRef()
	return n
}

// send puts a frame with virtio_net_hdr in front on the guest's ring, which has
// no end.
func (g *testGuest) send(b []byte) { g.enqueue(sent{raw: b}) }

func (g *testGuest) enqueue(s sent) {
	g.mu.Lock()
	g.queue = append(g.queue, s)
	g.mu.Unlock()
	if g.asleep.Swap(false) {
		g.wake.Signal()
	}
}

// Poll is the guest's transmit ring (worker.Task).
func (g *testGuest) Poll(c *worker.Context, budget int) bool {
	if len(g.held) == 0 {
		g.mu.Lock()
		n := min(budget, len(g.queue), visitFrames)
		batch := g.batch[:copy(g.batch[:], g.queue[:n])]
		clear(g.queue[:n])
		g.queue = g.queue[:copy(g.queue, g.queue[n:])]
		g.mu.Unlock()
		if n == 0 {
			return false
		}
		g.serial.Reserve(n)
		g.source.Get(g.lists[:n])
		for i := range batch {
			n := batch[i].put(g.lists[i].Own())
			if r := g.sender.WrapOwn(g.lists[i], uint32(n)); r != metrics.ReasonNone {
				g.t.Errorf("a guest's frame of %d bytes is refused: %v", n, r)
			}
		}
		_ = g.source.Indicate(g.lists[:n])
	}
	g.s.Forward(c, g.id, g.held)
	kept := g.held[:0]
	for _, l := range g.held {
		if l.Status == nbl.Busy {
			kept = append(kept, l)
		} else {
			_ = g.source.Return([]*nbl.List{l})
		}
	}
	g.held = kept
	return true
}

// Arm asks for a kick (worker.Task).
func (g *testGuest) Arm() bool {
	g.wake.Drain()
	g.asleep.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)+len(g.queue) > 0
}

// FD is the kick (worker.Task).
func (g *testGuest) FD() int { return g.wake.FD() }

// guestLink is the guest's network card as its stack sees it.
type guestLink testGuest

func (l *guestLink) MTU() uint32                             { return DefaultMTU + ethernetLen }
func (l *guestLink) SetMTU(uint32)                           {}
func (l *guestLink) MaxHeaderLength() uint16                 { return 0 }
func (l *guestLink) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(l.mac[:]) }
func (l *guestLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *guestLink) Wait()                                   {}
func (l *guestLink) IsAttached() bool                        { return l.up.Load() != nil }
func (l *guestLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *guestLink) AddHeader(*stack.PacketBuffer)           {}
func (l *guestLink) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *guestLink) Close()                                  {}
func (l *guestLink) SetOnCloseAction(func())                 {}
func (l *guestLink) GSOMaxSize() uint32                      { return gsoMaxSize }

func (l *guestLink) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.up.Store(nil)
		return
	}
	l.up.Store(&d)
}

func (l *guestLink) Capabilities() stack.LinkEndpointCapabilities {
	if l.gso {
		return stack.CapabilityRXChecksumOffload
	}
	return 0
}

func (l *guestLink) SupportedGSO() stack.SupportedGSO {
	if l.gso {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

func (l *guestLink) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		(*testGuest)(l).enqueue(sent{pkt: pkt.IncRef()})
	}
	return list.Len(), nil
}
