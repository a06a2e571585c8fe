package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

const patience = 20 * time.Second

var _ vhostuser.Device = (*device)(nil)

// newDevice is a device whose worker runs until the test ends.
func newDevice(t *testing.T) *device {
	t.Helper()
	vutest.CheckLeaks(t)
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := group.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return &device{worker: group.Pick()}
}

func newPair(t *testing.T) *vqtest.Pair {
	t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{Size: 16, Features: virtio.Version1 | virtio.IndirectDesc})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// ask posts one buffer of several parts and gives what comes back.
func ask(t *testing.T, p *vqtest.Pair, lens ...int) (got vqtest.Completion) {
	t.Helper()
	err := sharedmem.Guard(func() error {
		if _, err := p.Driver.Add(vqtest.Request{In: lens}); err != nil {
			return err
		}
		if p.Driver.Publish() {
			p.Kick.Signal()
		}
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			list, err := p.Driver.Collect()
			if err != nil || len(list) == 1 {
				got = append(list, got)[0]
				return err
			}
			if time.Now().After(end) {
				t.Fatal("no buffer came back")
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Each buffer comes back full, up to what is made at a time, and no two are
// alike.
func TestBuffersAreFilled(t *testing.T) {
	d, p := newDevice(t), newPair(t)
	if err := d.StartRing(0, p.Queue); err != nil {
		t.Fatal(err)
	}
	d.EnableRing(0, true)
	seen := map[string]bool{}
	for _, lens := range [][]int{{64}, {64}, {1, 62, 1}, {4096}, {4000, 96, 10}, {9000}} {
		want := 0
		for _, n := range lens {
			want += n
		}
		want = min(want, 4096)
		got := ask(t, p, lens...)
		if int(got.Len) != want || len(got.Data) != want {
			t.Fatalf("buffers of %v: %d bytes, says the used entry, %d are there; want %d", lens, got.Len, len(got.Data), want)
		}
		if seen[string(got.Data[:64])] || bytes.Count(got.Data, got.Data[:1]) == len(got.Data) {
			t.Errorf("buffers of %v are not random: %x", lens, got.Data[:64])
		}
		seen[string(got.Data[:64])] = true
	}
	d.EnableRing(0, false)
	d.EnableRing(0, true)
	ask(t, p, 16)
	d.StopRing(0)
	d.Disconnected()
}

// The ring goes on where it was in another Queue, which makes the call that the
// old one may have owed.
func TestRingIsReplaced(t *testing.T) {
	d, p := newDevice(t), newPair(t)
	if err := d.ReplaceRing(0, nil); err == nil {
		t.Error("a ring that is not there was replaced")
	}
	if err := d.StartRing(0, p.Queue); err != nil {
		t.Fatal(err)
	}
	d.EnableRing(0, true)
	ask(t, p, 16)
	err := d.ReplaceRing(0, func(s virtqueue.State) (*virtqueue.Queue, error) {
		err := p.Restart(&s)
		return p.Queue, err
	})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, p, 16)
	d.StopRing(0)
}

// A driver that makes no sense breaks its ring, and the err event tells.
func TestBrokenRing(t *testing.T) {
	d, p := newDevice(t), newPair(t)
	p.Driver.SetAvailIdx(1000)
	if err := d.StartRing(0, p.Queue); err != nil {
		t.Fatal(err)
	}
	d.EnableRing(0, true)
	told := make([]byte, 8)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if n, err := syscall.Read(p.Err.FD(), told); n == 8 && err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the err event was not signalled")
		}
	}
	d.StopRing(0)
}

// The program serves a socket until it is asked to end, and refuses to start
// without one.
func TestRun(t *testing.T) {
	if err := run(context.Background(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), "--socket-path") {
		t.Errorf("without a socket: %v", err)
	}
	vutest.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "rng.sock")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- run(ctx, []string{"--socket-path", path}, io.Discard) }()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(path); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the socket does not appear")
		}
	}
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	if err := f.Barrier(ctx); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
