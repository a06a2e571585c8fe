//go:build integration

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// fault is an error that takes the place of system calls.
type fault struct {
	call, errno string
	when        string // which of each thread's calls, as strace has it: "3", or "1+" for all
}

// faults are all that V79 tries. Left out are the calls that Go's runtime makes for
// itself too, and ends the program when they fail: memory, threads, timers,
// epoll_pwait, write. (Interrupting those would do, but a call that is struck as
// strace goes answers ENOSYS.) So is close: what comes in its place leaves the
// descriptor open, which the kernel's does not, whatever it answers.
func faults() (list []fault) {
	add := func(calls string, errnos string) {
		for call := range strings.FieldsSeq(calls) {
			for errno := range strings.FieldsSeq(errnos) {
				for _, when := range []string{"1+", "1", "2", "3", "5", "8"} {
					list = append(list, fault{call, errno, when})
				}
			}
		}
	}
	add("accept4 epoll_ctl fcntl fstat fstatfs getsockname getsockopt ppoll preadv2 readlinkat recvmsg sendmsg setsockopt", "ENOMEM EIO EMFILE")
	add("accept4 ppoll preadv2 recvmsg sendmsg", "EINTR")
	// What never succeeds although it only was interrupted may be tried for ever.
	return slices.DeleteFunc(list, func(f fault) bool { return f.errno == "EINTR" && f.when == "1+" })
}

// TestV79_EveryCallFails has system calls fail, one kind at a time, once and for
// as long as it lasts, while front-ends come and frames go. The sessions may end
// for that, the program may not; when the calls work again everything does, and
// the log has stayed short. At the end no descriptor is left over.
func TestV79_EveryCallFails(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	var before int // descriptors of a program to which no front-end has come
	waitFor(t, "the worker", func() bool {
		files := openFiles(t, p)
		before = len(files)
		return strings.Count(strings.Join(files, "\n"), "[eventpoll]") == 2 // the runtime's and, made last, the worker's
	})
	seen := map[string]int{}
	for _, f := range faults() {
		logged := len(p.log.String())
		stop := inject(t, p, f)
		_ = visit(dir) // how far it gets does not matter
		n := stop()
		seen[f.call] += n
		works(t, p, dir)
		if grown := len(p.log.String()) - logged; grown > 64<<10 {
			t.Errorf("%v: %d bytes of log", f, grown)
		}
	}
	for call, n := range seen {
		t.Logf("%-12s %4d calls failed", call, n)
		if n == 0 {
			t.Errorf("%s was never called", call)
		}
	}
	waitFor(t, "descriptors to be closed", func() bool { return len(openFiles(t, p)) <= before })
	p.end()
}

// inject has a fault happen in all threads of the program until stop, which says
// how many calls it struck.
func inject(t *testing.T, p *program, f fault) (stop func() int) {
	t.Helper()
	pid := p.cmd.Process.Pid
	trace := filepath.Join(t.TempDir(), "trace")
	var errs bytes.Buffer
	cmd := exec.Command("strace", "-f", "-qqq", "-o", trace, "-p", strconv.Itoa(pid),
		"-e", "trace="+f.call, "-e", "signal=none", "-e", fmt.Sprintf("inject=%s:error=%s:when=%s", f.call, f.errno, f.when))
	cmd.Stderr, cmd.WaitDelay = &errs, patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is ended by a signal
	}()
	kill := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it lets go of the program first
		<-ended
	}
	defer func() {
		if stop == nil {
			kill()
		}
	}()
	waitFor(t, "strace to hold every thread", func() bool {
		select {
		case <-ended:
			t.Fatalf("strace: %v, %s", cmd.ProcessState, errs.String())
		default:
		}
		return traced(t, pid)
	})
	return func() int {
		kill()
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("(INJECTED)"))
	}
}

// traced reports whether every thread of a process has a tracer.
func traced(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %d: %v, %v", pid, threads, err)
	}
	return !slices.ContainsFunc(threads, func(path string) bool {
		b, err := os.ReadFile(path) // it may have ended
		return err == nil && bytes.Contains(b, []byte("\nTracerPid:\t0\n"))
	})
}

// openFiles are what the program's descriptors stand for.
func openFiles(t *testing.T, p *program) (files []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("descriptors of %v: %v", p.cmd.Process, err)
	}
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil { // else it was closed meanwhile
			files = append(files, name)
		}
	}
	return files
}

// visit is two front-ends that come, send frames and go; the error tells what did
// not go as it should.
func visit(dir string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var fronts []*vutest.FrontEnd
	for _, name := range []string{"a", "b"} {
		f, err := vutest.Dial(filepath.Join(dir, name), vutest.Options{Kind: vutest.QEMU10, MemorySize: 4 << 20, Timeout: 200 * time.Millisecond})
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // what it finds amiss is of calls that failed
		fronts = append(fronts, f)
		if _, err := f.Start(ctx); err != nil {
			return err
		}
	}
	a, b := fronts[0], fronts[1]
	for range 8 {
		if err := a.Send(0, frame('b', 'a')); err != nil {
			return err
		}
		if _, err := b.Recv(0, 200*time.Millisecond); err != nil {
			return err
		}
	}
	if err := a.Stop(ctx); err != nil {
		return err
	}
	return b.Stop(ctx)
}

// works waits until a visit goes as it should.
func works(t *testing.T, p *program, dir string) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		p.alive()
		if err = visit(dir); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nothing works any more: %v", err)
		}
	}
}
