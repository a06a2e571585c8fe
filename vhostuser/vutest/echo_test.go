package vutest_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// echo is a device that sends every frame back to where it came from: what is
// popped from transmit ring 2p+1 is copied to receive ring 2p. One goroutine
// moves everything, and sleeps when there is nothing to move.
type echo struct {
	offered virtio.Features
	poller  *sys.Poller
	wake    *sys.Event
	done    chan struct{}

	mu       sync.Mutex // held while frames are moved and while rings change
	ended    bool
	features virtio.Features
	rings    []echoRing
	mtu      uint16
	memories int // calls of Memory
	resets   int // calls of Disconnected
}

type echoRing struct {
	q       *virtqueue.Queue // nil: stopped
	enabled bool
	starts  int
}

const echoFeatures = virtio.Version1 | virtio.RingPacked | virtio.AnyLayout | virtio.NotifyOnEmpty | virtio.IndirectDesc | virtio.EventIdx | virtio.InOrder | virtio.NetMrgRxBuf |
	virtio.NetMQ | virtio.NetCtrlVQ | virtio.NetMTU | virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetGuestCsum | virtio.NetGuestTSO4

// serve runs an echo device behind a socket for the time of a test.
func serve(t *testing.T, pairs int, mask vhostuser.Protocol) (*echo, string) {
	t.Helper()
	e := &echo{offered: echoFeatures, rings: make([]echoRing, 2*pairs), done: make(chan struct{})}
	var err error
	if e.poller, err = sys.NewPoller(); err != nil {
		t.Fatal(err)
	}
	if e.wake, err = sys.NewEvent(); err != nil {
		t.Fatal(err)
	}
	if err := e.poller.Add(e.wake.FD(), 0); err != nil {
		t.Fatal(err)
	}
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "echo.sock")
	server, err := vhostuser.NewServer(e, vhostuser.Options{Name: "echo", Path: path, Budget: budget, ProtocolMask: mask})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	go e.run()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		e.mu.Lock()
		e.ended = true
		e.mu.Unlock()
		e.wake.Signal()
		<-e.done
		_ = e.poller.Close()
		e.wake.Close()
	})
	return e, path
}

func (e *echo) run() {
	defer close(e.done)
	for {
		moved, ended := e.round()
		if ended {
			return
		}
		if !moved {
			_, _ = e.poller.Wait(make([]uint64, 8), -1)
		}
	}
}

// round moves what there is, and arms the rings when there is nothing.
func (e *echo) round() (moved, ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range len(e.rings) / 2 {
		rx, tx := &e.rings[2*p], &e.rings[2*p+1]
		if rx.q == nil || tx.q == nil || !rx.enabled || !tx.enabled {
			continue
		}
		err := sharedmem.Guard(func() error {
			for {
				again, err := e.move(tx.q, rx.q)
				if err != nil || !again {
					return err
				}
				moved = true
			}
		})
		if err == nil && !moved {
			err = sharedmem.Guard(func() error {
				// A receive ring that is full again matters, too: a frame may wait.
				moved = tx.q.Arm() && e.room(rx.q) || rx.q.Arm() && e.frames(tx.q)
				return nil
			})
		}
		if err != nil {
			tx.q.Break(err)
			rx.q.Break(err)
		}
	}
	return moved, e.ended
}

func (e *echo) room(rx *virtqueue.Queue) bool   { n, err := rx.Ready(); return n > 0 && err == nil }
func (e *echo) frames(tx *virtqueue.Queue) bool { n, err := tx.Ready(); return n > 0 && err == nil }

// move sends one frame back. False: there is none, or no room for it.
func (e *echo) move(tx, rx *virtqueue.Queue) (bool, error) {
	var out [1]virtqueue.Chain
	n, err := tx.Pop(out[:])
	if n == 0 || err != nil {
		return false, err
	}
	h := virtio.NetHeaderLen(e.features)
	var frame []byte
	for _, b := range out[0].ReadableBlocks() {
		part := make([]byte, b.Len())
		b.CopyTo(part, 0)
		frame = append(frame, part...)
	}
	if len(frame) < h {
		return false, fmt.Errorf("frame of %d bytes", len(frame))
	}
	ok, err := e.deliver(rx, frame, h)
	if !ok || err != nil {
		tx.Unpop(1)
		return false, err
	}
	if tx.Push([]virtqueue.Used{{Head: out[0].Head}}) {
		tx.Call().Signal()
	}
	return true, nil
}

// deliver writes a frame, whose header has h bytes, to as many receive buffers
// as it needs.
func (e *echo) deliver(rx *virtqueue.Queue, frame []byte, h int) (bool, error) {
	in := make([]virtqueue.Chain, 64)
	n, err := rx.Pop(in)
	if err != nil {
		return false, err
	}
	room, need := 0, 0
	for need < n && room < len(frame) {
		room += int(in[need].Writable)
		need++
	}
	if room < len(frame) {
		rx.Unpop(n)
		return false, nil
	}
	rx.Unpop(n - need)
	header := virtio.NetHeader{NumBuffers: uint16(need)}
	header.Encode(frame[:h])
	used := make([]virtqueue.Used, need)
	for i := range need {
		used[i].Head = in[i].Head
		for _, b := range in[i].WritableBlocks() {
			c := min(uint64(len(frame)), b.Len())
			b.CopyFrom(frame[:c], 0)
			frame = frame[c:]
			used[i].Len += uint32(c)
		}
	}
	if rx.Push(used) {
		rx.Call().Signal()
	}
	return true, nil
}

func (e *echo) Features() virtio.Features { return e.offered }
func (e *echo) Rings() int                { return len(e.rings) }

func (e *echo) Negotiated(f virtio.Features) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.features = f
}

func (e *echo) Memory(*sharedmem.Map) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memories++
	return nil
}

func (e *echo) StartRing(i int, q *virtqueue.Queue) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rings[i].starts++
	return e.install(i, q)
}

// install makes q the Queue of ring i, and the loop look at it.
func (e *echo) install(i int, q *virtqueue.Queue) error {
	e.rings[i].q = q
	e.wake.Signal()
	if q.Kick() == nil {
		return nil
	}
	return e.poller.Add(q.Kick().FD(), uint64(i))
}

func (e *echo) ReplaceRing(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := remake(e.suspend(i))
	if q == nil || err != nil {
		return err
	}
	if err := e.install(i, q); err != nil {
		return err
	}
	q.Call().Signal()
	return nil
}

func (e *echo) suspend(i int) virtqueue.State {
	q := e.rings[i].q
	e.rings[i].q = nil
	if q.Kick() != nil {
		_ = e.poller.Del(q.Kick().FD()) // fails when the session has closed it: then it is gone by itself
	}
	return q.Suspend()
}

func (e *echo) EnableRing(i int, on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rings[i].enabled = on
	e.wake.Signal()
}

func (e *echo) StopRing(i int) virtqueue.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspend(i)
}

func (e *echo) Reset() {}

func (e *echo) Disconnected() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resets++
	for i := range e.rings {
		e.rings[i].enabled = false
	}
}

func (e *echo) SetMTU(mtu uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mtu = mtu
	return nil
}

var (
	_ vhostuser.Device    = (*echo)(nil)
	_ vhostuser.MTUSetter = (*echo)(nil)
	_                     = vutest.QEMU10
)
