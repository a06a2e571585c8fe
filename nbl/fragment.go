package nbl

import "encoding/binary"

// UDP fragmentation offload: a datagram that its sender has left to be
// fragmented. Its checksum, over the whole of it, stands in the first fragment,
// with the UDP header. The sender's wish not to fragment is void, as with Linux:
// it was about what comes behind the offload.

const (
	fragmentLen   = 8 // of IPv6's fragment header: it fits where UDP's was
	protoFragment = 44
	more4         = 0x2000 // "more fragments" of IPv4
	more6         = 1      // and of IPv6
)

// fragment makes a List of each fragment of the datagram that lies in room
// behind fragmentLen bytes.
func fragment(out []List, l *List, room []byte) {
	completeChecksum(l, room[fragmentLen:])
	c := l.segmenting()
	headers := c.from
	if l.EtherType == etherTypeIPv6 {
		headers += fragmentLen
	}
	for i := range out {
		start := fragmentLen + c.from + i*c.size
		end := min(start+c.size, len(room))
		f, last := &out[i], i == len(out)-1
		f.segmentOf(l, room[start-headers:end], c.from)
		if l.EtherType == etherTypeIPv6 {
			f.insertFragment6(l, i*c.size, last)
		} else {
			fixFragment4(f, l, i*c.size, last)
		}
	}
}

// fixFragment4 makes the header of an IPv4 fragment at offset (RFC 791, section
// 3.2); all have the identification that the sender chose.
func fixFragment4(f, l *List, offset int, last bool) {
	ip := f.header[l.L3:f.headerLen]
	place := uint16(offset / 8)
	if !last {
		place |= more4
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(f.Length-uint32(l.L3)))
	binary.BigEndian.PutUint16(ip[6:], place)
	sumIPv4(ip)
}

// insertFragment6 puts a fragment header behind the others (RFC 8200, section
// 4.5). The sender has chosen no identification: the packet's name, spread so
// that the names of several rings of one guest do not meet, is one.
func (f *List) insertFragment6(l *List, offset int, last bool) {
	next, l4 := int(l.L3)+6, int(l.L3)+ipv6Len
	for l4 < int(l.Offload.CsumStart) {
		next, l4 = l4, l4+8+int(f.header[l4+1])*8
	}
	h := f.header[f.headerLen : f.headerLen+fragmentLen]
	f.headerLen += fragmentLen
	h[0], h[1] = f.header[next], 0
	f.header[next] = protoFragment
	place := uint16(offset)
	if !last {
		place |= more6
	}
	binary.BigEndian.PutUint16(h[2:], place)
	binary.BigEndian.PutUint32(h[4:], uint32(l.serial*0x9e3779b97f4a7c15>>32))
	binary.BigEndian.PutUint16(f.header[l.L3+4:], uint16(f.Length-uint32(l.L3)-ipv6Len))
}
