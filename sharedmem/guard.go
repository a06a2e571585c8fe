package sharedmem

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"sync"
)

// FaultError says that a page of a guest's memory could not be had: its file
// was cut short, or its tmpfs, huge page pool or memory cgroup is exhausted.
// It is the doing of that guest's side, never a defect of this process.
type FaultError struct {
	Map  *Map
	Addr uintptr // in this process
}

// Error names the port and the guest's address.
func (e *FaultError) Error() string {
	where := "an unknown guest address"
	if gpa, ok := e.Map.guestAddress(e.Addr); ok {
		where = fmt.Sprintf("guest address %#x", gpa)
	}
	return fmt.Sprintf("sharedmem: the memory of %q is gone at %s: its file was truncated, or its file system or huge page pool is exhausted", e.Map.owner, where)
}

// Guard runs f on the calling goroutine with faults turned into panics, and a
// fault inside a live Map into a *FaultError. Every other panic, also that of
// a fault elsewhere, goes on. f must not hold a lock that it does not release
// by a deferred call, and must not leave guest memory to other goroutines:
// the setting is the goroutine's.
func Guard(f func() error) (err error) {
	defer GuardThread()()
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault := AsFault(r)
		if fault == nil {
			panic(r)
		}
		err = fault
	}()
	return f()
}

// GuardThread turns faults of the calling goroutine into panics, until restore
// is called on it. A worker calls it once, and recovers with [AsFault].
func GuardThread() (restore func()) {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}

// AsFault tells what recover returned: the *FaultError of a fault inside a
// region of a live Map, nil for anything else, with which the caller panics
// on. An error that is a *FaultError already is returned as it is. An address
// in a gap between regions is nobody's: only a defect gets there.
func AsFault(recovered any) *FaultError {
	switch r := recovered.(type) {
	case *FaultError:
		return r
	case interface {
		runtime.Error
		Addr() uintptr
	}:
		if m := live.find(r.Addr()); m != nil {
			return &FaultError{Map: m, Addr: r.Addr()}
		}
	}
	return nil
}

// live knows every Map that is mapped, by its address. Its lock is taken when
// a Map comes or goes and when something faulted.
var live registry

type registry struct {
	mu   sync.Mutex
	maps []*Map // ordered by base; reservations are disjoint
}

func (r *registry) add(m *Map) {
	if m.span == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps = slices.Insert(r.maps, r.after(m.base), m)
}

func (r *registry) remove(m *Map) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.maps, m); i >= 0 {
		r.maps = slices.Delete(r.maps, i, i+1)
	}
}

// find is the live Map with a region at addr, nil when there is none.
func (r *registry) find(addr uintptr) *Map {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.after(addr)
	if i == 0 {
		return nil
	}
	m := r.maps[i-1]
	if _, ok := m.guestAddress(addr); !ok {
		return nil
	}
	return m
}

// after is the index of the first Map that begins after addr.
func (r *registry) after(addr uintptr) int {
	return sort.Search(len(r.maps), func(i int) bool { return r.maps[i].base > addr })
}

// guestAddress is the guest address of the byte at addr of this process. The
// bytes that a mapping has more than its region, for the page's sake, count.
func (m *Map) guestAddress(addr uintptr) (gpa uint64, ok bool) {
	off := uint64(addr) - uint64(m.base)
	i := sort.Search(len(m.places), func(i int) bool { return m.places[i].at > off }) - 1
	if i < 0 || off-m.places[i].at >= m.places[i].length {
		return 0, false
	}
	return m.regions[i].GPA + (off - m.places[i].at) - m.places[i].lead, true
}
