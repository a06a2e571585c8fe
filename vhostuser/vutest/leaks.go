package vutest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"time"

	"vhostnet/internal/sys"
)

// TB is what the helpers for tests use of a testing.TB. The package does not
// import testing itself, as programs link it, too.
type TB interface {
	Helper()
	Fatal(args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Cleanup(f func())
}

// usage is what a process holds.
type usage struct {
	descriptors, goroutines, mappings int
}

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d mappings of memory files", u.descriptors, u.goroutines, u.mappings)
}

func measure() (usage, error) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return usage{}, fmt.Errorf("vutest: count descriptors: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return usage{}, fmt.Errorf("vutest: count mappings: %w", err)
	}
	return usage{len(names), runtime.NumGoroutine(), bytes.Count(maps, []byte("/memfd:"))}, nil
}

// settleTime is how long what was closed may take to be gone. Goroutines end a
// moment after whoever waited for their last act.
const settleTime = 5 * time.Second

// CheckLeaks notes how many descriptors, goroutines and mapped memory files the
// process has, and fails the test if there are more when it ends, after its
// other cleanups. It is for tests that do not run in parallel.
func CheckLeaks(tb TB) {
	tb.Helper()
	// The runtime's own descriptors come with the first socket and stay.
	if a, b, err := sys.Pair(); err != nil {
		tb.Fatal(err)
	} else {
		_ = a.Close()
		_ = b.Close()
	}
	before, err := measure()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		end := time.Now().Add(settleTime)
		for {
			after, err := measure()
			if err != nil {
				tb.Fatal(err)
			}
			if after.descriptors <= before.descriptors && after.goroutines <= before.goroutines && after.mappings <= before.mappings {
				return
			}
			if time.Now().After(end) {
				tb.Errorf("leak: %s before the test, %s after it\n%s", before, after, stacks())
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func stacks() []byte {
	b := make([]byte, 1<<16)
	return b[:runtime.Stack(b, true)]
}

// Connect is Dial for a test, which ends with a Close.
func Connect(tb TB, path string, o Options) *FrontEnd {
	tb.Helper()
	f, err := Dial(path, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}
