package netdev_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// Fragments as a receiver's stack puts them together again (RFC 791, section
// 3.2; RFC 8200, section 4.5).

const fragmentHeader = 44

// piece is one fragment of a datagram.
type piece struct {
	head   []byte // Ethernet and IP as they were before, with the datagram's length missing
	id     uint32
	offset int // bytes
	more   bool
	data   []byte
}

// isFragment reports whether got is a fragment of p rather than p.
func (p *packet) isFragment(got vutest.Received) bool {
	at := 14
	if p.vlan != 0 {
		at += 4
	}
	switch {
	case !p.whole || len(got.Data) < at+48 || got.Header.GSOType != virtio.GSONone:
		return false
	case p.v6 && got.Data[at+6] == hopByHop:
		return got.Data[at+40] == fragmentHeader
	case p.v6:
		return got.Data[at+6] == fragmentHeader
	}
	return binary.BigEndian.Uint16(got.Data[at+6:])&0x3fff != 0
}

// reassemble receives the fragments behind got, which is the first, in order and
// without a hole, and answers the datagram.
func (p *packet) reassemble(to *vutest.FrontEnd, got vutest.Received) (vutest.Received, error) {
	var first *piece
	var data []byte
	for {
		f, err := p.fragment(got)
		switch {
		case err != nil:
			return got, err
		case first == nil:
			first = f
		case f.id != first.id || !bytes.Equal(f.head, first.head):
			return got, fmt.Errorf("fragment %d with %x has the header %x, and the first %d with %x", f.id, f.data, f.head, first.id, first.head)
		}
		if f.offset != len(data) || len(f.data) > p.mss || f.more && len(f.data) != p.mss&^7 {
			return got, fmt.Errorf("a fragment of %d bytes at %d, behind %d; it may have %d", len(f.data), f.offset, len(data), p.mss)
		}
		data = append(data, f.data...)
		if !f.more {
			break
		}
		if got, err = to.Recv(0, patience); err != nil {
			return got, fmt.Errorf("fragment at %d: %w", len(data), err)
		}
	}
	if first.offset != 0 || len(data) <= p.mss {
		return got, errors.New("a datagram that needed no fragments")
	}
	got.Data = p.headed(first.head, data)
	return got, nil
}

// fragment reads one of them.
func (p *packet) fragment(got vutest.Received) (*piece, error) {
	at := 14
	if p.vlan != 0 {
		at = 18
	}
	if h := got.Header; h.Flags != 0 || h.GSOSize != 0 || h.HdrLen != 0 || h.CsumStart != 0 || h.CsumOffset != 0 {
		return nil, fmt.Errorf("a fragment with work left to do: %+v", h)
	}
	ip := bytes.Clone(got.Data[at:])
	link := got.Data[:at:at]
	if p.v6 {
		if int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
			return nil, fmt.Errorf("IPv6 header of a fragment says %d of %d bytes", binary.BigEndian.Uint16(ip[4:]), len(ip)-40)
		}
		next, n := 6, 40
		if ip[6] == hopByHop {
			next, n = 40, 48
		}
		h := ip[n : n+8]
		place := binary.BigEndian.Uint16(h[2:])
		if h[1] != 0 || place&6 != 0 {
			return nil, fmt.Errorf("fragment header %x", h)
		}
		ip[next], ip[4], ip[5] = h[0], 0, 0
		return &piece{append(link, ip[:n]...), binary.BigEndian.Uint32(h[4:]), int(place &^ 7), place&1 != 0, ip[n+8:]}, nil
	}
	n := int(ip[0]&15) * 4
	if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || sum16(0, ip[:n]) != 0xffff {
		return nil, fmt.Errorf("IPv4 header of a fragment of %d bytes: %x", len(ip), ip[:n])
	}
	place := binary.BigEndian.Uint16(ip[6:])
	if place&0xc000 != 0 {
		return nil, fmt.Errorf("flags and offset %#x", place)
	}
	clear(ip[2:4])
	clear(ip[6:8])
	clear(ip[10:12])
	return &piece{append(link, ip[:n]...), uint32(binary.BigEndian.Uint16(ip[4:])), int(place&0x1fff) * 8, place&0x2000 != 0, ip[n:]}, nil
}

// headed is the frame of a datagram whose fragments had head.
func (p *packet) headed(head, data []byte) []byte {
	b := append(bytes.Clone(head), data...)
	ip := b[14:]
	if p.vlan != 0 {
		ip = b[18:]
	}
	if p.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		return b
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum16(0, ip[:len(ip)-len(data)])))
	return b
}
