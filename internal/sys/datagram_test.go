package sys

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// What can be read and written now is told from what cannot, from the end and
// from an error.
func TestReadAndWriteNow(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := fds[0], fds[1]
	defer unix.Close(near)
	b := make([]byte, 64<<10)
	if n, err := Waiting(near); n != 0 || err != nil {
		t.Errorf("%d bytes wait, %v, want none", n, err)
	}
	if n, again, err := ReadNow(near, b); n != 0 || !again || err != nil {
		t.Errorf("%d bytes, again %v, %v, of an empty socket", n, again, err)
	}
	sent := 0
	for {
		n, again, err := WriteNow(far, b)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
		if again {
			break
		}
	}
	if n, err := Waiting(near); n != sent || sent == 0 || err != nil {
		t.Errorf("%d bytes wait, %v, want %d", n, err, sent)
	}
	for sent > 0 {
		n, again, err := ReadNow(near, b)
		if n == 0 || again || err != nil || !bytes.Equal(b[:n], make([]byte, n)) {
			t.Fatalf("%d bytes, again %v, %v, with %d left", n, again, err, sent)
		}
		sent -= n
	}
	unix.Close(far)
	if n, again, err := ReadNow(near, b); n != 0 || again || err != nil {
		t.Errorf("%d bytes, again %v, %v, at the end", n, again, err)
	}
	if n, again, err := WriteNow(near, b); n != 0 || again || err == nil {
		t.Errorf("%d bytes, again %v, %v, to nobody", n, again, err)
	}
	if _, err := Waiting(-1); err == nil {
		t.Error("nothing waits, and nothing is wrong")
	}
}
