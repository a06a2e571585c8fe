package virtqueue_test

import (
	"os"
	"testing"

	"vhostnet/virtqueue"
)

// The rule of an event index, taken literally (virtio 1.3, section 2.7.7.2):
// an index that goes from old to idx writes the entries old, old+1, ...,
// idx-1, and the event is one of them.

// TestPassedEverywhere walks n entries on from old, one at a time, for every
// event, and asks after each: was the event among them? By default as far as
// 2^9 entries from a few places, and from every place for the n and the events
// where an inequality can be off by one. With VHOSTNET_SOAK=1 all 2^32 pairs of
// an event and a number of entries, twice.
func TestPassedEverywhere(t *testing.T) {
	olds, most := []uint16{0, 1, 0x7fff, 0x8000, 0xff00, 0xffff}, 1<<9/diffRaceSlow
	if os.Getenv("VHOSTNET_SOAK") != "" {
		olds, most = []uint16{0, 0x9abc}, 1<<16-1
	}
	for _, old := range olds {
		for event := range 1 << 16 {
			among := false
			for n := 0; n <= most; n++ {
				if got := virtqueue.Passed(uint16(event), old+uint16(n), old); got != among {
					t.Fatalf("from %d by %d, event %d: %v, want %v", old, n, event, got, among)
				}
				among = among || old+uint16(n) == uint16(event)
			}
		}
	}
}

// TestPassedEdges does so from each of the 65536 places.
func TestPassedEdges(t *testing.T) {
	for old := range 1 << 16 {
		for _, n := range []uint16{0, 1, 2, 3, 255, 256, 32767, 32768, 32769, 65534, 65535} {
			for _, at := range []uint16{0, 1, 2, n - 3, n - 2, n - 1, n, n + 1, n + 2, 32767, 32768, 32769, 65534, 65535} {
				// at is how far the event is from old; it is passed when it is
				// one of the n first places.
				want := int(at) < int(n)
				if got := virtqueue.Passed(uint16(old)+at, uint16(old)+n, uint16(old)); got != want {
					t.Fatalf("from %d by %d, event %d further: %v, want %v", old, n, at, got, want)
				}
			}
		}
	}
}

// The same rule in a packed ring (virtio 1.3, section 2.8.10): a slot and a
// wrap counter are a position, the device goes from one to the next, and the
// event is one of those it was at.

// packedPlace is a slot with the wrap counter of the device there.
type packedPlace struct {
	slot int
	wrap bool
}

// back is the place before p in a ring of size entries.
func (p packedPlace) back(size int) packedPlace {
	if p.slot == 0 {
		return packedPlace{size - 1, !p.wrap}
	}
	return packedPlace{p.slot - 1, p.wrap}
}

func (p packedPlace) word() uint16 {
	if p.wrap {
		return uint16(p.slot) | 1<<15
	}
	return uint16(p.slot)
}

// passedSlots asks of every event whether it was passed on the last n places
// before next, for each n in turn, 0 to most.
func passedSlots(t *testing.T, size int, next packedPlace, most int) {
	t.Helper()
	position := uint32(next.slot)
	if !next.wrap {
		position += uint32(size)
	}
	passed := make([]bool, 1<<16)
	for n, at := 0, next; n <= most; n++ {
		for _, wrap := range []uint16{0, 1 << 15} {
			for slot := range uint16(size) {
				event := slot | wrap
				if got, want := virtqueue.PassedSlot(size, position, uint32(n), event), passed[event]; got != want {
					t.Fatalf("%d entries, %d slots to %#x, event %#x: %v, want %v", size, n, next.word(), event, got, want)
				}
			}
		}
		at = at.back(size)
		passed[at.word()] = true
	}
}

// TestPassedSlots: all events, all places and all numbers of slots in rings of
// 1 to 40 entries; in large ones all events, some places, and few slots or,
// once, a whole lap.
func TestPassedSlots(t *testing.T) {
	for size := 1; size <= 40; size++ {
		for slot := range size {
			passedSlots(t, size, packedPlace{slot, true}, size)
			passedSlots(t, size, packedPlace{slot, false}, size)
		}
	}
	for _, size := range []int{255, 256, 1000, 1023, 4096, 16385, 32767, 32768} {
		for _, slot := range []int{0, 1, 2, size / 2, size - 2, size - 1} {
			passedSlots(t, size, packedPlace{slot, true}, 5)
			passedSlots(t, size, packedPlace{slot, false}, 5)
		}
	}
	passedSlots(t, 1000, packedPlace{17, false}, 1000)
}

// TestPassedWholeLap: a device that used the whole ring at once has passed
// every place of one lap and none of the other, whatever the size.
func TestPassedWholeLap(t *testing.T) {
	for size := 1; size <= 32768; size += 1 + size/16 {
		for _, slot := range []int{0, size / 3, size - 1} {
			next := packedPlace{slot, size%2 == 0}
			position := uint32(slot)
			if !next.wrap {
				position += uint32(size)
			}
			for i := range size {
				// Slots below next were passed in this lap, the others in the
				// one before.
				passed := packedPlace{i, next.wrap == (i < slot)}
				other := packedPlace{i, !passed.wrap}
				if !virtqueue.PassedSlot(size, position, uint32(size), passed.word()) ||
					virtqueue.PassedSlot(size, position, uint32(size), other.word()) {
					t.Fatalf("%d entries, a lap to %#x, slot %d", size, next.word(), i)
				}
			}
		}
	}
}
