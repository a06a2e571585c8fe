package metrics

import (
	"reflect"
	"regexp"
	"sync"
	"testing"
)

func TestCounterConcurrent(t *testing.T) {
	var c Counter
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				c.Add(3)
				c.Add(0)
			}
		})
	}
	wg.Wait()
	if got := c.Value(); got != 12000 {
		t.Errorf("%d, want 12000", got)
	}
}

func TestCountersAreApart(t *testing.T) {
	if got := reflect.TypeFor[Counter]().Size(); got != cacheLine {
		t.Errorf("a Counter has %d bytes, want a cache line of %d", got, cacheLine)
	}
}

// Every reason has a word of its own that can be a label.
func TestReasonNames(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]Reason{}
	for r := range NumReasons {
		name := r.String()
		if !word.MatchString(name) {
			t.Errorf("reason %d is called %q", uint8(r), name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("reasons %d and %d are both called %q", uint8(other), uint8(r), name)
		}
		seen[name] = r
	}
	if got := Reason(200).String(); got != "reason-200" {
		t.Errorf("an unknown reason is called %q", got)
	}
}

func TestDrops(t *testing.T) {
	var d Drops
	d.Add(ReasonNoBuffer, 3)
	d.Add(ReasonStorm, 1)
	d.Add(ReasonStorm, 1)
	d.Add(NumReasons+7, 4)
	c := d.Snapshot()
	if d.Total() != 9 || c.Total() != 9 {
		t.Errorf("totals %d and %d, want 9", d.Total(), c.Total())
	}
	if got, want := c.String(), "none=4 no-buffer=3 storm=2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (DropCounts{}).String(); got != "" {
		t.Errorf("no drops: %q", got)
	}
}

// A snapshot has every counter of a Port, each under its own name.
func TestPortSnapshot(t *testing.T) {
	var p Port
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		if c, ok := reflect.TypeAssert[*Counter](v.Field(i).Addr()); ok {
			c.Add(uint64(i) + 1)
		}
	}
	p.Drops.Add(ReasonMTU, 5)
	s := reflect.ValueOf(p.Snapshot())
	if s.NumField() != v.NumField() {
		t.Errorf("a snapshot has %d fields, a Port %d", s.NumField(), v.NumField())
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		got := s.FieldByName(name)
		if !got.IsValid() {
			t.Errorf("no %s in the snapshot", name)
		} else if got.Kind() == reflect.Uint64 && got.Uint() != uint64(i)+1 {
			t.Errorf("%s is %d, want %d", name, got.Uint(), i+1)
		}
	}
	if got := p.Snapshot().Drops[ReasonMTU]; got != 5 {
		t.Errorf("%d drops, want 5", got)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	var p Port
	if n := testing.AllocsPerRun(100, func() { p.TxFrames.Add(64); p.Drops.Add(ReasonStorm, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
