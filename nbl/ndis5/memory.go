package ndis5

import (
	"cmp"
	"fmt"
	"slices"
)

// Tag names the owner of memory: up to four characters.
type Tag [4]byte

// DefaultTag is the tag of who gives none. It reads NDam in a dump.
var DefaultTag = Tag{'N', 'D', 'a', 'm'}

// String is the tag as text.
func (t Tag) String() string { return string(t[:]) }

// Region is memory that was allocated: base address and length are those of
// its Bytes.
type Region struct {
	heap   *Heap
	tag    Tag
	bytes  []byte
	mapped int // Buffers over it
}

// Bytes is the memory. It is good until it is freed.
func (r *Region) Bytes() []byte { return r.bytes }

// Tag is under what it was allocated.
func (r *Region) Tag() Tag { return r.tag }

// TagAccount is what is allocated under one tag.
type TagAccount struct {
	Tag   Tag
	Bytes uint64
	Count int
}

// Heap allocates memory under tags and accounts for it.
type Heap struct {
	limit    uint64
	used     uint64
	accounts map[Tag]*TagAccount
}

// NewHeap allocates up to limit bytes.
func NewHeap(limit uint64) *Heap {
	return &Heap{limit: limit, accounts: map[Tag]*TagAccount{}}
}

// AllocateMemoryWithTag allocates length bytes, all zero. The zero tag stands
// for DefaultTag. The error wraps ErrFailure.
func (h *Heap) AllocateMemoryWithTag(length uint32, tag Tag) (*Region, error) {
	if length == 0 || uint64(length) > h.limit-h.used {
		return nil, fmt.Errorf("ndis5: allocate %d bytes where %d of %d are left: %w", length, h.limit-h.used, h.limit, ErrFailure)
	}
	if tag == (Tag{}) {
		tag = DefaultTag
	}
	a := h.accounts[tag]
	if a == nil {
		a = &TagAccount{Tag: tag}
		h.accounts[tag] = a
	}
	a.Bytes += uint64(length)
	a.Count++
	h.used += uint64(length)
	return &Region{heap: h, tag: tag, bytes: make([]byte, length)}, nil
}

// FreeMemory frees r. The error wraps ErrParameter, and nothing is freed, when
// it was freed before, is another Heap's, or a Buffer maps it.
func (h *Heap) FreeMemory(r *Region) error {
	if r.heap != h || r.mapped != 0 {
		return fmt.Errorf("ndis5: free memory of tag %q that is not allocated here, or that %d buffers map: %w", r.tag, r.mapped, ErrParameter)
	}
	a := h.accounts[r.tag]
	n := uint64(len(r.bytes))
	a.Bytes -= n
	if a.Count--; a.Count == 0 {
		delete(h.accounts, r.tag)
	}
	h.used -= n
	r.heap, r.bytes = nil, nil
	return nil
}

// Accounts lists every tag under which something is allocated, by tag.
func (h *Heap) Accounts() []TagAccount {
	list := make([]TagAccount, 0, len(h.accounts))
	for _, a := range h.accounts {
		list = append(list, *a)
	}
	slices.SortFunc(list, func(x, y TagAccount) int { return cmp.Compare(x.Tag.String(), y.Tag.String()) })
	return list
}
