// The detector of races has a thread that looks around ten times a second, and
// memory of its own for what a program has.
//go:build !race

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// idlePorts are as many as a large host has.
const idlePorts = 256

// idleTime is how long nothing happens; VHOSTNET_IDLE says otherwise.
func idleTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("VHOSTNET_IDLE")
	if text == "" {
		return time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("VHOSTNET_IDLE: %v", err)
	}
	return d
}

// A program whose 256 front-ends are connected, with running rings and without
// traffic, sleeps: its threads wake for nothing that happens again and again,
// and what a port takes beyond its rings, which are in the guest's memory, is
// less than 1 MiB (V77).
func TestIdlePortsCostNothing(t *testing.T) {
	period := idleTime(t)
	p, dir := start256(t)
	empty := p.usage()
	for i := range idlePorts {
		f := vutest.Connect(t, filepath.Join(dir, fmt.Sprint("p", i)), vutest.Options{
			Kind: vutest.QEMU10, MemorySize: 4 << 20, Timeout: patience, Guest: vutest.Guest{RxBuffers: 1},
		})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := f.Start(ctx)
		if err == nil {
			err = f.Barrier(ctx)
		}
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // what the last ones have begun ends
	connected := p.usage()
	before := p.settled()
	// A deadline that each front-end's last message has left behind would be heard
	// five seconds later, though nobody waits any more.
	late := before.woken - connected.woken
	t.Logf("from a second after the last one came until nothing woke, threads woke %d times", late)
	if late > idlePorts/2 {
		t.Errorf("threads woke %d times after %d front-ends had come, when nothing happened any more", late, idlePorts)
	}
	time.Sleep(period)
	after := p.usage()
	woken := after.woken - before.woken
	t.Logf("%d idle ports, %v: threads woke %d times (%d in the worst, %s), CPU %v, %.3f %% of a core; %d bytes of memory, %d a port (%d a port before their front-ends came)",
		idlePorts, period, woken, after.worst(before), after.worstName(before), after.cpu-before.cpu,
		100*float64(after.cpu-before.cpu)/float64(period), after.memory, after.memory/idlePorts, empty.memory/idlePorts)
	// The Go runtime collects garbage once in two minutes whatever happens. The
	// slowest clock of the program's own would be heard more often.
	if limit := 30 + 2*int64(period/time.Minute)*100; woken > limit {
		t.Errorf("threads woke %d times in %v in which nothing happened, want at most %d", woken, period, limit)
	}
	if most := int64(1 << 20); after.memory/idlePorts >= most {
		t.Errorf("a port takes %d bytes beyond its rings, want less than %d", after.memory/idlePorts, most)
	}
}

// start256 starts a program with 256 ports.
func start256(t *testing.T) (p *program, dir string) {
	t.Helper()
	dir = t.TempDir()
	names := make([]string, idlePorts)
	for i := range names {
		names[i] = fmt.Sprint("p", i)
	}
	return serveIn(t, dir, programOptions{}, strings.Join(names, " ")), dir
}

// processUsage is what a process has used up to now.
type processUsage struct {
	woken   int64            // times that a thread gave up its CPU and got one again
	threads map[string]int64 // the same, by thread
	cpu     time.Duration
	memory  int64 // bytes of its own, without what it shares with guests
}

// worst is how often the thread woke that woke most since before.
func (u processUsage) worst(before processUsage) (n int64) {
	for id := range u.threads {
		n = max(n, u.threads[id]-before.threads[id])
	}
	return n
}

func (u processUsage) worstName(before processUsage) string {
	for id := range u.threads {
		if u.threads[id]-before.threads[id] == u.worst(before) {
			return "thread " + id
		}
	}
	return "none"
}

// usage reads it from the kernel.
func (p *program) usage() (u processUsage) {
	p.t.Helper()
	p.alive()
	root := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	tasks, err := os.ReadDir(filepath.Join(root, "task"))
	if err != nil {
		p.t.Fatal(err)
	}
	u.threads = map[string]int64{}
	for _, task := range tasks {
		at := filepath.Join(root, "task", task.Name())
		u.threads[task.Name()] = field(p.t, filepath.Join(at, "status"), "voluntary_ctxt_switches:")
		u.woken += u.threads[task.Name()]
		var ns int64
		text, err := os.ReadFile(filepath.Join(at, "schedstat"))
		if err == nil {
			_, err = fmt.Sscan(string(text), &ns)
		}
		if err != nil {
			p.t.Fatal(err)
		}
		u.cpu += time.Duration(ns)
	}
	u.memory = field(p.t, filepath.Join(root, "status"), "RssAnon:") << 10
	return u
}

// settled is the usage when hardly any thread has woken for six seconds, which is
// longer than any deadline of a session's last message.
func (p *program) settled() (u processUsage) {
	p.t.Helper()
	still := 0
	for range int(2 * patience / time.Second) {
		before := p.usage()
		time.Sleep(time.Second)
		u = p.usage()
		still++
		if u.woken-before.woken > 2 {
			still = 0
		}
		if still == 6 {
			return u
		}
	}
	p.t.Errorf("threads went on waking for %v in which nothing happened", 2*patience)
	return u
}

// field is a number in a file of lines that begin with names.
func field(t *testing.T, file, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			return n
		}
	}
	t.Fatalf("%s has no line %q", file, name)
	return 0
}
