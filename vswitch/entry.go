package vswitch

// MaxPorts is how many ports a Switch can have at a time.
const MaxPorts = 1 << indexBits

const (
	indexBits  = 12
	serialBits = 18
)

// tag is a port's index and a serial number that changes whenever the index is
// given to a port and whenever its port is forgotten. 0 is no port's tag.
type tag uint32

func (t tag) index() int { return int(t & (MaxPorts - 1)) }

// next is the tag of the same index with the next serial, which is never 0.
func (t tag) next() tag {
	n := (t + MaxPorts) & (1<<(indexBits+serialBits) - 1)
	if n < MaxPorts {
		n += MaxPorts
	}
	return n
}

// kind says where an entry comes from. Greater kinds replace smaller ones.
type kind uint8

const (
	learned kind = 1 + iota // from the source of a frame
	static                  // from the operator, on queue 0's way
	filter                  // of a VM's queue
)

// entry is what the table knows about a key, 0 for nothing:
//
//	63 62 61       44 43    32 31                      0
//	kind  tag: serial | index  learned: tick last seen
//	                           filter: queue id
//
// The tag of a filter or static entry is the PortID, that of a learned one is
// the port's tag of the time.
type entry uint64

func makeEntry(k kind, t tag, low uint32) entry {
	return entry(k)<<62 | entry(t)<<32 | entry(low)
}

func (e entry) kind() kind    { return kind(e >> 62) }
func (e entry) tag() tag      { return tag(e>>32) & (1<<(indexBits+serialBits) - 1) }
func (e entry) low() uint32   { return uint32(e) }
func (e entry) isFixed() bool { return e.kind() > learned }

// AnyVLAN as the VLAN of a filter matches frames of every VLAN and untagged
// ones. An entry for a frame's own VLAN goes before it, unless it is learned.
const AnyVLAN uint16 = 0xffff

const (
	macBits  = 48
	macMask  = 1<<macBits - 1
	vlanMask = 0x0fff
	groupBit = 1 << 40 // of a MAC as a number: multicast or broadcast
	anyVLAN  = uint64(AnyVLAN) << macBits

	// anyInVLAN is anyVLAN among ports that are in VLANs.
	anyInVLAN = uint64(AnyVLAN-1) << macBits
)

// frameKey is the key of a frame's address.
func frameKey(vlan uint16, mac uint64) uint64 {
	return uint64(vlan&(vlanMask|inVLAN))<<macBits | mac&macMask
}

// anyKey is the key of a filter of any VLAN that a frame with this key passes.
func anyKey(key uint64) uint64 {
	if key&(inVLAN<<macBits) != 0 {
		return anyInVLAN | key&macMask
	}
	return anyVLAN | key&macMask
}

// isAny reports whether key is one of any VLAN.
func isAny(key uint64) bool { return key&^macMask == anyVLAN || key&^macMask == anyInVLAN }
