package netdev

import (
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// carryOn runs f where guest memory may be touched, as a worker does.
func carryOn(t *testing.T, f func()) {
	t.Helper()
	if err := sharedmem.Guard(func() error { f(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// frameTo is a small frame with its header.
func frameTo(dst [6]byte) vqtest.Request {
	b := make([]byte, 12+60)
	copy(b[12:], dst[:])
	copy(b[18:], []byte{2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	return vqtest.Request{Out: [][]byte{b}}
}

// pathMAC is where newPath's frames are sent to.
var pathMAC = [6]byte{2, 0, 0, 0, 0, 2}

// reaped is how many chains the driver takes back.
func reaped(t *testing.T, d *vqtest.Driver) (n int) {
	t.Helper()
	carryOn(t, func() {
		for more := 1; more > 0; n += more {
			var used [visitChains]virtqueue.Used
			var err error
			if more, err = d.Reap(used[:]); err != nil {
				t.Fatal(err)
			}
		}
	})
	return n
}

// A chain that is no frame ends the ring when it is its turn: what the guest
// sent before it is delivered, what it sent behind it is not looked at.
func TestWritableChain(t *testing.T) {
	p := newPath(t, pathFeatures, 60, 2048) // visitChains frames
	carryOn(t, func() { p.tx.Poll(p.c, visitChains) })
	for range 3 {
		if _, err := p.from.Driver.Add(frameTo(pathMAC)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.from.Driver.Add(vqtest.Request{Out: frameTo(pathMAC).Out, In: []int{64}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.from.Driver.Add(frameTo(pathMAC)); err != nil {
		t.Fatal(err)
	}
	p.from.Driver.Publish()
	told := 0
	p.tx.dev.o.OnBroken = func(int, error) { told++ }
	carryOn(t, func() {
		for visit := range 4 {
			if p.tx.Poll(p.c, visitChains) != (visit < 2) { // carried, broken, err is signalled, nothing
				t.Errorf("visit %d: busy is not %t", visit, visit < 2)
			}
		}
	})
	if n := reaped(t, p.from.Driver); n != visitChains+3 {
		t.Errorf("%d chains came back, want %d", n, visitChains+3)
	}
	if sent, got := p.tx.dev.counters.TxFrames.Value(), p.receiver.counters.RxFrames.Value(); sent != visitChains+3 || got != sent {
		t.Errorf("%d frames were sent, %d arrived, want %d", sent, got, visitChains+3)
	}
	if told != 1 || signals(t, p.from.Err) != 1 {
		t.Errorf("the owner was told %d times", told)
	}
	if p.tx.pool.Out() != 0 || p.tx.dev.counters.Drops.Total() != 0 {
		t.Errorf("%d lists are out, %d frames were dropped", p.tx.pool.Out(), p.tx.dev.counters.Drops.Total())
	}
}

// What a ring still holds when it is disabled or stopped goes back to the
// driver, and is counted.
func TestFinish(t *testing.T) {
	const visits = 256/visitChains + 1 // there are 256 buffers
	p := newPath(t, pathFeatures, 60, 2048)
	if err := p.tx.dev.o.Switch.AddStatic(p.receiver.port, 0, pathMAC); err != nil {
		t.Fatal(err) // what is flooded does not wait
	}
	carryOn(t, func() {
		for range visits { // in the last there are no buffers, and the clock stands still
			p.tx.Poll(p.c, visitChains)
			n, err := p.from.Driver.Reap(p.used[:])
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range p.used[:n] {
				p.from.Driver.Post(u.Head)
			}
			p.from.Driver.Publish()
		}
		if p.tx.n != visitChains {
			t.Fatalf("%d frames wait for buffers, want %d", p.tx.n, visitChains)
		}
		p.tx.finish(p.c, metrics.ReasonDisabled)
		p.tx.finish(p.c, metrics.ReasonStopped) // nothing is left
	})
	if n := reaped(t, p.from.Driver); n != visitChains {
		t.Errorf("%d chains came back, want %d", n, visitChains)
	}
	drops := p.tx.dev.counters.Drops.Snapshot()
	if drops[metrics.ReasonDisabled] != visitChains || drops.Total() != visitChains {
		t.Errorf("drops [%v], want %d as disabled", drops, visitChains)
	}
	if p.tx.n != 0 || p.tx.pool.Out() != 0 {
		t.Errorf("%d chains are held, %d lists are out", p.tx.n, p.tx.pool.Out())
	}
	if state := p.tx.q.Suspend(); state != (virtqueue.State{Avail: visits * visitChains, Used: visits * visitChains}) {
		t.Errorf("the ring stands at %+v", state)
	}
}

// A frame whose memory is gone is counted once, and its chain is with the
// driver, as far as anybody can know.
func TestV32_FramesOfGoneMemoryCountOnce(t *testing.T) {
	fd, err := sys.NewMemfd("test", 4<<20, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file, err := sharedmem.OpenFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	again, err := file.Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	p := newPath(t, pathFeatures, 60, 2048)
	gone, err := vqtest.NewPair(vqtest.Options{Features: pathFeatures, Memory: 4 << 20, File: file})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	var heads []uint16
	for range 10 {
		head, err := gone.Driver.Add(frameTo(pathMAC))
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
	}
	tx := newTxRing(p.tx.dev, 1, gone.Queue)
	gone.Driver.Publish()
	carryOn(t, func() { tx.Poll(p.c, visitChains) }) // while it was there
	if n := reaped(t, gone.Driver); n != len(heads) {
		t.Fatalf("%d chains came back", n)
	}
	for _, head := range heads {
		gone.Driver.Post(head)
	}
	gone.Driver.Publish()
	areas := vqtest.Config{Size: 256, Features: pathFeatures} // stay, and the buffers behind them go
	if err := sys.Truncate(again, areas.Bytes()); err != nil {
		t.Fatal(err)
	}
	carryOn(t, func() {
		for visit := range 3 {
			if tx.Poll(p.c, visitChains) != (visit == 0) {
				t.Errorf("visit %d: busy is not %t", visit, visit == 0)
			}
		}
	})
	drops := tx.dev.counters.Drops.Snapshot()
	if drops[metrics.ReasonFault] != 10 || drops.Total() != 10 {
		t.Errorf("drops [%v], want 10 by the fault", drops)
	}
	if tx.n != 0 || tx.pool.Out() != 0 || tx.q.Broken() == nil || signals(t, gone.Err) != 1 {
		t.Errorf("%d chains are held, %d lists are out, the ring is broken by %v", tx.n, tx.pool.Out(), tx.q.Broken())
	}
	if state := tx.q.Suspend(); state != (virtqueue.State{Avail: 10, Used: 10}) {
		t.Errorf("the ring stands at %+v", state)
	}
}
