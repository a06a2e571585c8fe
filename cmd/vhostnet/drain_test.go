package main

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// SIGTERM in the middle of bursts: what was taken from the sender has arrived
// when the connections close, as the receiver has buffers for all of it, and
// nothing is written to a guest's memory afterwards.
func TestEndDrains(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for round := range 8 {
		dir := t.TempDir()
		p := serveIn(t, dir, programOptions{}, "a b")
		a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
		exchangeAs(t, b, a, 'a', 'b', 1) // the switch knows b
		ring := func(f *vutest.FrontEnd, i int) uint16 { return f.Driver(i).UsedIdx() }
		sent, received := ring(a, 1), ring(b, 0)
		for burst := range 24 {
			if burst == round {
				p.signal(syscall.SIGTERM)
			}
			list := make([]vutest.Frame, 8)
			for i := range list {
				list[i] = frame('b', 'a')
			}
			if err := a.Send(0, list...); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []*vutest.FrontEnd{a, b} {
			if err := f.WaitClosed(ctx); err != nil {
				t.Fatal(err)
			}
		}
		taken, arrived := ring(a, 1)-sent, ring(b, 0)-received
		if taken != arrived {
			t.Errorf("round %d: %d chains came back, %d frames arrived", round, taken, arrived)
		}
		if code := p.wait(); code != exitDone {
			t.Errorf("round %d: exit code %d", round, code)
		}
		if n, m := ring(a, 1)-sent, ring(b, 0)-received; n != taken || m != arrived {
			t.Errorf("round %d: memory was written to after the connection was closed: %d and %d chains, before %d and %d", round, n, m, taken, arrived)
		}
	}
}
