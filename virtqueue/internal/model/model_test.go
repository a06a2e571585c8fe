package model

import (
	"slices"
	"testing"
)

// The model is what others are measured by, so it is measured by hand: rings
// written as bytes, and what the text says of them.

// testMemory is a page of guest memory at 0.
func testMemory() Memory { return Memory{{Base: 0, Bytes: make([]byte, 4096)}} }

// put writes bytes at addr.
func (m Memory) put(addr uint64, b ...byte) { m.Write(addr, b) }

func wantChain(t *testing.T, c *Chain, id uint16, readable, writable []Span) {
	t.Helper()
	if c.ID != id || !slices.Equal(c.Readable, readable) || !slices.Equal(c.Writable, writable) {
		t.Errorf("chain %d, %v, %v; want %d, %v, %v", c.ID, c.Readable, c.Writable, id, readable, writable)
	}
}

// splitConfig has descriptors at 0, the avail ring at 0x100, the used ring at
// 0x200.
func splitConfig(eventIdx bool) Config {
	return Config{
		Indirect: true, EventIdx: eventIdx, Size: 4, MaxChain: 4, MaxPieces: 8, MaxBytes: 1 << 20,
		Driver: 0x100, DeviceArea: 0x200,
	}
}

func TestSplitByHand(t *testing.T) {
	m := testMemory()
	//          addr                    len         flags next
	m.put(0x20, 0, 8, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 1, 0) // 2: 12 bytes to read, NEXT 1
	m.put(0x10, 0, 9, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0, 0) // 1: 64 bytes to write
	//           flags idx   ring
	m.put(0x100, 0, 0, 1, 0, 2, 0)
	var d Device
	d.Start(splitConfig(false), m, nil)
	if got := m.Bytes(0x200, 4); !slices.Equal(got, []byte{1, 0, 0, 0}) {
		t.Errorf("used at the start: % x", got)
	}
	chains := d.Pop(4)
	if len(chains) != 1 {
		t.Fatalf("%d chains, fault %#x", len(chains), d.Dead())
	}
	wantChain(t, &chains[0], 2, []Span{{0x800, 12}}, []Span{{0x900, 64}})
	if call := d.Push([]uint32{33}); call != Yes {
		t.Errorf("the first call: %d", call)
	}
	//                                                flags idx   id          len
	if got := m.Bytes(0x200, 12); !slices.Equal(got, []byte{1, 0, 1, 0, 2, 0, 0, 0, 33, 0, 0, 0}) {
		t.Errorf("used: % x", got)
	}
	if more := d.Arm(); more != No || m.Load(0x200, 2) != 0 {
		t.Errorf("armed: %d, flags %d", more, m.Load(0x200, 2))
	}
}

// TestUsedEventByHand is the note of section 2.7.7.2: with used_event 0 there
// is a call for the first buffer, and none for the second.
func TestUsedEventByHand(t *testing.T) {
	m := testMemory()
	m.put(0x08, 16, 0, 0, 0, 2, 0)
	m.put(0x100, 0, 0, 3, 0) // three times head 0; used_event 0
	var d Device
	d.Start(splitConfig(true), m, nil)
	d.started = true
	if n := len(d.Pop(3)); n != 3 {
		t.Fatalf("%d chains, fault %#x", n, d.Dead())
	}
	if first, second := d.Push([]uint32{0}), d.Push([]uint32{0, 0}); first != Yes || second != No {
		t.Errorf("calls %d, %d", first, second)
	}
	if d.Arm(); m.Load(0x200+4+8*4, 2) != 3 {
		t.Errorf("avail_event %d", m.Load(0x200+4+8*4, 2))
	}
}

func TestPackedByHand(t *testing.T) {
	m := testMemory()
	c := Config{
		Packed: true, Indirect: true, EventIdx: true, Size: 3, MaxChain: 4, MaxPieces: 8, MaxBytes: 1 << 20,
		Driver: 0x100, DeviceArea: 0x104,
	}
	//          addr                    len         id    flags
	m.put(0x20, 0, 8, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 9, 9, 0x81, 0x00) // slot 2, wrap 1: NEXT
	m.put(0x00, 0, 9, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 5, 0, 0x02, 0x80) // slot 0, wrap 0: WRITE, id 5
	m.put(0x10, 0, 4, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 6, 0, 0x04, 0x80) // slot 1, wrap 0: INDIRECT, id 6
	m.put(0x400, 0, 7, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 7, 0x05, 0x80) // only WRITE counts in a table
	m.put(0x410, 0, 6, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 7, 7, 0x02, 0x00)
	m.put(0x100, 0x01, 0x00, 0x02, 0x00) // DESC: slot 1, wrap 0
	at := Position{2, true}
	var d Device
	d.Start(c, m, &State{at, at})
	chains := d.Pop(4)
	if len(chains) != 2 {
		t.Fatalf("%d chains, fault %#x", len(chains), d.Dead())
	}
	wantChain(t, &chains[0], 5, []Span{{0x800, 12}}, []Span{{0x900, 64}})
	wantChain(t, &chains[1], 6, []Span{{0x700, 1}}, []Span{{0x600, 2}})
	d.started = true
	if call := d.Push([]uint32{7}); call != No {
		t.Errorf("slots 2 and 0 are behind the event, %d", call)
	}
	//                                                     len         id    AVAIL USED WRITE
	if got := m.Bytes(0x28, 8); !slices.Equal(got, []byte{7, 0, 0, 0, 5, 0, 0x82, 0x80}) {
		t.Errorf("used slot 2: % x", got)
	}
	if call := d.Push([]uint32{0}); call != Yes {
		t.Errorf("slot 1 is the event, %d", call)
	}
	if got := m.Bytes(0x18, 8); !slices.Equal(got, []byte{0, 0, 0, 0, 6, 0, 0, 0}) {
		t.Errorf("used slot 1: % x", got)
	}
	if d.Arm(); !slices.Equal(m.Bytes(0x104, 4), []byte{2, 0, 2, 0}) {
		t.Errorf("device event: % x", m.Bytes(0x104, 4))
	}
}

// Bytes is a copy of n bytes at addr.
func (m Memory) Bytes(addr, n uint64) []byte {
	r := m.region(addr)
	return slices.Clone(r.Bytes[addr-r.Base : addr-r.Base+n])
}
