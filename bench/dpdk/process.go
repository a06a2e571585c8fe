package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child in a process group of its own. It dies with this process,
// and its output (both streams) is kept. One goroutine uses it at a time.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *output
	done chan struct{} // closed when it was reaped and its output is complete
	err  error         // how it ended; valid once done is closed
}

// startProcess starts a program; env is added to this process's environment.
// The caller must stop it.
func startProcess(name string, env []string, argv ...string) (*process, error) {
	p := &process{name: name, out: newOutput(), done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(p.cmd.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.WaitDelay = 2 * time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ended tells whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// waitFor waits until marker appears in the output at or after the position
// from, and returns the text between the two.
func (p *process) waitFor(ctx context.Context, from int, marker string, limit time.Duration) (string, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		ended := p.ended() // before the look: then nothing can follow what is seen
		text, changed := p.out.after(from)
		if before, _, found := strings.Cut(text, marker); found {
			return before, nil
		}
		if ended {
			return text, fmt.Errorf("%s ended (%v) before it printed %q", p.name, p.cmd.ProcessState, marker)
		}
		select {
		case <-changed:
		case <-p.done:
		case <-timeout.C:
			return text, fmt.Errorf("%s did not print %q within %v", p.name, marker, limit)
		case <-ctx.Done():
			return text, ctx.Err()
		}
	}
}

// stop asks the process to end by calling ask, and kills its whole group when
// it has not ended after grace. It returns when the process was reaped.
func (p *process) stop(ask func(), grace time.Duration) error {
	if p.ended() {
		return fmt.Errorf("%s had ended by itself: %v", p.name, p.cmd.ProcessState)
	}
	ask()
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s: %w", p.name, p.err)
		}
		return nil
	case <-time.After(grace):
	}
	// Not reaped yet, so the group's number cannot belong to anyone else.
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("%s did not end within %v and could not be killed: %w", p.name, grace, err)
	}
	<-p.done // WaitDelay bounds what may still hold its output
	return fmt.Errorf("%s did not end within %v and was killed", p.name, grace)
}

// terminate asks the process to end by SIGTERM.
func (p *process) terminate() error {
	return p.stop(func() { p.signal(syscall.SIGTERM) }, 5*time.Second)
}

// signal sends s to the process itself, unless it is gone.
func (p *process) signal(s syscall.Signal) {
	if !p.ended() {
		_ = p.cmd.Process.Signal(s) // fails when it has ended since
	}
}

// tail returns the last lines of the output, under a heading.
func (p *process) tail(lines int) string {
	text, _ := p.out.after(0)
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return fmt.Sprintf("---- the last %d lines of %s ----\n%s\n", len(all), p.name, strings.Join(all, "\n"))
}

// maxOutput bounds what is kept of one process's output, in bytes.
const maxOutput = 4 << 20

// output collects what a process prints and wakes those who wait for more.
type output struct {
	mu      sync.Mutex
	dropped int // bytes no longer kept, from the beginning
	text    []byte
	changed chan struct{} // closed at the next Write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write implements io.Writer for os/exec.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	if over := len(o.text) - maxOutput; over > 0 {
		o.text = append(o.text[:0], o.text[over:]...)
		o.dropped += over
	}
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

// length is the position behind the last byte printed so far.
func (o *output) length() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped + len(o.text)
}

// after returns what was printed from a position on, as far as it is kept, and
// a channel that is closed when more arrives.
func (o *output) after(from int) (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := min(max(from-o.dropped, 0), len(o.text))
	return string(o.text[at:]), o.changed
}
