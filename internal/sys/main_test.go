package sys

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain fails when the tests leave a descriptor or a mapping of a memory
// file behind.
func TestMain(m *testing.M) {
	a, b, err := Pair() // the runtime's own poller opens its descriptors once
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = a.Close(), b.Close()
	fds, maps := openFDs(), fileMappings()
	code := m.Run()
	if n := openFDs(); n != fds && code == 0 {
		fmt.Fprintf(os.Stderr, "the tests leave %d descriptors open\n", n-fds)
		code = 1
	}
	if n := fileMappings(); n != maps && code == 0 {
		fmt.Fprintf(os.Stderr, "the tests leave %d mappings behind\n", n-maps)
		code = 1
	}
	os.Exit(code)
}

func openFDs() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(list)
}

func fileMappings() int {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return strings.Count(string(b), "memfd:")
}

// must fails the test on an error of its set-up.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func memfd(t *testing.T, size uint64, o MemfdOptions) *FD {
	t.Helper()
	fd := must[*FD](t)(NewMemfd("test", size, o))
	t.Cleanup(func() { _ = fd.Close() })
	return fd
}

// eventfd makes a raw eventfd as a peer would.
func eventfd(t *testing.T, count uint, flags int) *FD {
	t.Helper()
	return OwnFD(must[int](t)(unix.Eventfd(count, flags|unix.EFD_CLOEXEC)))
}

// peer is a second descriptor of the same open file: what the front-end holds.
func peer(t *testing.T, fd *FD) *FD {
	t.Helper()
	p := must[*FD](t)(fd.Dup())
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func valid(n int) bool {
	_, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil
}
