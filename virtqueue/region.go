package virtqueue

import (
	"fmt"

	"vhostnet/sharedmem"
)

// Offsets in the region of a packed ring, bytes.
const (
	regionFeatures = 0
	regionVersion  = 8 // 16 bits; 0 is a region that nobody has used
	regionSize     = 10
	regionHeads    = 12 // free_head, old_free_head: one aligned word
	regionUsed     = 16 // used_idx, old_used_idx, 8 bits for each wrap counter, and of the padding the sign: one aligned word
	regionEntries  = 32

	entryLen   = 32
	entryHead  = 0 // inflight 8 bits, next, last, num: one aligned word
	entryCount = 8
	entryMeta  = 16 // id, flags, len: one aligned word
	entryAddr  = 24
)

const (
	regionVersion1 = 1
	regionMark     = 1 // in the device's event suppression area; no journal has it
)

// region is an inflight region of so many entries.
type region struct {
	sharedmem.Block
	entries uint32
}

// at is the offset of a word of entry i.
func at(i, word uint32) uint32 { return regionEntries + entryLen*i + word }

// place is what a region keeps twice: as it is, and as it was.
type place struct {
	free uint16 // the first entry of the list; one behind the last is the end
	pos  uint16 // as in a State
	ours bool   // the region has the sign
}

// place reads both, as they are to be understood after a kill: is, which is that
// of before when the push that is under way is taken back, and that of before. It
// reports errNewDriver when they are of another driver than the ring.
func (g region) place(p *packed) (is, before place, err error) {
	if f, v := g.Load64(regionFeatures), g.Load16(regionVersion); f != 0 || v != regionVersion1 {
		return is, before, fmt.Errorf("%w: it has version %d and features %#x, version %d without any can be read", errInflight, v, f, regionVersion1)
	}
	heads, used := g.Load32(regionHeads), g.Load64(regionUsed)
	ours := uint16(used>>48) == signOf(used)
	if word := p.device.Load32(0); ours && !p.leftBy(regionMark, word) {
		return is, before, fmt.Errorf("%w: %#x in the device's event suppression area", errNewDriver, word)
	}
	is, before = place{uint16(heads), 0, ours}, place{uint16(heads >> 16), 0, ours}
	for _, half := range []struct {
		to          *uint16
		index, wrap uint64
	}{{&is.pos, used & 0xffff, used >> 32 & 0xff}, {&before.pos, used >> 16 & 0xffff, used >> 40 & 0xff}} {
		if half.index >= uint64(p.size) || half.wrap > 1 {
			return is, before, fmt.Errorf("%w: used index %d with wrap counter %d of a ring of %d entries", errInflight, half.index, half.wrap, p.size)
		}
		*half.to = uint16(half.index | half.wrap<<15)
	}
	if is.pos == before.pos || p.available(p.positionOf(before.pos)) {
		return before, before, nil // a push that nobody has seen is taken back
	}
	return is, before, nil
}

// storeHeads writes the heads of the list.
func (g region) storeHeads(now, before uint16) {
	g.Store32(regionHeads, uint32(now)|uint32(before)<<16)
}

// storeUsed writes the positions, with the sign or without.
func (g region) storeUsed(now, before uint16, ours bool) {
	word := uint64(now&^wrapBit) | uint64(before&^wrapBit)<<16 | uint64(now>>15)<<32 | uint64(before>>15)<<40
	if ours {
		word |= uint64(signOf(word)) << 48
	}
	g.Store64(regionUsed, word)
}

// signOf is the sign of the positions in a word. It is never 0, which is what
// other back-ends leave there.
func signOf(word uint64) uint16 { return uint16(word<<16*0x9e37_79b9_7f4a_7c15>>48) | 1 }

// settle makes is both what is and what was. It is killed in between without
// harm: the heads count only together with their position.
func (g region) settle(is place) {
	g.storeHeads(is.free, is.free)
	g.storeUsed(is.pos, is.pos, is.ours)
}

// land makes entry i say that no chain is in flight there.
func (g region) land(i uint32) { g.Store8(at(i, entryHead), 0) }
