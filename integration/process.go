package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs in the background until its owner stops it.
// Its output is appended to a file.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; valid once done is closed
}

// start runs argv with its output appended to log. The kernel kills the program
// when the thread that started it ends, so that nothing outlives a test that is
// itself killed; that thread is kept until the program has ended.
func start(name, log string, argv ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("integration: %s: %w", name, err)
	}
	defer file.Close()
	fmt.Fprintf(file, "[%s] %s\n", time.Now().Format("15:04:05.000"), strings.Join(argv, " "))
	p := &process{name: name, log: log, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	// A group of its own keeps a terminal's Ctrl-C from it: its owner stops it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("integration: %s: %w", name, err)
	}
	return p, nil
}

// alive returns an error if the program has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("integration: %s has ended: %v", p.name, p.state())
	default:
		return nil
	}
}

func (p *process) state() string {
	if p.err != nil {
		return p.err.Error()
	}
	return "exit status 0"
}

// kill ends the program at once and waits until it is gone.
func (p *process) kill() {
	// It fails only if the program has ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}

// dumpTime is how long a program has to say where it stands.
const dumpTime = 2 * time.Second

// stop asks the program to end and waits for that; when ctx is over it is
// killed, and that is an error. SIGQUIT comes first: a Go program then writes
// where its goroutines stand into its log.
func (p *process) stop(ctx context.Context) error {
	// It fails only if the program has ended already.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("integration: %s ended with %w", p.name, p.err)
		}
		return nil
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.done:
	case <-time.After(dumpTime):
		p.kill()
	}
	return fmt.Errorf("integration: %s did not end: %w", p.name, ctx.Err())
}

// poll calls f every few milliseconds until it returns true or an error, or ctx
// is over; what names what is waited for.
func poll(ctx context.Context, what string, f func() (bool, error)) error {
	return pollEvery(ctx, 10*time.Millisecond, what, f)
}

// pollEvery is poll for what must be seen sooner or needs to be seen less often.
func pollEvery(ctx context.Context, interval time.Duration, what string, f func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("integration: waiting for %s: %w", what, ctx.Err())
		}
	}
}
