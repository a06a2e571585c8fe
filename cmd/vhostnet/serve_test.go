package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/queues"
	"vhostnet/vhostuser/vutest"
	"vhostnet/worker"
)

// here is the program in this process.
type here struct {
	t        *testing.T
	dir      string
	out, log text
	cancel   context.CancelCauseFunc
	code     chan int
}

// serveHere runs the program with a port per name until its end is called; the
// test's end makes sure of that. Options of a port follow its name and a comma.
func serveHere(t *testing.T, names string, args ...string) *here {
	t.Helper()
	vutest.CheckLeaks(t)
	p := &here{t: t, dir: t.TempDir(), code: make(chan int, 1)}
	argv := []string{"run", "--workers", "1"}
	for name := range strings.FieldsSeq(names) {
		name, options, more := strings.Cut(name, ",")
		if more {
			options = "," + options
		}
		argv = append(argv, "--port", name+"="+p.path(name)+options)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.code <- run(ctx, append(argv, args...), &p.out, &p.log)
	}()
	t.Cleanup(func() {
		cancel(nil)
		<-done
		if t.Failed() {
			t.Logf("log:\n%s", p.log.String())
		}
	})
	waitFor(t, "the ports to open", func() bool {
		return strings.Count(p.log.String(), "port is open") == len(strings.Fields(names))
	})
	return p
}

func (p *here) path(name string) string { return filepath.Join(p.dir, name) }

// wait waits for the program's end and gives its exit code.
func (p *here) wait() int {
	p.t.Helper()
	select {
	case code := <-p.code:
		return code
	case <-time.After(patience):
		p.t.Fatalf("the program did not end within %v", patience)
		return -1
	}
}

// A worker that ends by itself ends the program, with an error that says why,
// while front-ends are connected and frames on their way. Nothing is left
// behind.
func TestWorkerFails(t *testing.T) {
	vutest.CheckLeaks(t) // the runtime's own poller is there from now on
	others := pollers(t)
	p := serveHere(t, "a b")
	var mine []int
	waitFor(t, "the worker's poller", func() bool {
		mine = slices.DeleteFunc(pollers(t), func(fd int) bool { return slices.Contains(others, fd) })
		return len(mine) == 1
	})
	a, b := connect(t, p.path("a"), vutest.Options{}), connect(t, p.path("b"), vutest.Options{})
	exchange(t, a, b, 10)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if err := syscall.Dup3(int(null.Fd()), mine[0], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(0, frame('b', 'a')); err != nil { // wakes the worker, which cannot sleep any more
		t.Fatal(err)
	}
	code := p.wait()
	lines := p.log.lines()
	if last := lines[len(lines)-1]; code != exitFailed || !hasAll(last, "vhostnet: ", "worker: waiting for kicks") {
		t.Errorf("exit code %d, last line %q; want %d and the worker's error", code, last, exitFailed)
	}
	if strings.Count(p.log.String(), "front-end disconnected") != 2 {
		t.Error("the front-ends were not disconnected")
	}
}

// pollers are the process's epoll instances.
func pollers(t *testing.T) (fds []int) {
	t.Helper()
	const dir = "/proc/self/fd"
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, "eventpoll") {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
	}
	return fds
}

// What workers need and do not get is told, too: the ports are closed again.
func TestWorkerDoesNotStart(t *testing.T) {
	vutest.CheckLeaks(t)
	dir := t.TempDir()
	opts := &runOptions{}
	if err := newRunCommand(opts).ParseFlags([]string{"--workers", "1", "--port", "a=" + filepath.Join(dir, "a")}); err != nil {
		t.Fatal(err)
	}
	c, err := opts.parse()
	if err != nil {
		t.Fatal(err)
	}
	d, err := build(c, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	// As if the CPU had gone since build looked.
	if d.group, err = worker.NewGroup(worker.Options{CPUs: []int{100000}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = d.run(ctx, c, newReporter(io.Discard, false), nil)
	if err == nil || !strings.Contains(err.Error(), "pinning worker 0 to CPU 100000") {
		t.Errorf("run ended with %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The end takes sessions, ports, workers and memory down whatever front-ends
// are doing: nothing is left in the process.
func TestEndUnderLoad(t *testing.T) {
	p := serveHere(t, "a b c d", "--stats", "10ms", "-o", "json", "--log-format", "json")
	a, b := connect(t, p.path("a"), vutest.Options{}), connect(t, p.path("b"), vutest.Options{Kind: vutest.CloudHypervisor})
	connect(t, p.path("c"), vutest.Options{Kind: vutest.VirtioUser, Pairs: 2})
	vutest.Connect(t, p.path("d"), vutest.Options{Kind: vutest.QEMU72}) // has said nothing yet
	exchange(t, a, b, 20)
	for range 200 { // nobody takes them
		if err := a.Send(0, frame('c', 'a')); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "two reports", func() bool { return len(p.out.lines()) >= 2 })
	p.cancel(errors.New("that was all"))
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	lines := p.log.lines()
	for i, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("line %d of the log is not JSON: %v: %s", i, err, line)
		} else if fields["@module"] != "vhostnet" {
			t.Errorf("line %d of the log is by %v: %s", i, fields["@module"], line)
		}
	}
	// The order of the story: start, ports, front-ends, end.
	last := -1
	for _, words := range [][]string{{"starting", `"ports":4`}, {"port is open", `"port":"a"`}, {"port is open", `"port":"d"`}, {"front-end connected", `"port":"a"`}, {"front-end disconnected", `"port":"a"`}, {"ending", "that was all"}} {
		at := slices.IndexFunc(lines, func(line string) bool { return hasAll(line, words...) })
		if at <= last {
			t.Errorf("line with %q is number %d, want one after %d", words, at, last)
		}
		last = at
	}
	if last != len(lines)-1 {
		t.Errorf("%d lines follow the last one", len(lines)-1-last)
	}
}

// Of each port's notices some are logged in a second, the others counted; a
// port that has many hides nothing of another one.
func TestEventsAreLimited(t *testing.T) {
	var x text
	c := config{logLevel: hclog.Info}
	e := newEventLog(newLogger(&x, c))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	broken := errors.New("chain ends nowhere")
	for range 1000 {
		e.queueEvent(queues.Event{Kind: queues.EventBroken, VM: "noisy", Ring: 1, Err: broken})
		e.queueEvent(queues.Event{Kind: queues.EventState, VM: "quiet"}) // is not for this level
	}
	waitFor(t, "the first lines", func() bool { return strings.Count(x.String(), "port=noisy") >= noticeRate })
	waitFor(t, "the queue to be read", func() bool { return len(e.notices) == 0 })
	e.post(notice{port: "quiet", text: "ring broken", ring: 3, err: broken})
	waitFor(t, "the other port's line", func() bool { return strings.Contains(x.String(), "ring broken: port=quiet ring=3") })
	waitFor(t, "the count", func() bool { return strings.Contains(x.String(), "notices were left out") })
	if n := strings.Count(x.String(), "port=noisy ring=2"); n > 10*noticeRate {
		t.Errorf("%d lines of 1000 notices", n)
	}
	if strings.Contains(x.String(), "queue state") {
		t.Error("states are logged at level info")
	}
}
