package netdev_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// pattern is n bytes that differ from one another and from one seed to the next.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>8*17 + seed)
	}
	return b
}

// packets are the shapes of the matrix.
func packets() []*packet {
	return []*packet{
		{name: "UDPv4", proto: udp, payload: pattern(33, 1)},
		{name: "UDPv4 whose checksum is zero", proto: udp, payload: zeroSum(20)},
		{name: "UDPv4 without checksum", proto: udp, payload: pattern(40, 2), nosum: true},
		{name: "UDPv4 with a tag", proto: udp, vlan: 0x2064, payload: pattern(1458, 3)},
		{name: "UDPv6", proto: udp, v6: true, payload: pattern(200, 4)},
		{name: "UDPv6 behind hop-by-hop options", proto: udp, v6: true, extra: true, payload: pattern(7, 5)},
		{name: "TCPv4", proto: tcp, payload: pattern(1, 6)},
		{name: "TCPv4 with options everywhere", proto: tcp, extra: true, options: true, payload: pattern(1400, 7)},
		{name: "TCPv6 with a tag", proto: tcp, v6: true, vlan: 100, flags: psh, payload: pattern(500, 8)},
		{name: "TSO4, 64 KiB", proto: tcp, options: true, flags: psh, mss: 1448, payload: pattern(65535-20-32, 9)},
		{name: "TSO4, small", proto: tcp, flags: fin | psh | cwr, mss: 300, payload: pattern(1000, 10)},
		{name: "TSO4, behind IP options", proto: tcp, extra: true, mss: 111, payload: pattern(333, 11)},
		{name: "TSO4, one segment", proto: tcp, flags: psh, mss: 300, payload: pattern(300, 12)},
		{name: "TSO4 with a tag", proto: tcp, vlan: 100, flags: psh, mss: 1400, payload: pattern(5001, 13)},
		{name: "TSO6, 64 KiB", proto: tcp, v6: true, flags: psh, mss: 1440, payload: pattern(65535-40-20, 14)},
		{name: "TSO6, small", proto: tcp, v6: true, flags: fin | cwr, mss: 64, payload: pattern(129, 15)},
		{name: "TSO6 with a tag, behind hop-by-hop options", proto: tcp, v6: true, vlan: 4094, extra: true, options: true, mss: 1200, payload: pattern(3601, 16)},
		{name: "TSO4 with ECN, 64 KiB", proto: tcp, ecn: true, flags: psh | cwr, mss: 1448, payload: pattern(65535-20-20, 17)},
		{name: "TSO6 with ECN", proto: tcp, v6: true, ecn: true, flags: fin | cwr, mss: 500, payload: pattern(2000, 18)},
		{name: "TSO4 with ECN and a tag, window not reduced", proto: tcp, vlan: 100, ecn: true, mss: 500, payload: pattern(1001, 19)},
		{name: "UFOv4, 64 KiB", proto: udp, whole: true, mss: 1480, payload: pattern(65535-20-8, 20)},
		{name: "UFOv4 behind options, with a tag", proto: udp, whole: true, vlan: 100, extra: true, mss: 55, payload: pattern(111, 21)},
		{name: "UFOv4, one fragment", proto: udp, whole: true, mss: 1480, payload: pattern(1472, 22)},
		{name: "UFOv4, one byte more", proto: udp, whole: true, mss: 1480, payload: pattern(1473, 23)},
		{name: "UFOv6, 64 KiB", proto: udp, v6: true, whole: true, mss: 1448, payload: pattern(65535-40-8, 24)},
		{name: "UFOv6 behind hop-by-hop options, with a tag", proto: udp, v6: true, whole: true, vlan: 4094, extra: true, mss: 1001, payload: pattern(3601, 25)},
		{name: "UFOv4 whose checksum is zero", proto: udp, whole: true, mss: 48, payload: zeroSum(60)},
		{name: "USOv4, 64 KiB", proto: udp, mss: 1472, payload: pattern(65535-20-8, 26)},
		{name: "USOv4 behind options, with a tag", proto: udp, vlan: 100, extra: true, mss: 100, payload: pattern(201, 27)},
		{name: "USOv4, short datagrams", proto: udp, mss: 1, payload: pattern(5, 28)},
		{name: "USOv4, one datagram", proto: udp, mss: 300, payload: pattern(300, 29)},
		{name: "USOv6", proto: udp, v6: true, mss: 1200, payload: pattern(12*1200, 30)},
		{name: "USOv6 behind hop-by-hop options", proto: udp, v6: true, extra: true, mss: 999, payload: pattern(3000, 31)},
	}
}

// zeroSum is a payload of n bytes for which the complement of the sum is zero.
func zeroSum(n int) []byte {
	p := &packet{proto: udp, payload: pattern(n, 17)}
	clear(p.payload[:2])
	f := p.frame(macB, macA, 0)
	l4 := f.Data[34:]
	l4[6], l4[7] = 0, 0
	sum := sum16(pseudo(f.Data[26:34], udp, len(l4)), l4)
	binary.BigEndian.PutUint16(p.payload, 0xffff-uint16(sum))
	return p.payload
}

// offloadSets are all that a driver can accept in one direction, by the names of
// the sender's bits: segmentation needs CSUM, and ECN that of TCP (virtio 1.3,
// section 5.1.3.1).
func offloadSets() []virtio.Features {
	sets := []virtio.Features{0}
	for _, tcp := range []virtio.Features{
		0, virtio.NetHostTSO4, virtio.NetHostTSO6, virtio.NetHostTSO4 | virtio.NetHostTSO6,
		virtio.NetHostTSO4 | virtio.NetHostECN, virtio.NetHostTSO6 | virtio.NetHostECN,
		virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetHostECN,
	} {
		for _, udp := range []virtio.Features{0, virtio.NetHostUFO, virtio.NetHostUSO, virtio.NetHostUFO | virtio.NetHostUSO} {
			sets = append(sets, virtio.NetCsum|tcp|udp)
		}
	}
	return sets
}

// fewSets are those of offloadSets in which one thing is missing, or all but
// one.
func fewSets() []virtio.Features {
	const csum, tso = virtio.NetCsum, virtio.NetHostTSO4 | virtio.NetHostTSO6
	const all = csum | tso | virtio.NetHostECN | virtio.NetHostUFO | virtio.NetHostUSO
	return []virtio.Features{
		0, csum, csum | virtio.NetHostTSO4, csum | virtio.NetHostTSO6, csum | tso, csum | tso | virtio.NetHostECN,
		csum | virtio.NetHostUFO, csum | virtio.NetHostUSO, all &^ virtio.NetHostECN, all,
	}
}

const senderBits = virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetHostECN |
	virtio.NetHostUFO | virtio.NetHostUSO | virtio.NetMrgRxBuf

// uso is what QEMU does not let through yet.
const uso = virtio.NetHostUSO | virtio.NetGuestUSO4 | virtio.NetGuestUSO6

// asReceiver names the same offloads for the other direction.
func asReceiver(sender virtio.Features) (f virtio.Features) {
	for s, r := range map[virtio.Features]virtio.Features{
		virtio.NetCsum: virtio.NetGuestCsum, virtio.NetHostTSO4: virtio.NetGuestTSO4,
		virtio.NetHostTSO6: virtio.NetGuestTSO6, virtio.NetHostECN: virtio.NetGuestECN,
		virtio.NetHostUFO: virtio.NetGuestUFO, virtio.NetHostUSO: virtio.NetGuestUSO4 | virtio.NetGuestUSO6,
		virtio.NetMrgRxBuf: virtio.NetMrgRxBuf,
	} {
		if sender.Has(s) {
			f |= r
		}
	}
	return f
}

// Every sender reaches every receiver with every frame that it may send,
// whatever the two accepted: no frame has a bad checksum, none is one that the
// receiver did not accept, and every payload is complete (V61, V63).
func TestOffloadMatrix(t *testing.T) {
	receivers := fewSets() // buffers are merged by turns, and by both with all and nothing accepted
	for i := range receivers {
		if i%2 == 0 {
			receivers[i] |= virtio.NetMrgRxBuf
		}
	}
	receivers = append(receivers, receivers[0]&^virtio.NetMrgRxBuf, receivers[len(receivers)-1]|virtio.NetMrgRxBuf)
	carryMatrix(t, fewSets(), receivers, packets())
}

// carryMatrix lets a guest of each set of senders send to one of each set of
// receivers what it may of list.
func carryMatrix(t *testing.T, senders, receivers []virtio.Features, list []*packet) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{Through: uso}), r.connect("b", vutest.Options{Through: uso})
	frames := 0
	for n, from := range senders {
		sent, err := carryFrom(a, b, from, receivers, list, n)
		frames += sent
		r.must(err)
	}
	t.Logf("%d frames; %s", frames, r.counters())
	if d := r.drops(); d != 0 {
		t.Errorf("%d frames were dropped", d)
	}
}

// carryFrom is one row of a matrix, the n-th.
func carryFrom(a, b *vutest.FrontEnd, from virtio.Features, receivers []virtio.Features, list []*packet, n int) (frames int, err error) {
	const buffers = 64 // enough for all segments of a frame: what finds none in time is lost
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	v := flavour{packed: n%2 == 1}
	sender, err := a.Reboot(ctx, v.guest(vutest.Guest{Without: senderBits &^ from}))
	if err != nil {
		return frames, err
	}
	for m, to := range receivers {
		v := flavour{packed: (m/2+n)%3 == 1}
		receiver, err := b.Reboot(ctx, v.guest(vutest.Guest{Without: asReceiver(senderBits &^ to), RxBuffers: buffers}))
		if err == nil {
			err = b.Barrier(ctx)
		}
		if err != nil {
			return frames, err
		}
		if sender&senderBits&^virtio.NetMrgRxBuf != from&^virtio.NetMrgRxBuf || receiver&asReceiver(senderBits) != asReceiver(to) {
			return frames, fmt.Errorf("the guests have %v and %v", sender, receiver)
		}
		for _, p := range list {
			if !sender.Has(p.needs()) {
				continue
			}
			frames++
			if err := p.carry(a, b); err != nil {
				return frames, fmt.Errorf("%s from %v to %v: %w", p.name, from, to, err)
			}
		}
		if got, more, err := b.TryRecv(0); more || err != nil {
			return frames, fmt.Errorf("from %v to %v: a frame of %d bytes behind the last one, %w", from, to, len(got.Data), err)
		}
	}
	return frames, nil
}

// carry sends p and checks what arrives of it.
func (p *packet) carry(from, to *vutest.FrontEnd) error { return p.carryAs(from, to, p) }

// carryAs sends p, which is to arrive like as: with another tag.
func (p *packet) carryAs(from, to *vutest.FrontEnd, as *packet) error {
	sent := as.frame(macB, macA, from.Features())
	if err := from.Send(0, p.frame(macB, macA, from.Features())); err != nil {
		return err
	}
	var payload []byte
	for n := 0; n == 0 || len(payload) < len(p.payload); n++ {
		got, err := to.Recv(0, patience)
		if err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
		if as.isFragment(got) {
			if got, err = as.reassemble(to, got); err != nil {
				return err
			}
		}
		a, err := as.accepts(got, to.Features())
		if err != nil {
			return fmt.Errorf("segment %d of %d bytes: %w", n, len(got.Data), err)
		}
		if err := as.follows(a, n, len(payload), sent.Data); err != nil {
			return fmt.Errorf("segment %d of %d bytes: %w", n, len(got.Data), err)
		}
		payload = append(payload, a.payload...)
	}
	if !bytes.Equal(payload, p.payload) {
		return fmt.Errorf("%d of %d bytes of payload arrived, and they differ", len(payload), len(p.payload))
	}
	return from.WaitSent(0)
}

// accepts reads a frame as the stack of a guest that accepted f: it finds
// nothing that is not allowed (virtio 1.3, section 5.1.6.4.1).
func (p *packet) accepts(got vutest.Received, f virtio.Features) (*arrived, error) {
	h := got.Header
	if h.Flags&^(virtio.NetFlagNeedsCsum|virtio.NetFlagDataValid) != 0 || h.Flags != 0 && !f.Has(virtio.NetGuestCsum) {
		return nil, fmt.Errorf("flags %#x", h.Flags)
	}
	switch h.GSOType {
	case virtio.GSONone:
		if h.GSOSize != 0 || h.HdrLen != 0 {
			return nil, fmt.Errorf("no segmentation, but %+v", h)
		}
	case p.gsoType():
		if !f.Has(asReceiver(p.needs())) || h.Flags&virtio.NetFlagNeedsCsum == 0 || int(h.GSOSize) != p.mss {
			return nil, fmt.Errorf("segmentation that was not accepted, or altered: %+v", h)
		}
	default:
		return nil, fmt.Errorf("segmentation %d", h.GSOType)
	}
	b, err := complete(got)
	if err != nil {
		return nil, err
	}
	a, err := read(b)
	if err != nil {
		return nil, err
	}
	if h.GSOType != virtio.GSONone && int(h.HdrLen) != a.start+len(a.l4) {
		return nil, fmt.Errorf("headers of %d bytes, hdr_len is %d", a.start+len(a.l4), h.HdrLen)
	}
	if h.GSOType == virtio.GSONone && p.mss != 0 && len(a.payload) > p.mss && !p.whole {
		return nil, fmt.Errorf("%d bytes in one segment", len(a.payload))
	}
	return a, nil
}

// follows checks the headers of the n-th segment, whose payload begins at at,
// against the frame that was sent.
func (p *packet) follows(a *arrived, n, at int, sent []byte) error {
	last := at+len(a.payload) >= len(p.payload)
	if !bytes.Equal(a.link, sent[:len(a.link)]) || len(a.link) != 14+map[bool]int{true: 4}[p.vlan != 0] {
		return fmt.Errorf("Ethernet header %x", a.link)
	}
	if !p.v6 && a.id != uint16(firstID+n) {
		return fmt.Errorf("IPv4 identification %#x", a.id)
	}
	if p.proto == udp {
		if none := a.l4[6] == 0 && a.l4[7] == 0; none != p.nosum {
			return fmt.Errorf("UDP header %x; it has no checksum: %t, as it was sent: %t", a.l4, none, p.nosum)
		}
		if want, _ := p.l4Header(); !bytes.Equal(a.l4[:4], want[:4]) || !last && len(a.payload) != p.mss {
			return fmt.Errorf("UDP header %x with %d bytes of payload, want ports as in %x and %d bytes", a.l4, len(a.payload), want, p.mss)
		}
		return nil
	}
	want, _ := p.l4Header()
	binary.BigEndian.PutUint32(want[4:], uint32(firstSeq+at))
	if !last {
		want[13] &^= fin | psh
	}
	if n > 0 {
		want[13] &^= cwr
	}
	copy(want[16:18], a.l4[16:18]) // the checksum, which is right
	if !bytes.Equal(a.l4, want) {
		return fmt.Errorf("TCP header %x, want %x", a.l4, want)
	}
	if !last && len(a.payload) != p.mss {
		return fmt.Errorf("%d bytes of payload, want %d", len(a.payload), p.mss)
	}
	return nil
}
