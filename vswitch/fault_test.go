package vswitch

import (
	"testing"

	"vhostnet/nbl"
	"vhostnet/worker"
)

// gone is a Port that finds the sender's memory gone.
type gone struct{}

func (gone) Deliver(*worker.Context, []*nbl.List) (int, bool) { panic("the sender's memory is gone") }

// V32: a fault that ends a Forward goes on to the sender, whose counters have
// what it sent, and leaves nothing behind for the next one.
func TestV32_SentFramesCountBeforeAFault(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	l.teach(0, station(0))
	l.teach(1, station(1))
	evil, err := l.s.Attach(gone{}, PortOptions{Counters: &l.ports[1].counters})
	if err != nil {
		t.Fatal(err)
	}
	sent := &l.ports[0].counters
	frames, bytes := sent.TxFrames.Value(), sent.TxBytes.Value()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the fault did not go on to the sender")
			}
		}()
		l.forward(0, frame(station(1), station(0)), frame(broadcast, station(0)))
	}()
	if n := sent.TxFrames.Value() - frames; n != 2 {
		t.Errorf("%d frames counted as sent, want 2", n)
	}
	if n := sent.TxBytes.Value() - bytes; n != 120 {
		t.Errorf("%d bytes counted as sent, want 120", n)
	}
	l.s.Detach(evil)
	l.ports[1].take()
	l.reaches(frame(station(1), station(0)), 0, 1)
	if n := sent.TxFrames.Value() - frames; n != 3 {
		t.Errorf("%d frames counted as sent, want 3", n)
	}
}
