package netdev_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// patience bounds every wait of these tests. It is long: a machine that runs
// other things, too, may stand still for some seconds.
const patience = 30 * time.Second

// rig is a whole switch in this process: workers, table, queues, and a served
// socket per port.
type rig struct {
	t       testing.TB
	dir     string
	group   *worker.Group
	adapter *queues.Adapter
	sw      *vswitch.Switch
	budget  *sharedmem.Budget
	devices map[string]*netdev.Device
	servers map[string]*vhostuser.Server

	mu     sync.Mutex
	events []queues.Event
	broken []string
	stuck  int
}

// rigOptions vary a rig. The zero value is one worker and the defaults of the
// program.
type rigOptions struct {
	workers   int
	limits    sharedmem.Limits
	maxQueues int
	quiesced  func() // called when workers have passed, before the adapter goes on
	server    func(*vhostuser.Options)
}

// newRig serves ports until the test ends, and then checks that nothing is
// left of them.
func newRig(t testing.TB, workers int, ports ...netdev.Options) *rig {
	t.Helper()
	return newRigWith(t, rigOptions{workers: workers}, ports...)
}

func newRigWith(t testing.TB, o rigOptions, ports ...netdev.Options) *rig {
	t.Helper()
	vutest.CheckLeaks(t)
	o.workers = max(o.workers, 1)
	if o.limits == (sharedmem.Limits{}) {
		o.limits = sharedmem.DefaultLimits()
	}
	r := &rig{t: t, dir: t.TempDir(), devices: map[string]*netdev.Device{}, servers: map[string]*vhostuser.Server{}}
	var err error
	r.group, err = worker.NewGroup(worker.Options{Workers: o.workers, OnStuck: func(*sys.Event) { r.note(func() { r.stuck++ }) }})
	r.must(err)
	r.sw, err = vswitch.New(vswitch.Options{})
	r.must(err)
	r.adapter, err = queues.NewAdapter(queues.Options{
		Workers: o.workers, MaxQueues: o.maxQueues,
		Quiesce: func(ctx context.Context) error {
			err := r.group.Quiesce(ctx)
			if o.quiesced != nil {
				o.quiesced()
			}
			return err
		},
		OnEvent: func(e queues.Event) { r.note(func() { r.events = append(r.events, e) }) },
	})
	r.must(err)
	r.must(r.adapter.Restart())
	r.budget, err = sharedmem.NewBudget(o.limits)
	r.must(err)
	for _, p := range ports {
		r.addPort(p, o.server)
	}
	r.serve(worker.RaiseProcs(o.workers))
	return r
}

func (r *rig) addPort(o netdev.Options, change func(*vhostuser.Options)) {
	r.t.Helper()
	name := o.Name
	o.Adapter, o.Switch, o.Group = r.adapter, r.sw, r.group
	o.OnBroken = func(ring int, err error) {
		r.note(func() { r.broken = append(r.broken, fmt.Sprintf("%s ring %d: %v", name, ring, err)) })
	}
	d, err := netdev.New(o)
	r.must(err)
	served := vhostuser.Options{Name: name, Path: r.path(name), Budget: r.budget}
	if change != nil {
		change(&served)
	}
	s, err := vhostuser.NewServer(d, served)
	r.must(err)
	r.devices[name], r.servers[name] = d, s
}

func (r *rig) serve(restoreProcs func()) {
	ctx, stopServing := context.WithCancel(context.Background())
	workersCtx, stopWorkers := context.WithCancel(context.Background())
	var serving, working sync.WaitGroup
	working.Go(func() {
		if err := r.group.Run(workersCtx); err != nil {
			r.t.Error(err)
		}
	})
	for _, s := range r.servers {
		serving.Go(func() {
			if err := s.Serve(ctx); err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(func() {
		stopServing()
		serving.Wait()
		end, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, d := range r.devices {
			if err := d.Close(end); err != nil {
				r.t.Error(err)
			}
		}
		stopWorkers()
		working.Wait()
		if err := r.adapter.Close(context.Background()); err != nil {
			r.t.Error(err)
		}
		restoreProcs()
	})
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// connect is a front-end on a port, its rings running.
func (r *rig) connect(port string, o vutest.Options) *vutest.FrontEnd {
	r.t.Helper()
	if o.Kind == 0 {
		o.Kind = vutest.QEMU10
	}
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	f := vutest.Connect(r.t, r.path(port), o)
	r.start(f)
	return f
}

func (r *rig) start(f *vutest.FrontEnd) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := f.Start(ctx); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Barrier(ctx); err != nil { // not every kind waits for its last message to be done
		r.t.Fatal(err)
	}
}

// waitFor asks until ok, for at most patience.
func (r *rig) waitFor(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited %v for %s; counters: %s", patience, what, r.counters())
		}
	}
}

func (r *rig) counters() string {
	var b bytes.Buffer
	for name, d := range r.devices {
		s := d.Snapshot()
		fmt.Fprintf(&b, "%s: tx %d rx %d drops [%v] ", name, s.TxFrames, s.RxFrames, s.Drops)
	}
	return b.String()
}

// Addresses of the test's VMs.
var (
	macA = [6]byte{0x52, 0x54, 0, 0, 0, 0xa}
	macB = [6]byte{0x52, 0x54, 0, 0, 0, 0xb}
	macC = [6]byte{0x52, 0x54, 0, 0, 0, 0xc}
)

// frame is n bytes from src to dst whose payload tells its number.
func frame(dst, src [6]byte, n int, number uint32) vutest.Frame {
	b := make([]byte, n)
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], 0x88b5)
	for i := 14; i < n; i++ {
		b[i] = byte(uint32(i)*7 + number*13)
	}
	if n >= 18 {
		binary.BigEndian.PutUint32(b[14:], number)
	}
	return vutest.Frame{Data: b}
}

// exchange sends frames from one front-end to the other and checks that they
// arrive in order and unaltered.
func exchange(t *testing.T, from, to *vutest.FrontEnd, pair int, frames ...vutest.Frame) {
	t.Helper()
	if err := from.Send(pair, frames...); err != nil {
		t.Fatal(err)
	}
	for i := range frames {
		got, err := to.Recv(pair, patience)
		if err != nil {
			t.Fatalf("frame %d of %d bytes: %v", i, len(frames[i].Data), err)
		}
		if !bytes.Equal(got.Data, frames[i].Data) {
			t.Fatalf("frame %d: %d bytes arrived of %d, and they differ", i, len(got.Data), len(frames[i].Data))
		}
	}
	if err := from.WaitSent(pair); err != nil {
		t.Fatal(err)
	}
}

// pingPong exchanges a few frames both ways.
func pingPong(t *testing.T, a, b *vutest.FrontEnd) {
	t.Helper()
	for i := range uint32(3) {
		exchange(t, a, b, 0, frame(macB, macA, 60, i))
		exchange(t, b, a, 0, frame(macA, macB, 60, i))
	}
}

const allOffloads = virtio.NetCsum | virtio.NetGuestCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6 |
	virtio.NetGuestTSO4 | virtio.NetGuestTSO6
