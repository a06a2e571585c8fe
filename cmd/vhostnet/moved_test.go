package main

import (
	"context"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// A VM has left its port when none is there any more, or when it stands still and
// the other port was told its address too.
func TestMovedVM(t *testing.T) {
	const told = ",mac=52:54:00:00:00:62"
	mac, other := [6]byte{0x52, 0x54, 0, 0, 0, 0x62}, [6]byte{0x52, 0x54, 0, 0, 0, 0x63}
	r := runDaemon(t, "from"+told, "to"+told, "untold")
	moved := func(mac [6]byte, to string, want bool, when string) {
		t.Helper()
		if got := r.movedVM(mac, "from", to); got != want {
			t.Errorf("%s: moved to %s is %v, want %v", when, to, got, want)
		}
	}
	moved(mac, "untold", true, "without a VM")
	vm := connect(t, r.path("from"), vutest.Options{})
	moved(mac, "to", false, "while it runs")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(vm.Stop(ctx))
	moved(mac, "to", true, "when it stands still")
	moved(mac, "untold", false, "when it stands still")
	moved(other, "to", false, "when it stands still")
	r.must(vm.Close())
	waitFor(t, "its session to end", func() bool { return r.movedVM(mac, "from", "untold") })
	r.must(r.removePort("from"))
	moved(mac, "untold", true, "without its port")
}
