package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// running is a daemon of which a test holds the inside.
type running struct {
	*daemon
	t   *testing.T
	dir string
	log text
	end func() error
}

// runDaemon builds and runs a daemon with a port per name; the test's end ends
// it.
func runDaemon(t *testing.T, names ...string) *running {
	t.Helper()
	return runDaemonWith(t, func(*running, *runOptions) {}, names...)
}

// runDaemonWith is runDaemon with other options.
func runDaemonWith(t *testing.T, change func(*running, *runOptions), names ...string) *running {
	t.Helper()
	vutest.CheckLeaks(t)
	r := &running{t: t, dir: t.TempDir()}
	opts := &runOptions{workers: 1, socketMode: "0660", placement: "spread", output: "table", logFormat: "text", logLevel: "info"}
	for _, name := range names {
		opts.ports = append(opts.ports, r.say(name))
	}
	change(r, opts)
	c, err := opts.parse()
	if err != nil {
		t.Fatal(err)
	}
	if r.daemon, err = build(c, newLogger(&r.log, c)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx, c, newReporter(io.Discard, false), nil) }()
	r.end = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log.String())
		}
	})
	return r
}

// say is --port for a name and what follows it.
func (r *running) say(name string) string {
	name, options, _ := strings.Cut(name, ",")
	if options != "" {
		options = "," + options
	}
	return name + "=" + r.path(name) + options
}

func (r *running) path(name string) string { return filepath.Join(r.dir, name) }

func (r *running) add(name string) error {
	r.t.Helper()
	spec, err := parsePort(r.say(name))
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = r.addPort(spec)
	return err
}

func (r *running) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// Ports come and go while others exchange frames; a name is free again when its
// port is gone.
func TestPortsComeAndGo(t *testing.T) {
	r := runDaemon(t, "a")
	a := connect(t, r.path("a"), vutest.Options{})
	for range 3 {
		r.must(r.add("b"))
		b := connect(t, r.path("b"), vutest.Options{})
		exchange(t, a, b, 5)
		exchangeAs(t, b, a, 'a', 'b', 5)
		r.must(r.removePort("b"))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := b.WaitClosed(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if _, err := os.Lstat(r.path("b")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket of a port that was removed: %v", err)
		}
		if n := len(r.vswitch.Ports()); n != 1 {
			t.Errorf("%d ports on the switch, one is left", n)
		}
	}
	for name, what := range map[string]string{
		"a":          "another port has the name",
		"w,mirror=a": "sink=on",
		"w,mirror=x": "name of another port",
	} {
		err := r.add(name)
		var usage usageError
		if err == nil || !errors.As(err, &usage) || !strings.Contains(err.Error(), what) {
			t.Errorf("port %s: %v; want an error of use with %q", name, err, what)
		}
	}
	if err := r.removePort("b"); err == nil || !strings.Contains(err.Error(), "no port b") {
		t.Errorf("a port that is gone is removed: %v", err)
	}
	r.must(r.add("watch,sink=on"))
	r.must(r.add("b,mirror=watch"))
	if err := r.removePort("watch"); err == nil || !strings.Contains(err.Error(), "copied to port watch") {
		t.Errorf("a port that watches another one is removed: %v", err)
	}
	watch, b := connect(t, r.path("watch"), vutest.Options{}), connect(t, r.path("b"), vutest.Options{})
	exchange(t, a, b, 1)
	if _, err := watch.Recv(0, patience); err != nil {
		t.Error("no copy of a mirrored frame: ", err)
	}
	r.must(r.removePort("b"))
	r.must(r.removePort("watch"))
	exchangeAs(t, a, connectAgain(t, r), 'b', 'a', 3)
}

// connectAgain adds b and connects it.
func connectAgain(t *testing.T, r *running) *vutest.FrontEnd {
	t.Helper()
	r.must(r.add("b"))
	return connect(t, r.path("b"), vutest.Options{})
}

// A socket that cannot be had leaves nothing of its port: the name is free.
func TestPortThatDoesNotOpen(t *testing.T) {
	r := runDaemon(t, "a")
	l, err := net.Listen("unix", r.path("b"))
	r.must(err)
	if err := r.add("b"); err == nil || len(r.vswitch.Ports()) != 1 || r.ports.find("b") != nil {
		t.Errorf("a port on a socket that somebody else serves: %v, %d ports", err, len(r.vswitch.Ports()))
	}
	r.must(l.Close())
	r.must(r.add("b"))
}

// Adds and removals from everywhere, and the end of the program in the middle of
// them: each one is done or refused, and nothing is left.
func TestPortsChangeUntilTheEnd(t *testing.T) {
	r := runDaemon(t, "a")
	var changing sync.WaitGroup
	begun := make(chan struct{}, 8)
	for i := range 4 {
		changing.Go(func() {
			for {
				name := string(rune('b' + i%2)) // two want each name
				err := r.add(name)
				if err == nil {
					err = r.removePort(name)
				}
				select {
				case begun <- struct{}{}:
				default:
				}
				if errors.Is(err, errEnding) {
					return
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	r.must(r.end())
	changing.Wait()
	if n := len(r.vswitch.Ports()); n != 0 {
		t.Errorf("%d ports are left on the switch", n)
	}
}

// Two ports may be told one address: the VM has it where its queue runs, and of
// two that run the first that began.
func TestTwoPortsOfOneAddress(t *testing.T) {
	const told = ",mac=52:54:00:00:00:62" // of "b"
	r := runDaemon(t, "a", "from"+told, "to"+told)
	a, from := connect(t, r.path("a"), vutest.Options{}), connect(t, r.path("from"), vutest.Options{})
	exchange(t, a, from, 3)
	to := connect(t, r.path("to"), vutest.Options{})
	exchange(t, a, from, 3) // the other one's queue came later
	if err := from.Close(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the first one's session to end", func() bool { return strings.Contains(r.log.String(), "front-end disconnected") })
	exchange(t, a, to, 3)
	exchangeAs(t, to, a, 'a', 'b', 3)
}
