package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// killedRings are rings that outlive the program.
var killedRings = map[string]struct {
	features virtio.Features // that the driver has to have accepted
	options  vutest.Options
	port     string // options of each port
	keeps    bool   // there is a directory of positions
}{
	"split in order": {features: virtio.InOrder, options: vutest.Options{Kind: vutest.QEMU10}},
	"split in any order": {options: vutest.Options{
		Kind: vutest.QEMU72, Guest: vutest.Guest{Without: virtio.EventIdx},
	}},
	"split with a region":  {options: vutest.Options{Kind: vutest.CloudHypervisor}, port: ",inflight=on"},
	"packed with a region": {features: virtio.RingPacked, options: vutest.Options{Kind: vutest.QEMU10, Inflight: true, Guest: vutest.Guest{Packed: true, RingSize: 250}}, port: ",inflight=on"},
	"packed with a region and long chains": {
		features: virtio.RingPacked, port: ",inflight=on",
		options: vutest.Options{Kind: vutest.QEMU72, Inflight: true, Guest: vutest.Guest{Packed: true, Without: virtio.NetMrgRxBuf | virtio.EventIdx, RingSize: 1000}},
	},
	"packed with a file":              {features: virtio.RingPacked, options: vutest.Options{Kind: vutest.QEMU10, Guest: vutest.Guest{Packed: true}}, keeps: true},
	"packed with a region and a file": {features: virtio.RingPacked, options: vutest.Options{Kind: vutest.QEMU10, Inflight: true, Guest: vutest.Guest{Packed: true}}, port: ",inflight=on", keeps: true},
}

// V83: the program is killed while frames pass, again and again. Each head comes
// back exactly once, in order where that was agreed (vutest looks at both), and
// frames pass again.
func TestV83_KilledUnderLoad(t *testing.T) {
	for name, c := range killedRings {
		t.Run(name, func(t *testing.T) {
			k := &killed{t: t, dir: t.TempDir(), port: c.port}
			if c.keeps {
				dir, err := os.MkdirTemp("/dev/shm", "vhostnet-test-")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(dir) })
				k.args = []string{"--state-dir", dir}
			}
			k.start()
			c.options.Timeout = patience
			k.a, k.b = connect(t, filepath.Join(k.dir, "a"), c.options), connect(t, filepath.Join(k.dir, "b"), c.options)
			if !k.a.Features().Has(c.features) {
				t.Fatalf("the guest has %s, want %s among them", k.a.Features(), c.features)
			}
			for round := range 8 {
				k.send(30)
				k.receive(round * 4)
				k.kill()
				k.start()
				k.reconnect()
				k.settle()
			}
			k.p.end()
		})
	}
}

// killed is a program that is killed, and two guests of it.
type killed struct {
	t    *testing.T
	dir  string
	port string
	args []string
	p    *program
	a, b *vutest.FrontEnd
	sent uint32 // frames, by their numbers
}

func (k *killed) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *killed) start() {
	k.t.Helper()
	argv := []string{"run", "--workers", "1"}
	for _, name := range []string{"a", "b"} {
		argv = append(argv, "--port", name+"="+filepath.Join(k.dir, name)+k.port)
		_ = os.Remove(filepath.Join(k.dir, name)) // or the one of the program before would do
	}
	k.p = start(k.t, programOptions{}, append(argv, k.args...)...)
	k.p.awaitSocket(filepath.Join(k.dir, "a"))
	k.p.awaitSocket(filepath.Join(k.dir, "b"))
}

func (k *killed) kill() {
	k.p.signal(syscall.SIGKILL)
	k.p.wait()
}

// reconnect brings the receiver back first, so that frames find it.
func (k *killed) reconnect() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, f := range []*vutest.FrontEnd{k.b, k.a} {
		_, err := f.Reconnect(ctx)
		k.must(err)
		k.must(f.Barrier(ctx))
	}
}

// send sends n numbered frames at once.
func (k *killed) send(n int) {
	k.t.Helper()
	frames := make([]vutest.Frame, n)
	for i := range frames {
		frames[i] = frame('b', 'a')
		binary.BigEndian.PutUint32(frames[i].Data[20:], k.sent)
		k.sent++
	}
	k.must(k.a.Send(0, frames...))
}

// receive takes up to n frames, fewer when no more come, and answers how many.
func (k *killed) receive(n int) (got int) {
	k.t.Helper()
	for ; got < n; got++ {
		r, err := k.b.Recv(0, 20*time.Millisecond)
		if errors.Is(err, vutest.ErrTimeout) {
			return got
		}
		k.must(err)
		if want := frame('b', 'a').Data; !bytes.Equal(r.Data[:20], want[:20]) || len(r.Data) != len(want) || binary.BigEndian.Uint32(r.Data[20:]) >= k.sent {
			k.t.Fatalf("frame %x arrived, which nobody sent", r.Data)
		}
	}
	return got
}

// settle waits until every head of the sender has come back, and the receiver
// gets frames: some may have been dropped, as flooded ones do not wait.
func (k *killed) settle() {
	k.t.Helper()
	k.must(k.a.WaitSent(0))
	if n := k.a.Outstanding(1); n != 0 {
		k.t.Fatalf("%d heads have not come back", n)
	}
	k.receive(int(k.sent)) // what has come before: fewer than that
	waitFor(k.t, "frames", func() bool {
		k.send(1)
		return k.receive(1) > 0
	})
	k.must(k.a.WaitSent(0))
}
