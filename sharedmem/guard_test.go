package sharedmem

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// sink uses what was loaded: a load that nobody uses is not made.
var sink uint64

// V32: the front-end truncates its file. The fault is an error that names the
// right guest, and its neighbour's memory stays as it was.
func TestV32_TruncatedFile(t *testing.T) {
	baseline(t)
	f, owner := soft(t, 64*page, sys.MemfdOptions{})
	if f.Sealed() {
		t.Fatal("the file cannot be truncated")
	}
	web := mapped(t, "web", Region{GPA: 1 << 30, User: 0, Size: 64 * page, File: f})
	db := mapped(t, "db", Region{GPA: 1 << 30, User: 0, Size: 64 * page, File: sealed(t, 64*page)})
	gone, whole := block(t, web, 1<<30, 64*page), block(t, db, 1<<30, 64*page)
	if err := Guard(func() error { gone.Store64(0, 1); whole.Store64(0, 2); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := sys.Truncate(owner, 16*page); err != nil {
		t.Fatal(err)
	}
	const at = 20 * page
	buf := make([]byte, 16)
	var word uint32
	for name, access := range map[string]func(){
		"Load8":          func() { sink = uint64(gone.Load8(at)) },
		"Load16":         func() { sink = uint64(gone.Load16(at)) },
		"Load32":         func() { sink = uint64(gone.Load32(at)) },
		"Load64":         func() { sink = gone.Load64(at) },
		"Store8":         func() { gone.Store8(at, 1) },
		"Store16":        func() { gone.Store16(at, 1) },
		"Store32":        func() { gone.Store32(at, 1) },
		"Store64":        func() { gone.Store64(at, 1) },
		"LoadAcquire32":  func() { sink = uint64(gone.LoadAcquire32(at)) },
		"StoreRelease32": func() { gone.StoreRelease32(at, 1); Fence(&word) },
		"CopyTo":         func() { gone.CopyTo(buf, at) },
		"CopyFrom":       func() { gone.CopyFrom(buf, at) },
		"Copy from":      func() { Copy(whole.Sub(at, 100), gone.Sub(at, 100)) },
		"Copy to":        func() { Copy(gone.Sub(at, 100), whole.Sub(at, 100)) },
		"Zero":           func() { gone.Sub(at, 10*page).Zero() },
	} {
		err := Guard(func() error { access(); return nil })
		var fault *FaultError
		if !errors.As(err, &fault) || fault.Map != web {
			t.Errorf("%s: %v, want a fault of web", name, err)
			continue
		}
		if gpa, ok := web.guestAddress(fault.Addr); !ok || gpa < 1<<30+at || gpa >= 1<<30+at+10*page {
			t.Errorf("%s: fault at guest address %#x", name, gpa)
		}
		for _, part := range []string{`"web"`, "guest address 0x400", "truncated"} {
			if !strings.Contains(fault.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, fault, part)
			}
		}
	}
	// What is left of the file, and the neighbour, are as before.
	if err := Guard(func() error {
		if a, b := gone.Load64(0), whole.Load64(0); a != 1 || b != 2 {
			return fmt.Errorf("words %d and %d", a, b)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// V32: truncation at any moment, while another guest's traffic goes on.
func TestV32_TruncatedUnderLoad(t *testing.T) {
	baseline(t)
	db := mapped(t, "db", Region{Size: 16 * page, File: sealed(t, 16*page)})
	dst := block(t, db, 0, 16*page)
	for round := range 300 {
		f, owner := soft(t, 16*page, sys.MemfdOptions{})
		web, err := NewMap([]Region{{Size: 16 * page, File: f}}, MapOptions{Owner: "web"})
		if err != nil {
			t.Fatal(err)
		}
		src := block(t, web, 0, 16*page)
		var copied atomic.Uint64
		result := make(chan error, 1)
		go func() {
			result <- Guard(func() error {
				for {
					Copy(dst, src)
					copied.Add(1)
				}
			})
		}()
		for copied.Load() < uint64(round%3) {
			runtime.Gosched()
		}
		if err := sys.Truncate(owner, uint64(round%16)*page); err != nil {
			t.Fatal(err)
		}
		select {
		case err = <-result:
		case <-time.After(10 * time.Second):
			t.Fatal("the copy goes on without a source")
		}
		var fault *FaultError
		if !errors.As(err, &fault) || fault.Map != web {
			t.Fatalf("round %d: %v", round, err)
		}
		web.Unref()
	}
}

// A fault of ours is not a guest's: the panic goes on.
func TestGuardPassesOtherFaultsOn(t *testing.T) {
	f, owner := soft(t, 4*page, sys.MemfdOptions{})
	m := mapped(t, "web",
		Region{GPA: 0, User: 0, Size: 2 * page, File: f},
		Region{GPA: 1 << 30, User: 1 << 30, Size: page, File: f})
	stale, err := NewMap([]Region{{Size: page, File: f}}, MapOptions{Owner: "stale"})
	if err != nil {
		t.Fatal(err)
	}
	late := block(t, stale, 0, 8)
	stale.Unref()
	base := uint64(m.base) - uint64(m.span.Addr())
	for name, b := range map[string]Block{
		"before a region":    blockAt(m.span.Pointer(base+m.places[0].at-8), 8),
		"behind a region":    blockAt(m.span.Pointer(base+m.places[0].at+m.places[0].length), 8),
		"between regions":    blockAt(m.span.Pointer(base+m.places[1].at-page), 8),
		"behind the last":    blockAt(m.span.Pointer(base+m.places[1].at+m.places[1].length), 8),
		"first of the span":  blockAt(m.span.Pointer(0), 8),
		"last of the span":   blockAt(m.span.Pointer(m.span.Len()-8), 8),
		"a Map that is gone": late,
	} {
		r := panics(func() {
			err := Guard(func() error { b.Store64(0, 1); return nil })
			t.Errorf("%s: %v instead of a panic", name, err)
		})
		fault, ok := r.(interface{ Addr() uintptr })
		if !ok || fault.Addr() != b.addr() {
			t.Errorf("%s: panic %v, want a fault at %#x", name, r, b.addr())
		}
		if AsFault(r) != nil {
			t.Errorf("%s: taken for a guest's fault", name)
		}
	}
	// A fault in the last, half page of a mapping is the guest's.
	if err := sys.Truncate(owner, 0); err != nil {
		t.Fatal(err)
	}
	if err := Guard(func() error { sink = block(t, m, 1<<30, 8).Load64(0); return nil }); err == nil {
		t.Error("no fault in a truncated file")
	}
}

func TestGuardPassesOtherPanicsOn(t *testing.T) {
	var nothing []int
	var nowhere *Map
	boom := errors.New("boom")
	for name, f := range map[string]func(){
		"value":  func() { panic("value") },
		"error":  func() { panic(boom) },
		"index":  func() { _ = nothing[sink&7] },
		"bounds": func() { Block{}.Load8(0) },
		"nil":    func() { sink = nowhere.size },
	} {
		r := panics(func() { _ = Guard(func() error { f(); return nil }) })
		if r == nil {
			t.Errorf("%s: the panic is gone", name)
		}
		if AsFault(r) != nil {
			t.Errorf("%s: taken for a guest's fault", name)
		}
	}
	if err := Guard(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error: %v", err)
	}
	if err := Guard(func() error { return nil }); err != nil {
		t.Errorf("no error: %v", err)
	}
	done := make(chan struct{})
	go func() { // Goexit is no panic
		defer close(done)
		_ = Guard(func() error { runtime.Goexit(); return nil })
	}()
	<-done
}

// The goroutine's setting is as before, however Guard ends.
func TestGuardRestores(t *testing.T) {
	setting := func() bool {
		old := debug.SetPanicOnFault(false)
		debug.SetPanicOnFault(old)
		return old
	}
	for _, before := range []bool{false, true} {
		old := debug.SetPanicOnFault(before)
		_ = Guard(func() error {
			if !setting() {
				t.Error("not set inside")
			}
			_ = Guard(func() error { return nil })
			if !setting() {
				t.Error("an inner Guard took the setting away")
			}
			return nil
		})
		_ = panics(func() { _ = Guard(func() error { panic("x") }) })
		if setting() != before {
			t.Errorf("was %v, is %v", before, setting())
		}
		restore := GuardThread()
		if !setting() {
			t.Error("GuardThread did not set")
		}
		restore()
		if setting() != before {
			t.Errorf("restored to %v", setting())
		}
		debug.SetPanicOnFault(old)
	}
}

// What a deferred function finds is passed through, also from below.
func TestAsFault(t *testing.T) {
	m := mapped(t, "web", Region{GPA: 4096, Size: page, File: sealed(t, page)})
	e := &FaultError{Map: m, Addr: m.base + uintptr(m.places[0].at)}
	if AsFault(e) != e {
		t.Error("a FaultError is not itself")
	}
	if !strings.Contains(e.Error(), "guest address 0x1000") {
		t.Errorf("%v", e)
	}
	if e.Addr = 1; !strings.Contains(e.Error(), "unknown") {
		t.Errorf("%v", e)
	}
	for _, r := range []any{nil, "text", errors.New("error"), 7} {
		if AsFault(r) != nil {
			t.Errorf("%v is a fault", r)
		}
	}
	err := Guard(func() error { panic(e) })
	if err != e { //nolint:errorlint // the very value
		t.Errorf("panic with a FaultError: %v", err)
	}
}

// V29: tables are replaced all the time while readers use the old ones.
func TestV29_ReplaceUnderLoad(t *testing.T) {
	baseline(t)
	f := sealed(t, 8*page)
	var mu sync.Mutex
	now, err := NewMap([]Region{{Size: 8 * page, File: f}}, MapOptions{Owner: "web"})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads atomic.Uint64
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				m := now.Ref()
				mu.Unlock()
				if err := Guard(func() error {
					b, err := m.Block(m.regions[0].GPA, page)
					if err == nil {
						b.Store64(8, b.Load64(0)+1)
					}
					return err
				}); err != nil {
					t.Errorf("reading under a replacement: %v", err)
				}
				m.Unref()
				reads.Add(1)
			}
		})
	}
	for i := uint64(0); i < 500 || reads.Load() < 500; i++ {
		next, err := NewMap([]Region{{GPA: i % 3 * page, Size: 4 * page, Offset: i % 4 * page, File: f}}, MapOptions{Owner: "web"})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		old := now
		now = next
		mu.Unlock()
		old.Unref()
	}
	close(stop)
	wg.Wait()
	now.Unref()
}

func BenchmarkGuard(b *testing.B) {
	for b.Loop() {
		_ = Guard(func() error { return nil })
	}
}
