package vhostuser

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
)

// FuzzMemTable: whatever a memory table and the updates to it say, it is
// mapped whole or not at all, and gone in the end.
func FuzzMemTable(f *testing.F) {
	g := newGuest(f)
	f.Add(MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), SingleRegion{Region: g.region(0, 4096)}.Marshal())
	f.Add(MemTable{Regions: []MemRegion{g.region(0, 8192), g.region(8192, guestSize)}}.Marshal(), SingleRegion{Region: g.region(0, 8192)}.Marshal())
	f.Fuzz(func(t *testing.T, table, one []byte) {
		budget := newBudget(t)
		d := newStub()
		s := newSession(&Server{dev: d, o: Options{Name: "fuzz"}, rings: d.rings, budget: budget.Port(), log: newLimitedLog(hclog.NewNullLogger()), offered: Offered}, nil)
		if err := s.begin(); err != nil {
			t.Fatal(err)
		}
		do := func(r Request, payload []byte, fds int) error {
			m := &message{Header: Header{Request: r}, payload: payload}
			for range fds {
				m.fds = append(m.fds, g.fd(t))
			}
			defer m.close()
			_, err := dispatch(s, m)
			return err
		}
		before := measure(t).fds
		n := 0
		var read MemTable
		if read.Unmarshal(table) == nil {
			n = min(len(read.Regions), MaxFDs)
		}
		if err := do(SetMemTable, table, n); err == nil {
			whole(t, s, read.Regions)
		} else {
			whole(t, s, nil)
		}
		known := len(s.memory.table)
		if do(AddMemReg, one, 1) == nil {
			known++
		}
		if do(RemMemReg, one, 0) == nil {
			known--
		}
		if got := len(s.memory.current.Regions()); got != known || len(s.memory.table) != known {
			t.Fatalf("%d regions are mapped and %d listed, want %d", got, len(s.memory.table), known)
		}
		s.clear()
		if bytes, mappings := budget.Spent(); bytes != 0 || mappings != 0 {
			t.Fatalf("%d bytes in %d mappings are left", bytes, mappings)
		}
		if got := measure(t).fds; got != before {
			t.Fatalf("%d descriptors, %d before", got, before)
		}
	})
}

// whole checks that exactly the regions are mapped, and every byte of each can
// be had.
func whole(t *testing.T, s *session, want []MemRegion) {
	t.Helper()
	got := s.memory.current.Regions()
	if len(got) != len(want) {
		t.Fatalf("%d regions are mapped, want %d", len(got), len(want))
	}
	for _, r := range want {
		if r.Offset > guestSize || r.Size > guestSize-r.Offset {
			t.Fatalf("region %+v does not fit into its file and was mapped", r)
		}
		if _, err := s.memory.current.Block(r.GPA, r.Size); err != nil {
			t.Fatalf("region %+v: %v", r, err)
		}
		if _, err := s.memory.current.Block(r.GPA, r.Size+1); err == nil {
			t.Fatalf("region %+v: a byte behind it can be had", r)
		}
		if _, err := s.memory.current.UserBlock(r.User, r.Size); err != nil {
			t.Fatalf("region %+v: %v", r, err)
		}
	}
}

// The same table in other descriptors of the same file is the same table.
func TestIdentify(t *testing.T) {
	g, other := newGuest(t), newGuest(t)
	id := func(fd *sys.FD) fileID {
		defer fd.Close()
		id, err := identify(fd)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if a, b := id(g.fd(t)), id(g.fd(t)); a != b {
		t.Error("two descriptors of one file differ")
	}
	if id(g.fd(t)) == id(other.fd(t)) {
		t.Error("two files are one")
	}
	if _, err := identify(sys.OwnFD(-1)); err == nil {
		t.Error("no descriptor has an identity")
	}
}
