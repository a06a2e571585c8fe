package sharedmem

import (
	"errors"
	"fmt"
	"math"
)

// DirtyPageSize is how many bytes of guest memory one bit of a [DirtyLog] is
// for, whatever the size of the guest's pages.
const DirtyPageSize = 4096

// DirtyLog is the bitmap in which a migration notes the pages of guest memory
// that this process has written (vhost-user: SET_LOG_BASE). Bit n&7 of byte
// n>>3 is page n, counted from guest address 0. The front-end reads and clears
// bits at any time. It is mapped like a guest's memory and can be taken away
// like it: Mark is called on a worker or inside [Guard]. All methods may be
// called concurrently.
type DirtyLog struct {
	m     *Map
	bits  Block  // whole words; what is behind pages is not touched
	pages uint64 // that there are bits for
}

// NewDirtyLog maps size bytes at offset of file as a log with one reference,
// the caller's. It takes its own reference to file. offset is a multiple of
// 4096; the log must lie inside the file, and the budget must allow it.
func NewDirtyLog(file *File, offset, size uint64, o MapOptions) (*DirtyLog, error) {
	switch {
	case size == 0 || size > math.MaxUint32-DirtyPageSize:
		return nil, fmt.Errorf("sharedmem: a dirty log of %d bytes, 1 to %d are possible", size, uint64(math.MaxUint32-DirtyPageSize))
	case offset%DirtyPageSize != 0:
		return nil, fmt.Errorf("sharedmem: a dirty log at byte %d of its file, a multiple of %d is needed", offset, DirtyPageSize)
	}
	m, err := NewMap([]Region{{Size: size, Offset: offset, File: file}}, o)
	if err != nil {
		return nil, fmt.Errorf("sharedmem: dirty log: %w", err)
	}
	// The last word may reach past size, but not past the page that the
	// mapping ends with.
	return &DirtyLog{m: m, bits: blockAt(m.windows[0].p, alignUp(size, 4)), pages: 8 * size}, nil
}

// Ref takes one more reference and returns l.
func (l *DirtyLog) Ref() *DirtyLog {
	l.m.Ref()
	return l
}

// Unref drops one reference; the last one unmaps the log. On nil it does
// nothing.
func (l *DirtyLog) Unref() {
	if l != nil {
		l.m.Unref()
	}
}

// Covers reports whether there is a bit for the page of guest address gpa.
func (l *DirtyLog) Covers(gpa uint64) bool { return gpa/DirtyPageSize < l.pages }

// Faulted reports whether err is the fault of the log's own memory.
func (l *DirtyLog) Faulted(err error) bool {
	var f *FaultError
	return errors.As(err, &f) && f.Map == l.m
}

// Mark notes that the n bytes at guest address gpa were written. It comes after
// the writes: each bit is set by an atomic operation that orders them before
// it, so who clears the bit sees what was written, or finds it set again.
// Pages without a bit are left out. Bits that are set are set again: looking
// first would let the look overtake the write.
func (l *DirtyLog) Mark(gpa, n uint64) {
	first, last := gpa/DirtyPageSize, (gpa+n-1)/DirtyPageSize
	if n == 0 || first >= l.pages {
		return
	}
	if gpa+n-1 < gpa || last >= l.pages {
		last = l.pages - 1
	}
	for page := first; page <= last; {
		end := min(last, page|31)
		mask := ^uint32(0) << (page & 31) & (^uint32(0) >> (31 - end&31))
		l.bits.Or32(uint32(page/32*4), mask)
		page = end + 1
	}
}

// GuestAddress is the guest address of the first byte of b, which is a part of
// one of the Map's regions; ok is false when it is not.
func (m *Map) GuestAddress(b Block) (gpa uint64, ok bool) { return m.guestAddress(b.addr()) }
