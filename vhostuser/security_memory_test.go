package vhostuser

import (
	"os"
	"strconv"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
)

// V24, V26: sizes and offsets at the edges of their numbers and of the file.
func TestV24_V26_SizesAndOffsets(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	before := b.measure()
	edges := []uint64{0, 1, 4095, 4096, guestSize, guestSize + 1, 1 << 63, 1<<64 - 4096, 1<<64 - 1}
	for _, size := range edges {
		for _, offset := range edges {
			r := MemRegion{GPA: 0, User: guestUser, Size: size, Offset: offset}
			got := b.want(SetMemTable, MemTable{Regions: []MemRegion{r}}.Marshal(), g.fd(t))
			fits := size > 0 && offset <= guestSize && size <= guestSize-offset
			if (got == 0) != fits {
				t.Errorf("size %#x at offset %#x of a file of %#x: acknowledgement %d", size, offset, guestSize, got)
			}
			if fits {
				b.ok(RemMemReg, SingleRegion{Region: r}.Marshal())
			}
		}
	}
	b.regions(0)
	atRest(t, before)
}

// V27: as many regions as there are slots.
func TestV27_EverySlot(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	before := b.measure()
	slots := b.number(GetMaxMemSlots)
	if slots != 509 {
		t.Fatalf("%d slots, want 509", slots)
	}
	slot := func(i uint64) SingleRegion {
		return SingleRegion{Region: MemRegion{GPA: i << 13, User: guestUser + i<<13, Size: 4096}}
	}
	var table MemTable
	var fds []*sys.FD
	for i := range uint64(MaxFDs) {
		table.Regions = append(table.Regions, slot(i).Region)
		fds = append(fds, g.fd(t))
	}
	b.ok(SetMemTable, table.Marshal(), fds...)
	for i := uint64(MaxFDs); i < slots; i++ {
		b.ok(AddMemReg, slot(i).Marshal(), g.fd(t))
	}
	b.refused(AddMemReg, slot(slots).Marshal(), g.fd(t))
	b.ok(RemMemReg, slot(7).Marshal())
	b.ok(AddMemReg, slot(slots).Marshal(), g.fd(t))
	b.ok(SetMemTable, MemTable{Regions: table.Regions[:1]}.Marshal(), g.fd(t))
	b.regions(1)
	atRest(t, usage{fds: before.fds + 1, mappings: before.mappings + 1, goroutines: before.goroutines})
}

// V28: regions come and go, under a running ring, too.
func TestV28_AddAndRemove(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	before := b.measure()
	more := SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 8192, Offset: 4096}}.Marshal()
	whole := SingleRegion{Region: g.whole()}.Marshal()
	for range 300 {
		b.ok(AddMemReg, more, g.fd(t))
		b.refused(AddMemReg, more, g.fd(t))
		b.ok(RemMemReg, whole)
		b.ok(AddMemReg, whole, g.fd(t))
		b.ok(RemMemReg, more, g.fd(t))
		b.refused(RemMemReg, more)
	}
	b.regions(1)
	if !b.dev.runs(0) {
		t.Error("the ring was not revived")
	}
	atRest(t, before)
}

// V30: a table that is bad in its last region changes nothing.
func TestV30_RollBack(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	q := b.dev.queue(0)
	before := b.measure()
	for bad := range 4 {
		var table MemTable
		var fds []*sys.FD
		for i := range 4 {
			r := g.region(uint64(i)*4096, uint64(i+1)*4096)
			if i == bad {
				r.Offset = guestSize
			}
			table.Regions = append(table.Regions, r)
			fds = append(fds, g.fd(t))
		}
		b.refused(SetMemTable, table.Marshal(), fds...)
	}
	b.calls()
	b.regions(1)
	if b.dev.queue(0) != q {
		t.Error("a refused table replaced the ring")
	}
	atRest(t, before)
	if got := b.base(0); got != 0 {
		t.Errorf("the ring stands at %d", got)
	}
}

// V34: files that are not what the message says.
func TestV34_KindsOfFiles(t *testing.T) {
	open := func(path string, flags int) func() *sys.FD {
		return func() *sys.FD {
			n, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			return sys.OwnFD(n)
		}
	}
	disk := t.TempDir() + "/disk"
	if err := os.WriteFile(disk, make([]byte, guestSize), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t)
	kinds := map[string]func() *sys.FD{
		"directory": open("/", syscall.O_RDONLY|syscall.O_DIRECTORY),
		"device":    open("/dev/zero", syscall.O_RDWR),
		"null":      open("/dev/null", syscall.O_RDWR),
		"proc":      open("/proc/self/status", syscall.O_RDONLY),
		"socket": func() *sys.FD {
			a, b := socketPair(t)
			_ = b.Close()
			return a
		},
		"epoll": func() *sys.FD {
			n, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			return sys.OwnFD(n)
		},
		"path of a memory file": func() *sys.FD {
			fd := g.fd(t)
			defer fd.Close()
			const oPath = 0x200000
			return open(procPath(fd), oPath)()
		},
		"read-only memory file": func() *sys.FD {
			fd := g.fd(t)
			defer fd.Close()
			return open(procPath(fd), syscall.O_RDONLY)()
		},
	}
	b := newBench(t, newStub(), nil)
	before := b.measure()
	for name, make := range kinds {
		if got := b.want(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), make()); got == 0 {
			t.Errorf("%s was taken for memory", name)
		}
		for _, r := range []Request{SetVringKick, SetVringCall, SetVringErr} {
			if got := b.want(r, fdPayload(0), make()); got == 0 {
				t.Errorf("%s was taken for an event by %s", name, r)
			}
		}
	}
	b.refused(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), newFD(t)) // an event as memory
	b.refused(SetVringKick, fdPayload(0), g.fd(t))                                        // memory as an event
	if got := b.want(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), open(disk, syscall.O_RDWR)()); got == 0 && !onTmpfs(t, disk) {
		t.Error("a file on disk was taken for memory")
	}
	atRest(t, usage{fds: before.fds + 1, mappings: before.mappings + 1, goroutines: before.goroutines})
}

func procPath(fd *sys.FD) string {
	return "/proc/self/fd/" + strconv.Itoa(fd.Num())
}

// onTmpfs reports whether a file lies on tmpfs, where it is memory.
func onTmpfs(t *testing.T, path string) bool {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		t.Fatal(err)
	}
	const tmpfs = 0x01021994
	return fs.Type == tmpfs
}

// V35: ring parts that are misaligned, in a hole, or across an end.
func TestV35_RingAddresses(t *testing.T) {
	tests := map[string]struct {
		change func(*VringAddr)
		waits  bool // for memory that may still come, instead of being refused
	}{
		"descriptors misaligned":      {func(a *VringAddr) { a.Desc += 8 }, false},
		"avail misaligned":            {func(a *VringAddr) { a.Avail++ }, false},
		"used misaligned":             {func(a *VringAddr) { a.Used += 2 }, false},
		"descriptors across the end":  {func(a *VringAddr) { a.Desc = guestUser + guestSize - 16 }, true},
		"avail across the end":        {func(a *VringAddr) { a.Avail = guestUser + guestSize - 4 }, true},
		"used across the end":         {func(a *VringAddr) { a.Used = guestUser + guestSize - 4 }, true},
		"descriptors at 0":            {func(a *VringAddr) { a.Desc = 0 }, true},
		"used at the end of all":      {func(a *VringAddr) { a.Used = 1<<64 - 4 }, true},
		"avail at the last byte":      {func(a *VringAddr) { a.Avail = 1<<64 - 1 }, true},
		"descriptors before the end":  {func(a *VringAddr) { a.Desc = guestUser - 16 }, true},
		"used in guest address space": {func(a *VringAddr) { a.Used = usedAt }, true},
	}
	for name, test := range tests {
		b := newBench(t, newStub(), nil)
		g := newGuest(t)
		b.handshake(g)
		a := addr(0)
		test.change(&a)
		b.ok(SetVringNum, state(0, ringSize))
		b.ok(SetVringAddr, a.Marshal())
		if got := b.want(SetVringKick, fdPayload(0), newFD(t)); (got == 0) != test.waits {
			t.Errorf("%s: acknowledgement %d", name, got)
		}
		b.calls()
		b.base(0)
		b.close()
	}
}
