package sharedmem

import (
	"math"
	"math/big"
	"testing"

	"vhostnet/internal/sys"
)

// FuzzLayOut checks the table of two regions against arithmetic that cannot
// wrap.
func FuzzLayOut(f *testing.F) {
	edges := []uint64{0, 1, 4095, 4096, 1 << 40, 1 << 63, math.MaxUint64}
	for _, x := range edges {
		for _, y := range edges {
			f.Add(x, uint64(0), y, uint64(0), uint64(1<<30), uint64(1<<30), uint64(4096), x)
			f.Add(uint64(0), x, uint64(4096), y, x, y, y, uint64(4096))
		}
	}
	const fileSize = 1 << 45
	file, _ := soft(f, fileSize, sys.MemfdOptions{})
	f.Fuzz(func(t *testing.T, gpa1, user1, size1, off1, gpa2, user2, size2, off2 uint64) {
		table := []Region{{gpa1, user1, size1, off1, file}, {gpa2, user2, size2, off2, file}}
		l, err := layOut(table)
		if want := valid(table, fileSize); (err == nil) != want {
			t.Fatalf("%+v: %v, want accepted %v", table, err, want)
		}
		if err != nil {
			return
		}
		end := uint64(0)
		for i, p := range l.places {
			if p.at < end+guardGap || p.length < p.lead+l.regions[i].Size || p.fileOff+p.lead != l.regions[i].Offset || p.at+p.length+guardGap > l.length {
				t.Fatalf("%+v: placement %+v", l.regions[i], p)
			}
			end = p.at + p.length
		}
	})
}

func valid(table []Region, fileSize uint64) bool {
	num := func(n uint64) *big.Int { return new(big.Int).SetUint64(n) }
	sum := func(a, b uint64) *big.Int { return new(big.Int).Add(num(a), num(b)) }
	most := num(math.MaxUint64)
	mapped := new(big.Int)
	for _, r := range table {
		if r.Size == 0 || sum(r.GPA, r.Size).Cmp(most) > 0 || sum(r.User, r.Size).Cmp(most) > 0 || sum(r.Offset, r.Size).Cmp(num(fileSize)) > 0 {
			return false
		}
		first, last := r.Offset/page, (r.Offset+r.Size-1)/page
		mapped.Add(mapped, num((last-first+1)*page))
	}
	apart := func(a, n, b, m uint64) bool { return sum(a, n).Cmp(num(b)) <= 0 || sum(b, m).Cmp(num(a)) <= 0 }
	return mapped.Cmp(num(maxMapBytes)) <= 0 &&
		apart(table[0].GPA, table[0].Size, table[1].GPA, table[1].Size) &&
		apart(table[0].User, table[0].Size, table[1].User, table[1].Size)
}

// FuzzLookup checks every way to look an address up against the table.
func FuzzLookup(f *testing.F) {
	for _, at := range []uint64{0, page - 1, page, 2 * page, 3*page - 1, 1 << 63, math.MaxUint64} {
		for _, n := range []uint64{0, 1, 2, page, 2 * page, 3 * page, math.MaxUint64} {
			f.Add(at, n)
		}
	}
	file := sealed(f, 4*page)
	// Two neighbours, a hole of a page, a third.
	m := mapped(f, "web",
		Region{GPA: page, User: page, Size: page, File: file},
		Region{GPA: 2 * page, User: 2 * page, Size: 100, Offset: page, File: file},
		Region{GPA: 2*page + 100, User: 2*page + 100, Size: page - 100, Offset: 2 * page, File: file},
		Region{GPA: 4 * page, User: 4 * page, Size: 1, Offset: 3 * page, File: file})
	f.Fuzz(func(t *testing.T, at, n uint64) {
		mappedByte := func(a uint64) bool { return a >= page && a < 3*page || a == 4*page }
		want := n != 0 && n <= 2*page && at <= 8*page
		for a := at; want && a < at+n; a++ {
			want = mappedByte(a)
		}
		pieces, ok := m.Append(make([]Block, 0, 4), at, n)
		if ok != want {
			t.Fatalf("Append(%d, %d): %v", at, n, ok)
		}
		var sum uint64
		for _, b := range pieces {
			sum += b.Len()
		}
		if ok && sum != n {
			t.Fatalf("Append(%d, %d): %d bytes", at, n, sum)
		}
		_, err := m.Block(at, n)
		_, userErr := m.UserBlock(at, n)
		if one := ok && len(pieces) == 1; (err == nil) != one || (userErr == nil) != one {
			t.Fatalf("Block(%d, %d): %v, %v", at, n, err, userErr)
		}
		w, found := m.Window(at)
		if found != mappedByte(at) {
			t.Fatalf("Window(%d): %v", at, found)
		}
		if b := w.Find(at, n); (b.Len() != 0) != (err == nil) {
			t.Fatalf("Window.Find(%d, %d): %d bytes", at, n, b.Len())
		}
	})
}
