package sharedmem

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"vhostnet/internal/sys"
)

// regionsOf are n regions of size bytes each over one file.
func regionsOf(f *File, n int, size uint64) []Region {
	list := make([]Region, n)
	for i := range list {
		at := uint64(i) * size * 2
		list[i] = Region{GPA: at, User: at, Size: size, File: f}
	}
	return list
}

func TestBudget(t *testing.T) {
	baseline(t)
	f := sealed(t, 64*page)
	for name, c := range map[string]struct {
		limits  Limits
		regions int
		size    uint64
		maps    int    // how many such Maps one port may have
		ports   int    // how many such ports there may be, each with that many
		want    string // part of the refusal
	}{
		"bytes of a port":    {Limits{PortBytes: 4 * page}, 2, 2 * page, 2, 3, "where a port may map 16384"},
		"bytes of a Map":     {Limits{PortBytes: 4 * page}, 2, 3 * page, 0, 1, "24576 bytes where a port"},
		"regions of a port":  {Limits{PortMappings: 3}, 3, page, 2, 3, "where a port may map 3"},
		"regions of a Map":   {Limits{PortMappings: 3}, 4, page, 0, 1, "4 regions where a port"},
		"bytes of all":       {Limits{PortBytes: 10 * page, TotalBytes: 10 * page}, 1, 5 * page, 2, 1, "0 of 40960 are left"},
		"mappings of all":    {Limits{TotalMappings: 11}, 2, page, 2, 1, "1 of 11 are left"},
		"rounding is mapped": {Limits{PortBytes: 3 * page}, 3, 100, 2, 2, "where a port may map"},
	} {
		b, err := NewBudget(c.limits)
		if err != nil {
			t.Fatal(err)
		}
		var maps []*Map
		var ports []*PortBudget
		for range c.ports {
			p := b.Port()
			ports = append(ports, p)
			for i := range c.maps {
				m, err := NewMap(regionsOf(f, c.regions, c.size), MapOptions{Budget: p})
				if err != nil {
					t.Fatalf("%s: Map %d: %v", name, i, err)
				}
				maps = append(maps, m)
			}
		}
		before := fileMappings()
		last := ports[len(ports)-1]
		m, err := NewMap(regionsOf(f, c.regions, c.size), MapOptions{Budget: last})
		if err == nil {
			m.Unref()
		}
		if !errors.Is(err, ErrBudget) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want a refusal with %q", name, err, c.want)
		}
		if fileMappings() != before || b.Refused() != 1 || last.Refused() != 1 {
			t.Errorf("%s: refused %d and %d times, %d mappings more", name, b.Refused(), last.Refused(), fileMappings()-before)
		}
		for _, m := range maps {
			m.Unref()
		}
		for _, p := range ports {
			if bytes, regions := p.Spent(); bytes != 0 || regions != 0 {
				t.Errorf("%s: a port is still charged %d bytes and %d regions", name, bytes, regions)
			}
		}
		if bytes, mappings := b.Spent(); bytes != 0 || mappings != 0 {
			t.Errorf("%s: still charged %d bytes and %d mappings", name, bytes, mappings)
		}
	}
}

// What is charged is what the kernel has: regions, gaps, whole pages.
func TestBudgetCountsMappings(t *testing.T) {
	baseline(t)
	f := sealed(t, 64*page)
	b, err := NewBudget(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMap(regionsOf(f, 5, page+1), MapOptions{Budget: b.Port()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unref()
	bytes, mappings := b.Spent()
	first, behind := uint64(m.span.Addr()), uint64(m.span.Addr())+m.span.Len()
	got := 0
	for line := range strings.Lines(processMaps()) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err != nil {
			t.Fatal(err)
		}
		if from < behind && to > first {
			got++
		}
	}
	if got != mappings {
		t.Errorf("charged %d mappings, the kernel has %d", mappings, got)
	}
	if bytes != 10*page {
		t.Errorf("charged %d bytes, mapped %d", bytes, 10*page)
	}
}

// A front-end that offers enormous, empty files maps what the budget allows.
func TestBudgetHugeFiles(t *testing.T) {
	baseline(t)
	f, _ := soft(t, 4<<40, sys.MemfdOptions{})
	b, err := NewBudget(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	port := b.Port()
	m, err := NewMap([]Region{{Size: 1 << 40, File: f}}, MapOptions{Budget: port})
	if err != nil {
		t.Fatalf("a guest of 1 TiB: %v", err)
	}
	defer m.Unref()
	if m, err := NewMap([]Region{{Size: 1<<40 + 1, File: f}}, MapOptions{Budget: port}); !errors.Is(err, ErrBudget) {
		t.Errorf("a guest of more than 1 TiB: %v", err)
		m.Unref()
	}
	many := regionsOf(f, 32, 4<<40)
	if m, err := NewMap(many, MapOptions{}); err == nil || !strings.Contains(err.Error(), "maps more than") {
		t.Errorf("128 TiB without a budget: %v", err)
		m.Unref()
	}
}

func TestNewBudget(t *testing.T) {
	d := DefaultLimits()
	most, err := sys.MaxMapCount()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Limits{PortBytes: 1 << 40, TotalBytes: 32 << 40, PortMappings: 509, TotalMappings: most / 2}); d != want {
		t.Errorf("defaults %+v, want %+v", d, want)
	}
	for _, l := range []Limits{
		{PortMappings: -1}, {TotalMappings: -1}, {TotalBytes: maxMapBytes + 1}, {PortBytes: 33 << 40}, {PortBytes: 2, TotalBytes: 1},
	} {
		if _, err := NewBudget(l); err == nil {
			t.Errorf("%+v was accepted", l)
		}
	}
	if kernelMappings(0) != 0 {
		t.Error("an empty Map costs mappings")
	}
}
