package vutest

// Addresses at which the front-ends of this package have their guests' memory.
// They are numbers for the back-end only, and chosen to be hard to mix up with
// guest addresses.
const (
	highMemory  = 4 << 30          // where x86 guests' memory goes on above the PCI hole
	vgaHole     = 0xa0000          // x86: no memory from here
	vgaHoleEnd  = 0xc0000          // to here
	qemuUser    = 0x7f3a_c000_0000 // QEMU: one block for all memory
	zoneUser    = 0x7e00_8000_0000 // rust-vmm: one mapping per region
	zoneStride  = 0x40_0000_0000   // between them
	hugeUser    = 0x1_0020_0000    // DPDK: where its huge pages begin
	hugeStride  = 0x4000_0000      // between its files
	plugGap     = 1 << 30          // between the memory of a start and what is plugged in
	plugStride  = 1 << 28          // between pieces plugged in
	defaultSize = 16 << 20         // bytes of memory of a guest
	leastSize   = 4 * leastZone    // bytes
	leastZone   = 1 << 20          // bytes; a quarter of a guest's memory
	maxSize     = uint64(1) << 30  // bytes; below what would reach the PCI hole
)

// layoutQEMU is a PC's memory: one file and one block of front-end addresses,
// with the VGA hole and the PCI hole cut out of the guest's.
func layoutQEMU(size uint64) []Region {
	low := size / 2
	return []Region{
		{GPA: 0, User: qemuUser, Size: vgaHole},
		{GPA: vgaHoleEnd, User: qemuUser + vgaHoleEnd, Size: low - vgaHoleEnd, Offset: vgaHoleEnd},
		{GPA: highMemory, User: qemuUser + low, Size: size - low, Offset: low},
	}
}

// layoutDPDK is a process's memory: guest addresses are its own, one file per
// huge page segment.
func layoutDPDK(size uint64) []Region {
	return []Region{
		{GPA: hugeUser, User: hugeUser, Size: size / 2},
		{GPA: hugeUser + hugeStride, User: hugeUser + hugeStride, Size: size - size/2, File: 1},
	}
}

// layoutZones is a VM with memory zones, each its own file and mapping: three
// that follow one another in the guest but run backwards in the front-end, and
// one above the PCI hole.
func layoutZones(size uint64) []Region {
	zone := size / 4
	var all []Region
	for i := range uint64(3) {
		all = append(all, Region{GPA: i * zone, User: zoneUser + (3-i)*zoneStride, Size: zone, File: int(i)})
	}
	return append(all, Region{GPA: highMemory, User: zoneUser, Size: size - 3*zone, File: 3})
}

// layoutSplit is one file, cut at the PCI hole.
func layoutSplit(size uint64) []Region {
	low := size / 2
	return []Region{
		{GPA: 0, User: qemuUser, Size: low},
		{GPA: highMemory, User: qemuUser + low, Size: size - low, Offset: low},
	}
}

// layoutFiles is two files, one on each side of the PCI hole.
func layoutFiles(size uint64) []Region {
	return []Region{
		{GPA: 0, User: zoneUser + zoneStride, Size: size / 2},
		{GPA: highMemory, User: zoneUser, Size: size - size/2, File: 1},
	}
}
