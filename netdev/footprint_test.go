package netdev

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"vhostnet/queues"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// heap is what the heap holds when what is not used any more has gone.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers held
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What ports say that they take is what the heap holds for them.
func TestFootprintOfPorts(t *testing.T) {
	const ports = 256
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	must(err)
	sw, err := vswitch.New(vswitch.Options{})
	must(err)
	adapter, err := queues.NewAdapter(queues.Options{Workers: 1, Quiesce: func(context.Context) error { return nil }})
	must(err)
	must(adapter.Restart())
	t.Cleanup(func() { must(adapter.Close(context.Background())) })
	var devices []*Device
	says := uint64(0)
	before := heap()
	for i := range ports {
		d, err := New(Options{Name: fmt.Sprint("p", i), Adapter: adapter, Switch: sw, Group: group})
		must(err)
		devices = append(devices, d)
		says += d.Snapshot().Memory
	}
	holds := heap() - before
	runtime.KeepAlive(devices)
	t.Logf("%d bytes a port, of which it says %d", holds/ports, says/ports)
	if says > holds*21/20 || says < holds*4/5 {
		t.Errorf("%d ports say that they take %d bytes; the heap has %d more", ports, says, holds)
	}
}

// A ring's part is told while it runs.
func TestFootprintOfRings(t *testing.T) {
	l := newLab(t)
	memory := func() uint64 { return l.d.Snapshot().Memory }
	idle := memory()
	for i, more := range []uint64{0, txRingSize + txPoolSize} {
		p := l.pair()
		l.session(p.Mem)
		want := idle + p.Queue.Footprint() + more
		l.must(l.d.StartRing(i, p.Queue))
		if got := memory(); got != want {
			t.Errorf("with ring %d it takes %d bytes, want %d", i, got, want)
		}
		l.d.StopRing(i)
		if got := memory(); got != idle {
			t.Errorf("after ring %d it takes %d bytes, before it %d", i, got, idle)
		}
	}
	l.d.Disconnected()
	var before, after runtime.MemStats
	other := l.pair()
	runtime.ReadMemStats(&before)
	task := newTxRing(l.d, 1, other.Queue)
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(task)
	if says, took := txRingSize+txPoolSize, after.TotalAlloc-before.TotalAlloc; says > took || says < took*3/4 {
		t.Errorf("a transmit ring says %d bytes; %d were allocated", says, took)
	}
}
