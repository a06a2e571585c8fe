package vhostuser

import (
	"strings"
	"testing"

	"vhostnet/internal/sys"
)

// A guest that has booted anew while nobody served it has its packed rings served
// from the base that the front-end sends, and the log says once why.
func TestInflightRegionOfAnotherDriver(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	v, fd, _ := b.region()
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	for i := range 2 {
		b.packedLive(i)
		for n := range 3 {
			b.serves(g, i, n)
		}
	}
	b.close()
	g.mem.Zero()

	b = packedInflight(t, g)
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	b.packedLive(0)
	b.packedLive(1)
	if text := b.log.String(); strings.Count(text, "are not used") != 1 || strings.Contains(text, "goes on where it was left") {
		t.Errorf("the log does not tell once that positions are not used:\n%s", text)
	}
	for i := range 2 {
		b.serves(g, i, 0)
		if got := b.base(i); got != 0x80018001 {
			t.Errorf("ring %d stands at %#x, want %#x", i, got, 0x80018001)
		}
	}
}

// What the front-end was told counts from then on, also in the sessions that
// come, and also when it gave the region again in between. What it was not told
// does not: a ring that has not run has not told.
func TestInflightRegionIsTold(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	v, fd, at := b.region()
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	for i := range 2 {
		b.packedLive(i)
		b.serves(g, i, 0)
	}
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	if got := b.base(0); got != 0x80018001 {
		t.Errorf("the ring stands at %#x, want %#x", got, 0x80018001)
	}
	stride := uint32(v.Size / 2)
	if was, is := at.Load16(8), at.Load16(stride+8); was != 0 || is != 1 {
		t.Errorf("the regions have versions %d and %d, want that of the ring that was told 0", was, is)
	}
	b.close()

	b = packedInflight(t, g)
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	for i, want := range []uint32{0x80078007, 0x80018001} {
		b.base(i) // tells nothing
		b.ok(SetVringNum, state(i, ringSize))
		b.ok(SetVringBase, state(i, 0x80078007))
		b.ok(SetVringAddr, addr(i).Marshal())
		b.ok(SetVringKick, fdPayload(i), newFD(t))
		if got := b.base(i); got != want {
			t.Errorf("ring %d stands at %#x, want %#x", i, got, want)
		}
	}
}

// A front-end that has cut its region short is told where the ring stands all the
// same.
func TestInflightRegionIsGoneWhenTold(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	v, _, _ := b.region()
	fd, err := sys.NewMemfd("region", v.Size, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fd.Close() }()
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	b.packedLive(0)
	b.serves(g, 0, 0)
	if err := sys.Truncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	if got := b.base(0); got != 0x80018001 {
		t.Errorf("the ring stands at %#x, want %#x", got, 0x80018001)
	}
}
