package queues

import "fmt"

// FilterType says what a filter is for (NDIS_RECEIVE_FILTER_TYPE).
type FilterType uint8

// The type of filters on queues. NDIS has another, for packet coalescing, which
// is about sleeping hosts and is not supported.
const (
	FilterUndefined  FilterType = 0
	FilterVMQueue    FilterType = 1
	FilterCoalescing FilterType = 2
)

// FrameHeader is which header of a frame a test looks at.
type FrameHeader uint8

// Frame headers. Only the MAC header is supported.
const (
	FrameHeaderUndefined FrameHeader = iota
	FrameHeaderMAC
	FrameHeaderARP
	FrameHeaderIPv4
	FrameHeaderIPv6
	FrameHeaderUDP
)

// MACField is a field of the MAC header.
type MACField uint8

// Fields of the MAC header. Destination and VLAN are supported.
const (
	MACDestination MACField = 1 + iota
	MACSource
	MACProtocol
	MACVLAN
	MACPriority
	MACPacketType
)

// FieldTest is how a field is compared.
type FieldTest uint8

// Tests. Only Equal is supported: filters are entries of one exact table.
const (
	TestUndefined FieldTest = iota
	TestEqual
	TestMaskEqual
	TestNotEqual
)

// UntaggedOrZero is the only flag of a field: it makes a filter on a MAC address
// accept frames without a tag, and with VLAN 0, only.
const UntaggedOrZero uint32 = 1

// FieldParameters is one test of a filter
// (NDIS_RECEIVE_FILTER_FIELD_PARAMETERS).
type FieldParameters struct {
	Flags  uint32
	Header FrameHeader
	Test   FieldTest
	Field  MACField
	MAC    [6]byte // value for MACDestination
	VLAN   uint16  // value for MACVLAN
}

// FilterParameters is a filter as SET_FILTER is given it
// (NDIS_RECEIVE_FILTER_PARAMETERS): a frame passes when it passes all of
// Fields. What no test looks at does not matter.
type FilterParameters struct {
	Type   FilterType
	Fields []FieldParameters
}

// Filter is the filter in the terms of the forwarding table, by the rules of
// NDIS for VLANs:
//
//	MAC, UntaggedOrZero   untagged frames and those with VLAN 0
//	MAC and VLAN n        frames with a tag of VLAN n
//	MAC alone             frames with any tag or none; refused when strict
//
// What is not offered is StatusNotSupported, what makes no sense
// StatusInvalidParameter.
func (p FilterParameters) Filter(strict bool) (Filter, error) {
	if p.Type != FilterVMQueue {
		return Filter{}, refuse("filter type %d; only filters of VM queues (%d) are offered", p.Type, FilterVMQueue)
	}
	f := Filter{VLAN: AnyVLAN}
	var mac, vlan, untagged bool
	for _, t := range p.Fields {
		if err := t.check(); err != nil {
			return Filter{}, err
		}
		untagged = untagged || t.Flags&UntaggedOrZero != 0
		if t.Field == MACVLAN && !vlan {
			vlan, f.VLAN = true, t.VLAN
		} else if t.Field == MACDestination && !mac {
			mac, f.MAC = true, t.MAC
		} else {
			return Filter{}, wrong("two tests of one field; a field is tested once")
		}
	}
	switch {
	case !mac:
		return Filter{}, wrong("no test of the destination address; each filter needs one")
	case vlan && untagged:
		return Filter{}, wrong("VLAN %d and untagged frames only contradict each other", f.VLAN)
	case vlan && (f.VLAN == 0 || f.VLAN > 4094):
		return Filter{}, wrong("VLAN %d; 1 to 4094 can be tested, and untagged frames by a flag", f.VLAN)
	case untagged:
		f.VLAN = 0
	case !vlan && strict:
		return Filter{}, wrong("neither a VLAN nor untagged frames only; this adapter wants one of them")
	}
	return f, f.Check()
}

func (t FieldParameters) check() error {
	switch {
	case t.Header != FrameHeaderMAC:
		return refuse("a test of frame header %d; only the MAC header (%d) is offered", t.Header, FrameHeaderMAC)
	case t.Test != TestEqual:
		return refuse("test %d; only equality (%d) is offered", t.Test, TestEqual)
	case t.Field != MACDestination && t.Field != MACVLAN:
		return refuse("a test of MAC field %d; the destination (%d) and the VLAN (%d) are offered", t.Field, MACDestination, MACVLAN)
	case t.Flags&^UntaggedOrZero != 0:
		return wrong("field flags %#x; %#x is known", t.Flags, UntaggedOrZero)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("queues: set filter: "+format+": %w", append(args, StatusNotSupported)...)
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("queues: set filter: "+format+": %w", append(args, StatusInvalidParameter)...)
}

// SetFilterParameters is SetFilter for a filter given as tests of fields.
func (b *Binding) SetFilterParameters(id QueueID, p FilterParameters) (FilterID, error) {
	f, err := p.Filter(b.a.strictVLAN)
	if err != nil {
		return 0, err
	}
	return b.SetFilter(id, f)
}
