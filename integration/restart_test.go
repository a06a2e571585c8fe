//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRestart kills vhostnet under load, again and again, and starts it anew.
// VHOSTNET_KILLS says how often; it prints how long it took until frames came
// through again, from the moment the new process listened.
func TestRestart(t *testing.T) {
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.QEMU, OwnQueue: true}, GuestConfig{Name: "b", QEMU: machine.QEMU})
	testKills(t, lab, amount(t, killsVariable, 10))
}

// TestRestartOldQEMU is the same with a front-end that tries once a second.
func TestRestartOldQEMU(t *testing.T) {
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.OldQEMU, OwnQueue: true}, GuestConfig{Name: "b", QEMU: machine.OldQEMU})
	testKills(t, lab, amount(t, killsVariable, 10)/3)
}

// TestRestartPacked does it to packed rings, whose positions only the file knows
// that vhostnet keeps.
func TestRestartPacked(t *testing.T) {
	testKillsPacked(t, machine.QEMU, amount(t, killsVariable, 5))
}

// TestRestartPackedOldQEMU is the same with a front-end that tries once a second.
func TestRestartPackedOldQEMU(t *testing.T) {
	testKillsPacked(t, machine.OldQEMU, max(2, amount(t, killsVariable, 5)/3))
}

func testKillsPacked(t *testing.T, q *QEMU, kills int) {
	lab := startLabWith(t, []string{"--state-dir", runDirectory(t)},
		GuestConfig{Name: "a", QEMU: q, OwnQueue: true, Device: ringsPacked.properties},
		GuestConfig{Name: "b", QEMU: q, Device: ringsPackedDirect.properties})
	checkFeatures(t, lab.Guests[0], ringsPacked)
	checkFeatures(t, lab.Guests[1], ringsPackedDirect)
	r := &restarts{lab: lab}
	r.openRings(t)
	load := startLoad(t, lab)
	for i := range kills {
		if err := r.killPacked(within(t, killTime)); err != nil {
			t.Fatalf("kill %d of %d: %v", i+1, kills, err)
		}
		load.whole(t)
	}
	sent := load.stop(t)
	for _, g := range lab.Guests {
		noRingErrors(t, g)
	}
	noChecksumErrors(t, lab)
	r.figures(t, "packed rings")
	t.Logf("%d MB over TCP arrived as sent", sent/megabyte)
}

// killPacked is kill for packed rings, whose used entries take the place of
// others: what the device writes first into a receive ring, while its driver waits
// for that, is a frame. It comes where a guest is about to transmit from the slots
// at which QEMU stands, which since then has been told of no other position: the
// first ones of a lap.
func (r *restarts) killPacked(ctx context.Context) error {
	const about = 16
	err := pollEvery(ctx, time.Millisecond, "the end of a transmit ring's second lap", func() (bool, error) {
		for g := range r.rings {
			left, err := r.rings[g][1].LeftOfSecondLap()
			if err != nil || left <= about {
				return err == nil, err
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	r.lab.Backend.Kill()
	var before [2][]byte
	for g := range r.rings {
		var err error
		if before[g], err = still(ctx, r.rings[g][0]); err != nil {
			return err
		}
	}
	if err := r.lab.Backend.Start(ctx); err != nil {
		return err
	}
	listening := time.Now()
	return pollEvery(ctx, time.Millisecond, "frames after the restart", func() (bool, error) {
		for g := range r.rings {
			now, err := r.rings[g][0].Slots()
			if err != nil || bytes.Equal(now, before[g]) {
				return false, err
			}
		}
		r.took = append(r.took, time.Since(listening))
		return true, nil
	})
}

// still reads the slots of a ring that nobody serves once its driver has made
// available again what it had got back before, which is no frame.
func still(ctx context.Context, ring *Ring) (slots []byte, err error) {
	err = pollEvery(ctx, 20*time.Millisecond, "a driver that waits for frames", func() (bool, error) {
		now, err := ring.Slots()
		waits := err == nil && bytes.Equal(now, slots)
		slots = now
		return waits, err
	})
	return slots, err
}

// figures prints how long it took until frames came through again.
func (r *restarts) figures(t *testing.T, rings string) {
	t.Helper()
	slices.Sort(r.took)
	at := func(percent int) time.Duration {
		return r.took[(len(r.took)*percent+99)/100-1].Round(100 * time.Microsecond)
	}
	t.Logf("%d kills of vhostnet under load, %v, %s: from listening to frames in both guests: p50 %v, p99 %v, most %v",
		len(r.took), r.lab.Guests[0].cfg.QEMU, rings, at(50), at(99), at(100))
}

// runDirectory is a directory on a tmpfs.
func runDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vhostnet-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// killsVariable names the number of kills in TestRestart.
const killsVariable = "VHOSTNET_KILLS"

// amount reads how much of something a longer run wants.
func amount(t *testing.T, variable string, byDefault int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a positive number", variable, text)
	}
	return n
}

// restarts is two guests with traffic in both directions, whose rings are read
// while vhostnet comes and goes.
type restarts struct {
	lab    *Lab
	rings  [2][2]*Ring // of each guest: receive, transmit
	before [2][2]RingState
	took   []time.Duration // from listening until each guest had received a frame
	seen   int             // heads that were pending at a kill and seen to be returned after it
	heads  int             // returned between the kills
}

// killTime bounds one kill with all that follows from it.
const killTime = 30 * time.Second

func testKills(t *testing.T, lab *Lab, kills int) {
	r := &restarts{lab: lab}
	r.openRings(t)
	load := startLoad(t, lab)
	for i := range kills {
		ctx, cancel := context.WithTimeout(t.Context(), killTime)
		if err := r.kill(ctx); err != nil {
			t.Fatalf("kill %d of %d: %v", i+1, kills, err)
		}
		cancel()
		if i%50 == 49 {
			load.whole(t)
		}
	}
	sent := load.stop(t)
	r.idle(t)
	noChecksumErrors(t, lab)
	r.figures(t, "split rings")
	t.Logf("%d MB over TCP arrived as sent; %d heads were returned, %d of them seen to be those that were pending at a kill", sent/megabyte, r.heads, r.seen)
	if r.seen < 10*kills {
		t.Errorf("only %d heads that were pending at one of %d kills were seen to be returned: there was no load", r.seen, kills)
	}
}

func (r *restarts) openRings(t *testing.T) {
	t.Helper()
	for g, guest := range r.lab.Guests {
		for i := range r.rings[g] {
			ring, err := guest.Ring(within(t, 10*time.Second), i)
			must(t, err)
			t.Cleanup(func() { _ = ring.Close() })
			r.rings[g][i] = ring
		}
	}
}

// loadFrames is how many frames each guest receives before the next kill.
const loadFrames = 300

// kill kills vhostnet, looks at the rings while nobody serves them, and starts
// it again. It returns when both guests have received loadFrames frames.
func (r *restarts) kill(ctx context.Context) error {
	r.lab.Backend.Kill()
	for g := range r.rings {
		for i, ring := range r.rings[g] {
			s, err := ring.Read()
			if err == nil {
				err = s.Check()
			}
			if err != nil {
				return fmt.Errorf("%s, while vhostnet is dead: %w", ring.name, err)
			}
			if r.took != nil {
				r.heads += int(s.Used - r.before[g][i].Used)
			}
			r.before[g][i] = s
		}
	}
	if err := r.lab.Backend.Start(ctx); err != nil {
		return err
	}
	return r.awaitTraffic(ctx, time.Now())
}

// awaitTraffic waits until each guest has received loadFrames frames, and
// compares the heads that come back on each ring with those that were pending.
func (r *restarts) awaitTraffic(ctx context.Context, listening time.Time) error {
	var compared [2][2]int
	var first time.Duration
	err := pollEvery(ctx, time.Millisecond, "frames after the restart", func() (bool, error) {
		least := uint16(math.MaxUint16)
		for g := range r.rings {
			for i, ring := range r.rings[g] {
				s, err := ring.Read()
				if err != nil {
					return false, err
				}
				n, err := s.CheckFirst(r.before[g][i])
				if err != nil {
					return false, fmt.Errorf("%s: %w", ring.name, err)
				}
				compared[g][i] = max(compared[g][i], n)
				if i == 0 {
					least = min(least, s.Used-r.before[g][i].Used)
				}
			}
		}
		if least > 0 && first == 0 {
			first = time.Since(listening)
		}
		return least >= loadFrames, nil
	})
	r.took = append(r.took, first)
	for g := range compared {
		r.seen += compared[g][0] + compared[g][1]
	}
	return err
}

// idle looks at the rings and at the guests once nothing moves any more: every
// frame's head has come back, the driver has all receive buffers in the ring
// that it wants there, and has found nothing wrong.
func (r *restarts) idle(t *testing.T) {
	t.Helper()
	for g, guest := range r.lab.Guests {
		ctx := within(t, killTime)
		receive, transmit := r.rings[g][0], r.rings[g][1]
		must(t, poll(ctx, "the transmit ring to be empty", func() (bool, error) {
			s, err := transmit.Read()
			return s.Avail == s.Used, errors.Join(err, s.Check())
		}))
		// Linux fills the ring up when more than a quarter of it, at most 32
		// entries, is missing (virtnet_receive).
		must(t, poll(ctx, "the receive ring to be full", func() (bool, error) {
			s, err := receive.Read()
			return len(s.Pending()) >= len(s.heads)-64, errors.Join(err, s.Check())
		}))
		noRingErrors(t, guest)
	}
}

// noRingErrors fails t if the guest's driver has found something wrong in a ring.
func noRingErrors(t *testing.T, g *Guest) {
	t.Helper()
	messages, err := g.Run(within(t, killTime), "dmesg")
	must(t, err)
	for line := range strings.Lines(messages) {
		if strings.Contains(line, "virtio") && (strings.Contains(line, "is not a head") || strings.Contains(line, "out of range") || strings.Contains(line, "unexpected")) {
			t.Errorf("%s: %s", g.cfg.Name, line)
		}
	}
}

// load is traffic between two guests, each way a checked stream and datagrams
// that come whether the stream waits or not.
type load struct {
	flows  []*Flow
	probes []*Job
}

func startLoad(t *testing.T, lab *Lab) *load {
	t.Helper()
	l := &load{}
	ctx := within(t, time.Minute)
	bothWays(lab, func(from, to *Guest) {
		flow, err := StartFlow(ctx, from, to)
		must(t, err)
		probe, err := StartProbe(ctx, from, to)
		must(t, err)
		l.flows, l.probes = append(l.flows, flow), append(l.probes, probe)
	})
	l.whole(t)
	return l
}

// whole fails t unless every stream goes on.
func (l *load) whole(t *testing.T) {
	t.Helper()
	for _, f := range l.flows {
		if err := f.Await(within(t, 2*time.Minute), 2*megabyte); err != nil {
			explain(t, f.from)
			explain(t, f.to)
			t.Fatal(err)
		}
	}
}

// explain prints what a guest knows of a stream that stands still, and what is
// in its rings.
func explain(t *testing.T, g *Guest) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	out, err := g.Shell(ctx, "netstat -tn; /bin/ip -s link show eth0; ethtool -S eth0 | grep -v ': 0'; grep virtio /proc/interrupts; dmesg | tail -n 3")
	t.Logf("%s: %s%v", g.cfg.Name, out, err)
	for i := range 2 * g.cfg.Pairs {
		ring, err := g.Ring(ctx, i)
		if err != nil {
			t.Log(err)
			continue
		}
		s, err := ring.Read()
		slots, wrong := ring.Runs() // what both sides have said, if it is a packed ring
		t.Logf("%s: given %d, returned %d; slots %s, %v", ring.name, s.Avail, s.Used, slots, errors.Join(err, wrong, ring.Close()))
	}
}

// stop ends the traffic and returns how many bytes have come as they were sent.
func (l *load) stop(t *testing.T) int64 {
	t.Helper()
	l.whole(t)
	ctx := within(t, 2*time.Minute)
	for _, probe := range l.probes {
		must(t, probe.Stop(ctx))
	}
	var sent int64
	for _, f := range l.flows {
		n, err := f.Stop(ctx)
		must(t, err)
		sent += n
	}
	return sent
}
