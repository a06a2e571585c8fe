package main

import (
	"net"
	"strings"
	"testing"
	"time"
)

// The clients find out that a server echoes, and that it does not.
func TestEchoClients(t *testing.T) {
	addr := freeAddress(t)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- echo(addr, stop) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := connections(addr, 20, 5000); err != nil {
		t.Error(err)
	}
	if err := datagram(addr, 9000); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := connections(addr, 3, 5000); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without a server: %v", err)
	}
}

// A server that answers something else is told from one that echoes.
func TestNoEcho(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write(make([]byte, 100))
		_, _ = conn.Read(make([]byte, 100))
	}()
	if err := connections(ln.Addr().String(), 1, 100); err == nil || !strings.Contains(err.Error(), errEcho.Error()) {
		t.Errorf("%v, want %v", err, errEcho)
	}
}
