package nbl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"vhostnet/metrics"
	"vhostnet/virtio"
)

// udp makes a TCP frame one of UDP.
func udp(frame []byte, version int) []byte {
	if version == 4 {
		frame[23] = protoUDP
	} else {
		frame[20] = protoUDP
	}
	return frame
}

// hosted is a packet of the host over frame.
func hosted(t testing.TB, p *Pool, frame []byte) *List {
	t.Helper()
	l, err := p.AllocateBufferAndList(pieces(frame, 20), 0, uint32(len(frame)))
	if err != nil {
		t.Fatal(err)
	}
	if r := l.Parse(1); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	return l
}

type oobCase struct {
	name  string
	frame []byte
	info  Info
	need  virtio.Features // to say it
}

// oobCases are one packet for each thing that can be said of one, alone and
// with what goes with it.
func oobCases(t testing.TB) []oobCase {
	tcp := func(v4 bool) SendChecksum {
		s := SendChecksum{Needed: true, IPv4: v4, IPv6: !v4, TCP: true, HeaderOffset: 54, Field: 16}
		if v4 {
			s.HeaderOffset = 34
		}
		return s
	}
	dgram := func(v4 bool) SendChecksum {
		s := tcp(v4)
		s.TCP, s.UDP, s.Field = false, true, 6
		return s
	}
	large := func(v4, ecn bool) LargeSend {
		l := LargeSend{MSS: 1000, HeaderOffset: 54, HeadersLen: 74, IPv6: !v4, ECN: ecn}
		if v4 {
			l.HeaderOffset, l.HeadersLen = 34, 54
		}
		return l
	}
	datagrams := func(v4 bool) LargeSend {
		l := large(v4, false)
		l.HeadersLen = l.HeaderOffset + udpLen
		return l
	}
	const csum = virtio.NetGuestCsum
	return []oobCase{
		{"nothing", ethernet(100), Info{}, 0},
		{"checked", tcp4(t, 100), Info{Received: ReceiveChecksum{Succeeded: true}}, 0},
		{"TCPv4", tcp4(t, 100), Info{Send: tcp(true)}, csum},
		{"TCPv6", tcp6(t, 100), Info{Send: tcp(false)}, csum},
		{"UDPv4", udp(tcp4(t, 100), 4), Info{Send: dgram(true)}, csum},
		{"UDPv6", udp(tcp6(t, 100), 6), Info{Send: dgram(false)}, csum},
		{"no name of NDIS", ethernet(100), Info{Send: SendChecksum{Needed: true, HeaderOffset: 20, Field: 9}}, csum},
		{"TSOv4", tcp4(t, 5000), Info{Send: tcp(true), LSO: large(true, false)}, csum | virtio.NetGuestTSO4},
		{"TSOv6", tcp6(t, 5000), Info{Send: tcp(false), LSO: large(false, false)}, csum | virtio.NetGuestTSO6},
		{"TSOv4, ECN", tcp4(t, 5000), Info{Send: tcp(true), LSO: large(true, true)}, csum | virtio.NetGuestTSO4 | virtio.NetGuestECN},
		{"TSOv6, ECN", tcp6(t, 5000), Info{Send: tcp(false), LSO: large(false, true)}, csum | virtio.NetGuestTSO6 | virtio.NetGuestECN},
		{"USOv4", udp(tcp4(t, 5000), 4), Info{Send: dgram(true), USO: datagrams(true)}, csum | virtio.NetGuestUSO4},
		{"USOv6", udp(tcp6(t, 5000), 6), Info{Send: dgram(false), USO: datagrams(false)}, csum | virtio.NetGuestUSO6},
		{"UFO", udp(tcp4(t, 5000), 4), Info{Send: dgram(true), UFO: datagrams(true)}, csum | virtio.NetGuestUFO},
		{"RSC", tcp4(t, 5000), Info{RSC: Coalesced{Segments: 4, DupAcks: 1}}, virtio.NetRSCExt},
		{"RSC, checked", tcp4(t, 5000), Info{RSC: Coalesced{Segments: 4}, Received: ReceiveChecksum{Succeeded: true}}, virtio.NetRSCExt},
	}
}

// subsets are all combinations of f.
func subsets(f ...virtio.Features) []virtio.Features {
	all := []virtio.Features{0}
	for _, bit := range f {
		for _, have := range all {
			all = append(all, have|bit)
		}
	}
	return all
}

// Each packet, for each combination of what a driver may have accepted, is
// either said in virtio_net_hdr so that it reads back as the same, or refused
// because the driver did not accept it.
func TestClaim74_RoundTrip(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	all := subsets(virtio.NetGuestCsum, virtio.NetGuestTSO4, virtio.NetGuestTSO6, virtio.NetGuestECN, virtio.NetGuestUFO,
		virtio.NetGuestUSO4, virtio.NetGuestUSO6, virtio.NetRSCExt, virtio.NetHashReport, virtio.Version1)
	said, refused := 0, 0
	for _, c := range oobCases(t) {
		for _, hash := range []Hash{{}, {Value: 0xdeadbeef, Type: HashTCPIPv6Ex}} {
			l := hosted(t, p, c.frame)
			c.info.Hash, c.info.Filtering = hash, Filtering{QueueID: 6}
			if err := l.SetInfo(c.info); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if l.Info() != c.info {
				t.Fatalf("%s: told %+v, says %+v", c.name, c.info, l.Info())
			}
			for _, f := range all {
				i := l.Info()
				h, ok := i.NetHeader(f, 3)
				if want := f.Has(c.need); ok != want {
					t.Fatalf("%s to a driver of %v: %v, want %v", c.name, f, ok, want)
				}
				if !ok {
					refused++
					continue
				}
				said++
				if err := sameOnTheWire(l, h, hash, f); err != nil {
					t.Fatalf("%s to a driver of %v: %v", c.name, f, err)
				}
			}
			l.Buffer = Buffer{}
			if err := p.Free(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	if said < 1000 || refused < 1000 {
		t.Errorf("%d headers written, %d refused: too few to say anything", said, refused)
	}
}

// sameOnTheWire writes a header in the length that f asks for and reads it as
// the driver does.
func sameOnTheWire(l *List, h virtio.NetHeader, hash Hash, f virtio.Features) error {
	var wire [virtio.NetHashHeaderLen]byte
	n := virtio.NetHeaderLen(f)
	h.Encode(wire[:n])
	want, got := l.Info(), Hash{}
	if f.Has(virtio.NetHashReport) {
		virtio.NetHash{Value: hash.Value, Report: uint16(hash.Type)}.Encode(wire[:])
		read := virtio.DecodeNetHash(wire[:])
		got = Hash{Value: read.Value, Type: HashType(read.Report)}
	} else {
		want.Hash = Hash{} // there is no room for it
	}
	if !f.Has(virtio.NetGuestCsum) {
		want.Received = ReceiveChecksum{} // nor a flag
	}
	if n == virtio.MaxNetHeaderLen && binary.LittleEndian.Uint16(wire[10:]) != 3 {
		return fmt.Errorf("num_buffers is %d, want 3", binary.LittleEndian.Uint16(wire[10:]))
	}
	if read := l.ReceivedInfo(virtio.DecodeNetHeader(wire[:]), got); read != want {
		return fmt.Errorf("reads back as %+v, want %+v", read, want)
	}
	return nil
}

// What a driver sends and what another receives is one header when nothing is
// done on the way, and the delivery's own writing of it says the same.
func TestClaim74_GuestToGuest(t *testing.T) {
	all := virtio.NetGuestCsum | virtio.NetGuestTSO4 | virtio.NetGuestTSO6
	for _, h := range []virtio.NetHeader{
		{},
		{Flags: 1, CsumStart: 34, CsumOffset: 16},
		{Flags: 1, CsumStart: 34, CsumOffset: 6},
		{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16},
	} {
		l, _ := sent(t, h, tcp4(t, 5000), 12)
		i := l.Info()
		for _, f := range subsets(virtio.NetGuestCsum, virtio.NetGuestTSO4, virtio.NetGuestTSO6) {
			if _, ok := i.NetHeader(f, 2); ok == Needed(l, f) {
				t.Errorf("%+v to a driver of %v: said %v, softened %v", h, f, ok, Needed(l, f))
			}
		}
		want := h
		want.NumBuffers = 2
		got, _ := i.NetHeader(all, 2)
		if got != want || RxHeader(l, 2) != want {
			t.Errorf("sent %+v, received %+v, delivered %+v", h, got, RxHeader(l, 2))
		}
		memory := make([]byte, 12)
		PutRxHeader(bytesMDL(memory), l, 2, 12)
		if read := virtio.DecodeNetHeader(memory); l.ReceivedInfo(read, Hash{}) != i {
			t.Errorf("written %+v", read)
		}
	}
}

func TestSetInfoRefuses(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	l := hosted(t, p, tcp4(t, 100))
	sum := SendChecksum{Needed: true, IPv4: true, TCP: true, HeaderOffset: 34, Field: 16}
	for name, i := range map[string]Info{
		"two cuts":          {Send: sum, LSO: LargeSend{MSS: 100}, USO: LargeSend{MSS: 100}},
		"cut without a sum": {LSO: LargeSend{MSS: 100}},
		"V1 of IPv6":        {Send: sum, LSO: LargeSend{MSS: 100, IPv6: true, V1: true}},
		"sum outside":       {Send: SendChecksum{Needed: true, HeaderOffset: 90, Field: 9}},
		"sum in Ethernet":   {Send: SendChecksum{Needed: true, HeaderOffset: 13}},
		"sum that wraps":    {Send: SendChecksum{Needed: true, HeaderOffset: 0xffff, Field: 0xffff}},
	} {
		if err := l.SetInfo(i); !errors.Is(err, ErrParameter) || l.Info() != (Info{}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g, _ := sent(t, virtio.NetHeader{}, ethernet(100))
	if err := g.SetInfo(Info{}); !errors.Is(err, ErrParameter) {
		t.Errorf("a guest's packet was told: %v", err)
	}
	if err := p.Free(l); err != nil {
		t.Error(err)
	}
}

// What no device may be asked to cut is refused of the host's packets too, and
// nothing of it is kept.
func TestSetInfoRefusesCuts(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	tcp := SendChecksum{Needed: true, IPv4: true, TCP: true, HeaderOffset: 34, Field: 16}
	dgram := SendChecksum{Needed: true, IPv4: true, UDP: true, HeaderOffset: 34, Field: 6}
	for _, tt := range []struct {
		name  string
		frame []byte
		info  Info
	}{
		{"fragments of nothing", udp(tcp4(t, 5000), 4), Info{Send: dgram, UFO: LargeSend{MSS: 7}}},
		{"tiny fragments", udp(tcp4(t, 5000), 4), Info{Send: dgram, UFO: LargeSend{MSS: minGSOSize - 1}}},
		{"tiny segments", tcp4(t, 60000), Info{Send: tcp, LSO: LargeSend{MSS: 1}}},
		{"too many short datagrams", udp(tcp4(t, 5000), 4), Info{Send: dgram, USO: LargeSend{MSS: 1}}},
		{"segments of UDP", udp(tcp4(t, 5000), 4), Info{Send: dgram, LSO: LargeSend{MSS: 1000}}},
		{"datagrams of TCP", tcp4(t, 5000), Info{Send: tcp, USO: LargeSend{MSS: 1000}}},
		{"IPv6 of IPv4", tcp4(t, 5000), Info{Send: tcp, LSO: LargeSend{MSS: 1000, IPv6: true}}},
		{"no IP", ethernet(5000), Info{Send: tcp, LSO: LargeSend{MSS: 1000}}},
		{"sum of the IP header", tcp4(t, 5000), Info{Send: SendChecksum{Needed: true, HeaderOffset: 14, Field: 10}, LSO: LargeSend{MSS: 1000}}},
		{"no payload", tcp4(t, 54), Info{Send: tcp, LSO: LargeSend{MSS: 1000}}},
		{"longer than IPv4", tcp4(t, 65536+14), Info{Send: tcp, LSO: LargeSend{MSS: 1000}}},
	} {
		l := hosted(t, p, tt.frame)
		known := Info{Filtering: Filtering{QueueID: 3}}
		if err := l.SetInfo(known); err != nil {
			t.Fatal(err)
		}
		have := len(l.Header())
		if err := l.SetInfo(tt.info); !errors.Is(err, ErrParameter) || l.Info() != known || len(l.Header()) != have {
			t.Errorf("%s: %v, now %+v", tt.name, err, l.Info())
		}
		if err := p.Free(l); err != nil {
			t.Fatal(err)
		}
	}
}

// The headers of a packet that is to be cut are parsed, whatever is said of their
// length (NDIS leaves it open).
func TestSetInfoParsesHeaders(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	soft := NewSoftener(make([]byte, SoftenerBytes))
	for _, headers := range []uint16{0, 54, 0xffff} {
		for mss, want := range map[uint16]int{1000: 5, 5000: 1} {
			l := hosted(t, p, tcp4(t, 5000))
			i := Info{Send: SendChecksum{Needed: true, IPv4: true, TCP: true, HeaderOffset: 34, Field: 16}, LSO: LargeSend{MSS: mss, HeaderOffset: 34, HeadersLen: headers, V1: true}}
			if err := l.SetInfo(i); err != nil {
				t.Fatal(err)
			}
			i.LSO.HeadersLen = 54
			if l.Info() != i || l.CompletedPayload() != 5000-54 {
				t.Errorf("%d bytes of headers: %+v, payload %d", headers, l.Info(), l.CompletedPayload())
			}
			soft.used, soft.nLists, soft.nFrame = 0, 0, 0
			if out, ok := soft.Soften(l); !ok || len(out) != want {
				t.Errorf("%d bytes of headers, pieces of %d: %d, %t, want %d", headers, mss, len(out), ok, want)
			}
			if err := p.Free(l); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Large send version 1 is cut like version 2, and its completion tells how
// much TCP payload there was.
func TestLargeSendV1(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	l := hosted(t, p, tcp4(t, 5000))
	i := Info{Send: SendChecksum{Needed: true, IPv4: true, TCP: true, HeaderOffset: 34, Field: 16}, LSO: LargeSend{MSS: 1000, HeaderOffset: 34, HeadersLen: 54, V1: true}}
	if err := l.SetInfo(i); err != nil {
		t.Fatal(err)
	}
	if l.Info() != i || l.CompletedPayload() != 5000-54 {
		t.Errorf("%+v, payload %d", l.Info(), l.CompletedPayload())
	}
	i.LSO.V1 = false
	if err := l.SetInfo(i); err != nil || l.CompletedPayload() != 0 {
		t.Errorf("%v, version 2 reports %d", err, l.CompletedPayload())
	}
	if err := p.Free(l); err != nil {
		t.Error(err)
	}
}

// The tag of a frame is its first one; of a frame that has none, the one that
// it is said to have had.
func TestTag(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	frame := ethernet(80)
	copy(frame[12:], []byte{0x81, 0x00, 0xf1, 0x23, 0x08, 0x00})
	l := hosted(t, p, frame)
	want := Tag{Present: true, Priority: 7, CFI: true, VLAN: 0x123}
	if l.Tag() != want || l.Info().Tag != want || want.TCI() != 0xf123 || TagOf(0xf123) != want {
		t.Errorf("tag %+v, TCI %#x", l.Tag(), want.TCI())
	}
	if err := p.Free(l); err != nil {
		t.Error(err)
	}
	l = hosted(t, p, ethernet(80))
	if l.Tag() != (Tag{}) {
		t.Errorf("a frame without tag has %+v", l.Tag())
	}
	if err := l.SetInfo(Info{Tag: want}); err != nil || l.Tag() != want {
		t.Errorf("%v, stripped tag %+v", err, l.Tag())
	}
	if err := p.Free(l); err != nil {
		t.Error(err)
	}
}

// A clone keeps what a receiver may ask, and not that segments were coalesced
// (NdisCopyReceiveNetBufferListInfo).
func TestCloneInfo(t *testing.T) {
	d := newDeriver(t, 1, 1)
	p := newPool(t, PoolParameters{Tag: "oob", Size: 1})
	l := hosted(t, p, tcp4(t, 100))
	i := Info{Received: ReceiveChecksum{Succeeded: true}, Hash: Hash{1, HashIPv4}, RSC: Coalesced{Segments: 2}, Filtering: Filtering{QueueID: 3}, Tag: TagOf(5)}
	if err := l.SetInfo(i); err != nil {
		t.Fatal(err)
	}
	child, err := d.Clone(l, false)
	if err != nil {
		t.Fatal(err)
	}
	i.RSC = Coalesced{}
	if child.Info() != i {
		t.Errorf("%+v, want %+v", child.Info(), i)
	}
	if err := errors.Join(d.Free(child), p.Free(l)); err != nil {
		t.Error(err)
	}
}
