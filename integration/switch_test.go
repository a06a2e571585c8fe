//go:build integration

package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const megabyte = 1_000_000

// TestTwoGuests is everything that two guests with one queue pair each can do
// to one another, and what can happen to them meanwhile.
func TestTwoGuests(t *testing.T) {
	// Frames to a find it by its filter, frames to b because its address is learned.
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.QEMU, OwnQueue: true}, GuestConfig{Name: "b", QEMU: machine.QEMU})
	run(t, "Ping", func(t *testing.T) { testPing(t, lab) })
	run(t, "TCP", func(t *testing.T) { testTCP(t, lab) })
	run(t, "UDP", func(t *testing.T) { testUDP(t, lab) })
	run(t, "Transfer", func(t *testing.T) {
		transferBothWays(t, lab, 200*megabyte)
		noChecksumErrors(t, lab)
	})
	run(t, "Offloads", func(t *testing.T) { testOffloads(t, lab) })
	run(t, "GuestReboot", func(t *testing.T) { testReboot(t, lab) })
	run(t, "VhostnetKilled", func(t *testing.T) { testBackendKilled(t, lab, 200*megabyte, 3) })
	run(t, "VhostnetStopped", func(t *testing.T) { testBackendStopped(t, lab) })
	run(t, "GuestKilled", func(t *testing.T) { testGuestKilled(t, lab) })
}

// TestOldQEMU is the core of it with Debian 12's own QEMU, which negotiates
// otherwise and reconnects after a whole second. One of the ports sleeps
// whenever it can.
func TestOldQEMU(t *testing.T) {
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.OldQEMU, PortMode: "interrupt"}, GuestConfig{Name: "b", QEMU: machine.OldQEMU, OwnQueue: true})
	run(t, "Ping", func(t *testing.T) { testPing(t, lab) })
	run(t, "Transfer", func(t *testing.T) {
		transferBothWays(t, lab, 50*megabyte)
		noChecksumErrors(t, lab)
	})
	run(t, "GuestReboot", func(t *testing.T) { testReboot(t, lab) })
	run(t, "VhostnetKilled", func(t *testing.T) { testBackendKilled(t, lab, 100*megabyte, 1) })
}

// bothWays runs f for each direction between the first two guests.
func bothWays(lab *Lab, f func(from, to *Guest)) {
	f(lab.Guests[0], lab.Guests[1])
	f(lab.Guests[1], lab.Guests[0])
}

func testPing(t *testing.T, lab *Lab) {
	bothWays(lab, func(from, to *Guest) {
		for _, size := range []int{56, 1472, 1473, 65507} {
			must(t, Ping(within(t, 30*time.Second), from, to.Addr(), 3, size))
		}
		must(t, Ping(within(t, 30*time.Second), from, to.Addr6(), 3, 1000))
	})
	noChecksumErrors(t, lab)
}

func testTCP(t *testing.T, lab *Lab) {
	bothWays(lab, func(from, to *Guest) {
		for _, args := range [][]string{{"-n", "50M"}, {"-n", "50M", "-P", "4"}} {
			got, err := Iperf(within(t, time.Minute), from, to, args...)
			must(t, err)
			t.Logf("%s to %s, iperf3 %s: %.2f Gbps", from.cfg.Name, to.cfg.Name, strings.Join(args, " "), got.Gbps)
			// The server's count ends with the client's word on the control
			// connection: what is then in the sockets' buffers is not in it.
			// Whether all arrives is what the transfers prove.
			if got.Sent < 50*megabyte || got.Received < 25*megabyte {
				t.Errorf("sent %.0f bytes, received %.0f", got.Sent, got.Received)
			}
		}
	})
	noChecksumErrors(t, lab)
}

func testUDP(t *testing.T, lab *Lab) {
	bothWays(lab, func(from, to *Guest) {
		// 8000 bytes come in fragments.
		for _, size := range []int{64, 1400, 8000} {
			udp(t, from, to, size)
		}
	})
	noChecksumErrors(t, lab)
}

// udpFrames is how many frames a second an emulated guest takes: its ring then
// holds what comes while it does not run for more than half a second, on a busy
// machine. What is faster only shows how small the ring is.
const udpFrames = 400

// udp sends 200 datagrams of this many bytes. A few may be lost all the same.
func udp(t *testing.T, from, to *Guest, size int) {
	t.Helper()
	const datagrams = 200
	const headers, mtu = 28, 1500
	frames := (size + headers + mtu - 1) / mtu
	got, err := Iperf(within(t, time.Minute), from, to, "-u", "-l", strconv.Itoa(size),
		"-k", strconv.Itoa(datagrams), "-b", strconv.Itoa(size*8*udpFrames/frames))
	must(t, err)
	t.Logf("%s to %s, UDP of %d bytes: %d datagrams, %d lost", from.cfg.Name, to.cfg.Name, size, got.Packets, got.Lost)
	if arrived := got.Packets - got.Lost; arrived < datagrams*3/4 {
		t.Errorf("%s to %s: of %d datagrams of %d bytes only %d have arrived", from.cfg.Name, to.cfg.Name, datagrams, size, arrived)
	}
}

func transferBothWays(t *testing.T, lab *Lab, n int64) {
	t.Helper()
	bothWays(lab, func(from, to *Guest) {
		begin := time.Now()
		must(t, StartTransfer(within(t, 2*time.Minute), from, to, to.Addr(), n).Wait())
		t.Logf("%s to %s: %d bytes, each as sent, in %v", from.cfg.Name, to.cfg.Name, n, time.Since(begin).Round(time.Millisecond))
	})
}

// testReboot reboots each guest: new rings on the same connection.
func testReboot(t *testing.T, lab *Lab) {
	for _, g := range lab.Guests {
		same := sameConnections(t, g)
		must(t, g.Reboot(within(t, 2*time.Minute)))
		same()
		bothWays(lab, func(from, to *Guest) { must(t, Ping(within(t, 30*time.Second), from, to.Addr(), 3, 1000)) })
		transferBothWays(t, lab, 10*megabyte)
	}
	noChecksumErrors(t, lab)
}

// testBackendKilled kills vhostnet under a transfer, several times, and starts
// it again; the front-ends come back by themselves and no byte is lost.
func testBackendKilled(t *testing.T, lab *Lab, n int64, times int) {
	ctx := within(t, 2*time.Minute)
	bothWays(lab, func(from, to *Guest) {
		transfer := StartTransfer(ctx, from, to, to.Addr(), n)
		for i := range times {
			must(t, transfer.Await(ctx, n/int64(times+1)*int64(i)+n/10))
			lab.Backend.Kill()
			got, err := transfer.Received(ctx)
			must(t, err)
			if got >= n {
				t.Fatal("the transfer was over before vhostnet was killed: it proves nothing")
			}
			must(t, lab.Backend.Start(ctx))
		}
		must(t, transfer.Wait())
	})
	bothWays(lab, func(from, to *Guest) { must(t, Ping(ctx, from, to.Addr(), 3, 1000)) })
	noChecksumErrors(t, lab)
}

// testBackendStopped stops vhostnet as an init system does, and starts it again
// after the guests have found the network dead.
func testBackendStopped(t *testing.T, lab *Lab) {
	ctx := within(t, time.Minute)
	must(t, lab.Backend.Stop(ctx))
	if err := Ping(ctx, lab.Guests[0], lab.Guests[1].Addr(), 1, 56); err == nil {
		t.Error("a ping was answered while vhostnet did not run")
	}
	must(t, lab.Backend.Start(ctx))
	bothWays(lab, func(from, to *Guest) { must(t, Reach(ctx, from, to)) })
	transferBothWays(t, lab, 10*megabyte)
}

// testGuestKilled kills each QEMU while it receives, and starts another in its
// place, with other features. The other guest does not notice more than that.
func testGuestKilled(t *testing.T, lab *Lab) {
	for i, features := range []string{offloadsNone.properties, offloadsPlainBuffers.properties} {
		ctx := within(t, 2*time.Minute)
		killed, other := i, 1-i
		same := sameConnections(t, lab.Guests[other])
		sending, stop := context.WithCancel(ctx)
		transfer := StartTransfer(sending, lab.Guests[other], lab.Guests[killed], lab.Guests[killed].Addr(), 1000*megabyte)
		must(t, transfer.Await(ctx, 5*megabyte))
		lab.Guests[killed].Kill()
		stop()
		if err := transfer.Wait(); err == nil {
			t.Error("a transfer to a killed guest ended well")
		}
		must(t, lab.Boot(ctx, killed, func(g *GuestConfig) { g.Device = features }))
		same()
		bothWays(lab, func(from, to *Guest) { must(t, Reach(ctx, from, to)) })
		transferBothWays(t, lab, 20*megabyte)
	}
	noChecksumErrors(t, lab)
}

// sameConnections returns a check that g's QEMU has kept all its connections.
func sameConnections(t *testing.T, g *Guest) func() {
	t.Helper()
	before, err := g.Connections()
	must(t, err)
	return func() {
		t.Helper()
		after, err := g.Connections()
		must(t, err)
		if !slices.Equal(before, after) {
			t.Errorf("%s: the connections of QEMU were %v and are %v", g.cfg.Name, before, after)
		}
	}
}

// noChecksumErrors fails if any guest has seen a packet with a bad checksum.
func noChecksumErrors(t *testing.T, lab *Lab) {
	t.Helper()
	for _, g := range lab.Guests {
		if g.agent == nil {
			continue // it was not booted
		}
		n, err := ChecksumErrors(within(t, 10*time.Second), g)
		must(t, err)
		if n != 0 {
			t.Errorf("%s has received %d packets with a bad checksum", g.cfg.Name, n)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMultiqueue has guests with two queue pairs and as many CPUs.
func TestMultiqueue(t *testing.T) {
	lab := startLab(t,
		GuestConfig{Name: "a", QEMU: machine.QEMU, Pairs: 2, OwnQueue: true},
		GuestConfig{Name: "b", QEMU: machine.QEMU, Pairs: 2, OwnQueue: true})
	run(t, "Two", func(t *testing.T) { testPairs(t, lab, 2) })
	run(t, "One", func(t *testing.T) { testPairs(t, lab, 1) })
	run(t, "TwoAgain", func(t *testing.T) { testPairs(t, lab, 2) })
	run(t, "VhostnetKilled", func(t *testing.T) { testBackendKilled(t, lab, 100*megabyte, 1) })
}

// testPairs has each guest use this many pairs and sees each of them receive.
func testPairs(t *testing.T, lab *Lab, pairs int) {
	for _, g := range lab.Guests {
		_, err := g.Shell(within(t, 10*time.Second), fmt.Sprintf("[ $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l) = %[1]d ] || ethtool -L eth0 combined %[1]d", pairs))
		must(t, err)
	}
	bothWays(lab, func(from, to *Guest) {
		before := received(t, to)
		// The connections choose their queues by hash: with 16 for each queue
		// that one of four is left out is an accident of one in ten millions,
		// with 16 for all of four it would be one in twenty-five.
		connections := 16 * pairs
		got, err := Iperf(within(t, time.Minute), from, to, "-n", "60M", "-P", strconv.Itoa(connections))
		must(t, err)
		t.Logf("%s to %s, %d connections: %.2f Gbps", from.cfg.Name, to.cfg.Name, connections, got.Gbps)
		for i, n := range received(t, to) {
			if n -= before[i]; (n > 0) != (i < pairs) {
				t.Errorf("%s uses %d queue pairs; its rx queue %d got %d packets", to.cfg.Name, pairs, i, n)
			}
		}
	})
	transferBothWays(t, lab, 20*megabyte)
	noChecksumErrors(t, lab)
}

// received returns how many packets each rx queue of a guest has got.
func received(t *testing.T, g *Guest) []int {
	t.Helper()
	out, err := g.Run(within(t, 10*time.Second), "ethtool", "-S", "eth0")
	must(t, err)
	n := make([]int, g.cfg.Pairs)
	for line := range strings.Lines(out) {
		for i := range n {
			// A line of another name leaves n as it is.
			_, _ = fmt.Sscanf(strings.TrimSpace(line), fmt.Sprintf("rx_queue_%d_packets: %%d", i), &n[i])
		}
	}
	return n
}
