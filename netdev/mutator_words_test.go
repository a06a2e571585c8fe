package netdev

import (
	"math/rand/v2"

	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// mutate writes what may be right, and now and then what is wrong, into every
// word of the hostile guest.
func (a *arena) mutate(seed uint64, stop <-chan struct{}) {
	m := &mutator{r: rand.New(rand.NewPCG(seed, 42)), split: !a.features.Has(virtio.RingPacked)}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		m.spoil(a.tx.Driver, 0)
		m.spoil(a.rx.Driver, vqtest.FlagWrite)
		if n%64 == 0 {
			a.tx.Kick.Signal()
		}
	}
}

type mutator struct {
	r     *rand.Rand
	split bool
}

// spoil writes one thing into d's memory; direction is the flag of its good
// descriptors.
func (m *mutator) spoil(d *vqtest.Driver, direction uint16) {
	i := uint32(m.r.IntN(hostileSize))
	switch {
	case m.r.IntN(4) == 0:
		m.header(d)
	case m.r.IntN(4) == 0:
		m.descriptor(d, hostileTable, uint32(m.r.IntN(tableEntries)), direction, true)
	case m.split && m.r.IntN(2) == 0:
		m.avail(d)
	default:
		m.descriptor(d, vqtest.PairGPA+d.Rings().Desc, i, direction, false)
	}
}

// descriptor writes entry i of a table.
func (m *mutator) descriptor(d *vqtest.Driver, table uint64, i uint32, direction uint16, nested bool) {
	length := []uint32{12, 26, 72, 1526, 2000, 9000, 65000}[m.r.IntN(7)]
	addr := m.place(length)
	flags, next := direction, uint16(i+1)
	if m.r.IntN(3) == 0 && i%8 < 7 {
		flags |= vqtest.FlagNext
	}
	rare := 256
	if !m.split { // most of what is written is not for the device anyway, and most chains are no whole ones
		rare = 64
		flags &^= uint16(m.r.IntN(8)) & vqtest.FlagNext
	}
	switch m.r.IntN(rare) {
	case 0:
		length = m.r.Uint32()
	case 1:
		length = 0
	case 2:
		next = uint16(m.r.IntN(2 * hostileSize))
	case 3:
		flags ^= vqtest.FlagWrite
	case 4:
		addr = m.r.Uint64()
	case 5:
		addr = hostileBuffers + m.r.Uint64N(hostileMemory) // over holes, and behind the end
	case 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
		if nested && m.r.IntN(8) > 0 {
			break
		}
		addr, length, flags = hostileTable, 16*(1+m.r.Uint32N(tableEntries)), vqtest.FlagIndirect
	case 16:
		length += m.r.Uint32N(16)
	}
	at := d.At(table+16*uint64(i), 16)
	at.Store64(0, addr)
	if m.split {
		at.Store64(8, uint64(length)|uint64(flags)<<32|uint64(next)<<48)
		return
	}
	flags |= uint16(m.r.IntN(2)<<7 | m.r.IntN(2)<<15) // AVAIL and USED: for the device in one case of four
	at.Store64(8, uint64(length)|uint64(m.r.Uint32N(hostileSize))<<32|uint64(flags)<<48)
}

// place is an address of length bytes in one region.
func (m *mutator) place(length uint32) uint64 {
	const size = hostileMemory / hostileRegions
	region := 1 + m.r.Uint64N(hostileRegions-1)
	return vqtest.PairGPA + region*size + m.r.Uint64N(size-hostileHole-uint64(length))
}

// avail writes an entry of a split ring and moves its index on.
func (m *mutator) avail(d *vqtest.Driver) {
	at := d.Rings()
	entry := m.r.Uint64N(hostileSize)
	head := uint16(m.r.IntN(hostileSize))
	if m.r.IntN(2048) == 0 {
		head = uint16(m.r.Uint32())
	}
	avail := d.At(vqtest.PairGPA+at.Avail, 4+2*hostileSize)
	avail.Store16(uint32(4+2*entry), head)
	idx := avail.Load16(2)
	if used := d.At(vqtest.PairGPA+at.Used, 4).Load16(2); idx-used < hostileSize/2 {
		idx += uint16(m.r.IntN(4))
	} else if idx-used > hostileSize {
		idx = used // after the ring was broken
	}
	if m.r.IntN(2048) == 0 {
		idx = uint16(m.r.Uint32())
	}
	avail.StoreRelease32(0, uint32(idx)<<16|uint32(m.r.IntN(2)))
}

// header writes virtio_net_hdr and the start of a frame somewhere.
func (m *mutator) header(d *vqtest.Driver) {
	var b [12 + 54]byte
	h := virtio.NetHeader{CsumStart: 34, CsumOffset: 16}
	h.Flags, h.GSOType = uint8(m.r.IntN(2)), uint8(m.r.IntN(2))
	h.GSOSize = []uint16{0, 47, 48, 500, 1448, 65535}[m.r.IntN(6)]
	if m.r.IntN(8) == 0 {
		h.CsumStart, h.CsumOffset, h.GSOType = uint16(m.r.Uint32()), uint16(m.r.Uint32()), uint8(m.r.Uint32())
	}
	h.Encode(b[:])
	copy(b[12:], [][]byte{hostileMAC[:], neighbourMAC[:], {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}[m.r.IntN(3)])
	copy(b[18:], []byte{2, 0, 0, 0, 1, byte(m.r.Uint32()), 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6})
	b[12+46] = 0x50
	d.At(m.place(uint32(len(b))), uint64(len(b))).CopyFrom(b[:], 0)
}
