package usernet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"

	"vhostnet/worker"
)

// What one packet in pieces may be, beside Limits.
const (
	protoFragment = 44   // IPv6's fragment header
	piecesTime    = 30e9 // ns from the first piece on; between RFC 791's 15 s and RFC 8200's 60 s
	maxPieces     = 128  // of the longest packet at an MTU of 576, with room
	pieceCost     = 64   // bytes that a piece counts beside its data
)

// piecesKey says which pieces are of one packet (RFC 791, section 3.2; RFC 8200,
// section 4.5), and of one guest, so that no guest can spoil another's.
type piecesKey struct {
	guest    *guest
	src, dst netip.Addr
	proto    uint8 // IPv4
	id       uint32
}

// piece is a part of a packet.
type piece struct {
	key   piecesKey
	proto uint8 // of the packet, if this is its beginning
	off   int
	last  bool
	data  []byte
}

func (f *piece) end() int { return f.off + len(f.data) }

// cost is what f counts while its packet is not whole, bytes.
func (f *piece) cost() int { return len(f.data) + pieceCost }

// pieceOf reads an IP fragment. It answers false for one that contradicts itself.
func pieceOf(g *guest, h ip) (f piece, ok bool) {
	f.key = piecesKey{guest: g, src: h.src, dst: h.dst}
	most := maxMTU
	if h.src.Is4() {
		flags := binary.BigEndian.Uint16(h.packet[6:])
		f.off, f.last = int(flags&0x1fff)*8, flags&0x2000 == 0
		f.key.proto, f.key.id = h.proto, uint32(binary.BigEndian.Uint16(h.packet[4:]))
		f.proto, f.data = h.proto, h.payload
		most -= ipv4Len
	} else {
		if len(h.payload) < fragmentLen {
			return f, false
		}
		flags := binary.BigEndian.Uint16(h.payload[2:])
		f.off, f.last = int(flags&^7), flags&1 == 0
		f.key.id = binary.BigEndian.Uint32(h.payload[4:])
		f.proto, f.data = h.payload[0], h.payload[fragmentLen:]
	}
	return f, len(f.data) > 0 && (f.last || len(f.data)%8 == 0) && f.end() <= most
}

// pieces is a packet of which not all pieces are there.
type pieces struct {
	key     piecesKey
	born    int64   // ns
	list    []piece // by offset, without overlap
	have    int     // bytes of data
	cost    int     // have, and pieceCost for each
	total   int     // bytes of the packet behind its IP header; 0: the last piece is not there
	proto   uint8
	refused bool // its pieces contradict each other: those that are yet to come are dropped too
}

// whole reports whether every piece is there.
func (w *pieces) whole() bool { return w.total > 0 && w.have == w.total }

// fits reports whether a piece can be one of w, and where; known, whether it is
// there already. What overlaps is never put together (RFC 5722): a receiver and
// whoever looks at the packet before it might do that in different ways.
func (w *pieces) fits(f piece) (at int, known, ok bool) {
	at, found := slices.BinarySearchFunc(w.list, f.off, func(p piece, off int) int { return p.off - off })
	switch {
	case found:
		same := bytes.Equal(w.list[at].data, f.data) && w.list[at].last == f.last
		return at, same, same
	case at > 0 && w.list[at-1].end() > f.off,
		at < len(w.list) && f.end() > w.list[at].off,
		f.last && (w.total > 0 || at < len(w.list)),
		!f.last && w.total > 0 && f.end() >= w.total,
		len(w.list) == maxPieces:
		return at, false, false
	}
	return at, false, true
}

// reassembly is the packets of which not all pieces are there, bounded for each
// guest and for all.
type reassembly struct {
	o        *Limits
	counters *counters

	mu    sync.Mutex
	m     map[piecesKey]*pieces
	bytes int // their cost
}

// add notes a piece, with a copy of its data, and answers the packet when that
// was the one that lacked.
func (r *reassembly) add(f piece, now int64) *pieces {
	if f.off == 0 && f.last { // whatever else is called the same (RFC 6946)
		r.counters.reassembled.Add(1)
		return &pieces{key: f.key, list: []piece{f}, total: len(f.data), proto: f.proto}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.m[f.key]
	if w != nil && w.refused {
		return nil
	}
	if !r.makeRoom(f.key.guest, w, f.cost()) {
		r.counters.fragmentLimit.Add(1)
		return nil
	}
	if w == nil {
		w = &pieces{key: f.key, born: now}
		r.m[f.key] = w
		f.key.guest.pieces = append(f.key.guest.pieces, w)
	}
	at, known, ok := w.fits(f)
	switch {
	case known:
		return nil
	case !ok:
		r.counters.fragmentOverlap.Add(1)
		r.shrink(w)
		w.refused = true
		return nil
	}
	r.insert(w, at, f)
	if !w.whole() {
		return nil
	}
	r.remove(w)
	r.counters.reassembled.Add(1)
	return w
}

// insert makes f, with a copy of its data, the piece of w at place at.
func (r *reassembly) insert(w *pieces, at int, f piece) {
	f.data = bytes.Clone(f.data)
	w.list = slices.Insert(w.list, at, f)
	w.have += len(f.data)
	w.cost += f.cost()
	r.bytes += f.cost()
	f.key.guest.pieceBytes += f.cost()
	if f.off == 0 {
		w.proto = f.proto
	}
	if f.last {
		w.total = f.end()
	}
}

// makeRoom gives up the guest's oldest packets until a piece of w fits, which is
// nil if it is the first one. It answers false when that is not enough.
func (r *reassembly) makeRoom(g *guest, w *pieces, cost int) bool {
	more := 0
	if w == nil {
		more = 1
	}
	for len(g.pieces)+more > r.o.GuestPieces || g.pieceBytes+cost > r.o.GuestPieceBytes {
		oldest := slices.IndexFunc(g.pieces, func(other *pieces) bool { return other != w })
		if oldest < 0 {
			return false
		}
		r.giveUp(g.pieces[oldest])
	}
	return len(r.m)+more <= r.o.Pieces && r.bytes+cost <= r.o.PieceBytes
}

// giveUp forgets a packet that is not whole.
func (r *reassembly) giveUp(w *pieces) {
	if !w.refused {
		r.counters.fragmentLost.Add(1)
	}
	r.remove(w)
}

func (r *reassembly) remove(w *pieces) {
	g := w.key.guest
	delete(r.m, w.key)
	at := slices.Index(g.pieces, w)
	g.pieces = slices.Delete(g.pieces, at, at+1)
	list, have := w.list, w.have
	r.shrink(w)
	w.list, w.have = list, have // for who asked for it
}

// shrink drops what w holds.
func (r *reassembly) shrink(w *pieces) {
	r.bytes -= w.cost
	w.key.guest.pieceBytes -= w.cost
	w.list, w.have, w.cost = nil, 0, 0
}

// sweep gives up packets of which the first piece came before.
func (r *reassembly) sweep(before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.m {
		if w.born < before {
			r.giveUp(w)
		}
	}
}

// handleFragment puts a packet together out of its fragments, and looks at it
// when it is whole.
func (n *Network) handleFragment(p *packet, h ip) {
	n.counters.fragments.Add(1)
	if !n.learn(h.src, p.mac(), p.guest, worker.Now()) {
		return
	}
	f, ok := pieceOf(p.guest, h)
	if !ok {
		n.counters.malformed.Add(1)
		return
	}
	w := n.reassembly.add(f, worker.Now())
	if w == nil {
		return
	}
	q, b := n.newIP(n.mac, h.src, h.dst, w.proto, w.total)
	defer q.free()
	copy(q.frame, p.frame[:2*6])
	q.guest = p.guest
	for _, f := range w.list {
		copy(b[f.off:], f.data)
	}
	whole, ok := parseIP(binary.BigEndian.Uint16(q.frame[12:]), q.frame[ethernetLen:])
	if !ok || whole.fragment || !summed(whole) {
		n.counters.malformed.Add(1)
		return
	}
	whole.dontFrag = false // or it would not have come in pieces
	if whole.proto == protoTCP {
		n.handleTCP(q)
		return
	}
	n.handleIP(q, whole)
}

// summed reports whether a packet that was put together has the checksum of its
// UDP or TCP: pieces of two packets that were called the same have not. ICMP's is
// checked where it is answered.
func summed(h ip) bool {
	b := h.payload
	switch h.proto {
	case protoTCP:
	case protoUDP:
		if len(b) < udpLen {
			return false
		}
		length := int(binary.BigEndian.Uint16(b[4:]))
		if length < udpLen || length > len(b) {
			return false
		}
		if h.src.Is4() && b[6] == 0 && b[7] == 0 {
			return true // there is none
		}
		b = b[:length]
	default:
		return true
	}
	return transportSum(h.src, h.dst, h.proto, b) == 0
}

// handleTCP puts a TCP packet that came in fragments into the stack.
func (n *Network) handleTCP(p *packet) {
	d := n.link.dispatcher.Load()
	b := p.frame[ethernetLen:]
	etherType := binary.BigEndian.Uint16(p.frame[12:])
	src, dst, tcp := tcpAddresses(etherType, b)
	if d == nil || tcp == 0 {
		return
	}
	n.toStack(worker.Now(), *d, p.guest, segment{etherType, src, dst, tcp, buffer.MakeWithData(b), b})
}
