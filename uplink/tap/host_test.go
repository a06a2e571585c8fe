package tap

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// host is a network namespace: a station of its own with a TAP device "t0",
// whose other end is an Uplink.
type host struct {
	t    *testing.T
	name string
}

var hosts int

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("TAP devices are made with /dev/net/tun: %v", err)
	}
	hosts++
	h := &host{t, fmt.Sprintf("vhostnet-tap-%d-%d", os.Getpid(), hosts)}
	run(t, "ip", "netns", "add", h.name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", h.name) })
	h.ip("link set lo up")
	return h
}

// run runs a command to its end and gives what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h *host) ip(args string) string {
	h.t.Helper()
	return run(h.t, "ip", append([]string{"-n", h.name}, strings.Fields(args)...)...)
}

// run runs a command in the namespace.
func (h *host) run(args string) string {
	h.t.Helper()
	return run(h.t, "ip", append([]string{"netns", "exec", h.name}, strings.Fields(args)...)...)
}

// inside runs f on a thread that is in the namespace, and ends with it.
func (h *host) inside(f func() error) {
	h.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open("/run/netns/" + h.name)
			if err != nil {
				return err
			}
			defer func() { _ = ns.Close() }()
			const setns = 308 // amd64 and, as 268, arm64
			number := uintptr(setns)
			if runtime.GOARCH == "arm64" {
				number = 268
			}
			if _, _, errno := syscall.Syscall(number, ns.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
				return errno
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
}

// open makes the host's device.
func (h *host) open(queues int) (list []*sys.TAP) {
	h.t.Helper()
	h.inside(func() (err error) {
		list, err = sys.OpenTAP("t0", queues)
		return err
	})
	return list
}

// up gives the device addresses that end in n.
func (h *host) up(n int) {
	h.t.Helper()
	h.ip(fmt.Sprintf("addr add 10.77.0.%d/24 dev t0", n))
	h.ip(fmt.Sprintf("addr add fd77::%d/64 dev t0 nodad", n))
	h.ip("link set t0 up")
}

// rig is a switch with workers.
type rig struct {
	t     *testing.T
	sw    *vswitch.Switch
	group *worker.Group
	log   text
}

// text is an output that can be read while it is written.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(b)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

func newRig(t *testing.T, workers int) *rig {
	t.Helper()
	vutest.CheckLeaks(t)
	r := &rig{t: t}
	var err error
	if r.sw, err = vswitch.New(vswitch.Options{}); err != nil {
		t.Fatal(err)
	}
	if r.group, err = worker.NewGroup(worker.Options{Workers: workers}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.group.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// uplink makes an Uplink of a host's queues, runs it, and ends it with the test
// or by what it answers.
func (r *rig) uplink(name string, queues []*sys.TAP) (u *Uplink, end func()) {
	r.t.Helper()
	u, err := New(Options{
		Name: name, Switch: r.sw, Group: r.group, Queues: queues,
		Log: hclog.New(&hclog.LoggerOptions{Output: &r.log}),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		closing, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		if err := u.Drain(closing); err != nil {
			r.t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		if err := u.Close(closing); err != nil {
			r.t.Error(err)
		}
	}
	r.t.Cleanup(end)
	return u, end
}

// waitFor asks until ok, for at most patience.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// count is a counter of the kernel's, by its name in nstat.
func (h *host) count(name string) (n int) {
	h.t.Helper()
	for line := range strings.Lines(h.run("nstat -asz")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			if _, err := fmt.Sscan(f[1], &n); err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	h.t.Fatalf("nstat knows no %s", name)
	return 0
}
