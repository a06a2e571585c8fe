package sys

import (
	"slices"
	"testing"
)

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		s    string
		want []int
	}{
		{"0", []int{0}},
		{"0-3", []int{0, 1, 2, 3}},
		{"0,2-3,8", []int{0, 2, 3, 8}},
	} {
		if got, err := parseList(c.s); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, %v; want %v", c.s, got, err, c.want)
		}
	}
	for _, s := range []string{"", "x", "1-x", "-1", "1,,2", "0-99999999"} {
		if got, err := parseList(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

// Memory prefers the node that was asked for, until that is taken back, and
// comes from it.
func TestPreferNode(t *testing.T) {
	nodes, err := MemoryNodes()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := NewMemfd("numa", 4*PageSize(), MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fd.Close() }()
	span, err := Reserve(4 * PageSize())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = span.Release() }()
	if err := span.Map(0, fd, 0, 4*PageSize()); err != nil {
		t.Fatal(err)
	}
	page := uintptr(PageSize())
	at := span.Addr() + page
	for _, want := range nodes {
		if err := PreferNode(at, 2*PageSize(), want); err != nil {
			t.Skipf("this machine or sandbox lets nobody choose: %v", err)
		}
		for _, addr := range []uintptr{at, at + page} {
			if node, ok, err := PreferredNode(addr); err != nil || !ok || node != want {
				t.Errorf("prefers %d, %v, %v; want %d", node, ok, err, want)
			}
			if node, err := NodeOf(addr); err != nil || node != want {
				t.Errorf("lies on node %d, %v; want %d", node, err, want)
			}
		}
		for _, addr := range []uintptr{at - page, at + 2*page} {
			if node, ok, err := PreferredNode(addr); err != nil || ok {
				t.Errorf("a neighbour prefers %d, %v, %v", node, ok, err)
			}
		}
	}
	if err := PreferAnyNode(at, 2*PageSize()); err != nil {
		t.Error(err)
	}
	if node, ok, err := PreferredNode(at); err != nil || ok {
		t.Errorf("prefers %d still, %v, %v", node, ok, err)
	}
	for _, node := range []int{-1, maxNodes, maxNodes - 1} {
		if err := PreferNode(at, PageSize(), node); err == nil {
			t.Errorf("memory of node %d", node)
		}
	}
}
