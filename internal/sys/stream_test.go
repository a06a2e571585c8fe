package sys

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// ends are the two ends of a pipe (read, write) or of a socket pair, blocking,
// as a peer would make them.
func ends(t *testing.T, pipe bool) (r, w *FD) {
	t.Helper()
	var fds [2]int
	var err error
	if pipe {
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	} else {
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return OwnFD(fds[0]), OwnFD(fds[1])
}

func stream(t *testing.T, fd *FD) *Stream {
	t.Helper()
	s, err := StreamFrom(fd)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStream(t *testing.T) {
	for name, pipe := range map[string]bool{"pipe": true, "socket": false} {
		t.Run(name, func(t *testing.T) {
			sent := make([]byte, 1<<20+13) // more than any buffer
			for i := range sent {
				sent[i] = byte(rand.Uint32())
			}
			rfd, wfd := ends(t, pipe)
			r, w := stream(t, rfd), stream(t, wfd)
			defer r.Close()
			done := make(chan error, 1)
			go func() {
				_, err := w.Write(sent)
				w.Close()
				done <- err
			}()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A peer that neither reads nor writes holds nobody: Stop ends the wait.
func TestStreamStops(t *testing.T) {
	for name, pipe := range map[string]bool{"pipe": true, "socket": false} {
		t.Run(name, func(t *testing.T) {
			rfd, wfd := ends(t, pipe)
			idle, w := rfd, stream(t, wfd)
			done := make(chan error, 1)
			go func() {
				_, err := w.Write(make([]byte, 1<<22))
				done <- err
			}()
			w.Stop()
			if err := <-done; !errors.Is(err, errStopped) {
				t.Errorf("write: %v", err)
			}
			w.Close()
			_ = idle.Close()

			rfd, wfd = ends(t, pipe)
			r := stream(t, rfd)
			go func() {
				_, err := r.Read(make([]byte, 10))
				done <- err
			}()
			r.Stop()
			if err := <-done; !errors.Is(err, errStopped) {
				t.Errorf("read: %v", err)
			}
			r.Close()
			_ = wfd.Close()
		})
	}
}

func TestStreamPeerGone(t *testing.T) {
	for name, pipe := range map[string]bool{"pipe": true, "socket": false} {
		r, wfd := ends(t, pipe)
		w := stream(t, wfd)
		_ = r.Close()
		if _, err := w.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: %v", name, err)
		}
		w.Close()
	}
	r, w := ends(t, true)
	wrong := stream(t, r) // cannot be written to
	if _, err := wrong.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("write to the reading end: %v", err)
	}
	wrong.Close()
	_ = w.Close()
}

// V34: only pipes and stream sockets are taken, and nothing is kept of others.
func TestV34_StreamFromRefuses(t *testing.T) {
	for name, open := range map[string]func() (int, error){
		"memfd":    func() (int, error) { return unix.MemfdCreate("x", unix.MFD_CLOEXEC) },
		"file":     func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0) },
		"eventfd":  func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) },
		"datagram": func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) },
		"inet":     func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) },
		"path":     func() (int, error) { return unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0) },
		"none":     func() (int, error) { return -1, nil },
	} {
		n, err := open()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fd := OwnFD(n)
		if s, err := StreamFrom(fd); err == nil {
			t.Errorf("%s is taken", name)
			s.Close()
		}
		if fd.Num() != -1 {
			t.Errorf("%s is kept", name)
		}
	}
}
