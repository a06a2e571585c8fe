package vhostuser

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// newConn is a conn with its peer's end.
func newConn(t *testing.T, within time.Duration) (c *conn, peer *sys.Conn) {
	t.Helper()
	ours, theirs, err := sys.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
	})
	return &conn{Conn: ours, receive: within, send: within}, theirs
}

// A deadline that is left behind wakes the process. So there is none where nothing
// has to be waited for: each of these would be over.
func TestWholeMessagesNeedNoDeadline(t *testing.T) {
	c, peer := newConn(t, -time.Hour)
	for range 100 {
		if err := peer.Send(Message(SetFeatures, FlagVersion, U64(1).Marshal()), nil); err != nil {
			t.Fatal(err)
		}
		m, err := c.next()
		if err != nil {
			t.Fatalf("a message that was there: %v", err)
		}
		m.close()
		if err := c.reply(GetFeatures, U64(1).Marshal()); err != nil {
			t.Fatalf("a reply for which there was room: %v", err)
		}
		reply := make([]byte, HeaderLen+8)
		if n, _, err := peer.Recv(reply, 0); n != len(reply) || err != nil {
			t.Fatalf("%d bytes of a reply, %v", n, err)
		}
	}
	if c.late {
		t.Error("a deadline was set for messages that were there")
	}
}

// What has to be waited for is bounded.
func TestWaitsAreBounded(t *testing.T) {
	c, peer := newConn(t, -time.Hour)
	part := Message(SetFeatures, FlagVersion, U64(1).Marshal())[:HeaderLen+1]
	if err := peer.Send(part, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a part of a message: %v", err)
	}
	var err error
	for err == nil { // until the socket is full
		err = c.reply(GetFeatures, U64(1).Marshal())
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a reply that nobody reads: %v", err)
	}
}

// A message and a reply that had to be waited for leave no deadline to those that
// follow. What the test does in time takes longer on a busy machine: then it is
// done again with more time.
func TestDeadlineEndsWithItsMessage(t *testing.T) {
	within := 100 * time.Millisecond
	for ; within < time.Minute; within *= 2 {
		c, peer := newConn(t, within)
		if !slowMessage(t, c, peer) || !slowReply(t, c, peer) {
			continue
		}
		time.Sleep(within + within/2)
		if err := c.reply(GetFeatures, U64(1).Marshal()); err != nil {
			t.Errorf("a reply after one that was late: %v", err)
		}
		sent := make(chan error, 1)
		go func() {
			runtime.Gosched() // so that it is waited for, as a rule
			sent <- peer.Send(Message(SetFeatures, FlagVersion, U64(1).Marshal()), nil)
		}()
		if _, err := c.next(); err != nil {
			t.Errorf("a message after one that was late: %v", err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		return
	}
	t.Fatalf("nothing was done within %v", within)
}

// slowMessage sends a message in two parts, of which the second has to be waited
// for, and reports whether that was in time.
func slowMessage(t *testing.T, c *conn, peer *sys.Conn) (inTime bool) {
	t.Helper()
	whole := Message(SetFeatures, FlagVersion, U64(1).Marshal())
	if err := peer.Send(whole[:HeaderLen+1], nil); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		time.Sleep(time.Millisecond)
		sent <- peer.Send(whole[HeaderLen+1:], nil)
	}()
	_, err := c.next()
	if e := <-sent; e != nil {
		t.Fatal(e)
	}
	return err == nil && c.late
}

// slowReply fills the socket until a reply has to wait, and reports whether that
// one went in time.
func slowReply(t *testing.T, c *conn, peer *sys.Conn) (inTime bool) {
	t.Helper()
	full, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		<-full
		buf := make([]byte, 4096)
		for {
			n, _, err := peer.Recv(buf, 0)
			if err != nil || n == 0 {
				return
			}
		}
	}()
	message := Message(GetFeatures, ReplyFlags, U64(1).Marshal())
	over := errors.New("the socket is full")
	for {
		if err := c.SendBounded(message, nil, func() error { return over }); errors.Is(err, over) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	replied := make(chan error, 1)
	go func() { replied <- c.reply(GetFeatures, U64(1).Marshal()) }()
	time.Sleep(time.Millisecond)
	close(full)
	inTime = <-replied == nil
	t.Cleanup(func() {
		_ = c.Close()
		<-read
	})
	return inTime
}
