package main

import (
	"context"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// A VM has left its port for another one that was told its address too when it
// stands still or is gone, and for no other one as long as there is its port.
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
	moved(mac, "to", true, "without a VM")
	moved(mac, "untold", false, "without a VM")
	vm := connect(t, r.path("from"), vutest.Options{})
	moved(mac, "to", false, "while it runs")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(vm.Stop(ctx))
	moved(mac, "to", true, "when it stands still")
	moved(mac, "untold", false, "when it stands still")
	moved(mac, "nowhere", false, "when it stands still")
	moved(other, "to", false, "when it stands still")
	r.must(vm.Close())
	from := r.ports.find("from").vm
	waitFor(t, "its session to end", func() bool { return !from.connected.Load() })
	moved(mac, "to", true, "when it is gone")
	from.away.Add(-2 * absence)
	moved(mac, "untold", false, "when it is gone for long")
	moved(other, "untold", false, "when it is gone for long")
	r.must(r.removePort("from"))
	moved(mac, "untold", true, "without its port")
}

// A port that was told no address keeps its VM's until that is away for a while:
// others can borrow the address at once.
func TestMovedVMOfUntoldPort(t *testing.T) {
	r := runDaemon(t, "from", "to", "told,mac=52:54:00:00:00:62")
	mac := [6]byte{0x52, 0x54, 0, 0, 0, 0x62}
	moved := func(want bool, when string) {
		t.Helper()
		for _, to := range []string{"to", "told"} {
			if got := r.movedVM(mac, "from", to); got != want {
				t.Errorf("%s: moved to %s is %v, want %v", when, to, got, want)
			}
		}
	}
	from := r.ports.find("from").vm
	moved(false, "as the port is new")
	vm := connect(t, r.path("from"), vutest.Options{})
	from.away.Add(-2 * absence)
	moved(false, "while it is there")
	r.must(vm.Close())
	waitFor(t, "its session to end", func() bool { return !from.connected.Load() })
	moved(false, "as it has just left")
	from.away.Add(-2 * absence)
	moved(true, "when it is gone for long")
	connect(t, r.path("from"), vutest.Options{})
	moved(false, "when it is back")
}
