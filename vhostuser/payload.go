package vhostuser

import "fmt"

// Payload layouts of the protocol. Each type has Marshal, which gives the
// bytes of the payload with padding zero, and Unmarshal, which takes exactly
// that many bytes and checks nothing else: numbers from a front-end are
// judged where they are used.

// U64 is the payload of most requests and of every acknowledgement (0: done,
// anything else: refused).
type U64 uint64

// Marshal gives the 8 bytes of u.
func (u U64) Marshal() []byte { return order.AppendUint64(nil, uint64(u)) }

// Unmarshal reads u from 8 bytes.
func (u *U64) Unmarshal(b []byte) error {
	if err := exactly(b, 8, "number"); err != nil {
		return err
	}
	*u = U64(order.Uint64(b))
	return nil
}

// VringState is the payload of SET_VRING_NUM (Num: entries), SET_VRING_BASE
// and GET_VRING_BASE (Num: position) and SET_VRING_ENABLE (Num: 0 or 1).
type VringState struct {
	Index uint32
	Num   uint32
}

// Marshal gives the 8 bytes of s.
func (s VringState) Marshal() []byte {
	return order.AppendUint32(order.AppendUint32(nil, s.Index), s.Num)
}

// Unmarshal reads s from 8 bytes.
func (s *VringState) Unmarshal(b []byte) error {
	if err := exactly(b, 8, "vring state"); err != nil {
		return err
	}
	*s = VringState{Index: order.Uint32(b), Num: order.Uint32(b[4:])}
	return nil
}

// VringFD is the payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
type VringFD struct {
	Index uint8
	NoFD  bool   // no descriptor comes with the message, on purpose
	Rest  uint64 // bits 9 to 63, reserved, still in their place
}

// noFDBit says in a vring descriptor payload that no descriptor is attached.
const noFDBit = 1 << 8

// Marshal gives the 8 bytes of v.
func (v VringFD) Marshal() []byte {
	u := uint64(v.Index) | v.Rest&^(noFDBit|0xff)
	if v.NoFD {
		u |= noFDBit
	}
	return U64(u).Marshal()
}

// Unmarshal reads v from 8 bytes.
func (v *VringFD) Unmarshal(b []byte) error {
	var u U64
	if err := u.Unmarshal(b); err != nil {
		return err
	}
	*v = VringFD{Index: uint8(u), NoFD: u&noFDBit != 0, Rest: uint64(u) &^ (noFDBit | 0xff)}
	return nil
}

// AddrFlagLog in [VringAddr.Flags] asks for writes to the used ring to be
// noted in the dirty log.
const AddrFlagLog uint32 = 1

// VringAddr is the payload of SET_VRING_ADDR. The addresses are the
// front-end's own. On the wire Used comes before Avail.
type VringAddr struct {
	Index uint32
	Flags uint32
	Desc  uint64
	Used  uint64
	Avail uint64
	Log   uint64 // guest physical address of the used ring, with AddrFlagLog
}

const vringAddrLen = 40

// Marshal gives the 40 bytes of a.
func (a VringAddr) Marshal() []byte {
	b := make([]byte, 0, vringAddrLen)
	b = order.AppendUint32(b, a.Index)
	b = order.AppendUint32(b, a.Flags)
	b = order.AppendUint64(b, a.Desc)
	b = order.AppendUint64(b, a.Used)
	b = order.AppendUint64(b, a.Avail)
	return order.AppendUint64(b, a.Log)
}

// Unmarshal reads a from 40 bytes.
func (a *VringAddr) Unmarshal(b []byte) error {
	if err := exactly(b, vringAddrLen, "vring address"); err != nil {
		return err
	}
	*a = VringAddr{
		Index: order.Uint32(b),
		Flags: order.Uint32(b[4:]),
		Desc:  order.Uint64(b[8:]),
		Used:  order.Uint64(b[16:]),
		Avail: order.Uint64(b[24:]),
		Log:   order.Uint64(b[32:]),
	}
	return nil
}

// MemRegion is one region of guest memory: Size bytes, guest physical at GPA,
// at User in the front-end, at Offset in the descriptor that comes with it.
type MemRegion struct {
	GPA    uint64
	Size   uint64
	User   uint64
	Offset uint64
}

const memRegionLen = 32

func (r MemRegion) append(b []byte) []byte {
	b = order.AppendUint64(b, r.GPA)
	b = order.AppendUint64(b, r.Size)
	b = order.AppendUint64(b, r.User)
	return order.AppendUint64(b, r.Offset)
}

// parseMemRegion reads the first 32 bytes of b, which its caller has counted.
func parseMemRegion(b []byte) MemRegion {
	return MemRegion{GPA: order.Uint64(b), Size: order.Uint64(b[8:]), User: order.Uint64(b[16:]), Offset: order.Uint64(b[24:])}
}

// SingleRegion is the payload of ADD_MEM_REG and REM_MEM_REG.
type SingleRegion struct {
	Region MemRegion
}

const singleRegionLen = 8 + memRegionLen

// Marshal gives the 40 bytes of s.
func (s SingleRegion) Marshal() []byte {
	return s.Region.append(make([]byte, 8, singleRegionLen))
}

// Unmarshal reads s from 40 bytes.
func (s *SingleRegion) Unmarshal(b []byte) error {
	if err := exactly(b, singleRegionLen, "single memory region"); err != nil {
		return err
	}
	s.Region = parseMemRegion(b[8:])
	return nil
}

// MemTable is the payload of SET_MEM_TABLE; one descriptor per region comes
// with it, in the same order.
type MemTable struct {
	Regions []MemRegion
}

const memTableHead = 8

// Marshal gives the 8 + 32n bytes of t.
func (t MemTable) Marshal() []byte {
	b := make([]byte, 0, memTableHead+memRegionLen*len(t.Regions))
	b = order.AppendUint32(b, uint32(len(t.Regions)))
	b = append(b, 0, 0, 0, 0)
	for _, r := range t.Regions {
		b = r.append(b)
	}
	return b
}

// Unmarshal reads t from a payload whose length agrees with the number of
// regions it says.
func (t *MemTable) Unmarshal(b []byte) error {
	if len(b) < memTableHead {
		return fmt.Errorf("%w: %d bytes of a memory table's %d-byte head", ErrShort, len(b), memTableHead)
	}
	n := order.Uint32(b)
	// 64 bits: the product with a count from the peer would wrap in 32.
	if want := memTableHead + memRegionLen*uint64(n); uint64(len(b)) != want {
		return fmt.Errorf("vhostuser: memory table of %d bytes, one of %d regions has %d", len(b), n, want)
	}
	t.Regions = make([]MemRegion, n)
	for i := range t.Regions {
		t.Regions[i] = parseMemRegion(b[memTableHead+memRegionLen*i:])
	}
	return nil
}
