package virtqueue

import (
	"fmt"
	"math"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Event is a kick, call or err descriptor; nil is none.
type Event = sys.Event

// MaxSize is the largest number of entries of a split ring (virtio 1.3,
// section 2.7).
const MaxSize = 32768

// defaultMaxChain is what QEMU allows, and drivers rely on, for rings that are
// shorter than that.
const defaultMaxChain = 1024

// Config is everything that New needs to know of a ring.
type Config struct {
	Index    int             // of the ring in its device, for errors
	Size     int             // entries, a power of two from 1 to MaxSize
	Features virtio.Features // accepted by the driver; IndirectDesc and EventIdx change the ring

	// The ring's areas in the guest's memory, exactly DescLen, AvailLen and
	// UsedLen long, aligned to 16, 2 and 4 bytes.
	Desc, Avail, Used sharedmem.Block

	// MaxChain is the largest number of descriptors of one chain, and the
	// largest size of an indirect table, 1 to 32768. 0 is the larger of Size
	// and 1024. A queue keeps 32 bytes for each.
	MaxChain int

	// The ring's descriptors, borrowed: they outlive the Queue.
	Kick, Call, Err *Event

	// Resume continues where a Queue on the same ring was suspended. Without
	// it the ring starts at the used.idx found in memory: the base that a
	// front-end sends is not reliable, and every chain that an earlier device
	// took but did not publish is taken again.
	Resume *State
}

// DescLen is the length in bytes of the descriptor table of a ring of size
// entries.
func DescLen(size int) uint64 { return descSize * uint64(size) }

// AvailLen is the length in bytes of the avail ring of size entries. Only with
// EVENT_IDX is there a used_event at its end.
func AvailLen(size int, eventIdx bool) uint64 {
	return availRing + availSize*uint64(size) + eventLen(eventIdx)
}

// UsedLen is the length in bytes of the used ring of size entries. Only with
// EVENT_IDX is there an avail_event at its end.
func UsedLen(size int, eventIdx bool) uint64 {
	return usedRing + usedSize*uint64(size) + eventLen(eventIdx)
}

func eventLen(eventIdx bool) uint64 {
	if eventIdx {
		return eventSize
	}
	return 0
}

// check refuses what New cannot make a Queue of.
func (c *Config) check(mem *sharedmem.Map) error {
	if mem == nil {
		return fmt.Errorf("virtqueue: ring %d: no guest memory", c.Index)
	}
	if c.Size < 1 || c.Size > MaxSize || c.Size&(c.Size-1) != 0 {
		return fmt.Errorf("virtqueue: ring %d: size %d is not a power of two from 1 to %d", c.Index, c.Size, MaxSize)
	}
	if c.Features.Has(virtio.RingPacked) {
		return fmt.Errorf("virtqueue: ring %d: the driver accepted RING_PACKED, only split rings are served", c.Index)
	}
	if c.MaxChain < 0 || c.MaxChain > MaxSize {
		return fmt.Errorf("virtqueue: ring %d: MaxChain %d is not from 1 to %d, or 0 for the default", c.Index, c.MaxChain, MaxSize)
	}
	if n := c.maxBlocks(mem); n > math.MaxUint16 {
		return fmt.Errorf("virtqueue: ring %d: chains of %d pieces of memory, at most %d are possible", c.Index, n, math.MaxUint16)
	}
	if r := c.Resume; r != nil && r.Avail != r.Used {
		return fmt.Errorf("virtqueue: ring %d: cannot resume at avail %d, used %d: a suspended ring has no chains taken, so both are equal", c.Index, r.Avail, r.Used)
	}
	return c.checkAreas()
}

// checkAreas is all the checking that ring accesses get: positions are masked,
// heads and nexts are compared with the size, so they stay inside.
func (c *Config) checkAreas() error {
	eventIdx := c.Features.Has(virtio.EventIdx)
	for _, a := range []struct {
		name  string
		block sharedmem.Block
		len   uint64
		align uintptr
	}{
		{"descriptor table", c.Desc, DescLen(c.Size), descSize},
		{"avail ring", c.Avail, AvailLen(c.Size, eventIdx), 2},
		{"used ring", c.Used, UsedLen(c.Size, eventIdx), 4},
	} {
		if a.block.Len() != a.len {
			return fmt.Errorf("virtqueue: ring %d: the %s has %d bytes, %d entries need %d", c.Index, a.name, a.block.Len(), c.Size, a.len)
		}
		if !a.block.Aligned(0, a.align) {
			return fmt.Errorf("virtqueue: ring %d: the %s does not start at a multiple of %d bytes", c.Index, a.name, a.align)
		}
	}
	return nil
}

// maxChain is MaxChain or its default.
func (c *Config) maxChain() int {
	if c.MaxChain > 0 {
		return c.MaxChain
	}
	return max(c.Size, defaultMaxChain)
}

// maxBlocks is how many Blocks the longest chain has: one per descriptor, and
// one more wherever a buffer crosses from one region into the next, which a
// guest that uses each byte once does at most once per region.
func (c *Config) maxBlocks(mem *sharedmem.Map) int {
	return max(c.maxChain()+len(mem.Regions()), inlineBlocks)
}

// New makes the Queue of a ring that a driver has set up. It takes a reference
// to mem, which Suspend and Close drop, and checks the ring's areas once for
// all. Kicks are off from here on until Arm; the first Push makes a call,
// whatever the driver's wish, because the wish may be meant for an earlier
// device. New reads used.idx and writes used.flags and avail_event, so it is
// called inside a Guard.
func New(cfg Config, mem *sharedmem.Map) (*Queue, error) {
	if err := cfg.check(mem); err != nil {
		return nil, err
	}
	blocks := cfg.maxBlocks(mem)
	q := &Queue{
		cfg:      cfg,
		ring:     newSplit(&cfg),
		mem:      mem,
		eventIdx: cfg.Features.Has(virtio.EventIdx),
		indirect: cfg.Features.Has(virtio.IndirectDesc),
		maxChain: uint32(cfg.maxChain()),
		heads:    make([]uint16, cfg.Size),
		arena:    make([]sharedmem.Block, 2*blocks),
		reserve:  blocks,
	}
	if cfg.Resume != nil {
		q.next, q.used = cfg.Resume.Avail, cfg.Resume.Used
	} else {
		q.used = q.ring.usedIdx()
		q.next = q.used
	}
	q.kicksOff()
	mem.Ref()
	return q, nil
}
