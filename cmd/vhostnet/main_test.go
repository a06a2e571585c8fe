package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// asProgram in the environment makes the test binary the program.
const asProgram = "VHOSTNET_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	// The runtime's goroutine for signals comes with the first one and stays.
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	signal.Stop(c)
	os.Exit(m.Run())
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

// lines are the whole lines so far.
func (x *text) lines() []string {
	s := x.String()
	end := strings.LastIndexByte(s, '\n')
	if end < 0 {
		return nil
	}
	return strings.Split(s[:end], "\n")
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

// program is a vhostnet process.
type program struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, log text          // what it printed, unless a file took it
	done     chan struct{} // closed when it has ended
}

// programOptions are what a process inherits. The zero value is nothing.
type programOptions struct {
	stdout, stderr *os.File   // default: program.out and program.log
	files          []*os.File // descriptors from 3 on
	names          string     // systemd's names of them, joined by colons; "": it did not pass them
	netns          string     // network namespace; "": this one
}

// start starts the program; the test's end ends it.
func start(t *testing.T, o programOptions, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(self, args...), done: make(chan struct{})}
	if o.names != "" { // systemd names the process, too
		p.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, self}, args...)...)
	}
	if o.netns != "" {
		p.cmd = exec.Command("ip", append([]string{"netns", "exec", o.netns, self}, args...)...)
	}
	// The race detector would let each process wait a second before its end.
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	if o.names != "" {
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(o.files)), "LISTEN_FDNAMES="+o.names)
	}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = &p.out, &p.log, o.files
	if o.stdout != nil {
		p.cmd.Stdout = o.stdout
	}
	if o.stderr != nil {
		p.cmd.Stderr = o.stderr
	}
	p.cmd.WaitDelay = patience
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState has the exit code
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("vhostnet %s\nlog:\n%s\noutput:\n%s", strings.Join(args, " "), p.log.String(), p.out.String())
		}
	})
	return p
}

// serveIn starts "vhostnet run" with a port per name, each with its socket in
// dir, and waits until they are open.
func serveIn(t *testing.T, dir string, o programOptions, names string, args ...string) *program {
	t.Helper()
	argv := []string{"run", "--workers", "1"}
	for name := range strings.FieldsSeq(names) {
		argv = append(argv, "--port", name+"="+filepath.Join(dir, name))
	}
	p := start(t, o, append(argv, args...)...)
	for name := range strings.FieldsSeq(names) {
		p.awaitSocket(filepath.Join(dir, name))
	}
	return p
}

// awaitSocket waits until the program has made a socket there. A connection
// would be a front-end, so the file is looked at only.
func (p *program) awaitSocket(path string) {
	p.t.Helper()
	waitFor(p.t, path, func() bool {
		p.alive()
		info, err := os.Lstat(path)
		return err == nil && info.Mode().Perm()&0o060 != 0 // opened to its group last
	})
}

// alive fails the test if the program has ended.
func (p *program) alive() {
	p.t.Helper()
	select {
	case <-p.done:
		p.t.Fatalf("the program has ended: %v", p.cmd.ProcessState)
	default:
	}
}

// awaitLog waits for a line of the log that has all words.
func (p *program) awaitLog(words ...string) {
	p.t.Helper()
	waitFor(p.t, "a line with "+strings.Join(words, ", "), func() bool { return p.logged(words...) > 0 })
}

// logged counts the lines of the log that have all words.
func (p *program) logged(words ...string) (n int) {
	for _, line := range p.log.lines() {
		if hasAll(line, words...) {
			n++
		}
	}
	return n
}

func hasAll(s string, words ...string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for the program's end and gives its exit code.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the program did not end within %v", patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// end asks the program to end and checks that it is content.
func (p *program) end() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitDone {
		p.t.Errorf("exit code %d after SIGTERM, want %d", code, exitDone)
	}
}

// connect is a front-end at path, its rings running.
func connect(t *testing.T, path string, o vutest.Options) *vutest.FrontEnd {
	t.Helper()
	if o.Kind == 0 {
		o.Kind = vutest.QEMU10
	}
	f := vutest.Connect(t, path, o)
	startRings(t, f)
	return f
}

func startRings(t *testing.T, f *vutest.FrontEnd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
}

// frame is 60 bytes from one VM to another, by the last byte of their
// addresses.
func frame(dst, src byte) vutest.Frame {
	b := make([]byte, 60)
	copy(b, []byte{0x52, 0x54, 0, 0, 0, dst, 0x52, 0x54, 0, 0, 0, src, 0x88, 0xb5})
	return vutest.Frame{Data: b}
}

// exchange sends n frames from a to b, one after the other.
func exchange(t *testing.T, a, b *vutest.FrontEnd, n int) {
	t.Helper()
	exchangeAs(t, a, b, 'b', 'a', n)
}

// exchangeAs is exchange with addresses.
func exchangeAs(t *testing.T, a, b *vutest.FrontEnd, dst, src byte, n int) {
	t.Helper()
	for i := range n {
		want := frame(dst, src)
		want.Data[20] = byte(i)
		if err := a.Send(0, want); err != nil {
			t.Fatal(err)
		}
		got, err := b.Recv(0, patience)
		if err != nil {
			t.Fatalf("frame %d of %d: %v", i, n, err)
		}
		if !bytes.Equal(got.Data, want.Data) {
			t.Fatalf("frame %d of %d was altered on its way", i, n)
		}
	}
	if err := a.WaitSent(0); err != nil {
		t.Fatal(err)
	}
}

// runHere runs the program in this process until it ends by itself or ctx
// does.
func runHere(ctx context.Context, args ...string) (code int, out, log string) {
	var o, l text
	code = run(ctx, args, &o, &l)
	return code, o.String(), l.String()
}

// ended is a context for programs that are to start and to end at once.
func ended() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the test wants no more"))
	return ctx
}
