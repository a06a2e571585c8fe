package sharedmem

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"vhostnet/internal/sys"
)

// TestMain fails when the tests leave a descriptor, a mapping or a live Map
// behind.
func TestMain(m *testing.M) {
	maps := fileMappings() // the first file opened makes the runtime open its poller
	fds := openFDs()
	code := m.Run()
	for what, left := range map[string]int{
		"open descriptors": openFDs() - fds,
		"mappings":         fileMappings() - maps,
		"live Maps":        len(live.maps),
	} {
		if left != 0 && code == 0 {
			fmt.Fprintf(os.Stderr, "the tests leave %d %s behind\n", left, what)
			code = 1
		}
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

// fileMappings counts the kernel's mappings of memory files.
func fileMappings() int { return strings.Count(processMaps(), "memfd:") }

func processMaps() string {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return string(b)
}

const page = 4096 // what the tests count in; a multiple of it is a multiple of the machine's on x86

// baseline fails the test when it ends with more descriptors or mappings than
// it began with.
func baseline(t *testing.T) {
	t.Helper()
	fds, maps := openFDs(), fileMappings()
	t.Cleanup(func() {
		if n := openFDs() - fds; n != 0 {
			t.Errorf("%d descriptors left open", n)
		}
		if n := fileMappings() - maps; n != 0 {
			t.Errorf("%d mappings left", n)
		}
	})
}

// sealed is a file that cannot shrink.
func sealed(t testing.TB, size uint64) *File {
	t.Helper()
	f, err := NewMemoryFile(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Unref)
	return f
}

// soft is a file that can shrink, and the descriptor by which its owner does.
func soft(t testing.TB, size uint64, o sys.MemfdOptions) (*File, *sys.FD) {
	t.Helper()
	fd, err := sys.NewMemfd("test", size, o)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Close() })
	f, err := OpenFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Unref)
	return f, owner
}

// mapped is a Map for the time of the test.
func mapped(t testing.TB, owner string, regions ...Region) *Map {
	t.Helper()
	m, err := NewMap(regions, MapOptions{Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Unref)
	return m
}

// block is a Block of m that must exist.
func block(t testing.TB, m *Map, gpa, n uint64) Block {
	t.Helper()
	b, err := m.Block(gpa, n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// panics returns what f panics with, nil when it does not.
func panics(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}
