package nbl

import (
	"encoding/binary"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// EthernetHeaderLen is the shortest frame that is one: two addresses and a
// type.
const EthernetHeaderLen = 14

// Sender says how a transmit ring's chains are to be read. It is made once at
// the ring's start from what the driver accepted.
type Sender struct {
	headerLen  uint32          // of virtio_net_hdr
	offloads   bool            // the driver may leave work to us, so the header has to be read
	accepted   virtio.Features // what it may leave
	from, to   uint64          // the first and the last byte of a chain that WrapAll looks at
	nextSerial *uint64
}

// offloadBits are the features by which a driver may leave work to the device.
const offloadBits = virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6 |
	virtio.NetHostECN | virtio.NetHostUFO | virtio.NetHostUSO

// NewSender is the reading of chains by a driver that accepted f. serial is a
// counter of the caller's that only one goroutine uses; packets are named by
// it, so two counters that feed one switch must start apart.
//
// A driver that accepted none of the offloads can leave no work, so its
// virtio_net_hdr is taken as zero and its cache line is left alone.
func NewSender(f virtio.Features, serial *uint64) Sender {
	s := Sender{
		headerLen:  uint32(virtio.NetHeaderLen(f)),
		offloads:   f&offloadBits != 0,
		accepted:   f,
		nextSerial: serial,
	}
	s.to = uint64(s.headerLen) + plainHeader - 1
	if !s.offloads {
		s.from = uint64(s.headerLen)
	}
	return s
}

// Ahead asks for the lines that WrapAll will read of chains whose first buffers are
// noted in heads, which it empties.
func (s *Sender) Ahead(heads *sharedmem.Lines) { heads.WillRead(s.from, s.to) }

// payloadAhead is how much of a frame WrapAll asks for ahead of its copy, bytes. What
// is behind the processor finds by itself, having seen the beginning.
const payloadAhead = 512

// WrapAll is Wrap for each of lists and the chain at the same place. What is
// malformed is counted in drops.
func (s *Sender) WrapAll(lists []*List, chains []virtqueue.Chain, drops *metrics.Drops) {
	chains = chains[:len(lists)]
	for i, l := range lists {
		c := &chains[i]
		mdls, single := c.Single()
		if frame := c.Readable - s.headerLen; single && !s.offloads && frame-plainHeader <= MaxFrame-plainHeader { // most
			*s.nextSerial++
			l.reset(*s.nextSerial)
			l.MDLs, l.Offset, l.Length, l.headerLen = mdls, s.headerLen, frame, plainHeader
			mdls[0].CopyTo64((*[plainHeader]byte)(l.header[:]), uint64(s.headerLen))
			l.parseEthernet()
			if frame > plainHeader {
				mdls[0].Ahead(uint64(s.headerLen)+plainHeader, uint64(min(frame, payloadAhead))-plainHeader)
			}
		} else if reason := s.Wrap(l, c); reason != metrics.ReasonNone {
			drops.Add(reason, 1)
		}
	}
}

// Wrap makes l the packet that chain carries: its head is copied out of guest
// memory once, parsed and checked; its payload stays where it is. l borrows
// the chain's Blocks until the chain is pushed back. The answer is ReasonNone,
// or why the packet is malformed; then l is marked as dropped and the chain is
// to be pushed back all the same.
func (s *Sender) Wrap(l *List, chain *virtqueue.Chain) metrics.Reason {
	return s.wrap(l, chain.ReadableBlocks(), chain.Readable)
}

// wrap is Wrap for readable bytes in mdls.
func (s *Sender) wrap(l *List, mdls []MDL, readable uint32) metrics.Reason {
	*s.nextSerial++
	l.reset(*s.nextSerial)
	l.MDLs = mdls
	l.Offset, l.Length = s.headerLen, 0
	if readable < s.headerLen+EthernetHeaderLen {
		return l.malformed(metrics.ReasonShort)
	}
	l.Length = readable - s.headerLen
	if l.Length > MaxFrame {
		return l.malformed(metrics.ReasonTooLong)
	}
	if !s.offloads {
		l.copyPlain()
		return metrics.ReasonNone
	}
	offload := s.readHeader(l.MDLs)
	if offload.Flags&virtio.NetFlagNeedsCsum == 0 && offload.GSOType == virtio.GSONone {
		l.copyPlain()
		return metrics.ReasonNone
	}
	l.copyHeader(MaxHeader)
	l.parseEthernet()
	if reason := l.checkOffload(offload, s.accepted); reason != metrics.ReasonNone {
		return l.malformed(reason)
	}
	return metrics.ReasonNone
}

func (l *List) malformed(reason metrics.Reason) metrics.Reason {
	l.Drop(reason)
	return reason
}

// readHeader copies virtio_net_hdr out of guest memory, wherever the driver
// split it.
func (s *Sender) readHeader(mdls []MDL) virtio.NetHeader {
	var b [virtio.MaxNetHeaderLen]byte
	if head := mdls[0]; head.Len() >= uint64(s.headerLen) {
		head.CopyTo(b[:10], 0)
	} else {
		c := NewCursor(mdls)
		c.Read(b[:10])
	}
	return virtio.DecodeNetHeader(b[:])
}

// copyPlain makes l a packet of which nothing is left to do.
func (l *List) copyPlain() {
	if first := l.MDLs[0]; l.Length >= plainHeader && first.Len() >= uint64(l.Offset)+plainHeader { // most frames
		l.headerLen = plainHeader
		first.CopyTo64((*[plainHeader]byte)(l.header[:]), uint64(l.Offset))
	} else {
		l.copyHeader(plainHeader)
	}
	l.parseEthernet()
}

// copyHeader copies the first limit bytes of the frame, or all of a shorter
// one, into the private header.
func (l *List) copyHeader(limit uint32) {
	n := min(l.Length, limit)
	l.headerLen = uint16(n)
	if first, ok := l.contiguous(n); ok {
		first.CopyTo(l.header[:n], 0)
		return
	}
	c := l.At(0)
	c.Read(l.header[:n])
}

// contiguous is the start of the frame when n bytes of it lie in one MDL: the
// one that also holds virtio_net_hdr, or the one behind it.
func (l *List) contiguous(n uint32) (MDL, bool) {
	first := l.MDLs[0]
	if need := uint64(l.Offset) + uint64(n); first.Len() >= need {
		return first.Sub(uint64(l.Offset), first.Len()-uint64(l.Offset)), true
	}
	if first.Len() == uint64(l.Offset) && len(l.MDLs) > 1 && l.MDLs[1].Len() >= uint64(n) {
		return l.MDLs[1], true
	}
	return MDL{}, false
}

// parseEthernet reads the addresses, the first 802.1Q tag and the type from
// the private header, which holds at least an Ethernet header.
func (l *List) parseEthernet() {
	first, second := binary.BigEndian.Uint64(l.header[:]), binary.BigEndian.Uint64(l.header[6:])
	l.Dst, l.Src = first>>16, second>>16
	l.VLAN, l.EtherType, l.L3 = 0, uint16(second), EthernetHeaderLen
	if l.EtherType == etherTypeVLAN {
		l.parseTag()
	}
}

// parseTag reads the rest of an 802.1Q tag from the private header, unless it
// ends before.
func (l *List) parseTag() {
	if l.headerLen >= EthernetHeaderLen+vlanTagLen {
		l.VLAN = binary.BigEndian.Uint16(l.header[14:]) & 0x0fff
		l.EtherType = binary.BigEndian.Uint16(l.header[16:])
		l.L3 = EthernetHeaderLen + vlanTagLen
	}
}

// FromBytes makes l a host packet whose frame is b, complete and without
// offloads. l borrows b until it is reused. Frames shorter than an Ethernet
// header or longer than MaxFrame are refused by their reason.
func (l *List) FromBytes(b []byte, serial uint64) metrics.Reason {
	l.reset(serial)
	l.hostMDL[0] = sharedmem.BytesBlock(b)
	l.MDLs = l.hostMDL[:]
	l.Offset, l.Length = 0, uint32(len(b))
	if len(b) < EthernetHeaderLen {
		return l.malformed(metrics.ReasonShort)
	}
	if len(b) > MaxFrame {
		return l.malformed(metrics.ReasonTooLong)
	}
	l.copyHeader(plainHeader)
	l.parseEthernet()
	return metrics.ReasonNone
}
