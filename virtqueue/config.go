package virtqueue

import (
	"errors"
	"fmt"
	"math"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Event is a kick, call or err descriptor; nil is none.
type Event = sys.Event

// MaxSize is the largest number of entries of a ring (virtio 1.3, sections 2.7
// and 2.8).
const MaxSize = 32768

// defaultMaxChain is what QEMU allows, and drivers rely on, for rings that are
// shorter than that.
const defaultMaxChain = 1024

// Config is everything that New needs to know of a ring.
type Config struct {
	Index    int             // of the ring in its device, for errors
	Size     int             // entries, 1 to MaxSize; in a split ring a power of two
	Features virtio.Features // accepted by the driver; RingPacked, IndirectDesc, EventIdx and NotifyOnEmpty change the ring

	// The ring's areas in the guest's memory, exactly DescLen, AvailLen and
	// UsedLen long. In a split ring they are the descriptor table, the avail
	// ring and the used ring, aligned to 16, 2 and 4 bytes; in a packed ring
	// the descriptor ring, the driver's and the device's event suppression
	// area, aligned to 16, 4 and 4 bytes.
	Desc, Avail, Used sharedmem.Block

	// MaxChain is the largest number of descriptors of one chain, and the
	// largest size of an indirect table, 1 to 32768. 0 is the larger of Size
	// and 1024. A queue keeps 32 bytes for each.
	MaxChain int

	// MaxBytes is the largest number of bytes of one chain, readable and
	// writable; 0 is what its lengths can count, 2^32 - 1. A chain beyond it
	// breaks the ring, so it is no place for the limit of a packet.
	MaxBytes uint32

	// The ring's descriptors, borrowed: they outlive the Queue.
	Kick, Call, Err *Event

	// Log is where the pages that the device writes are noted during a
	// migration, nil for nowhere; LogUsed is the guest address of Used as the
	// log has it. The Queue takes its own reference to the log.
	Log     *sharedmem.DirtyLog
	LogUsed uint64

	// Resume continues where a Queue on the same ring was suspended. Without
	// it a split ring starts at the used.idx found in memory: the base that a
	// front-end sends is not reliable, and every chain that an earlier device
	// took but did not publish is taken again. A packed ring, which has no
	// such word, starts at its first slot.
	Resume *State

	// Journal, of a packed ring only, is where its position outlives the
	// process; nil for nowhere. Who has the Queue keeps its memory mapped.
	Journal *Journal

	// Inflight, of a packed ring only, is the front-end's region in which the
	// same is kept for whichever device comes next; nil for none. With one a
	// Journal is read and kept no longer.
	Inflight *Inflight
}

// DescLen is the length in bytes of the descriptors of a ring of size entries.
func DescLen(size int) uint64 { return descSize * uint64(size) }

// AvailLen is the length in bytes of what the driver of a ring of size entries
// writes beside the descriptors, when it accepted f: the avail ring, which has
// a used_event at its end only with EVENT_IDX, or in a packed ring the driver's
// event suppression area.
func AvailLen(size int, f virtio.Features) uint64 {
	if f.Has(virtio.RingPacked) {
		return eventAreaLen
	}
	return availRing + availSize*uint64(size) + eventLen(f)
}

// UsedLen is the length in bytes of what the device of a ring of size entries
// writes, when the driver accepted f: the used ring, which has an avail_event
// at its end only with EVENT_IDX, or in a packed ring the device's event
// suppression area.
func UsedLen(size int, f virtio.Features) uint64 {
	if f.Has(virtio.RingPacked) {
		return eventAreaLen
	}
	return usedRing + usedSize*uint64(size) + eventLen(f)
}

func eventLen(f virtio.Features) uint64 {
	if f.Has(virtio.EventIdx) {
		return eventSize
	}
	return 0
}

// check refuses what New cannot make a Queue of.
func (c *Config) check(mem *sharedmem.Map) error {
	if mem == nil {
		return fmt.Errorf("virtqueue: ring %d: no guest memory", c.Index)
	}
	if c.Size < 1 || c.Size > MaxSize {
		return fmt.Errorf("virtqueue: ring %d: size %d is not from 1 to %d", c.Index, c.Size, MaxSize)
	}
	if c.Size&(c.Size-1) != 0 && !c.packed() {
		return fmt.Errorf("virtqueue: ring %d: size %d of a split ring is not a power of two", c.Index, c.Size)
	}
	if c.MaxChain < 0 || c.MaxChain > MaxSize {
		return fmt.Errorf("virtqueue: ring %d: MaxChain %d is not from 1 to %d, or 0 for the default", c.Index, c.MaxChain, MaxSize)
	}
	if n := c.maxBlocks(mem); n > math.MaxUint16 {
		return fmt.Errorf("virtqueue: ring %d: chains of %d pieces of memory, at most %d are possible", c.Index, n, math.MaxUint16)
	}
	if c.Resume != nil {
		if err := c.Resume.check(c.Size, c.packed()); err != nil {
			return fmt.Errorf("virtqueue: ring %d: %w", c.Index, err)
		}
	}
	if err := errors.Join(c.checkJournal(), c.checkInflight()); err != nil {
		return err
	}
	return c.checkAreas()
}

func (c *Config) packed() bool { return c.Features.Has(virtio.RingPacked) }

// checkAreas is all the checking that ring accesses get: positions are masked,
// heads and nexts are compared with the size, positions of a packed ring wrap
// at its end, so they stay inside.
func (c *Config) checkAreas() error {
	names, availAlign := [3]string{"descriptor table", "avail ring", "used ring"}, uintptr(2)
	if c.packed() {
		names, availAlign = [3]string{"descriptor ring", "driver event area", "device event area"}, 4
	}
	for _, a := range []struct {
		name  string
		block sharedmem.Block
		len   uint64
		align uintptr
	}{
		{names[0], c.Desc, DescLen(c.Size), descSize},
		{names[1], c.Avail, AvailLen(c.Size, c.Features), availAlign},
		{names[2], c.Used, UsedLen(c.Size, c.Features), 4},
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
// device. New reads used.idx and writes the device's notification words, so it
// is called inside a Guard.
func New(cfg Config, mem *sharedmem.Map) (*Queue, error) {
	if err := cfg.check(mem); err != nil {
		return nil, err
	}
	q := &Queue{cfg: cfg, ring: newRing(&cfg), take: newTaker(&cfg, mem)}
	q.dirty = newDirty(&cfg, &q.take)
	if err := q.openKept(); err != nil {
		return nil, err
	}
	q.ring.kicksOff()
	if q.dirty != nil {
		q.markWish()
	}
	mem.Ref() // behind the last fault
	q.dirty.ref()
	q.ring.packed.keep.ref()
	return q, nil
}
