package vhostuser

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// stub is a Device that writes down what it is told.
type stub struct {
	features virtio.Features
	rings    int

	mu        sync.Mutex
	calls     []string
	queues    []*virtqueue.Queue
	enabled   []bool
	mem       *sharedmem.Map
	fail      map[string]error // by the first word of a call
	panicking string           // the call that panics,
	panicWith any              // with this
	holds     map[string]*hold // calls that wait
	mtu       uint16
	state     []byte // saved and loaded
}

const stubFeatures = virtio.Version1 | virtio.IndirectDesc | virtio.EventIdx | virtio.NetMrgRxBuf | virtio.NetMQ | virtio.NetMTU

func newStub() *stub {
	return &stub{
		features: stubFeatures, rings: 4, queues: make([]*virtqueue.Queue, 4), enabled: make([]bool, 4),
		fail: map[string]error{}, panicWith: "the stub panics",
	}
}

var errStub = errors.New("the stub refuses")

// note writes one call down and gives the error it is to fail with.
func (d *stub) note(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	name, _, _ := strings.Cut(call, " ")
	d.wait(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
	if name == d.panicking {
		panic(d.panicWith)
	}
	return d.fail[name]
}

// failing makes calls of that name fail from now on, or not with nil.
func (d *stub) failing(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[name] = err
}

// panicIn makes calls of that name panic from now on.
func (d *stub) panicIn(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.panicking = name
}

// hold stops a call: it closes reached and waits for release.
type hold struct{ reached, release chan struct{} }

// holdIn makes the next call of that name wait.
func (d *stub) holdIn(name string) *hold {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := &hold{make(chan struct{}), make(chan struct{})}
	d.holds = map[string]*hold{name: h}
	return h
}

func (d *stub) wait(name string) {
	d.mu.Lock()
	h := d.holds[name]
	delete(d.holds, name)
	d.mu.Unlock()
	if h != nil {
		close(h.reached)
		<-h.release
	}
}

// saved is the state, which a test may look at and set meanwhile.
func (d *stub) saved() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func (d *stub) setState(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = b
}

// take gives the calls since the last take.
func (d *stub) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func (d *stub) runs(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queues[i] != nil
}

func (d *stub) isEnabled(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.enabled[i]
}

func (d *stub) queue(i int) *virtqueue.Queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queues[i]
}

func (d *stub) Features() virtio.Features { return d.features }
func (d *stub) Rings() int                { return d.rings }

func (d *stub) Negotiated(f virtio.Features) { _ = d.note("negotiated %s", f) }

func (d *stub) Memory(m *sharedmem.Map) error {
	if err := d.note("memory %d", len(m.Regions())); err != nil {
		return err
	}
	d.mem = m
	return nil
}

func (d *stub) StartRing(i int, q *virtqueue.Queue) error {
	if err := d.note("start %d", i); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queues[i] != nil || q == nil {
		panic("a ring is started that runs, or without a Queue")
	}
	d.queues[i] = q
	return nil
}

func (d *stub) ReplaceRing(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	d.mu.Lock()
	old := d.queues[i]
	d.queues[i] = nil
	d.mu.Unlock()
	state := old.Suspend()
	q, err := remake(state)
	noted := false
	defer func() {
		if !noted { // a panic: the ring is still the device's, and of no use
			q.Close()
			d.queues[i] = old
		}
	}()
	failed := d.note("replace %d", i)
	noted = true
	if failed != nil {
		if q != nil {
			q.Close()
		}
		return failed
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queues[i] = q
	return nil
}

func (d *stub) EnableRing(i int, on bool) {
	_ = d.note("enable %d %t", i, on)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enabled[i] = on
}

func (d *stub) StopRing(i int) virtqueue.State {
	_ = d.note("stop %d", i)
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queues[i]
	d.queues[i] = nil
	return q.Suspend()
}

func (d *stub) Reset() { _ = d.note("reset") }

func (d *stub) Disconnected() {
	_ = d.note("disconnected")
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.queues {
		if d.queues[i] != nil {
			panic("disconnected with a ring that runs")
		}
		d.enabled[i] = false
	}
	d.mem = nil
}

// netStub has the optional interfaces, too.
type netStub struct{ *stub }

func (d netStub) SetMTU(mtu uint16) error {
	if err := d.note("mtu %d", mtu); err != nil {
		return err
	}
	d.mtu = mtu
	return nil
}

// stubConfig is the stub's configuration space.
var stubConfig = []byte{0x52, 0x54, 0, 1, 2, 3, 1, 0, 8, 0, 0xdc, 5}

func (d netStub) SaveState() ([]byte, error) { err := d.note("save"); return d.saved(), err }

func (d netStub) LoadState(blob []byte) error {
	if err := d.note("load"); err != nil {
		return err
	}
	d.setState(blob)
	return nil
}

func (d netStub) Config() []byte { return stubConfig }

func (d netStub) Announce(mac [6]byte) error { return d.note("announce %x", mac) }
