package netdev_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtqueue/vqtest"
)

// threePorts is a rig whose ports b and c exchange frames while a misbehaves.
func threePorts(t *testing.T) (r *rig, b, c *vutest.FrontEnd) {
	t.Helper()
	r = newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"}, netdev.Options{Name: "c"})
	b, c = r.connect("b", vutest.Options{}), r.connect("c", vutest.Options{})
	neighbours(t, b, c)
	return r, b, c
}

// neighbours exchanges frames between b and c, which must go on whatever a
// does. What was flooded to them before is taken away first.
func neighbours(t *testing.T, b, c *vutest.FrontEnd) {
	t.Helper()
	for _, f := range []*vutest.FrontEnd{b, c} {
		for range 4096 {
			if _, ok, err := f.TryRecv(0); err != nil {
				t.Fatal(err)
			} else if !ok {
				break
			}
		}
	}
	for i := range uint32(20) {
		exchange(t, b, c, 0, frame(macC, macB, 60, i), frame(macC, macB, 1514, i))
		exchange(t, c, b, 0, frame(macB, macC, 60, i))
	}
}

// V32: a front-end takes the memory away under its running guest. Its rings
// end, in both directions; its neighbours notice nothing, and the port serves
// the next front-end.
func TestV32_MemoryTruncatedUnderLoad(t *testing.T) {
	r, b, c := threePorts(t)
	for i, direction := range []string{"from a", "to a", "from a", "to a"} {
		o := flavour{kind: vutest.QEMU10, packed: i > 1}.options()
		o.Truncatable = true
		a := r.connect("a", o)
		exchange(t, a, b, 0, frame(macB, macA, 60, 1)) // b's switch entry for a
		exchange(t, b, a, 0, frame(macA, macB, 60, 1))
		if direction == "from a" {
			if err := a.Send(0, frame(macB, macA, 60, 2)); err != nil {
				t.Fatal(err)
			}
		}
		for _, region := range a.Regions() {
			if err := a.Truncate(region.File, 0); err != nil {
				t.Fatal(err)
			}
		}
		if direction == "to a" {
			if err := b.Send(0, frame(macA, macB, 60, 3)); err != nil {
				t.Fatal(err)
			}
			r.waitFor("the fault", func() bool { return r.devices["a"].Snapshot().Drops[metrics.ReasonFault] > 0 })
			if err := b.WaitSent(0); err != nil {
				t.Fatalf("the sender of a frame to memory that is gone did not get its buffer back: %v", err)
			}
		} else {
			a.Disconnect() // whatever the session touches at the end is gone, too
		}
		neighbours(t, b, c)
		a.Disconnect()
	}
	again := r.connect("a", vutest.Options{})
	neighbours(t, b, c)
	exchange(t, again, b, 0, frame(macB, macA, 60, 9))
}

// V76: a call eventfd that blocks its writer stops one worker until the
// watchdog frees it; the ring ends, the neighbours go on.
func TestV76_BlockingCall(t *testing.T) {
	r, b, c := threePorts(t)
	a := r.connect("a", vutest.Options{})
	exchange(t, a, b, 0, frame(macB, macA, 60, 1))
	hostile, err := vutest.HostileCall()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hostile.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.SetCallFD(ctx, 0, hostile); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(50) {
		if err := b.Send(0, frame(macA, macB, 60, i)); err != nil {
			t.Fatal(err)
		}
	}
	neighbours(t, b, c)
	if err := b.WaitSent(0); err != nil {
		t.Fatal(err)
	}
}

// What a guest writes into its rings ends at most that ring; a new start heals
// it (DESIGN: broken).
func TestBrokenRingIsHealedByStart(t *testing.T) {
	both(t, testBrokenRing)
}

func testBrokenRing(t *testing.T, v flavour) {
	r, b, c := threePorts(t)
	a := r.connect("a", v.options())
	a.Driver(1).PutRaw([]vqtest.RawDesc{{Addr: 1 << 60, Len: 60}}) // nobody's memory
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, on := range []bool{false, true} { // enabled, the device looks at the ring
		if err := a.Enable(ctx, 1, on); err != nil {
			t.Fatal(err)
		}
	}
	r.waitFor("the broken ring", func() bool { return r.devices["a"].Snapshot().Rings[1].Broken })
	neighbours(t, b, c)
	r.note(func() {
		if n := len(r.broken); n != 1 || !strings.HasPrefix(r.broken[0], "a ring 1") {
			t.Errorf("told %d times of one broken ring: %v", n, r.broken)
		}
	})
	if n := a.Errors(1); n != 1 {
		t.Errorf("err eventfd signalled %d times, want once", n)
	}
	if _, err := a.Reboot(ctx, v.guest(vutest.Guest{})); err != nil {
		t.Fatal(err)
	}
	if ring := r.devices["a"].Snapshot().Rings[1]; ring.Broken || !ring.Started {
		t.Errorf("after a new start the ring is %+v", ring)
	}
	exchange(t, a, b, 0, frame(macB, macA, 60, 3))
}

// Memory tables that exhaust the budget are refused; ports that have theirs
// go on, and the refused one is served when it asks for less.
func TestBudgetExhausted(t *testing.T) {
	limits := sharedmem.DefaultLimits()
	limits.PortBytes = 64 << 20
	r := newRigWith(t, rigOptions{limits: limits}, netdev.Options{Name: "a"}, netdev.Options{Name: "b"}, netdev.Options{Name: "c"})
	b, c := r.connect("b", vutest.Options{}), r.connect("c", vutest.Options{})
	a := vutest.Connect(t, r.path("a"), vutest.Options{Kind: vutest.QEMU10, MemorySize: 128 << 20})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := a.Start(ctx); err == nil {
		t.Error("128 MiB fitted into a budget of 64 MiB")
	}
	if r.budget.Refused() == 0 {
		t.Error("the refusal was not counted")
	}
	neighbours(t, b, c)
	a.Disconnect()
	exchange(t, r.connect("a", vutest.Options{}), b, 0, frame(macB, macA, 60, 1))
}

// Any bytes on the socket end in a reply or a closed session.
func TestP11_AnyBytesOnTheSocket(t *testing.T) {
	r, b, c := threePorts(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 300 {
		a, err := vutest.Dial(r.path("a"), vutest.Options{Kind: vutest.QEMU10})
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, _ = a.Start(ctx) // a session with rings, or none
			cancel()
		}
		junk := make([]byte, rng.IntN(200))
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		if round%3 != 0 { // a header that is read, so that the body is looked at
			h := vhostuser.Header{Request: vhostuser.Request(rng.IntN(48)), Flags: 1 | 8, Size: uint32(len(junk))}
			junk = append(h.Append(nil), junk...)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = a.SendRaw(ctx, junk, nil) // it may be closed already
		cancel()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	neighbours(t, b, c)
	exchange(t, r.connect("a", vutest.Options{}), b, 0, frame(macB, macA, 60, 1))
}

// V82, S11: front-ends come and go; rig checks that nothing is left of them.
func TestV82_ManySessions(t *testing.T) {
	r, b, c := threePorts(t)
	for i := range 100 {
		a := r.connect("a", vutest.Options{Kind: vutest.Kinds()[i%len(vutest.Kinds())]})
		if i%3 == 0 {
			exchange(t, a, b, 0, frame(macB, macA, 60, uint32(i)))
		}
		a.Disconnect()
	}
	neighbours(t, b, c)
}
