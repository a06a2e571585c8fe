package vhostuser

import (
	"errors"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
)

// Where the test guest's things are.
const (
	guestUser = 0x7f0000000000 // front-end address of guest address 0
	guestSize = 1 << 20
	ringSize  = 256
	ringSpace = 0x10000 // bytes between two rings
	availAt   = 0x2000
	usedAt    = 0x4000
)

// guest is a front-end's memory.
type guest struct {
	file *sharedmem.File
	m    *sharedmem.Map
	mem  sharedmem.Block
}

func newGuest(t testing.TB) *guest {
	t.Helper()
	f, err := sharedmem.NewMemoryFile(guestSize)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{file: f}
	g.m, err = sharedmem.NewMap([]sharedmem.Region{{User: guestUser, Size: guestSize, File: f}}, sharedmem.MapOptions{Owner: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	if g.mem, err = g.m.Block(0, guestSize); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return g
}

func (g *guest) close() {
	if g.m != nil {
		g.m.Unref()
		g.file.Unref()
		g.m = nil
	}
}

func (g *guest) fd(t testing.TB) *sys.FD {
	t.Helper()
	fd, err := g.file.Dup()
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// region is the piece [from, to) of the guest's memory.
func (g *guest) region(from, to uint64) MemRegion {
	return MemRegion{GPA: from, Size: to - from, User: guestUser + from, Offset: from}
}

func (g *guest) whole() MemRegion { return g.region(0, guestSize) }

// addr are the addresses of ring i.
func addr(i int) VringAddr {
	at := guestUser + uint64(i)*ringSpace
	return VringAddr{Index: uint32(i), Desc: at, Avail: at + availAt, Used: at + usedAt}
}

// offer makes the guest's ring i look as if n chains had been offered and done.
func (g *guest) used(i int, n uint16) {
	g.mem.Store16(uint32(i)*ringSpace+availAt+2, n)
	g.mem.Store16(uint32(i)*ringSpace+usedAt+2, n)
}

func state(i int, num uint32) []byte { return VringState{Index: uint32(i), Num: num}.Marshal() }

func fdPayload(i int) []byte { return VringFD{Index: uint8(i)}.Marshal() }

func noFD(i int) []byte { return VringFD{Index: uint8(i), NoFD: true}.Marshal() }

// eventfd makes an event; the test keeps e and sends fd.
func eventfd(t testing.TB) (e *sys.Event, fd *sys.FD) {
	t.Helper()
	n, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	fd = sys.OwnFD(int(n))
	ours, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	if e, err = sys.EventFrom(ours); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, fd
}

// newFD makes an event of which the test keeps nothing.
func newFD(t testing.TB) *sys.FD {
	t.Helper()
	e, fd := eventfd(t)
	e.Close()
	return fd
}

// signalled reports whether e was signalled, and takes the signal.
func signalled(t testing.TB, e *sys.Event) bool {
	t.Helper()
	var b [8]byte
	_, err := syscall.Read(e.FD(), b[:])
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}
