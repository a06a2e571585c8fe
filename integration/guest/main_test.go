package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vhostnet/integration/stream"
)

func TestSendReceive(t *testing.T) {
	const n = 3*progressStep + 5
	progress := filepath.Join(t.TempDir(), "progress")
	addr := freeAddress(t)
	type result struct {
		sum stream.Summary
		err error
	}
	received := make(chan result, 1)
	go func() {
		sum, err := receive(addr, 9, n, progress)
		received <- result{sum, err}
	}()
	sent, err := send(addr, 9, n, nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-received:
		if r.err != nil || r.sum != sent || sent.Bytes != n {
			t.Errorf("sent %+v, received %+v, %v", sent, r.sum, r.err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the receiver does not end")
	}
	if told, err := os.ReadFile(progress); err != nil || len(told) == 0 || string(told) == "0" {
		t.Errorf("progress %q, %v", told, err)
	}
}

// TestSendNeedsAnAnswer has a receiver that goes away once it has all.
func TestSendNeedsAnAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		// What it says of the bytes is the other test's matter.
		_, _ = stream.Receive(conn, 9, 1000, nil)
	}()
	if _, err := send(listener.Addr().String(), 9, 1000, nil); err == nil {
		t.Error("send is content without the receiver's answer")
	}
}

// TestProbe sees datagrams come until the probe is stopped.
func TestProbe(t *testing.T) {
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := sink.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- probe(sink.LocalAddr().String(), time.Millisecond, stop) }()
	for range 3 {
		if _, err := sink.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"boot"}, {"send", "-bytes", "x"}} {
		if err := run(args); err == nil {
			t.Errorf("run(%q) is content", args)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestConnect: connections that are closed are counted, one that is spoken to
// and one that nobody takes are errors.
func TestConnect(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	speak := make(chan bool, 1)
	speak <- false
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			told := <-speak
			if told {
				// Who hears it says so.
				_, _ = conn.Write([]byte{1})
			}
			speak <- told
			conn.Close()
		}
	}()
	addr := listener.Addr().String()
	if err := visit(addr); err != nil {
		t.Error(err)
	}
	<-speak
	speak <- true
	if err := visit(addr); !errors.Is(err, errSpoken) {
		t.Errorf("a connection that was spoken to: %v, want %v", err, errSpoken)
	}
	listener.Close()
	<-done
	if err := connect(addr, time.Millisecond); err == nil {
		t.Error("connections that nobody takes are no error")
	}
}
