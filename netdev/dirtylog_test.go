package netdev_test

import (
	"bytes"
	"context"
	"maps"
	"testing"

	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser/vutest"
)

// image is the guest's memory by page.
func image(t *testing.T, f *vutest.FrontEnd) map[uint64][]byte {
	t.Helper()
	pages := map[uint64][]byte{}
	for _, region := range f.Regions() {
		b, err := f.Peek(region.GPA, int(region.Size))
		if err != nil {
			t.Fatal(err)
		}
		for off := uint64(0); off < region.Size; off += sharedmem.DirtyPageSize {
			pages[(region.GPA+off)/sharedmem.DirtyPageSize] = b[off : off+sharedmem.DirtyPageSize]
		}
	}
	return pages
}

// Trap 7.22: amid traffic to a guest that stands still, every page of its memory
// that changes is marked, by whatever way it was written, and the log is looked
// at and exchanged meanwhile.
func TestTrap7_22_EveryWriteIsMarked(t *testing.T) {
	for _, kind := range []vutest.Kind{vutest.QEMU10, vutest.QEMU72, vutest.CloudHypervisor} {
		t.Run(kind.String(), func(t *testing.T) {
			r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
			a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{Kind: kind})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			r.must(b.StartLog(ctx))
			sent := uint32(0)
			for round := range 12 {
				b.Dirty() // first: what is written from here on is marked again
				before := image(t, b)
				var frames []vutest.Frame
				for range 8 {
					sent++
					frames = append(frames, frame(macB, macA, 60+int(sent*331%1450), sent))
				}
				r.must(a.Send(0, frames...))
				r.must(a.WaitSent(0))
				after := image(t, b)
				marked := b.Dirty()
				if round%3 == 2 {
					more, err := b.SwapLog(ctx)
					r.must(err)
					maps.Copy(marked, more)
				}
				changed := 0
				for page, now := range after {
					if bytes.Equal(now, before[page]) {
						continue
					}
					changed++
					if !marked[page] { // its mark may be on the way
						r.waitFor("the mark of a page that was written", func() bool { maps.Copy(marked, b.Dirty()); return marked[page] })
					}
				}
				if changed < 2 { // a buffer and the used ring at the least
					t.Fatalf("round %d: %d pages have changed", round, changed)
				}
				if len(marked) > 8*2+8 {
					t.Errorf("round %d: %d pages are marked for 8 frames", round, len(marked))
				}
			}
			r.must(b.StopLog(ctx))
			for number := uint32(1); number <= sent; number++ {
				got, err := b.Recv(0, patience)
				r.must(err)
				if want := frame(macB, macA, 60+int(number*331%1450), number); !bytes.Equal(got.Data, want.Data) {
					t.Fatalf("frame %d arrived altered", number)
				}
			}
		})
	}
}
