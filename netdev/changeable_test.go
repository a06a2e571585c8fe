package netdev_test

import (
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// A device gets other options under load, again and again; no frame is lost, doubled
// or overtaken.
func TestReconfigureUnderLoad(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	exchange(t, b, a, 0, frame(macA, macB, 60, 0))
	carryWhile(t, r, a, b, 4000, func(n int) error {
		return r.devices["a"].Reconfigure(netdev.Changeable{
			Mode:      []worker.Mode{worker.Adaptive, worker.Poll, worker.Interrupt}[n%3],
			Switching: vswitch.PortOptions{Transparent: n%2 == 0},
		})
	})
}
