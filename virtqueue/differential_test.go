package virtqueue_test

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"testing"

	"vhostnet/virtqueue/internal/model"
)

// The differential: a generator makes programs for a driver, the owner of a
// device, and chance (diff_program_test.go); a driver writes the same bytes
// into two memories (diff_guest_test.go); package virtqueue serves the one,
// package model, written from the specification alone, the other; after each
// step both must have taken the same chains, written the same bytes, and want
// the same notifications (diff_run_test.go, diff_owner_test.go). Where they
// differ, the program is made small and printed (diff_shrink_test.go).

// Chains that are compared in each format: as go test does it, and by make
// soak. make test asks for more than the first.
const (
	diffChains = 250_000
	soakChains = 500_000_000
)

func TestDifferentialSplit(t *testing.T)  { differential(t, false) }
func TestDifferentialPacked(t *testing.T) { differential(t, true) }

// differential compares as many chains as VHOSTNET_CHAINS says, or its
// default. The programs are made from VHOSTNET_SEED and the numbers that
// follow it, one for each; a difference names the one that shows it at once.
func differential(t *testing.T, packed bool) {
	t.Parallel()
	chains := setting(t, "VHOSTNET_CHAINS", diffChains)
	if os.Getenv("VHOSTNET_SOAK") != "" {
		chains = soakChains
	}
	d := openDiffer(t)
	seed := setting(t, "VHOSTNET_SEED", 20261126)
	t.Logf("seed %d, %d chains", seed, chains/diffRaceSlow)
	if failure := d.search(seed, packed, int(chains/diffRaceSlow)); failure != nil {
		t.Fatal(failure)
	}
	d.report(t)
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func openDiffer(t *testing.T) *differ {
	t.Helper()
	d, err := newDiffer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// difference is a program on which the devices differ.
type difference struct {
	seed    uint64 // of the program that was found
	program diffProgram
	err     error // what the small one shows
}

func (d *difference) Error() string {
	return fmt.Sprintf("seed %d, made small, differs at %v\n%v", d.seed, d.err, &d.program)
}

// search compares at least so many chains, or finds a difference.
func (d *differ) search(seed uint64, packed bool, chains int) error {
	g := newGenerator(packed)
	var p diffProgram
	for limit := d.counts.chains + chains; d.counts.chains < limit; seed++ {
		g.program(seed, &p)
		if d.run(&p) == nil {
			continue
		}
		small := shrink(p, 20_000, func(p *diffProgram) bool { return d.run(p) != nil })
		return &difference{seed, small, d.run(&small)}
	}
	return nil
}

// report tells what was compared, and fails when in many chains a part of it
// never happened.
func (d *differ) report(t *testing.T) {
	t.Helper()
	c := &d.counts
	t.Logf("%d programs, %d chains of %d bytes, %d returned; %d calls, %d pushes without one, %d either way; armed %d times; %d rings broken, by fault %v",
		c.programs, c.chains, c.bytes, c.used, c.calls, c.quiet, c.either, c.arms, c.broken, c.faults)
	if c.chains < diffChains {
		return
	}
	for f := model.FaultIndex; f <= model.FaultTotal; f <<= 1 {
		if f&(model.FaultHead|model.FaultNext|model.FaultNested) != 0 && d.shape.packed {
			continue // these are of split rings
		}
		if c.faults[f] == 0 {
			t.Errorf("no ring broke for fault %d", bits.TrailingZeros32(uint32(f)))
		}
	}
	for what, n := range map[string]int{"call": c.calls, "push without a call": c.quiet, "arming": c.arms} {
		if n < c.programs/100 {
			t.Errorf("%s: only %d in %d programs", what, n, c.programs)
		}
	}
}
