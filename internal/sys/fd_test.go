package sys

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFDClosesOnce(t *testing.T) {
	fd := eventfd(t, 0, 0)
	n := fd.Num()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := fd.Close(); err != nil {
				t.Error(err) // a second close of the number would be EBADF
			}
		})
	}
	wg.Wait()
	if fd.Num() != -1 || valid(n) {
		t.Fatalf("after Close: number %d, descriptor open %v", fd.Num(), valid(n))
	}
}

func TestFDOwnsNothing(t *testing.T) {
	before := valid(0)
	for name, fd := range map[string]*FD{"nil": nil, "zero": {}, "negative": OwnFD(-1)} {
		if fd.Num() != -1 || fd.Take() != -1 || fd.Close() != nil {
			t.Errorf("%s: number %d", name, fd.Num())
		}
		if d, err := fd.Dup(); err == nil {
			t.Errorf("%s: duplicated to %d", name, d.Num())
		}
	}
	if valid(0) != before {
		t.Error("the zero FD closed descriptor 0")
	}
}

func TestFDTake(t *testing.T) {
	fd := eventfd(t, 0, 0)
	n := fd.Take()
	if err := fd.Close(); err != nil || !valid(n) {
		t.Fatalf("Close after Take closed the descriptor (%v)", err)
	}
	if err := unix.Close(n); err != nil {
		t.Fatal(err)
	}
}

func TestFDDup(t *testing.T) {
	fd := eventfd(t, 0, 0)
	d := must[*FD](t)(fd.Dup())
	if err := fd.Close(); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(d.Num()), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("duplicate: flags %#x, %v; want close-on-exec", flags, err)
	}
	CloseAll([]*FD{d, nil, fd})
	if d.Num() != -1 {
		t.Error("CloseAll left a descriptor open")
	}
}

func TestFDCloseError(t *testing.T) {
	fd := eventfd(t, 0, 0)
	if err := unix.Close(fd.Num()); err != nil {
		t.Fatal(err)
	}
	if err := fd.Close(); err == nil {
		t.Error("closing a number that is not open succeeded")
	}
}
