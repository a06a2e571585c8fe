package sharedmem

import "testing"

// A run of pairs holds those that it was asked for and no other; one that would
// leave the pairs is refused, and so is every access behind a run's end.
func TestPairsRun(t *testing.T) {
	b := BytesBlock(make([]byte, 8*pairSize+5))
	for i := range uint32(16) {
		b.Store64(8*i, uint64(i))
	}
	all := b.Pairs()
	if all.Len() != 8 {
		t.Fatalf("%d pairs in 8 and a piece", all.Len())
	}
	for i := range uint32(11) {
		for n := range 11 {
			if int(i)+n > 8 {
				if !panicsWith(errBounds, func() { all.Run(i, n) }) {
					t.Errorf("Run(%d, %d) of 8 pairs", i, n)
				}
				continue
			}
			run := all.Run(i, n)
			for k := range run.Len() {
				if run.LoadFirst(k) != 2*(uint64(i)+k) || run.LoadSecond(k) != 2*(uint64(i)+k)+1 || run.AcquireSecond(k) != run.LoadSecond(k) {
					t.Errorf("pair %d of Run(%d, %d): %d, %d", k, i, n, run.LoadFirst(k), run.LoadSecond(k))
				}
			}
			for _, k := range []uint64{uint64(n), uint64(n) + 1, 1 << 32, 1<<64 - 1} {
				for name, f := range map[string]func(){
					"LoadFirst": func() { run.LoadFirst(k) }, "LoadSecond": func() { run.LoadSecond(k) },
					"AcquireSecond": func() { run.AcquireSecond(k) }, "StoreSecond": func() { run.StoreSecond(k, 0) },
				} {
					if !panicsWith(errBounds, f) {
						t.Errorf("%s(%d) of Run(%d, %d)", name, k, i, n)
					}
				}
			}
		}
	}
	if !panicsWith(errBounds, func() { all.Run(1<<32-1, 1<<62) }) || !panicsWith(errBounds, func() { all.Run(0, -1) }) {
		t.Error("a run that wraps")
	}
}
