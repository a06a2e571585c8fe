package main

import (
	"testing"
	"time"
)

// TestMemory finds the one bit that has changed, at the latest in the end.
func TestMemory(t *testing.T) {
	m := newMemory()
	for range 2*churnPages + 10 {
		if err := m.change(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.checkAll(); err != nil {
		t.Fatal(err)
	}
	m.page(11)[77] ^= 4
	if m.checkAll() == nil {
		t.Error("a changed bit was not seen")
	}
}

func TestChurnStops(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	if err := churn(time.Hour, stop); err != nil {
		t.Error(err)
	}
}
