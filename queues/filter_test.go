package queues

import (
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Only one station's address in a VLAN that exists can be filtered.
func TestFiltersRefused(t *testing.T) {
	r := newRig(t, Options{})
	id := r.allocate(r.newNIC("web", 1))
	station := [6]byte{2, 0, 0, 0, 0, 1}
	for name, f := range map[string]Filter{
		"broadcast": {MAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		"multicast": {MAC: [6]byte{0x33, 0x33, 0, 0, 0, 1}},
		"a group":   {MAC: [6]byte{3, 0, 0, 0, 0, 1}},
		"nobody":    {},
		"VLAN 4095": {station, 4095},
		"VLAN 4096": {station, 4096},
		"a tag":     {station, 0xe001},
		"AnyVLAN-1": {station, AnyVLAN - 1},
	} {
		if _, err := r.SetFilter(id, f); !errors.Is(err, StatusInvalidParameter) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := r.state(id); got != Allocated || len(r.steering) != 0 {
		t.Errorf("the queue is %s, entries %v", got, r.steering)
	}
	for _, vlan := range []uint16{0, 1, 4094, AnyVLAN} {
		if _, err := r.SetFilter(id, Filter{station, vlan}); err != nil {
			t.Errorf("VLAN %d: %v", vlan, err)
		}
	}
	r.free(id)
}

// A queue has a filter once: the table has one entry for it. Another queue may
// have it, too; the switch decides between them.
func TestDuplicateFilter(t *testing.T) {
	r := newRig(t, Options{})
	id, other := r.allocate(r.newNIC("web", 1)), r.allocate(r.newNIC("db", 1))
	first, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	if _, err := r.SetFilter(id, filterOf(1)); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("the same filter twice: %v", err)
	}
	if list, err := r.EnumFilters(id); err != nil || len(list) != 1 {
		t.Errorf("filters %v, %v", list, err)
	}
	if _, err := r.SetFilter(other, filterOf(1)); err != nil {
		t.Errorf("the same filter on another queue: %v", err)
	}
	vlan := filterOf(1)
	vlan.VLAN = 7
	if _, err := r.SetFilter(id, vlan); err != nil {
		t.Errorf("the same address in a VLAN: %v", err)
	}
	must(t, r.ClearFilter(id, first))
	if _, err := r.SetFilter(id, filterOf(1)); err != nil {
		t.Errorf("the filter again after it was cleared: %v", err)
	}
	r.free(id)
	r.free(other)
}

// Filter ids are the adapter's: none is given out twice. A queue's filters are
// listed, steer, and go one by one.
func TestFilterIDs(t *testing.T) {
	r := newRig(t, Options{})
	web, db := r.complete("web"), r.complete("db")
	set := func(id QueueID, f Filter) FilterID {
		t.Helper()
		fid, err := r.SetFilter(id, f)
		must(t, err)
		return fid
	}
	a, b, c := set(web, filterOf(1)), set(db, filterOf(2)), set(web, Filter{filterOf(3).MAC, AnyVLAN})
	if a != 1 || b != 2 || c != 3 {
		t.Errorf("filters %d, %d, %d; want 1, 2, 3", a, b, c)
	}
	list, err := r.EnumFilters(web)
	must(t, err)
	want := []FilterInfo{{ID: 1, Filter: filterOf(1), Owner: "test"}, {ID: 3, Filter: Filter{filterOf(3).MAC, AnyVLAN}, Owner: "test"}}
	if diff := cmp.Diff(want, list, cmpopts.IgnoreUnexported(FilterInfo{})); diff != "" {
		t.Error(diff)
	}
	if want := (steering{filterOf(1): web, filterOf(2): db, {filterOf(3).MAC, AnyVLAN}: web}); !maps.Equal(want, r.steering) {
		t.Errorf("entries %v, want %v", r.steering, want)
	}
	if err := r.ClearFilter(web, b); !errors.Is(err, StatusFileNotFound) {
		t.Errorf("another queue's filter cleared: %v", err)
	}
	for _, id := range []FilterID{0, 99} {
		if err := r.ClearFilter(web, id); !errors.Is(err, StatusFileNotFound) {
			t.Errorf("filter %d cleared: %v", id, err)
		}
	}
	must(t, r.ClearFilter(web, a))
	if want := (steering{filterOf(2): db, {filterOf(3).MAC, AnyVLAN}: web}); !maps.Equal(want, r.steering) {
		t.Errorf("entries %v, want %v", r.steering, want)
	}
	if d := set(web, filterOf(4)); d != 4 {
		t.Errorf("filter %d after 1 was cleared, want 4", d)
	}
	must(t, r.ClearFilters(web))
	if want := (steering{filterOf(2): db}); !maps.Equal(want, r.steering) {
		t.Errorf("entries %v, want %v", r.steering, want)
	}
	must(t, r.ClearFilters(web)) // there are none
	if err := r.ClearFilters(9); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("filters of no queue cleared: %v", err)
	}
	r.free(web)
	r.free(db)
}

// The statuses have the values of NDIS, and are errors that can be found.
func TestStatus(t *testing.T) {
	for s, name := range map[Status]string{
		0: "NDIS_STATUS_SUCCESS", 0x103: "NDIS_STATUS_PENDING", 0xC0000001: "NDIS_STATUS_FAILURE",
		0xC000000D: "NDIS_STATUS_INVALID_PARAMETER", 0xC000009A: "NDIS_STATUS_RESOURCES",
		0xC00000BB: "NDIS_STATUS_NOT_SUPPORTED", 0xC001001B: "NDIS_STATUS_FILE_NOT_FOUND", 7: "NDIS_STATUS_UNKNOWN",
	} {
		if s.Error() != name {
			t.Errorf("%#x is %q, want %q", uint32(s), s.Error(), name)
		}
	}
}
