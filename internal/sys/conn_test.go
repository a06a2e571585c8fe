package sys

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

// eventfds makes n descriptors to send.
func eventfds(t *testing.T, n int) []*FD {
	t.Helper()
	fds := make([]*FD, n)
	for i := range fds {
		fds[i] = eventfd(t, 0, 0)
	}
	t.Cleanup(func() { CloseAll(fds) })
	return fds
}

func TestConnPassesDescriptors(t *testing.T) {
	a, b := pair(t)
	for _, n := range []int{0, 1, 2, 3, 8, MaxFDs} {
		sent := eventfds(t, n)
		if err := a.Send([]byte("hello"), sent); err != nil {
			t.Fatalf("%d descriptors: %v", n, err)
		}
		for _, fd := range sent {
			if fd.Num() < 0 {
				t.Fatal("Send took a descriptor away")
			}
		}
		buf := make([]byte, 64)
		got, fds, err := b.Recv(buf, n)
		if err != nil || string(buf[:got]) != "hello" || len(fds) != n {
			t.Fatalf("%d descriptors: received %q and %d, %v", n, buf[:got], len(fds), err)
		}
		for i, fd := range fds {
			if _, err := unix.Write(sent[i].Num(), oneSignal); err != nil {
				t.Fatal(err)
			}
			if count(t, fd) != 1 {
				t.Errorf("descriptor %d of %d is another file", i, n)
			}
			if flags, err := unix.FcntlInt(uintptr(fd.Num()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d: flags %#x, %v; want close-on-exec", i, flags, err)
			}
		}
		CloseAll(fds)
		CloseAll(sent)
	}
}

// V1, V4: more descriptors than the message may carry; none is left open.
func TestV4_TruncatedDescriptorsAreClosed(t *testing.T) {
	for _, c := range []struct{ send, want int }{{32, 8}, {2, 1}, {1, 0}, {4, 3}, {MaxFDs, 0}, {9, 8}, {8, 7}} {
		a, b := pair(t)
		if err := a.Send([]byte{1}, eventfds(t, c.send)); err != nil {
			t.Fatal(err)
		}
		before := openFDs()
		_, fds, err := b.Recv(make([]byte, 16), c.want)
		if !errors.Is(err, ErrTruncated) || fds != nil {
			t.Errorf("%d sent, %d wanted: got %d, %v", c.send, c.want, len(fds), err)
		}
		if n := openFDs(); n != before {
			t.Errorf("%d sent, %d wanted: %d left open", c.send, c.want, n-before)
		}
	}
}

// V22: at the limit of open files the kernel delivers a part of the list.
func TestV22_DescriptorLimit(t *testing.T) {
	a, b := pair(t)
	if err := a.Send([]byte{1}, eventfds(t, 8)); err != nil {
		t.Fatal(err)
	}
	before := openFDs()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	free := must[int](t)(unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)) // the lowest number that is free
	if err := unix.Close(free); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, fds, err := b.Recv(make([]byte, 16), 8)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrTruncated) || fds != nil {
		t.Errorf("got %d descriptors, %v", len(fds), err)
	}
	if n := openFDs(); n != before {
		t.Errorf("%d left open", n-before)
	}
}

func TestConnEndOfStream(t *testing.T) {
	a, b := pair(t)
	if a.PeerGone() {
		t.Error("a live peer is gone")
	}
	if err := a.Send([]byte("last"), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if !b.PeerGone() { // although there is something to read
		t.Error("a closed peer is not gone")
	}
	buf := make([]byte, 16)
	if n, _, err := b.Recv(buf, 1); err != nil || string(buf[:n]) != "last" {
		t.Errorf("before the end: %q, %v", buf[:n], err)
	}
	if _, _, err := b.Recv(buf, 1); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if err := b.Send([]byte("x"), nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send to nobody: %v", err)
	}
	if !a.PeerGone() {
		t.Error("a closed Conn has a peer")
	}
}

func TestConnCloseUnblocks(t *testing.T) {
	a, _ := pair(t)
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, _, err := a.Recv(make([]byte, 1), 1)
		result <- err
	}()
	runtime.Gosched()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "Recv", func() {
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Recv of a closed Conn: %v", err)
		}
	})
}

// V19: a peer that does not read makes Send wait until its deadline only.
func TestV19_Deadlines(t *testing.T) {
	a, _ := pair(t)
	if err := a.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Recv(make([]byte, 1), 0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Recv: %v", err)
	}
	if err := a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(make([]byte, 16<<20), nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send: %v", err)
	}
}

// A message longer than the socket's buffer arrives whole, with its
// descriptors once.
func TestConnLongMessage(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 4<<20)
	for i := range sent {
		sent[i] = byte(i * 7)
	}
	fds := eventfds(t, 3)
	result := make(chan error, 1)
	go func() { result <- a.Send(sent, fds) }()
	var got []byte
	received := 0
	buf := make([]byte, 100_000)
	for len(got) < len(sent) {
		n, fds, err := b.Recv(buf, 8)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
		received += len(fds)
		CloseAll(fds)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) || received != 3 {
		t.Errorf("received %d bytes, equal %v, and %d descriptors", len(got), bytes.Equal(got, sent), received)
	}
}

func TestConnRefusesBadCalls(t *testing.T) {
	a, _ := pair(t)
	if _, _, err := a.Recv(nil, 1); err == nil {
		t.Error("Recv of nothing succeeded")
	}
	for _, n := range []int{-1, MaxFDs + 1} {
		if _, _, err := a.Recv(make([]byte, 1), n); err == nil {
			t.Errorf("Recv of %d descriptors succeeded", n)
		}
	}
	if err := a.Send(nil, nil); err == nil {
		t.Error("Send of nothing succeeded")
	}
	if err := a.Send([]byte{1}, make([]*FD, MaxFDs+1)); err == nil {
		t.Error("Send of too many descriptors succeeded")
	}
	if err := a.Send([]byte{1}, []*FD{nil}); !errors.Is(err, unix.EBADF) {
		t.Errorf("Send of a closed descriptor: %v", err)
	}
}

func TestConnFromRefusesOtherSockets(t *testing.T) {
	socket := func(domain, kind int) func() (int, error) {
		return func() (int, error) { return unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0) }
	}
	for name, f := range map[string]func() (int, error){
		"datagram":  socket(unix.AF_UNIX, unix.SOCK_DGRAM),
		"packets":   socket(unix.AF_UNIX, unix.SOCK_SEQPACKET),
		"inet":      socket(unix.AF_INET, unix.SOCK_STREAM),
		"no socket": func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) },
		"none":      func() (int, error) { return -1, nil },
	} {
		before := openFDs()
		n := must[int](t)(f())
		if yes, err := IsListening(n); err == nil {
			t.Errorf("%s: is a stream socket, listening %v", name, yes)
		}
		if c, err := ConnFrom(OwnFD(n)); err == nil {
			t.Errorf("%s: accepted as a Conn", name)
			_ = c.Close()
		}
		n = must[int](t)(f())
		if l, err := ListenerFrom(OwnFD(n)); err == nil {
			t.Errorf("%s: accepted as a listener", name)
			_ = l.Close()
		}
		if n := openFDs(); n != before {
			t.Errorf("%s: %d descriptors left open", name, n-before)
		}
	}
}

// An inherited listener serves, and leaves the socket's file to its maker.
func TestListenerFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s := must[int](t)(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(s, 4); err != nil {
		t.Fatal(err)
	}
	// Credentials would take the room of descriptors (systemd: PassCredentials=).
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	if yes, err := IsListening(s); err != nil || !yes {
		t.Errorf("a listener: %v, %v", yes, err)
	}
	if c, err := ConnFrom(OwnFD(must[int](t)(unix.Dup(s)))); err == nil {
		t.Error("a listener is accepted as a Conn")
		_ = c.Close()
	}
	l := must[*net.UnixListener](t)(ListenerFrom(OwnFD(s)))
	client := must[*Conn](t)(NewConn(must[*net.UnixConn](t)(net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}))))
	defer client.Close()
	server := must[*Conn](t)(NewConn(must[*net.UnixConn](t)(l.AcceptUnix())))
	defer server.Close()
	if err := client.Send([]byte("hi"), eventfds(t, 1)); err != nil {
		t.Fatal(err)
	}
	_, fds, err := server.Recv(make([]byte, 8), 1)
	if err != nil || len(fds) != 1 {
		t.Errorf("received %d descriptors, %v", len(fds), err)
	}
	CloseAll(fds)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file: %v", err)
	}
}
