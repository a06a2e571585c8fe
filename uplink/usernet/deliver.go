package usernet

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// uplink is the Network as a port of the switch.
type uplink struct {
	n        *Network
	id       vswitch.PortID
	counters metrics.Port
}

// headView is how much of a TCP packet lies in a piece of its own, at most: the
// stack pulls headers up, and would copy a longer piece for that.
const headView = 128

// Deliver takes what guests send (vswitch.Port). It takes everything at once:
// TCP goes into the stack, which only queues it for the goroutine of its
// connection and keeps its own limits; everything else waits for the Network's
// goroutine in a queue of the guest's. Neither waits for anybody.
func (u *uplink) Deliver(c *worker.Context, batch []*nbl.List) (accepted int, part bool) {
	d := u.n.link.dispatcher.Load()
	if d == nil {
		u.counters.Drops.Add(metrics.ReasonStopped, uint64(len(batch)))
		return len(batch), false
	}
	g := u.n.guests.of(u.n.o.Switch, vswitch.Sender(c), c.Now())
	if g.name == "" { // its port was detached meanwhile: nobody is there to answer to
		u.counters.Drops.Add(metrics.ReasonNoPort, uint64(len(batch)))
		return len(batch), false
	}
	frames, bytes := uint64(0), uint64(0)
	for _, l := range batch {
		if l.Dst != u.n.mac && l.Dst>>40&1 == 0 {
			u.n.counters.notForUs.Add(1)
			continue
		}
		frames++
		bytes += uint64(l.Length)
		u.n.receive(c, *d, g, l)
	}
	u.counters.RxFrames.Add(frames)
	u.counters.RxBytes.Add(bytes)
	return len(batch), false
}

// receive finds the way of one frame.
func (n *Network) receive(c *worker.Context, d stack.NetworkDispatcher, g *guest, l *nbl.List) {
	h := l.Header()
	if l.HasTag() {
		n.counters.unknown.Add(1)
		return
	}
	src, dst, tcp := tcpAddresses(l.EtherType, h[ethernetLen:])
	if tcp == 0 {
		n.cutToInbox(c, g, l)
		return
	}
	if !n.learn(src, l.Src, g, c.Now()) {
		return
	}
	payload, head := copyIn(l, headers(h[ethernetLen:], tcp))
	n.toStack(c.Now(), d, g, segment{l.EtherType, src, dst, tcp, payload, head})
}

// segment is a TCP packet on its way into the stack.
type segment struct {
	etherType uint16
	src, dst  netip.Addr
	header    int // bytes of its IP header
	payload   buffer.Buffer
	head      []byte // the beginning of payload
}

// toStack puts a TCP packet into the stack, unless its guest asks for too much. A SYN
// waits for what is left of an earlier connection of its name (later).
func (n *Network) toStack(now int64, d stack.NetworkDispatcher, g *guest, s segment) {
	if len(s.head) < s.header+header.TCPMinimumSize {
		s.payload.Release()
		n.counters.malformed.Add(1)
		return
	}
	tcp := s.head[s.header:]
	if !isSYN(tcp) {
		s.deliver(d)
		return
	}
	from, to := portsOf(tcp)
	k := dialKey{netip.AddrPortFrom(s.src, from), netip.AddrPortFrom(s.dst, to)}
	switch {
	case !n.rests(k):
		n.openTCP(d, g, k, s, now)
	case n.dials.waits(k, true):
		n.later(d, g, k, s, resynTimes)
	default: // one waits already
		s.payload.Release()
	}
}

// deliver puts the packet into the stack.
func (s segment) deliver(d stack.NetworkDispatcher) {
	protocol := header.IPv4ProtocolNumber
	if s.etherType == etherIPv6 {
		protocol = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: s.payload})
	d.DeliverNetworkPacket(protocol, pkt)
	pkt.DecRef()
}

// tcpAddresses are the addresses of a TCP packet that is whole and without
// extension headers, and how long its IP header is; 0 for any other.
func tcpAddresses(etherType uint16, b []byte) (src, dst netip.Addr, n int) {
	switch {
	case etherType == etherIPv4 && len(b) >= ipv4Len && b[9] == protoTCP && b[0]>>4 == 4 &&
		b[6]&0x3f == 0 && b[7] == 0 && b[0]&0x0f >= 5:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), int(b[0]&0x0f) * 4
	case etherType == etherIPv6 && len(b) >= ipv6Len && b[6] == protoTCP && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), ipv6Len
	}
	return src, dst, 0
}

// learn notes who has src and reports whether the packet may be looked at.
func (n *Network) learn(src netip.Addr, mac uint64, g *guest, now int64) bool {
	if !n.isLocal(src) || n.isGateway(src) {
		n.counters.addressForeign.Add(1)
		return false
	}
	return n.stations.learn(src, mac, g, now) != nil
}

// headers is how long the headers of a TCP packet are, of which b is the
// beginning and whose IP header has ip bytes; headView if that is not to be seen
// there. What is behind them goes to the host in one piece then.
func headers(b []byte, ip int) int {
	const dataOffset = 12 // in the TCP header (RFC 9293, section 3.1)
	if len(b) <= ip+dataOffset {
		return headView
	}
	return min(headView, ip+max(header.TCPMinimumSize, int(b[ip+dataOffset]>>4)*4))
}

// copyIn copies the IP packet of l out of its sender's memory: the part that was
// checked from the private header, the rest from where it lies. A fault of that
// memory goes on as a panic; no lock is held then. head is the first bytes of the
// copy, at most split, and lies in a piece of its own.
func copyIn(l *nbl.List, split int) (b buffer.Buffer, head []byte) {
	size := int(l.Length) - ethernetLen
	first := buffer.NewViewSize(min(size, split))
	into := [2]nbl.MDL{sharedmem.BytesBlock(first.AsSlice())}
	var second *buffer.View
	if size > split {
		second = buffer.NewViewSize(size - split)
		into[1] = sharedmem.BytesBlock(second.AsSlice())
	}
	h := l.Header()
	to, from := nbl.NewCursor(into[:]), l.At(uint32(len(h)))
	to.Write(h[ethernetLen:])
	to.Copy(&from, uint64(int(l.Length)-len(h)))
	b = buffer.MakeWithView(first)
	if second != nil {
		_ = b.Append(second) // fails for shared Buffers only
	}
	return b, first.AsSlice()
}

// softeners are the workers'.
var softeners = worker.NewSlot(func() *nbl.Softener { return nbl.NewSoftener(make([]byte, nbl.SoftenerBytes)) })

// cutToInbox is toInbox for each datagram of a frame that is many of them. One
// that is to be cut into fragments is one datagram: it goes as it is.
func (n *Network) cutToInbox(c *worker.Context, g *guest, l *nbl.List) {
	if l.Offload.GSOType != virtio.GSOUDPL4 {
		n.toInbox(g, l)
		return
	}
	s := softeners.Get(c)
	s.StartBurst()
	parts, ok := s.Soften(l)
	if !ok || len(parts) == 0 {
		n.port.counters.Drops.Add(metrics.ReasonSoftOffload, 1)
		return
	}
	n.port.counters.SoftOffload.Add(1)
	for i := range parts {
		n.toInbox(g, &parts[i])
	}
}

// toInbox copies a frame for the goroutine that looks at all but TCP.
func (n *Network) toInbox(g *guest, l *nbl.List) {
	p := newPacket(int(l.Length))
	if nbl.CopyOut(p.frame, l, 0) == 0 {
		n.counters.malformed.Add(1)
		p.free()
		return
	}
	p.guest, p.toCut = g, l.Offload.GSOType == virtio.GSOUDP
	if !n.inbox.put(p) {
		n.counters.inboxFull.Add(1)
		p.free()
	}
}
