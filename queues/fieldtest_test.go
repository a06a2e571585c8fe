package queues

import (
	"slices"
	"testing"
)

// mac and inVLAN are the two tests that are offered.
func mac(last byte) FieldParameters {
	return FieldParameters{Header: FrameHeaderMAC, Test: TestEqual, Field: MACDestination, MAC: [6]byte{2, 0, 0, 0, 0, last}}
}

func inVLAN(id uint16) FieldParameters {
	return FieldParameters{Header: FrameHeaderMAC, Test: TestEqual, Field: MACVLAN, VLAN: id}
}

func untagged(p FieldParameters) FieldParameters {
	p.Flags = UntaggedOrZero
	return p
}

// Claims 51 and 52: the tests of a filter are ANDed into one destination, by
// NDIS's rules for VLANs; what is not offered and what makes no sense are told
// apart.
func TestClaim51_FieldTests(t *testing.T) {
	change := func(p FieldParameters, f func(*FieldParameters)) FieldParameters { f(&p); return p }
	const none, bad = StatusNotSupported, StatusInvalidParameter
	for name, tt := range map[string]struct {
		fields []FieldParameters
		want   Filter
		status Status // of the refusal
		strict Status // of a strict adapter
	}{
		"MAC":                 {[]FieldParameters{mac(1)}, Filter{mac(1).MAC, AnyVLAN}, 0, bad},
		"MAC, untagged":       {[]FieldParameters{untagged(mac(1))}, Filter{mac(1).MAC, 0}, 0, 0},
		"MAC and VLAN":        {[]FieldParameters{mac(1), inVLAN(7)}, Filter{mac(1).MAC, 7}, 0, 0},
		"VLAN and MAC":        {[]FieldParameters{inVLAN(4094), mac(1)}, Filter{mac(1).MAC, 4094}, 0, 0},
		"VLAN, MAC, untagged": {[]FieldParameters{inVLAN(7), untagged(mac(1))}, Filter{}, bad, bad},
		"untagged VLAN, MAC":  {[]FieldParameters{untagged(inVLAN(7)), mac(1)}, Filter{}, bad, bad},
		"VLAN 0":              {[]FieldParameters{mac(1), inVLAN(0)}, Filter{}, bad, bad},
		"VLAN 4095":           {[]FieldParameters{mac(1), inVLAN(4095)}, Filter{}, bad, bad},
		"VLAN only":           {[]FieldParameters{inVLAN(7)}, Filter{}, bad, bad},
		"nothing":             {nil, Filter{}, bad, bad},
		"two MACs":            {[]FieldParameters{mac(1), mac(2)}, Filter{}, bad, bad},
		"two VLANs":           {[]FieldParameters{mac(1), inVLAN(1), inVLAN(2)}, Filter{}, bad, bad},
		"broadcast":           {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.MAC[0] = 0xff })}, Filter{}, bad, bad},
		"other flags":         {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.Flags = 2 })}, Filter{}, bad, bad},
		"source":              {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.Field = MACSource })}, Filter{}, none, none},
		"priority":            {[]FieldParameters{mac(1), change(inVLAN(1), func(p *FieldParameters) { p.Field = MACPriority })}, Filter{}, none, none},
		"mask":                {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.Test = TestMaskEqual })}, Filter{}, none, none},
		"not equal":           {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.Test = TestNotEqual })}, Filter{}, none, none},
		"IPv4":                {[]FieldParameters{change(mac(1), func(p *FieldParameters) { p.Header = FrameHeaderIPv4 })}, Filter{}, none, none},
	} {
		for strict, want := range map[bool]Status{false: tt.status, true: tt.strict} {
			got, err := FilterParameters{Type: FilterVMQueue, Fields: tt.fields}.Filter(strict)
			if StatusOf(err) != want || want == StatusSuccess && got != tt.want {
				t.Errorf("%s, strict %v: %+v, %v; want %+v, %s", name, strict, got, err, tt.want, want)
			}
		}
	}
	for _, typ := range []FilterType{FilterUndefined, FilterCoalescing} {
		if _, err := (FilterParameters{Type: typ, Fields: []FieldParameters{mac(1)}}).Filter(false); StatusOf(err) != StatusNotSupported {
			t.Errorf("filter type %d: %v", typ, err)
		}
	}
}

// Claim 51: several filters of a queue are ORed, each an entry; those of a
// queue that does not run, or has gone, are nobody's: queue 0's.
func TestClaim51_FiltersAreORed(t *testing.T) {
	for _, strict := range []bool{false, true} {
		r := newRig(t, Options{StrictVLAN: strict})
		n := r.newNIC("web", 1)
		n.SetMemory(newMap(t, 1<<16))
		id := r.allocate(n)
		set := func(fields ...FieldParameters) error {
			_, err := r.SetFilterParameters(id, FilterParameters{Type: FilterVMQueue, Fields: fields})
			return err
		}
		must(t, set(untagged(mac(1))))
		must(t, set(mac(1), inVLAN(5)))
		must(t, set(mac(2), inVLAN(5)))
		if err := set(mac(3)); (err != nil) != strict {
			t.Errorf("strict %v: a filter that says nothing of VLANs: %v", strict, err)
		}
		if len(r.steering) != 0 {
			t.Errorf("entries %v of a queue without memory", r.steering)
		}
		r.CompleteAllocation([]QueueID{id})
		want := []Filter{{mac(1).MAC, 0}, {mac(1).MAC, 5}, {mac(2).MAC, 5}}
		for _, f := range want {
			if r.steering[f] != id {
				t.Errorf("no entry of %v: %v", f, r.steering)
			}
		}
		must(t, r.ClearFilters(id))
		if len(r.steering) != 0 || slices.Contains(want, Filter{}) {
			t.Errorf("entries %v of a queue without filters", r.steering)
		}
		r.free(id)
	}
}
