package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// traffic sends frames from a to b, one after the other, until its end. The
// counts say how many arrived.
type traffic struct {
	arrived atomic.Uint64
	quit    chan struct{}
	done    sync.WaitGroup
}

func startTraffic(t *testing.T, a, b *vutest.FrontEnd) *traffic {
	x := &traffic{quit: make(chan struct{})}
	x.done.Go(func() {
		for {
			select {
			case <-x.quit:
				return
			default:
			}
			if err := a.Send(0, frame('b', 'a')); err != nil {
				t.Error(err)
				return
			}
			if _, err := b.Recv(0, 100*time.Millisecond); err == nil {
				x.arrived.Add(1)
			} else if !errors.Is(err, vutest.ErrTimeout) {
				t.Error(err)
				return
			} else {
				x.await() // nobody is there any more: do not fill the ring
				return
			}
		}
	})
	return x
}

func (x *traffic) await() { <-x.quit }

func (x *traffic) end() {
	close(x.quit)
	x.done.Wait()
}

// The signals that end a service end it, with front-ends connected and frames
// on their way, and its sockets go with it.
func TestSignalsEnd(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir := t.TempDir()
		p := serveIn(t, dir, programOptions{}, "a b c")
		a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
		x := startTraffic(t, a, b)
		waitFor(t, "frames", func() bool { return x.arrived.Load() > 100 })
		p.signal(s)
		if code := p.wait(); code != exitDone {
			t.Errorf("exit code %d after %v", code, s)
		}
		x.end()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%v are left, %v", left, err)
		}
		lines := p.log.lines()
		if last := lines[len(lines)-1]; !hasAll(last, "ending", s.String()) {
			t.Errorf("the last line after %v is %q", s, last)
		}
		if p.out.String() != "" {
			t.Errorf("output %q", p.out.String())
		}
	}
}

// A front-end whose call descriptor blocks its writer holds up neither its
// neighbours nor the end of the program.
func TestV76_EndBesideBlockedCall(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b c")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	c := connect(t, filepath.Join(dir, "c"), vutest.Options{})
	exchange(t, a, b, 1) // the switch knows a, and floods
	if _, err := c.Recv(0, patience); err != nil {
		t.Fatal(err)
	}
	exchangeAs(t, c, b, 'b', 'c', 1)
	hostile, err := vutest.HostileCall()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hostile.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.SetCallFD(ctx, 0, hostile); err != nil {
		t.Fatal(err)
	}
	if err := b.Send(0, frame('a', 'b')); err != nil { // its delivery calls a
		t.Fatal(err)
	}
	exchangeAs(t, b, c, 'c', 'b', 10)
	if err := b.Send(0, frame('a', 'b')); err != nil {
		t.Fatal(err)
	}
	p.end()
}

// fullPipe is a pipe that takes no byte more until its reader reads.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
	})
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	fill := make([]byte, 4096)
	for {
		if _, err = syscall.Write(fd, fill); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fd, false); err != nil { // of the open file: the program's writes wait
		t.Fatal(err)
	}
	return r, w
}

// Nobody reads what the program prints, on either output: the switch goes on,
// takes and loses front-ends, and ends when it is told to.
func TestNobodyReads(t *testing.T) {
	dir := t.TempDir()
	_, stdout := fullPipe(t)
	_, stderr := fullPipe(t)
	p := serveIn(t, dir, programOptions{stdout: stdout, stderr: stderr}, "a b", "--stats", "10ms", "--log-level", "trace")
	for range 20 {
		a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
		exchange(t, a, b, 10)
		p.signal(syscall.SIGUSR1)
		for _, f := range []*vutest.FrontEnd{a, b} {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.alive()
	p.end()
}

// A slow reader gets whole reports, and is told that there were more.
func TestSlowReader(t *testing.T) {
	dir := t.TempDir()
	r, stdout := fullPipe(t)
	p := serveIn(t, dir, programOptions{stdout: stdout}, "a b", "--stats", "10ms", "-o", "json")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	exchange(t, a, b, 100)
	lines := bufio.NewReader(r)
	read := func() {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line = strings.TrimLeft(line, "\x00"); !json.Valid([]byte(line)) { // behind what filled the pipe
			t.Fatalf("not a whole report: %q", line)
		}
	}
	waitFor(t, "reports to be left out", func() bool {
		time.Sleep(50 * time.Millisecond) // a reader that is slower than the interval
		for range 5 {
			read()
		}
		return p.logged("WARN", "counters were left out", "count=") > 0
	})
	exchange(t, a, b, 10)
	_ = r.Close()
	_ = stdout.Close()
	p.end()
}

// The reader goes, as "| head -1" does: the program says so once and goes on.
func TestReaderLeaves(t *testing.T) {
	dir := t.TempDir()
	r, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := serveIn(t, dir, programOptions{stdout: stdout}, "a b", "--stats", "10ms")
	_ = stdout.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || !strings.HasPrefix(line, "PORT") {
		t.Fatalf("%q, %v", line, err)
	}
	_ = r.Close()
	p.awaitLog("ERROR", "counters cannot be printed", "broken pipe")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	for range 10 {
		p.signal(syscall.SIGUSR1)
		exchange(t, a, b, 10)
	}
	p.end()
	if n := p.logged("cannot be printed"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
}

// Both outputs are gone, and the switch is not.
func TestBothReadersLeave(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := serveIn(t, dir, programOptions{stdout: w, stderr: w}, "a b", "--stats", "10ms", "--log-level", "trace")
	_, _ = r.Close(), w.Close()
	for range 5 {
		a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
		exchange(t, a, b, 10)
		_, _ = a.Close(), b.Close()
	}
	p.end()
}

// reports reads the JSON form.
func reports(t *testing.T, lines []string) (list []map[string]portReport) {
	t.Helper()
	for _, line := range lines {
		var r struct {
			Time  time.Time    `json:"time"`
			Ports []portReport `json:"ports"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time.IsZero() {
			t.Fatalf("report %q: %v", line, err)
		}
		ports := map[string]portReport{}
		for _, p := range r.Ports {
			ports[p.Port] = p
		}
		list = append(list, ports)
	}
	return list
}

// The JSON reports count what the guests did, frame by frame, with rates from
// the second one on.
func TestStatsJSON(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b c", "--stats", "20ms", "-o", "json")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	exchange(t, a, b, 100)
	waitFor(t, "a report", func() bool { return len(p.out.lines()) > 0 })
	exchange(t, a, b, 100)
	var last map[string]portReport
	waitFor(t, "the counts", func() bool {
		list := reports(t, p.out.lines())
		if len(list) < 2 {
			return false
		}
		last = list[len(list)-1]
		return last["a"].TxFrames == 200 && last["b"].RxFrames == 200
	})
	if first := reports(t, p.out.lines()[:1])[0]; len(first) != 3 || first["a"].TxRate != nil {
		t.Errorf("the first report: %+v", first)
	}
	if a := last["a"]; a.TxBytes != 200*60 || a.RxFrames != 0 || !a.Up || a.Features == "" || a.Sessions != 1 || len(a.Rings) != 2 || !a.Rings[0].Enabled || a.Rings[1].Broken {
		t.Errorf("a: %+v", a)
	}
	if c := last["c"]; c.Up || len(c.Rings) != 0 || c.Sessions != 0 {
		t.Errorf("c: %+v", c)
	}
	for _, v := range []*float64{last["a"].TxRate, last["a"].TxBits, last["b"].RxRate, last["b"].RxBits} {
		if v == nil || *v < 0 {
			t.Errorf("rates of a: %+v, of b: %+v", last["a"], last["b"])
		}
	}
	sum := 0.0
	for _, r := range reports(t, p.out.lines()) {
		if v := r["b"].RxRate; v != nil {
			sum += *v
		}
	}
	if sum == 0 {
		t.Error("100 frames between two reports, and every rate is 0")
	}
	p.end()
}

// SIGUSR1 prints the table once, from the moment on at which the sockets are
// there; and nothing else does.
func TestSignalPrintsTable(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	p.signal(syscall.SIGUSR1)
	waitFor(t, "the table", func() bool { return len(p.out.lines()) == 3 })
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	exchange(t, a, b, 7)
	p.signal(syscall.SIGUSR1)
	waitFor(t, "the second table", func() bool { return len(p.out.lines()) == 6 })
	p.end()
	lines := p.out.lines()
	if len(lines) != 6 || !strings.HasPrefix(lines[3], "PORT") {
		t.Fatalf("output:\n%s", p.out.String())
	}
	if f := strings.Fields(lines[1]); f[1] != "waiting" || f[2] != "0" || f[3] != "-" {
		t.Errorf("before: %q", lines[1])
	}
	if f := strings.Fields(lines[4]); len(f) != 12 || f[1] != "up" || f[2] != "7" || f[3] == "-" || f[9]+" "+f[10] != "0 1" || f[11] != "-" {
		t.Errorf("after: %q", lines[4])
	}
}

// Every state of a port is one line, with its name.
func TestLogOfPort(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	path := filepath.Join(dir, "a")
	p.awaitLog("INFO", "port is open", "port=a", "mac=02:", "socket="+path)
	a := connect(t, path, vutest.Options{})
	p.awaitLog("front-end connected", "port=a")

	second, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.SetReadDeadline(time.Now().Add(patience))
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a second front-end read %d bytes, %v; want its connection closed", n, err)
	}
	_ = second.Close()
	p.awaitLog("WARN", "second front-end was refused", "port=a")

	b := connect(t, filepath.Join(dir, "b"), vutest.Options{})
	exchange(t, a, b, 10)
	d := a.Driver(1)
	d.SetAvailIdx(d.AvailIdx() + 0x4000) // far more than the ring has entries
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, on := range []bool{false, true} { // enabled, the device looks at the ring
		if err := a.Enable(ctx, 1, on); err != nil {
			t.Fatal(err)
		}
	}
	p.awaitLog("WARN", "ring broken", "port=a", "ring=1")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	p.awaitLog("INFO", "front-end disconnected", "port=a")
	before := len(p.log.lines())
	exchange(t, connect(t, path, vutest.Options{}), b, 1000)
	if after := p.log.lines()[before:]; len(after) != 2 || !strings.Contains(after[0], "front-end connected") || !strings.Contains(after[1], "features negotiated") {
		t.Errorf("a front-end and 1000 frames are worth these lines: %q", after)
	}
	p.end()
}

// A program that was killed leaves its sockets; the next one replaces them, and
// front-ends that come back go on.
func TestKilledAndStartedAgain(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	exchange(t, a, b, 10)
	p.signal(syscall.SIGKILL)
	if p.wait(); p.cmd.ProcessState.Success() {
		t.Fatal("killed, and content with it")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Fatalf("sockets of the killed program: %v, %v", left, err)
	}
	again := serveIn(t, dir, programOptions{}, "a b")
	again.awaitLog("port is open", "port=b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, f := range []*vutest.FrontEnd{a, b} {
		if _, err := f.Reconnect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, a, b, 10)
	again.end()
}

// allowedCPU is a CPU that the process may use.
func allowedCPU(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(status), "Cpus_allowed_list:")
	first := strings.FieldsFunc(list, func(r rune) bool { return r < '0' || r > '9' })[0]
	if _, err := strconv.Atoi(first); err != nil {
		t.Fatal(err)
	}
	return first
}

// dup is a descriptor that the program in this process may own.
func dup(t *testing.T, raw syscall.RawConn) (n int) {
	t.Helper()
	var err error
	if cerr := raw.Control(func(fd uintptr) { n, err = syscall.Dup(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	syscall.CloseOnExec(n)
	return n
}
