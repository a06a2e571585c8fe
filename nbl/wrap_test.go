package nbl

import (
	"bytes"
	"encoding/binary"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// pieces is data as MDLs of the given sizes; the last takes what is left.
func pieces(data []byte, sizes ...int) []MDL {
	var mdls []MDL
	for _, n := range sizes {
		n = min(n, len(data))
		mdls = append(mdls, sharedmem.BytesBlock(data[:n:n]))
		data = data[n:]
	}
	if len(data) > 0 {
		mdls = append(mdls, sharedmem.BytesBlock(data))
	}
	return mdls
}

// wrap is Sender.Wrap without a ring: the chain's Blocks are given.
func wrap(s *Sender, l *List, mdls []MDL) metrics.Reason {
	var n uint64
	for _, m := range mdls {
		n += m.Len()
	}
	return s.wrap(l, mdls, uint32(n))
}

// ethernet is a frame of n bytes whose payload counts up.
func ethernet(n int) []byte {
	f := make([]byte, n)
	copy(f, []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5})
	for i := 14; i < n; i++ {
		f[i] = byte(i * 7)
	}
	return f
}

func withHeader(h virtio.NetHeader, frame []byte) []byte {
	b := make([]byte, 12, 12+len(frame))
	h.Encode(b)
	return append(b, frame...)
}

func newSender(f virtio.Features) *Sender {
	s := NewSender(f|virtio.Version1, new(uint64))
	return &s
}

// A frame is read the same whatever the driver's split of header and data is
// (V43: over many descriptors).
func TestV43_WrapAnySplit(t *testing.T) {
	frame := ethernet(300)
	whole := withHeader(virtio.NetHeader{}, frame)
	ones := make([]int, 40)
	for i := range ones {
		ones[i] = 1
	}
	for _, sizes := range [][]int{nil, {12}, {10}, {12, 14}, {5, 7, 14}, {26}, {76}, {77}, {11, 2}, ones} {
		var l List
		if r := wrap(newSender(virtio.NetCsum), &l, pieces(whole, sizes...)); r != metrics.ReasonNone {
			t.Fatalf("split %v: %v", sizes, r)
		}
		if l.Dst != 0x525400000002 || l.Src != 0x525400000001 || l.EtherType != 0x88b5 || l.Length != 300 {
			t.Errorf("split %v: dst %x src %x type %x length %d", sizes, l.Dst, l.Src, l.EtherType, l.Length)
		}
		if got := flat(&l); !bytes.Equal(got, frame) {
			t.Errorf("split %v: delivered frame differs at %d", sizes, firstDifference(got, frame))
		}
	}
}

// flat is the frame as it would be delivered.
func flat(l *List) []byte {
	out := make([]byte, l.Length)
	to := NewCursor([]MDL{sharedmem.BytesBlock(out)})
	WriteFrame(&to, l)
	return out
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// The delivered frame starts with what was checked, also when the guest
// changes its memory afterwards (V42, V62).
func TestV42_HeaderIsPrivate(t *testing.T) {
	frame := ethernet(100)
	memory := withHeader(virtio.NetHeader{}, frame)
	var l List
	if r := wrap(newSender(0), &l, pieces(memory)); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	for i := range memory[:12+plainHeader] {
		memory[i] ^= 0xff
	}
	if got := flat(&l); !bytes.Equal(got[:plainHeader], frame[:plainHeader]) {
		t.Error("a change of guest memory after the check reached the delivered header")
	}
	delivered := make([]byte, len(frame))
	CopyFrame(&Buffer{MDLs: pieces(delivered), Length: uint32(len(frame))}, &l)
	if !bytes.Equal(delivered[:plainHeader], frame[:plainHeader]) {
		t.Error("the one copy took the header from guest memory, where it was changed after the check")
	}
	buffer := make([]byte, 12+len(frame))
	to := &List{Buffer: Buffer{MDLs: pieces(buffer), Offset: 12, Length: l.Length}}
	CopyFrames([]*List{to}, []*List{&l}, 12)
	if !bytes.Equal(buffer[12:][:plainHeader], frame[:plainHeader]) {
		t.Error("the copy of a batch took the header from guest memory, where it was changed after the check")
	}
}

func TestWrapLengths(t *testing.T) {
	for _, tt := range []struct {
		n    int // bytes of the frame
		want metrics.Reason
	}{
		{0, metrics.ReasonShort},
		{1, metrics.ReasonShort},
		{13, metrics.ReasonShort},
		{14, metrics.ReasonNone},
		{60, metrics.ReasonNone},
		{65550 + 18, metrics.ReasonNone},
		{65550 + 19, metrics.ReasonTooLong},
	} {
		var l List
		if got := wrap(newSender(0), &l, pieces(withHeader(virtio.NetHeader{}, ethernet(max(tt.n, 14))[:tt.n]))); got != tt.want {
			t.Errorf("V61, V43: frame of %d bytes: %v, want %v", tt.n, got, tt.want)
		}
	}
	for n := range 12 {
		var l List
		if got := wrap(newSender(0), &l, pieces(make([]byte, n))); got != metrics.ReasonShort {
			t.Errorf("V43: chain of %d bytes: %v, want short", n, got)
		}
	}
}

func TestWrapVLAN(t *testing.T) {
	frame := ethernet(80)
	copy(frame[12:], []byte{0x81, 0x00, 0xe1, 0x23, 0x08, 0x00}) // priority 7, VLAN 0x123, IPv4
	var l List
	if r := wrap(newSender(0), &l, pieces(withHeader(virtio.NetHeader{}, frame))); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	if l.VLAN != 0x123 || l.EtherType != 0x0800 || l.L3 != 18 {
		t.Errorf("VLAN %x type %x L3 at %d; want 123, 800, 18", l.VLAN, l.EtherType, l.L3)
	}
}

// A driver that accepted no offload cannot ask for one: its header counts as
// zero, whatever it holds.
func TestWrapIgnoresHeaderWithoutOffloads(t *testing.T) {
	h := virtio.NetHeader{Flags: 0xff, GSOType: 0xff, GSOSize: 1, CsumStart: 0xffff}
	var l List
	if r := wrap(newSender(0), &l, pieces(withHeader(h, ethernet(60)))); r != metrics.ReasonNone || l.Offload != (virtio.NetHeader{}) {
		t.Errorf("reason %v, offload %+v", r, l.Offload)
	}
}

// V62: every combination of odd starts and offsets is dropped or lies inside.
func TestV62_ChecksumOutsideFrame(t *testing.T) {
	const n = 200
	odd := []uint16{0, 13, 14, 34, n - 2, n - 1, n, n + 1, 0x7fff, 0xffff}
	for _, start := range odd {
		for _, offset := range odd {
			h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: start, CsumOffset: offset}
			var l List
			got := wrap(newSender(virtio.NetCsum), &l, pieces(withHeader(h, ethernet(n))))
			inside := start >= 14 && int(start)+int(offset)+2 <= n
			if inside != (got == metrics.ReasonNone) {
				t.Errorf("start %d offset %d: %v, inside %v", start, offset, got, inside)
			}
		}
	}
}

// V64: what was not accepted, does not match or cannot be cut is refused.
func TestV64_SegmentationRequests(t *testing.T) {
	all := virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6
	every := allOffloads
	good := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	frame := tcp4(t, 5000)
	for _, tt := range []struct {
		name   string
		f      virtio.Features
		change func(h *virtio.NetHeader, frame []byte)
		want   metrics.Reason
	}{
		{"good", all, func(*virtio.NetHeader, []byte) {}, metrics.ReasonNone},
		{"hdr_len is not believed", all, func(h *virtio.NetHeader, _ []byte) { h.HdrLen = 0xffff }, metrics.ReasonNone},
		{"no checksum", all, func(h *virtio.NetHeader, _ []byte) { h.Flags = 0 }, metrics.ReasonGSO},
		{"not accepted", virtio.NetCsum, func(*virtio.NetHeader, []byte) {}, metrics.ReasonGSO},
		{"size 0", all, func(h *virtio.NetHeader, _ []byte) { h.GSOSize = 0 }, metrics.ReasonGSO},
		{"size 1", all, func(h *virtio.NetHeader, _ []byte) { h.GSOSize = 1 }, metrics.ReasonGSO},
		{"type of IPv6", all, func(h *virtio.NetHeader, _ []byte) { h.GSOType = virtio.GSOTCPv6 }, metrics.ReasonGSO},
		{"UFO of TCP", every, func(h *virtio.NetHeader, _ []byte) { h.GSOType = virtio.GSOUDP }, metrics.ReasonGSO},
		{"USO of TCP", every, func(h *virtio.NetHeader, _ []byte) { h.GSOType = virtio.GSOUDPL4 }, metrics.ReasonGSO},
		{"ECN", every, func(h *virtio.NetHeader, _ []byte) { h.GSOType |= virtio.GSOECN }, metrics.ReasonNone},
		{"ECN not accepted", all, func(h *virtio.NetHeader, _ []byte) { h.GSOType |= virtio.GSOECN }, metrics.ReasonGSO},
		{"type 0xff", all, func(h *virtio.NetHeader, _ []byte) { h.GSOType = 0xff }, metrics.ReasonGSO},
		{"checksum elsewhere", all, func(h *virtio.NetHeader, _ []byte) { h.CsumStart = 30 }, metrics.ReasonGSO},
		{"UDP", all, func(_ *virtio.NetHeader, f []byte) { f[23] = 17 }, metrics.ReasonGSO},
		{"fragment", all, func(_ *virtio.NetHeader, f []byte) { f[20] = 0x20 }, metrics.ReasonGSO},
		{"short IP header", all, func(_ *virtio.NetHeader, f []byte) { f[14] = 0x44 }, metrics.ReasonGSO},
		{"short TCP header", all, func(_ *virtio.NetHeader, f []byte) { f[46] = 0x40 }, metrics.ReasonGSO},
	} {
		h, f := good, bytes.Clone(frame)
		tt.change(&h, f)
		var l List
		if got := wrap(newSender(tt.f), &l, pieces(withHeader(h, f))); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if tt.want == metrics.ReasonNone && l.Offload.HdrLen != 54 {
			t.Errorf("%s: headers of %d bytes, want 54", tt.name, l.Offload.HdrLen)
		}
	}
}

// Headers that do not fit into the private header make a frame malformed.
func TestHeadersBeyondPrivateHeader(t *testing.T) {
	frame := make([]byte, 2000)
	copy(frame, ethernet(14))
	binary.BigEndian.PutUint16(frame[12:], 0x86dd)
	frame[14], frame[20] = 0x60, protoDstOpts
	frame[54], frame[55] = protoTCP, 31 // 256 bytes of options
	h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv6, GSOSize: 1000, CsumStart: 54 + 256, CsumOffset: 16}
	var l List
	if got := wrap(newSender(virtio.NetCsum|virtio.NetHostTSO6), &l, pieces(withHeader(h, frame))); got != metrics.ReasonGSO {
		t.Errorf("headers of 330 bytes: %v, want %v", got, metrics.ReasonGSO)
	}
}

func TestWrapDoesNotAllocate(t *testing.T) {
	mdls := pieces(withHeader(virtio.NetHeader{}, ethernet(1514)), 12)
	s, l := newSender(virtio.NetCsum), new(List)
	if n := testing.AllocsPerRun(100, func() { wrap(s, l, mdls) }); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

// A frame's flow hash is that of its answer.
func TestFlowHashIsSymmetric(t *testing.T) {
	there := tcp4(t, 100)
	back := bytes.Clone(there)
	copy(back[26:30], there[30:34])
	copy(back[30:34], there[26:30])
	copy(back[34:36], there[36:38])
	copy(back[36:38], there[34:36])
	other := bytes.Clone(there)
	other[35]++
	hash := func(f []byte) uint32 {
		var l List
		if r := l.FromBytes(f, 1); r != metrics.ReasonNone {
			t.Fatal(r)
		}
		return l.FlowHash()
	}
	if hash(there) != hash(back) {
		t.Error("the answer of a flow hashes differently")
	}
	if hash(there) == hash(other) {
		t.Error("another port hashes the same")
	}
}

func FuzzNetHeader(f *testing.F) {
	f.Add(withHeader(virtio.NetHeader{Flags: 1, GSOType: 1, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, tcp4(f, 3000)), uint8(12))
	f.Add(withHeader(virtio.NetHeader{Flags: 1, GSOType: 4, GSOSize: 100, CsumStart: 54, CsumOffset: 16}, tcp6(f, 1000)), uint8(1))
	f.Add(withHeader(virtio.NetHeader{}, ethernet(64)), uint8(70))
	f.Add(withHeader(virtio.NetHeader{Flags: 1, GSOType: 3, GSOSize: 1448, CsumStart: 54, CsumOffset: 6}, udp(tcp6(f, 4000), 6)), uint8(9))
	f.Add(withHeader(virtio.NetHeader{Flags: 1, GSOType: 5, GSOSize: 30, CsumStart: 34, CsumOffset: 6}, udp(tcp4(f, 400), 4)), uint8(30))
	soft := NewSoftener(make([]byte, SoftenerBytes))
	f.Fuzz(func(t *testing.T, chain []byte, split uint8) {
		s, l := newSender(allOffloads), new(List)
		*s.nextSerial = fuzzSerial.Add(1)
		if len(chain) == 0 || wrap(s, l, pieces(chain, int(split))) != metrics.ReasonNone {
			return
		}
		if !Needed(l, 0) {
			return
		}
		soft.StartBurst()
		out, ok := soft.Soften(l)
		if !ok {
			t.Fatal("no room at the start of a burst")
		}
		headers, all := int(l.Offload.HdrLen), int(l.Length)-int(l.Offload.HdrLen)
		if l.Offload.GSOType == virtio.GSOUDP { // fragments repeat no UDP header
			headers, all = len(out[0].Header()), int(l.Length)-int(l.Offload.CsumStart)
		}
		payload := 0
		for i := range out {
			if out[i].Offload != (virtio.NetHeader{}) {
				t.Fatalf("segment %d is not complete: %+v", i, out[i].Offload)
			}
			payload += int(out[i].Length) - headers
			flat(&out[i])
		}
		if payload != all {
			t.Fatalf("%d bytes of payload came out of %d", payload, all)
		}
	})
}

// The same of datagrams: those to be fragmented, and several in one.
func TestV64_DatagramRequests(t *testing.T) {
	const all = allOffloads
	type change func(h *virtio.NetHeader, frame []byte)
	size := func(n uint16) change { return func(h *virtio.NetHeader, _ []byte) { h.GSOSize = n } }
	gsoType := func(n uint8) change { return func(h *virtio.NetHeader, _ []byte) { h.GSOType = n } }
	for _, tt := range []struct {
		name   string
		f      virtio.Features
		gso    uint8
		change change
		want   metrics.Reason
	}{
		{"USO", virtio.NetCsum | virtio.NetHostUSO, virtio.GSOUDPL4, size(1000), metrics.ReasonNone},
		{"USO not accepted", all &^ virtio.NetHostUSO, virtio.GSOUDPL4, size(1000), metrics.ReasonGSO},
		{"USO, size 0", all, virtio.GSOUDPL4, size(0), metrics.ReasonGSO},
		{"USO, as many short ones as Linux makes", all, virtio.GSOUDPL4, size(40), metrics.ReasonNone},
		{"USO, more short ones", all, virtio.GSOUDPL4, size(38), metrics.ReasonGSO},
		{"USO, many that are not short", all, virtio.GSOUDPL4, size(48), metrics.ReasonNone},
		{"UFO", virtio.NetCsum | virtio.NetHostUFO, virtio.GSOUDP, size(1480), metrics.ReasonNone},
		{"UFO not accepted", all &^ virtio.NetHostUFO, virtio.GSOUDP, size(1480), metrics.ReasonGSO},
		{"UFO, size 7", all, virtio.GSOUDP, size(7), metrics.ReasonGSO},
		{"UFO, size 47", all, virtio.GSOUDP, size(47), metrics.ReasonGSO},
		{"UFO with ECN", all, virtio.GSOUDP, gsoType(virtio.GSOUDP | virtio.GSOECN), metrics.ReasonGSO},
		{"USO with ECN", all, virtio.GSOUDPL4, gsoType(virtio.GSOUDPL4 | virtio.GSOECN), metrics.ReasonGSO},
		{"only ECN", all, virtio.GSOUDPL4, gsoType(virtio.GSOECN), metrics.ReasonGSO},
		{"segments of TCP", all, virtio.GSOUDPL4, gsoType(virtio.GSOTCPv4), metrics.ReasonGSO},
		{"checksum of TCP", all, virtio.GSOUDPL4, func(h *virtio.NetHeader, _ []byte) { h.CsumOffset = 16 }, metrics.ReasonGSO},
		{"TCP", all, virtio.GSOUDPL4, func(_ *virtio.NetHeader, f []byte) { f[23] = protoTCP }, metrics.ReasonGSO},
		{"a fragment", all, virtio.GSOUDP, func(_ *virtio.NetHeader, f []byte) { f[20] = 0x20 }, metrics.ReasonGSO},
	} {
		h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: tt.gso, GSOSize: 1000, CsumStart: 34, CsumOffset: 6}
		f := udp(tcp4(t, 42+40*shortPieces), 4)
		tt.change(&h, f)
		var l List
		if got := wrap(newSender(tt.f), &l, pieces(withHeader(h, f))); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if tt.want == metrics.ReasonNone && (l.Offload.HdrLen != 42 || l.Offload.GSOType != tt.gso) {
			t.Errorf("%s: %+v, want headers of 42 bytes", tt.name, l.Offload)
		}
	}
}
