package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pair joins a client and a server over a pipe and waits for the hello: what is
// sent before it is lost.
func pair(t *testing.T) *Client {
	t.Helper()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(guest, Hello{BootID: "one", Kernel: "k"}) }()
	c := NewClient(host)
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Serve: %v", err)
		}
	})
	if _, _, err := c.Hello(bounded(t), 1); err != nil {
		t.Fatal(err)
	}
	return c
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestRun(t *testing.T) {
	c := pair(t)
	ctx := bounded(t)
	hello, n, err := c.Hello(ctx, 1)
	if err != nil || n != 1 || hello.BootID != "one" {
		t.Fatalf("Hello = %+v, %d, %v", hello, n, err)
	}
	for _, test := range []struct {
		script, out, err string
	}{
		{script: "echo out; echo err >&2", out: "out\nerr\n"},
		{script: "printf '\\000\\377{\"id\":1}\\n'", out: "\x00\ufffd{\"id\":1}\n"},
		{script: "echo said; exit 7", out: "said\n", err: "exit code 7; it printed: said"},
		{script: "kill -9 $$", err: "signal: killed"},
		{script: fmt.Sprintf("head -c %d /dev/zero | tr '\\000' x", OutputLimit), out: strings.Repeat("x", OutputLimit)},
		{script: fmt.Sprintf("head -c %d /dev/zero | tr '\\000' x", OutputLimit+1), out: strings.Repeat("x", OutputLimit), err: "printed more than"},
	} {
		out, err := c.Run(ctx, "sh", "-c", test.script)
		if out != test.out {
			t.Errorf("%s: printed %.100q, want %.100q", test.script, out, test.out)
		}
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: error %v, want %q", test.script, err, test.err)
		}
	}
	if _, err := c.Run(ctx, "/no/such/program"); err == nil {
		t.Error("a program that does not exist ran")
	}
	if _, err := c.Run(context.Background(), "true"); err == nil {
		t.Error("a command without a deadline was accepted")
	}
}

func TestCommandsRunAtTheSameTime(t *testing.T) {
	c := pair(t)
	ctx := bounded(t)
	long, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(long, "sh", "-c", "sleep 1000 & sleep 1000")
		ended <- err
	}()
	if _, err := c.Run(ctx, "true"); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled command ended with %v", err)
	}
}

func TestTimeout(t *testing.T) {
	c := pair(t)
	ctx, cancel := context.WithTimeout(bounded(t), 200*time.Millisecond)
	defer cancel()
	_, err := c.Run(ctx, "sh", "-c", "echo begun; sleep 1000")
	if err == nil || !strings.Contains(err.Error(), "begun") {
		t.Errorf("a command that was killed for its time ended with %v; want what it had printed", err)
	}
}

// TestSecondHello has a guest that restarts under a running command and that
// writes garbage around its lines.
func TestSecondHello(t *testing.T) {
	host, guest := net.Pipe()
	c := NewClient(host)
	defer c.Close()
	ctx := bounded(t)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, "x")
		ended <- err
	}()
	if _, err := guest.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(guest, "\x00\x1b[2J garbage\n{\"id\":99}\n{\"hello\":{\"boot_id\":\"two\"}}\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrRestarted) {
		t.Errorf("the command ended with %v, want %v", err, ErrRestarted)
	}
	if hello, _, err := c.Hello(ctx, 1); err != nil || hello.BootID != "two" {
		t.Errorf("Hello = %+v, %v", hello, err)
	}
	guest.Close()
	if _, _, err := c.Hello(ctx, 2); !errors.Is(err, ErrClosed) {
		t.Errorf("Hello after the end = %v, want %v", err, ErrClosed)
	}
	if _, err := c.Run(ctx, "x"); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after the end = %v, want %v", err, ErrClosed)
	}
}

func TestBadRequests(t *testing.T) {
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(guest, Hello{}) }()
	replies := make(chan string, 8)
	go func() {
		defer close(replies)
		buf := make([]byte, 4096)
		for {
			n, err := host.Read(buf)
			if err != nil {
				return
			}
			replies <- string(buf[:n])
		}
	}()
	<-replies // hello
	for _, line := range []string{"not json", `{"id":3}`, `{"id":4,"argv":["true"]}`} {
		if _, err := io.WriteString(host, line+"\n"); err != nil {
			t.Fatal(err)
		}
		if r := <-replies; !strings.Contains(r, `"error":`) {
			t.Errorf("%s was answered with %s", line, r)
		}
	}
	if _, err := io.WriteString(host, `{"id":5,"cancel":true}`+"\n"); err != nil {
		t.Fatal(err)
	}
	host.Close()
	if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Serve: %v", err)
	}
}
