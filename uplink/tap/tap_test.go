package tap

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// pair is two hosts on one switch.
func pair(t *testing.T, r *rig, queues int) (a, b *host, ua, ub *Uplink) {
	t.Helper()
	a, b = newHost(t), newHost(t)
	ua, _ = r.uplink("a", a.open(queues))
	ub, _ = r.uplink("b", b.open(queues))
	a.up(1)
	b.up(2)
	return a, b, ua, ub
}

// transfer sends MiB from one host to another by iperf3 over streams and gives
// what arrived, bytes.
func transfer(t *testing.T, from, to *host, address string, mib, streams int) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server := exec.CommandContext(ctx, "ip", "netns", "exec", to.name, "iperf3", "-s", "-1", "-p", "5300")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "iperf3 to listen", func() bool { return strings.Contains(to.run("ss -Hltn"), ":5300") })
	out := from.run(fmt.Sprintf("iperf3 -J -c %s -p 5300 -n %dM -P %d", address, mib, streams))
	if err := server.Wait(); err != nil {
		t.Fatal(err)
	}
	var result struct {
		End struct {
			Received struct {
				Bytes uint64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatal(err)
	}
	return result.End.Received.Bytes
}

// Two kernels talk over the switch, in small frames and in large ones, and no
// checksum is found wrong. A TCP frame passes whole: most have more than a
// segment.
func TestHostsTalk(t *testing.T) {
	r := newRig(t, 1)
	a, b, ua, ub := pair(t, r, 1)
	a.run("busybox ping -c 3 -A -W 5 10.77.0.2")
	a.run("busybox ping -c 3 -A -W 5 fd77::2")
	b.run("busybox ping -c 2 -A -W 5 -s 20000 10.77.0.1") // fragments
	const mib = 64
	const most = mib << 20 / 10 * 9 // iperf3 stops when it has sent them
	for _, way := range []struct {
		from, to *host
		address  string
	}{{a, b, "10.77.0.2"}, {b, a, "fd77::1"}} {
		if n := transfer(t, way.from, way.to, way.address, mib, 1); n < most {
			t.Errorf("%d bytes arrived at %s, want nearly %d MiB", n, way.address, mib)
		}
	}
	for _, h := range []*host{a, b} {
		for _, name := range []string{"TcpInCsumErrors", "TcpInErrs", "IcmpInCsumErrors", "Icmp6InCsumErrors", "IpInHdrErrors", "IpReasmFails"} {
			if n := h.count(name); n != 0 {
				t.Errorf("%s counts %d %s", h.name, n, name)
			}
		}
	}
	for _, u := range []*Uplink{ua, ub} {
		s := u.Snapshot()
		if s.TxFrames == 0 || s.RxFrames == 0 || s.Drops.Total() > s.RxFrames/10 {
			t.Errorf("%s counts %+v", u.o.Name, s)
		}
	}
	if s := ub.Snapshot(); s.RxBytes < most || s.RxBytes/s.RxFrames < 1600 {
		t.Errorf("%d bytes came in %d frames: segments were cut", s.RxBytes, s.RxFrames)
	}
}

// betweenVisits calls f while all workers wait, so that no Task is visited.
func betweenVisits(t *testing.T, g *worker.Group, f func()) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var waiting, ended sync.WaitGroup
	release := make(chan struct{})
	for _, w := range g.Workers() {
		waiting.Add(1)
		ended.Go(func() {
			begun := false
			err := w.Do(ctx, func(*worker.Context) {
				begun = true
				waiting.Done()
				<-release
			})
			if err != nil {
				t.Error(err)
			}
			if !begun {
				waiting.Done()
			}
		})
	}
	waiting.Wait()
	f()
	close(release)
	ended.Wait()
}

// The kernel spreads flows over the queues, and each has a Task that takes them.
func TestQueues(t *testing.T) {
	r := newRig(t, 2)
	a, b, ua, _ := pair(t, r, 2)
	if n := transfer(t, a, b, "10.77.0.2", 16, 8); n < 1<<20 {
		t.Errorf("%d bytes arrived", n)
	}
	betweenVisits(t, r.group, func() {
		for i, q := range ua.queues {
			if uint64(q.serial)%nbl.SerialRange == 0 {
				t.Errorf("queue %d has brought nothing", i)
			}
		}
	})
	if got := strings.Count(a.run("ls /sys/class/net/t0/queues"), "tx-"); got != 2 {
		t.Errorf("the device has %d transmit queues", got)
	}
}

// A device that is deleted is told once and disturbs nobody else.
func TestDeviceIsDeleted(t *testing.T) {
	r := newRig(t, 1)
	a, b, ua, ub := pair(t, r, 1)
	c := newHost(t)
	_, end := r.uplink("c", c.open(1))
	c.up(3)
	a.run("busybox ping -c 1 -W 5 10.77.0.3")
	c.ip("link del t0")
	waitFor(t, "it to be seen", func() bool { return strings.Contains(r.log.String(), "TAP device is gone") })
	a.run("busybox ping -c 3 -A -W 5 10.77.0.2")
	a.ip("neigh flush all")
	before := ua.Snapshot().TxFrames
	_ = exec.Command("ip", "netns", "exec", a.name, "busybox", "ping", "-c", "3", "-A", "-W", "1", "10.77.0.3").Run() // in vain
	if ua.Snapshot().TxFrames == before {
		t.Error("nothing was sent to the host that is gone")
	}
	end()
	b.run("busybox ping -c 3 -A -W 5 10.77.0.1")
	if n := strings.Count(r.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines are logged:\n%s", n, r.log.String())
	}
	if ub.gone.Load() {
		t.Error("another device is taken for gone")
	}
}

// Frames to an interface that is down are counted; when it is up, they pass.
func TestInterfaceIsDown(t *testing.T) {
	r := newRig(t, 1)
	a, b, _, ub := pair(t, r, 1)
	a.run("busybox ping -c 1 -W 5 10.77.0.2")
	b.ip("link set t0 down")
	_ = exec.Command("ip", "netns", "exec", a.name, "busybox", "ping", "-c", "2", "-A", "-W", "1", "10.77.0.2").Run() // in vain
	if n := ub.Snapshot().Drops[metrics.ReasonLinkDown]; n == 0 {
		t.Errorf("nothing is counted: %+v", ub.Snapshot())
	}
	b.ip("link set t0 up")
	a.run("busybox ping -c 3 -A -W 5 10.77.0.2")
	if ub.gone.Load() {
		t.Error("the device is taken for gone")
	}
}

// sink accepts everything and keeps nothing.
type sink struct{ frames int }

func (s *sink) Deliver(_ *worker.Context, batch []*nbl.List) (accepted int, part bool) {
	s.frames += len(batch)
	return len(batch), false
}

// lonely is an Uplink without workers, whose queue a test visits, and a sink.
func lonely(t *testing.T) (*host, *Uplink, *sink) {
	t.Helper()
	vutest.CheckLeaks(t)
	h := newHost(t)
	sw, err := vswitch.New(vswitch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	u, err := New(Options{Name: "u", Switch: sw, Group: group, Queues: h.open(1), Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{}
	if _, err := sw.Attach(s, vswitch.PortOptions{Name: "sink"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h.up(1)
	return h, u, s
}

// A frame allocates nothing, neither way.
func TestFrameDoesNotAllocate(t *testing.T) {
	h, u, s := lonely(t)
	h.ip("neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev t0")
	var conn net.Conn
	h.inside(func() (err error) {
		conn, err = net.Dial("udp", "10.77.0.9:9")
		return err
	})
	defer func() { _ = conn.Close() }()
	c := worker.NewTestContext()
	q := u.queues[0]
	for q.Poll(c, visitFrames) { // what the kernel says when it comes up
	}
	fill := func() {
		for range 200 {
			if _, err := conn.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	before := s.frames
	if n := testing.AllocsPerRun(90, func() { q.Poll(c, 2) }); n != 0 {
		t.Errorf("%v allocations for two frames from the device", n)
	}
	if s.frames-before < 180 {
		t.Errorf("%d frames came", s.frames-before)
	}

	l := frameList(t, u)
	batch := []*nbl.List{l}
	if n := testing.AllocsPerRun(100, func() { u.Deliver(c, batch) }); n != 0 {
		t.Errorf("%v allocations for a frame to the device", n)
	}
	if got := u.Snapshot(); got.RxFrames < 100 || got.Drops.Total() != 0 {
		t.Errorf("the port counts %+v", got)
	}
}

// frameList is a frame in a List of the Uplink's own, as a sender's would be.
func frameList(t *testing.T, u *Uplink) *nbl.List {
	t.Helper()
	q := u.queues[0]
	if q.source.Get(q.drawn[:1]) != 1 {
		t.Fatal("no list is left")
	}
	l := q.drawn[0]
	b := l.Own()[:headerLen+60]
	clear(b)
	copy(b[headerLen:], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	q.serial.Reserve(1)
	if r := q.sender.WrapOwn(l, uint32(len(b))); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	t.Cleanup(func() { _ = q.source.Put([]*nbl.List{l}) }) // before the Uplink is closed
	return l
}
