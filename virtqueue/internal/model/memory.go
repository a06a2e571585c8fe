package model

// Region is a piece of the guest's memory.
type Region struct {
	Base  uint64 // guest address of the first byte
	Bytes []byte
}

// Memory is what the guest has; its regions do not overlap.
type Memory []Region

// region is the region that holds the byte at addr, nil if none does.
func (m Memory) region(addr uint64) *Region {
	for i := range m {
		r := &m[i]
		if addr >= r.Base && addr-r.Base < uint64(len(r.Bytes)) {
			return r
		}
	}
	return nil
}

// Load is the little-endian number of n bytes at addr, which lie in one region.
func (m Memory) Load(addr uint64, n int) (v uint64) {
	r := m.region(addr)
	for i := range n {
		v |= uint64(r.Bytes[addr-r.Base+uint64(i)]) << (8 * i)
	}
	return v
}

// Store writes the little-endian number of n bytes at addr, in one region.
func (m Memory) Store(addr uint64, n int, v uint64) {
	r := m.region(addr)
	for i := range n {
		r.Bytes[addr-r.Base+uint64(i)] = uint8(v >> (8 * i))
	}
}

func (m Memory) le16(addr uint64) uint16 { return uint16(m.Load(addr, 2)) }
func (m Memory) le32(addr uint64) uint32 { return uint32(m.Load(addr, 4)) }

// Write puts data at addr, which may go on in the next region.
func (m Memory) Write(addr uint64, data []byte) {
	for len(data) > 0 {
		r := m.region(addr)
		n := copy(r.Bytes[addr-r.Base:], data)
		addr, data = addr+uint64(n), data[n:]
	}
}

// Pieces is how many regions the n bytes at addr lie in, 0 when n is 0 or a
// byte of them is in none.
func (m Memory) Pieces(addr, n uint64) (pieces int) {
	for n > 0 {
		r := m.region(addr)
		if r == nil {
			return 0
		}
		here := min(n, uint64(len(r.Bytes))-(addr-r.Base))
		addr, n = addr+here, n-here
		pieces++
	}
	return pieces
}
