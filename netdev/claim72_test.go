package netdev_test

import (
	"context"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// Claim 72: SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG come under traffic in
// both directions, and the frames go on. A region that is not known cannot be
// removed, and its front-end is told so. (What is unmapped is guarded: an access
// would end the test.)
func TestClaim72_MemoryChangesUnderTraffic(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	file, err := sharedmem.NewMemoryFile(2 << 20)
	r.must(err)
	defer file.Unref()
	fd, err := file.Dup()
	r.must(err)
	defer func() { _ = fd.Close() }()
	there, back := runStream(t, a, b, macB, macA), runStream(t, b, a, macA, macB)
	bytes, mappings := r.budget.Spent()
	request := func(what vhostuser.Request, at uint64, fds ...*sys.FD) error {
		one := vhostuser.SingleRegion{Region: vhostuser.MemRegion{GPA: 1<<40 + at<<30, User: 1<<45 + at<<30, Size: 1 << 20}}
		_, err := a.Request(ctx, what, one.Marshal(), fds, true)
		return err
	}
	for at := range uint64(8) {
		r.must(request(vhostuser.AddMemReg, at, fd))
		if err := request(vhostuser.RemMemReg, at+1); err == nil {
			t.Error("a region that is not known was removed")
		}
		there.goesOn()
		back.goesOn()
		r.must(request(vhostuser.RemMemReg, at))
		r.must(table(ctx, a))
		there.goesOn()
		back.goesOn()
	}
	r.waitFor("the memory to be as before", func() bool {
		nowBytes, now := r.budget.Spent()
		return nowBytes == bytes && now == mappings
	})
	for _, q := range r.adapter.EnumQueues()[1:] {
		r.wantAccounts(q.ID, map[string]*vutest.FrontEnd{"a": a, "b": b}[q.VMName], 2)
	}
}
