package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const testLimit = 30 * time.Second

// shell starts a script; it is killed when the test ends.
func shell(t *testing.T, script string) *process {
	t.Helper()
	p, err := startProcess("script", nil, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.stop(func() {}, 0) }) // an error for one that has ended
	return p
}

func TestWaitForReturnsWhatComesBeforeTheMarker(t *testing.T) {
	p := shell(t, `echo ready; read line; echo "got $line"; echo done; read rest`)
	if _, err := p.waitFor(t.Context(), 0, "ready\n", testLimit); err != nil {
		t.Fatal(err)
	}
	from := p.out.length()
	if _, err := io.WriteString(p.in, "this\n"); err != nil {
		t.Fatal(err)
	}
	got, err := p.waitFor(t.Context(), from, "done", testLimit)
	if err != nil || got != "got this\n" {
		t.Errorf("got %q, %v, want %q", got, err, "got this\n")
	}
}

func TestWaitForEndsWithTheProcess(t *testing.T) {
	p := shell(t, "echo last words; exit 3")
	got, err := p.waitFor(t.Context(), 0, "ready", testLimit)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || got != "last words\n" {
		t.Errorf("got %q, %v, want the last words and the exit status", got, err)
	}
	if p.stop(func() {}, testLimit) == nil {
		t.Error("that the process had ended by itself was not reported")
	}
}

func TestWaitForIsBounded(t *testing.T) {
	p := shell(t, "read never")
	if _, err := p.waitFor(t.Context(), 0, "ready", time.Millisecond); err == nil {
		t.Error("no error although nothing was printed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.waitFor(ctx, 0, "ready", testLimit); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
}

func TestStopKillsTheGroupOfOneThatDoesNotListen(t *testing.T) {
	p := shell(t, `trap "" TERM; sleep 1000 & echo child $!; wait`)
	if _, err := p.waitFor(t.Context(), 0, "\n", testLimit); err != nil {
		t.Fatal(err)
	}
	err := p.stop(func() { p.signal(syscall.SIGTERM) }, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stop says %v, want that it was killed", err)
	}
	text, _ := p.out.after(0)
	child := strings.Fields(text)[1]
	for deadline := time.Now().Add(testLimit); alive(child); {
		if time.Now().After(deadline) {
			t.Fatalf("the script's child %s is still there", child)
		}
		time.Sleep(time.Millisecond)
	}
}

// alive tells whether a process runs: not gone, and no zombie that waits for
// its new parent.
func alive(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestStopAsksFirst(t *testing.T) {
	p := shell(t, "read line; echo $line")
	if err := p.stop(func() { _, _ = io.WriteString(p.in, "bye\n") }, testLimit); err != nil {
		t.Error(err)
	}
	if got := p.tail(10); !strings.Contains(got, "bye") {
		t.Errorf("the tail is %q", got)
	}
}

func TestStartProcessThatIsNotThere(t *testing.T) {
	if _, err := startProcess("nobody", nil, "/nowhere/program"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("error %v, want one that names the program", err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	o := newOutput()
	chunk := []byte(strings.Repeat("x", maxOutput/4))
	for range 8 {
		if n, err := o.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("Write says %d, %v", n, err)
		}
	}
	if _, err := o.Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	if len(o.text) > maxOutput || o.length() != 2*maxOutput+3 {
		t.Errorf("%d bytes are kept and %d counted, want at most %d and %d", len(o.text), o.length(), maxOutput, 2*maxOutput+3)
	}
	if got, _ := o.after(2 * maxOutput); got != "end" {
		t.Errorf("after the last chunk comes %q, want %q", got, "end")
	}
}

func TestParseWaited(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"9000000000 1500000000 77\n": 1500 * time.Millisecond,
		"0 0 0\n":                    0,
		"":                           0,
	} {
		if got := parseWaited(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
