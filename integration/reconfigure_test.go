//go:build integration

package integration

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestHotPlug changes guests that are under load: memory comes and goes, the
// NIC comes and goes, the guest's kernel starts anew.
func TestHotPlug(t *testing.T) {
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.QEMU, OwnQueue: true, DIMMs: 2}, GuestConfig{Name: "b", QEMU: machine.QEMU, DIMMs: 2})
	run(t, "Memory", func(t *testing.T) { testMemory(t, lab, 2) })
	run(t, "NIC", func(t *testing.T) { testReplaceNIC(t, lab, 3) })
	run(t, "Reboots", func(t *testing.T) { testReboots(t, lab, 2) })
}

// TestHotPlugOldQEMU has a front-end that sends the whole memory table anew.
func TestHotPlugOldQEMU(t *testing.T) {
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.OldQEMU, OwnQueue: true, DIMMs: 2}, GuestConfig{Name: "b", QEMU: machine.OldQEMU, DIMMs: 2})
	run(t, "Memory", func(t *testing.T) { testMemory(t, lab, 1) })
}

// testMemory puts memory into both guests under load, in which their NICs'
// buffers then lie, and other memory several times in and out.
func testMemory(t *testing.T, lab *Lab, times int) {
	load := startLoad(t, lab)
	for _, g := range lab.Guests {
		same := sameConnections(t, g)
		if at := highBuffers(t, g); at != 0 {
			t.Errorf("%s: %d receive buffers lie above 4 GiB, where there should be no memory yet", g.cfg.Name, at)
		}
		must(t, g.PlugMemory(within(t, 30*time.Second), "kept", "online_kernel"))
		must(t, poll(within(t, 30*time.Second), "receive buffers in the new memory of "+g.cfg.Name, func() (bool, error) {
			return highBuffers(t, g) > 64, nil
		}))
		load.whole(t)
		for range times {
			must(t, g.PlugMemory(within(t, 30*time.Second), "passing", "online_movable"))
			load.whole(t)
			must(t, g.UnplugMemory(within(t, 30*time.Second), "passing"))
			load.whole(t)
		}
		same()
	}
	t.Logf("%d MB over TCP arrived as sent while memory came and went", load.stop(t)/megabyte)
	noChecksumErrors(t, lab)
}

// highBuffers counts the receive buffers above 4 GiB: a small guest has no
// other memory there than what was put in while it ran.
func highBuffers(t *testing.T, g *Guest) int {
	t.Helper()
	ring, err := g.Ring(within(t, 10*time.Second), 0)
	must(t, err)
	defer ring.Close()
	buffers, err := ring.Buffers()
	must(t, err)
	return len(slices.DeleteFunc(buffers, func(at uint64) bool { return at < 1<<32 }))
}

// testReplaceNIC takes the NICs out and puts them in again while streams go
// both ways. The streams wait meanwhile, and are not harmed.
func testReplaceNIC(t *testing.T, lab *Lab, times int) {
	load := startLoad(t, lab)
	for range times {
		for _, g := range lab.Guests {
			same := sameConnections(t, g)
			must(t, g.ReplaceNIC(within(t, 30*time.Second), g.cfg.Device))
			same()
			load.whole(t)
		}
	}
	load.stop(t)
	noChecksumErrors(t, lab)
}

// testReboots starts each guest's kernel anew, several times, while the other
// one sends to it.
func testReboots(t *testing.T, lab *Lab, times int) {
	for i, g := range lab.Guests {
		other := lab.Guests[1-i]
		probe, err := StartProbe(within(t, 10*time.Second), other, g)
		must(t, err)
		same := sameConnections(t, g)
		for range times {
			must(t, g.Reboot(within(t, time.Minute)))
			must(t, Reach(within(t, 30*time.Second), g, other))
		}
		same()
		must(t, probe.Stop(within(t, 10*time.Second)))
	}
	bothWays(lab, func(from, to *Guest) { must(t, Reach(within(t, 30*time.Second), from, to)) })
	transferBothWays(t, lab, 10*megabyte)
	noChecksumErrors(t, lab)
}

// TestFourPairs changes the number of queue pairs that guests use, of four,
// again and again, under load: of what is in a transmit ring that a driver gives
// up nothing may keep a stream waiting.
func TestFourPairs(t *testing.T) {
	lab := startLab(t,
		GuestConfig{Name: "a", QEMU: machine.QEMU, Pairs: 4, OwnQueue: true},
		GuestConfig{Name: "b", QEMU: machine.QEMU, Pairs: 4})
	load := startLoad(t, lab)
	for i, n := range []int{1, 2, 3, 1, 2, 4, 1, 3, 4, 2} {
		_, err := lab.Guests[i%2].Run(within(t, time.Minute), "ethtool", "-L", "eth0", "combined", strconv.Itoa(n))
		must(t, err)
		load.whole(t)
	}
	load.stop(t)
	run(t, "Four", func(t *testing.T) { testPairs(t, lab, 4) })
	run(t, "VhostnetKilled", func(t *testing.T) { testBackendKilled(t, lab, 100*megabyte, 1) })
}
