package nbl

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"testing"

	"vhostnet/metrics"
	"vhostnet/virtio"
)

var fuzzSerial atomic.Uint64

// tcp4 is an IPv4 TCP frame of n bytes with FIN, PSH, ACK and CWR set and the
// pseudo-header's sum in the checksum field, as a driver leaves it.
func tcp4(t testing.TB, n int) []byte {
	t.Helper()
	f := ethernet(n)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip := f[14:]
	copy(ip, []byte{0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(n-14))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	binary.BigEndian.PutUint32(tcp[4:], 0xfffffff0) // the sequence wraps
	tcp[12], tcp[13] = 0x50, tcpFIN|tcpPSH|0x10|tcpCWR
	binary.BigEndian.PutUint16(tcp[16:], ^naiveSum(pseudo4(ip, uint16(len(tcp)))))
	return f
}

func tcp6(t testing.TB, n int) []byte {
	t.Helper()
	f := ethernet(n)
	binary.BigEndian.PutUint16(f[12:], 0x86dd)
	ip := f[14:]
	clear(ip[:40])
	ip[0], ip[6], ip[7] = 0x60, 6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(n-54))
	ip[8], ip[23], ip[24], ip[39] = 0xfd, 1, 0xfd, 2
	tcp := ip[40:]
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	binary.BigEndian.PutUint32(tcp[4:], 7)
	tcp[12], tcp[13] = 0x50, tcpFIN|tcpPSH|0x10|tcpCWR
	binary.BigEndian.PutUint16(tcp[16:], ^naiveSum(pseudo6(ip, uint32(len(tcp)))))
	return f
}

func pseudo4(ip []byte, n uint16) []byte {
	return append(append([]byte{}, ip[12:20]...), 0, 6, byte(n>>8), byte(n))
}

func pseudo6(ip []byte, n uint32) []byte {
	return append(append([]byte{}, ip[8:40]...), byte(n>>24), byte(n>>16), byte(n>>8), byte(n), 0, 0, 0, 6)
}

// naiveSum is the Internet checksum as RFC 1071 words it.
func naiveSum(parts ...[]byte) uint16 {
	data := bytes.Join(parts, nil)
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func soften(t *testing.T, f virtio.Features, h virtio.NetHeader, frame []byte) [][]byte {
	t.Helper()
	l := new(List)
	s := newSender(f)
	if r := wrap(s, l, pieces(withHeader(h, frame), 12, 100, 33)); r != metrics.ReasonNone {
		t.Fatalf("not taken: %v", r)
	}
	soft := NewSoftener(make([]byte, SoftenerBytes))
	soft.StartBurst()
	segments, ok := soft.Soften(l)
	if !ok {
		t.Fatal("no room in a new Softener")
	}
	again, _ := soft.Soften(l)
	if &again[0] != &segments[0] {
		t.Error("the same packet was softened twice")
	}
	var out [][]byte
	for i := range segments {
		out = append(out, flat(&segments[i]))
	}
	return out
}

func TestSoftenChecksum(t *testing.T) {
	frame := tcp4(t, 701)
	out := soften(t, virtio.NetCsum, virtio.NetHeader{Flags: 1, CsumStart: 34, CsumOffset: 16}, frame)
	if len(out) != 1 {
		t.Fatalf("%d frames, want 1", len(out))
	}
	tcp := out[0][34:]
	if sum := naiveSum(pseudo4(out[0][14:], uint16(len(tcp))), tcp); sum != 0 {
		t.Errorf("checksum does not fit: remainder %#x", sum)
	}
	copy(out[0][50:52], frame[50:52])
	if !bytes.Equal(out[0], frame) {
		t.Error("more than the checksum changed")
	}
}

// A sum of zero goes out as 0xffff.
func TestSoftenChecksumZero(t *testing.T) {
	frame := ethernet(40)
	clear(frame[14:])
	frame[20], frame[21] = 0xff, 0xff // the sum of all is 0xffff: its complement is 0
	out := soften(t, virtio.NetCsum, virtio.NetHeader{Flags: 1, CsumStart: 14, CsumOffset: 0}, frame)
	if got := binary.BigEndian.Uint16(out[0][14:]); got != 0xffff {
		t.Errorf("checksum %#x, want 0xffff", got)
	}
}

func TestSoftenTCPv4(t *testing.T) { checkSegments(t, tcp4(t, 54+4000), 4, 1448) }

func TestSoftenTCPv6(t *testing.T) { checkSegments(t, tcp6(t, 74+4001), 6, 1000) }

func TestSoftenLargest(t *testing.T) { checkSegments(t, tcp4(t, 65535+14), 4, minGSOSize) }

// The lengths in the headers of pieces are those of the pieces, of the longest
// packets too. An IPv4 packet that is longer than its header can say is not cut;
// IPv6's says the length of what is behind it, which is always short enough.
func TestPiecesOfTheLongest(t *testing.T) {
	kinds := []struct {
		name string
		kind uint8 // of IPv4
		udp  bool
		size uint16
	}{
		{"TSO", virtio.GSOTCPv4, false, 65500},
		{"short TSO", virtio.GSOTCPv4, false, 1448},
		{"USO", virtio.GSOUDPL4, true, 65520},
		{"UFO", virtio.GSOUDP, true, 65528},
		{"short UFO", virtio.GSOUDP, true, 1480},
	}
	for _, version := range []int{4, 6} {
		for _, k := range kinds {
			for _, n := range []int{65535 + 14, 65535 + 15, MaxFrame} {
				h, packet := virtio.NetHeader{Flags: 1, GSOType: k.kind, GSOSize: k.size, CsumStart: 34, CsumOffset: 16}, tcp4
				if version == 6 {
					h.CsumStart, packet = 54, tcp6
					if !k.udp {
						h.GSOType = virtio.GSOTCPv6
					}
				}
				frame := packet(t, n)
				if k.udp {
					frame, h.CsumOffset = udp(frame, version), 6
				}
				want := metrics.ReasonNone
				if version == 4 && n > 65535+14 {
					want = metrics.ReasonGSO
				}
				l := new(List)
				if r := wrap(newSender(allOffloads), l, pieces(withHeader(h, frame))); r != want {
					t.Errorf("%s over IPv%d, %d bytes: %v, want %v", k.name, version, n, r, want)
				} else if r == metrics.ReasonNone {
					checkLengths(t, l, version)
				}
			}
		}
	}
}

func checkLengths(t *testing.T, l *List, version int) {
	t.Helper()
	out, ok := NewSoftener(make([]byte, SoftenerBytes)).Soften(l)
	if !ok {
		t.Fatal("no room in a new Softener")
	}
	for i := range out {
		ip := flat(&out[i])[14:]
		said := int(binary.BigEndian.Uint16(ip[2:]))
		if version == 6 {
			said = int(binary.BigEndian.Uint16(ip[4:])) + ipv6Len
		}
		if said != len(ip) {
			t.Errorf("piece %d of a frame of %d bytes says %d bytes and has %d", i, l.Length, said, len(ip))
		}
	}
}

// checkSegments cuts frame and checks each segment from its own bytes.
func checkSegments(t *testing.T, frame []byte, version, mss int) {
	t.Helper()
	l4, gso, feature := 34, virtio.GSOTCPv4, virtio.NetHostTSO4
	if version == 6 {
		l4, gso, feature = 54, virtio.GSOTCPv6, virtio.NetHostTSO6
	}
	headers := l4 + 20
	h := virtio.NetHeader{Flags: 1, GSOType: gso, GSOSize: uint16(mss), CsumStart: uint16(l4), CsumOffset: 16}
	out := soften(t, virtio.NetCsum|feature, h, frame)
	var payload []byte
	seq := binary.BigEndian.Uint32(frame[l4+4:])
	for i, s := range out {
		ip, tcp := s[14:], s[l4:]
		if got := binary.BigEndian.Uint32(tcp[4:]); got != seq {
			t.Fatalf("segment %d: sequence %#x, want %#x", i, got, seq)
		}
		wantFlags := byte(0x10)
		if i == 0 {
			wantFlags |= tcpCWR
		}
		if i == len(out)-1 {
			wantFlags |= tcpFIN | tcpPSH
		} else if len(s) != headers+mss {
			t.Errorf("segment %d has %d bytes of payload, want %d", i, len(s)-headers, mss)
		}
		if tcp[13] != wantFlags {
			t.Errorf("segment %d: flags %#x, want %#x", i, tcp[13], wantFlags)
		}
		checkIP(t, i, version, ip)
		pseudo := pseudo4(ip, uint16(len(tcp)))
		if version == 6 {
			pseudo = pseudo6(ip, uint32(len(tcp)))
		}
		if sum := naiveSum(pseudo, tcp); sum != 0 {
			t.Errorf("segment %d: TCP checksum does not fit", i)
		}
		payload = append(payload, s[headers:]...)
		seq += uint32(len(s) - headers)
	}
	if !bytes.Equal(payload, frame[headers:]) {
		t.Error("the payload changed")
	}
}

func checkIP(t *testing.T, i, version int, ip []byte) {
	t.Helper()
	if version == 6 {
		if got := int(binary.BigEndian.Uint16(ip[4:])); got != len(ip)-40 {
			t.Errorf("segment %d: payload length %d, want %d", i, got, len(ip)-40)
		}
		return
	}
	if got := int(binary.BigEndian.Uint16(ip[2:])); got != len(ip) {
		t.Errorf("segment %d: total length %d, want %d", i, got, len(ip))
	}
	if got := binary.BigEndian.Uint16(ip[4:]); got != 0xffff+uint16(i) {
		t.Errorf("segment %d: id %#x, want %#x", i, got, 0xffff+uint16(i))
	}
	if naiveSum(ip[:20]) != 0 {
		t.Errorf("segment %d: IP checksum does not fit", i)
	}
}

// A receiver that has not accepted all that a packet needs does not get it as
// it is.
func TestNeeded(t *testing.T) {
	const csum = virtio.NetGuestCsum
	for _, tt := range []struct {
		gso       uint8
		etherType uint16
		need      virtio.Features // besides the checksum
	}{
		{virtio.GSONone, etherTypeIPv4, 0},
		{virtio.GSOTCPv4, etherTypeIPv4, virtio.NetGuestTSO4},
		{virtio.GSOTCPv6, etherTypeIPv6, virtio.NetGuestTSO6},
		{virtio.GSOTCPv4 | virtio.GSOECN, etherTypeIPv4, virtio.NetGuestTSO4 | virtio.NetGuestECN},
		{virtio.GSOTCPv6 | virtio.GSOECN, etherTypeIPv6, virtio.NetGuestTSO6 | virtio.NetGuestECN},
		{virtio.GSOUDP, etherTypeIPv4, virtio.NetGuestUFO},
		{virtio.GSOUDP, etherTypeIPv6, virtio.NetGuestUFO},
		{virtio.GSOUDPL4, etherTypeIPv4, virtio.NetGuestUSO4},
		{virtio.GSOUDPL4, etherTypeIPv6, virtio.NetGuestUSO6},
	} {
		l := &List{Offload: virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: tt.gso}, EtherType: tt.etherType}
		for _, f := range subsets(csum, virtio.NetGuestTSO4, virtio.NetGuestTSO6, virtio.NetGuestECN, virtio.NetGuestUFO,
			virtio.NetGuestUSO4, virtio.NetGuestUSO6) {
			if got, want := Needed(l, f), !f.Has(csum|tt.need); got != want {
				t.Errorf("type %#x of %#x to a driver of %v: %t", tt.gso, tt.etherType, f, got)
			}
			if Needed(&List{EtherType: tt.etherType}, f) {
				t.Errorf("a complete frame to a driver of %v", f)
			}
		}
	}
}

// A burst can always begin: when the memory is full it is emptied, and what
// was made in the burst stays until then.
func TestSoftenerFillsAndEmpties(t *testing.T) {
	soft := NewSoftener(make([]byte, SoftenerBytes))
	s := newSender(virtio.NetCsum | virtio.NetHostTSO4)
	h := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: minGSOSize, CsumStart: 34, CsumOffset: 16}
	mdls := pieces(withHeader(h, tcp4(t, 60000)))
	l := new(List)
	for range 200 {
		soft.StartBurst()
		for n := 0; ; n++ {
			if r := wrap(s, l, mdls); r != metrics.ReasonNone {
				t.Fatal(r)
			}
			if _, ok := soft.Soften(l); !ok {
				if n == 0 {
					t.Fatal("no room at the start of a burst")
				}
				break
			}
		}
	}
}

// Whatever is to be done to a packet, nothing is allocated for it.
func TestSoftenDoesNotAllocate(t *testing.T) {
	soft := NewSoftener(make([]byte, SoftenerBytes))
	s := newSender(allOffloads)
	tso := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4 | virtio.GSOECN, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	ufo := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOUDP, GSOSize: 1448, CsumStart: 54, CsumOffset: 6}
	uso := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOUDPL4, GSOSize: 1448, CsumStart: 34, CsumOffset: 6}
	for name, frame := range map[string][]byte{
		"TSO": withHeader(tso, tcp4(t, 60000)), "UFO": withHeader(ufo, udp(tcp6(t, 60000), 6)), "USO": withHeader(uso, udp(tcp4(t, 60000), 4)),
	} {
		mdls, l := pieces(frame), new(List)
		pieces := 0
		if n := testing.AllocsPerRun(100, func() {
			if r := wrap(s, l, mdls); r != metrics.ReasonNone {
				t.Fatal(r)
			}
			soft.StartBurst()
			out, _ := soft.Soften(l)
			pieces = len(out)
		}); n != 0 || pieces != 42 {
			t.Errorf("%s: %v allocations for a packet of %d pieces", name, n, pieces)
		}
	}
}

func TestPool(t *testing.T) {
	if _, err := NewPool("x", 0); err == nil {
		t.Error("a pool of nothing was made")
	}
	p, err := NewPool("web tx", 3)
	if err != nil {
		t.Fatal(err)
	}
	var out [5]*List
	if n := p.Get(out[:]); n != 3 || p.Out() != 3 {
		t.Fatalf("Get answered %d, out %d; want 3", n, p.Out())
	}
	if err := p.Close(); err == nil {
		t.Error("Close did not report three lists that are out")
	}
	p.Put(out[:3])
	if n := p.Get(out[:1]); n != 1 || out[0] == nil {
		t.Errorf("Get after Put answered %d", n)
	}
	p.Put(out[:1])
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Fragments of IPv6 are put together by their identification: those of one
// datagram share it, those of others, of the same sender or of another ring of
// its guest, have another.
func TestFragmentIdentification(t *testing.T) {
	h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOUDP, GSOSize: 400, CsumStart: 54, CsumOffset: udpCsumOffset}
	mdls := pieces(withHeader(h, udp(tcp6(t, 1500), 6)))
	soft := NewSoftener(make([]byte, SoftenerBytes))
	seen := map[uint32]uint64{}
	for _, ring := range []uint64{SerialRange, 2 * SerialRange, 77 * SerialRange} {
		s := newSender(allOffloads)
		*s.nextSerial = ring
		for range 100 {
			l := new(List)
			if r := wrap(s, l, mdls); r != metrics.ReasonNone {
				t.Fatal(r)
			}
			soft.StartBurst()
			out, ok := soft.Soften(l)
			if !ok || len(out) != 4 {
				t.Fatalf("%d fragments, %t", len(out), ok)
			}
			for i := range out {
				id := binary.BigEndian.Uint32(out[i].Header()[58:])
				if of, taken := seen[id]; taken && of != l.Serial() {
					t.Fatalf("packets %#x and %#x have the identification %#x", of, l.Serial(), id)
				}
				seen[id] = l.Serial()
			}
		}
	}
	if len(seen) != 300 {
		t.Errorf("300 packets have %d identifications", len(seen))
	}
}
