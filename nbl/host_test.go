package nbl

import (
	"bytes"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

const uplinkHeader = 12

// one is a List of s whose own memory begins with b.
func one(t testing.TB, s *Source, b []byte) *List {
	t.Helper()
	var lists [1]*List
	if s.Get(lists[:]) != 1 {
		t.Fatal("no list is left")
	}
	if copy(lists[0].Own(), b) < len(b) {
		t.Fatalf("%d bytes do not fit into a list", len(b))
	}
	t.Cleanup(func() {
		if err := s.Put(lists[:]); err != nil {
			t.Error(err)
		}
	})
	return lists[0]
}

// A frame in memory of this process is read as a guest's is: the same packet,
// or the same complaint.
func TestWrapOwn(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 16, DataSize: 8192, Backfill: 64})
	gso := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	late := gso
	late.CsumStart = 8000
	for name, b := range map[string][]byte{
		"plain":              withHeader(virtio.NetHeader{}, ethernet(300)),
		"short":              withHeader(virtio.NetHeader{}, ethernet(14))[:25],
		"header only":        withHeader(virtio.NetHeader{}, nil),
		"segments":           withHeader(gso, tcp4(t, 6000)),
		"segments of IPv6":   withHeader(virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv6, GSOSize: 900, CsumStart: 54, CsumOffset: 16}, tcp6(t, 6000)),
		"sum behind the end": withHeader(late, tcp4(t, 6000)),
		"segments of a kind": withHeader(virtio.NetHeader{Flags: 1, GSOType: 77, GSOSize: 900, CsumStart: 34, CsumOffset: 16}, tcp4(t, 6000)),
	} {
		var guest List
		want := wrap(newSender(UplinkFeatures), &guest, pieces(b, 5, 40))
		l := one(t, s, b)
		if got := newSender(UplinkFeatures).WrapOwn(l, uint32(len(b))); got != want {
			t.Errorf("%s: %v, of a guest's %v", name, got, want)
			continue
		}
		if want != metrics.ReasonNone {
			if l.Status != Dropped || l.Reason != want {
				t.Errorf("%s: status %d, reason %v", name, l.Status, l.Reason)
			}
			continue
		}
		if l.Offload != guest.Offload || l.Dst != guest.Dst || l.Src != guest.Src || l.L3 != guest.L3 || !bytes.Equal(l.Header(), guest.Header()) {
			t.Errorf("%s: %+v, of a guest's %+v", name, l.Offload, guest.Offload)
		}
		if !bytes.Equal(flat(l), b[uplinkHeader:]) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// So is one that lies in several parts, which are read where they are.
func TestWrapParts(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 16, DataSize: 64})
	gso := virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	for name, b := range map[string][]byte{
		"plain":       withHeader(virtio.NetHeader{}, ethernet(300)),
		"short":       withHeader(virtio.NetHeader{}, ethernet(14))[:25],
		"header only": withHeader(virtio.NetHeader{}, nil),
		"segments":    withHeader(gso, tcp4(t, 6000)),
		"too long":    withHeader(gso, make([]byte, MaxFrame+1)),
	} {
		var guest List
		want := wrap(newSender(UplinkFeatures), &guest, pieces(b, 5, 40))
		l := one(t, s, nil)
		for _, at := range [][2]int{{5, 40}, {len(b), len(b)}, {26, 26}} {
			first, second := min(at[0], len(b)), min(at[1], len(b))
			parts := []MDL{sharedmem.BytesBlock(b[:first]), sharedmem.BytesBlock(b[first:second]), sharedmem.BytesBlock(b[second:])}
			got := newSender(UplinkFeatures).WrapParts(l, parts)
			if got != want || got != metrics.ReasonNone && l.Status != Dropped {
				t.Errorf("%s, parts at %v: %v, of a guest's %v", name, at, got, want)
				continue
			}
			if want == metrics.ReasonNone && (l.Offload != guest.Offload || !bytes.Equal(l.Header(), guest.Header()) || !bytes.Equal(flat(l), b[uplinkHeader:])) {
				t.Errorf("%s, parts at %v: another packet", name, at)
			}
		}
	}
}

// What is longer than the memory, or has none, is no frame.
func TestWrapOwnWithoutMemory(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 1, DataSize: 256})
	l := one(t, s, withHeader(virtio.NetHeader{}, ethernet(200)))
	if len(l.Own()) != 256 {
		t.Errorf("%d bytes of own memory, want 256", len(l.Own()))
	}
	for _, n := range []uint32{257, 1 << 31, ^uint32(0)} {
		if got := newSender(0).WrapOwn(l, n); got != metrics.ReasonShort {
			t.Errorf("%d bytes: %v, want %v", n, got, metrics.ReasonShort)
		}
	}
	var bare List
	if got := newSender(0).WrapOwn(&bare, 100); got != metrics.ReasonShort || bare.Own() != nil {
		t.Errorf("without memory: %v, %d bytes", got, len(bare.Own()))
	}
}

// The way out is the way in backwards.
func TestCopyOut(t *testing.T) {
	b := withHeader(virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, tcp4(t, 6000))
	var l List
	if r := wrap(newSender(UplinkFeatures), &l, pieces(b, 3, 90, 1000)); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	if Needed(&l, UplinkFeatures) {
		t.Error("an uplink with offloads needs the frame softened")
	}
	dst := make([]byte, len(b)+10)
	n := CopyOut(dst, &l, uplinkHeader)
	if n != len(b) || !bytes.Equal(dst[uplinkHeader:n], b[uplinkHeader:]) {
		t.Fatalf("%d bytes came out, want %d, the same", n, len(b))
	}
	h := virtio.DecodeNetHeader(dst)
	h.NumBuffers = 0
	if h != l.Offload || dst[10] != 1 {
		t.Errorf("header %+v with %d buffers, want %+v with 1", h, dst[10], l.Offload)
	}
	if n := CopyOut(dst, &l, 0); n != 6000 || !bytes.Equal(dst[:n], b[uplinkHeader:]) {
		t.Errorf("without header: %d bytes, want 6000, the same", n)
	}
	clear(dst)
	if n := CopyOut(dst[:len(b)-1], &l, uplinkHeader); n != 0 || dst[uplinkHeader] != 0 {
		t.Errorf("%d bytes were written to a place that is too small", n)
	}
	l.MDLs = l.MDLs[:2]
	if n := CopyOut(dst, &l, uplinkHeader); n != 0 {
		t.Errorf("%d bytes came out of a chain that is too short", n)
	}
}

// An uplink's packet allocates nothing, neither way.
func TestUplinkDoesNotAllocate(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 2, DataSize: 4096})
	b := withHeader(virtio.NetHeader{Flags: 1, GSOType: virtio.GSOTCPv4, GSOSize: 1000, CsumStart: 34, CsumOffset: 16}, tcp4(t, 4000))
	var serial Serial
	sender := NewSender(UplinkFeatures, (*uint64)(&serial))
	dst := make([]byte, 4096)
	lists := make([]*List, 1)
	if n := testing.AllocsPerRun(100, func() {
		serial.Reserve(1)
		s.Get(lists)
		n := copy(lists[0].Own(), b)
		if sender.WrapOwn(lists[0], uint32(n)) != metrics.ReasonNone || s.Indicate(lists) != nil {
			t.Fatal("not taken")
		}
		if CopyOut(dst, lists[0], uplinkHeader) != n || s.Return(lists) != nil {
			t.Fatal("not given")
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
