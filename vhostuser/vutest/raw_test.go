package vutest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// TestStrictReplies plays back-ends whose replies real front-ends refuse.
func TestStrictReplies(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(reply []byte) [][]byte
		want  string // part of the error
	}{
		{"a part of the header", func(b []byte) [][]byte { return [][]byte{b[:5]} }, "in pieces"},
		{"a part of the payload", func(b []byte) [][]byte { return [][]byte{b[:17]} }, "in pieces"},
		{"NEED_REPLY is left in the flags", func(b []byte) [][]byte {
			binary.NativeEndian.PutUint32(b[4:], 1|4|8)
			return [][]byte{b}
		}, "flags 0xd"},
		{"another request", func(b []byte) [][]byte { b[0] = byte(vhostuser.GetQueueNum); return [][]byte{b} }, "answered by GET_QUEUE_NUM"},
		{"a long payload", func(b []byte) [][]byte {
			binary.NativeEndian.PutUint32(b[8:], 1<<20)
			return [][]byte{b}
		}, "no reply is that long"},
		{"a short payload", func(b []byte) [][]byte {
			binary.NativeEndian.PutUint32(b[8:], 4)
			return [][]byte{b[:16]}
		}, "payload of 4 bytes"},
		{"nothing", func([]byte) [][]byte { return nil }, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{alter: func(_ vhostuser.Request, reply []byte) [][]byte { return c.alter(reply) }}
			f := vutest.Connect(t, s.listen(t), vutest.Options{Kind: vutest.QEMU10, Timeout: 50 * time.Millisecond})
			err := f.Barrier(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// TestRequest sends what a real back-end refuses.
func TestRequest(t *testing.T) {
	vutest.CheckLeaks(t)
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var refused *vutest.RefusedError
	if _, err := f.Request(ctx, 999, nil, nil, true); !errors.As(err, &refused) || refused.Request != 999 || refused.Code == 0 {
		t.Fatalf("an unknown request: %v", err)
	}
	table, fds, err := f.MemTable()
	if err != nil {
		t.Fatal(err)
	}
	table.Regions[0].Size = 1 << 40
	_, err = f.Request(ctx, vhostuser.SetMemTable, table.Marshal(), fds, true)
	sys.CloseAll(fds)
	if !errors.As(err, &refused) {
		t.Fatalf("a table beyond its files: %v", err)
	}
	exchange(t, f, 0, shapes(f.Features(), 1400)) // all is as before
	if _, err := f.Request(ctx, vhostuser.SetVringNum, []byte{1, 2, 3}, nil, false); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitClosed(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Barrier(ctx); err == nil {
		t.Fatal("a closed connection answered")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.Request(cancelled, vhostuser.SetOwner, nil, nil, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("want %v, got %v", context.Canceled, err)
	}
}

// TestTruncate takes the memory away under a running guest: its own accesses
// are errors, and the process lives.
func TestTruncate(t *testing.T) {
	vutest.CheckLeaks(t)
	_, path := serve(t, 1, 0)
	for _, k := range vutest.Kinds() {
		f := vutest.Connect(t, path, vutest.Options{Kind: k, Truncatable: true, Timeout: 2 * time.Second})
		ctx := timeout(t)
		if _, err := f.Start(ctx); err != nil {
			t.Fatal(err)
		}
		exchange(t, f, 0, shapes(f.Features(), 1400))
		for _, r := range f.Regions() {
			if err := f.Truncate(r.File, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Send(0, vutest.Frame{Data: frame(60, 1)}); err == nil {
			t.Errorf("%s: sent a frame in memory that is gone", k)
		}
		if _, _, err := f.TryRecv(0); err == nil {
			t.Errorf("%s: received from memory that is gone", k)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	if err := f.Truncate(0, 0); err == nil {
		t.Error("sealed memory was truncated")
	}
	if _, err := f.Start(timeout(t)); err != nil { // the port serves the next one
		t.Fatal(err)
	}
}

// TestReconnectRetries connects again while nobody listens yet.
func TestReconnectRetries(t *testing.T) {
	s := &script{protocol: vhostuser.Offered}
	path := s.listen(t)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10, Timeout: patience})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	tried, back := make(chan struct{}), make(chan error, 1)
	go func() {
		<-tried
		back <- os.Rename(path+".away", path)
	}()
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.Reconnect(short); err == nil {
		t.Fatal("connected where nobody listens")
	}
	close(tried)
	if _, err := f.Reconnect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-back; err != nil {
		t.Fatal(err)
	}
}

// TestHostileCall checks that the event is what it says: full, so that a
// writer that looks first does not write.
func TestHostileCall(t *testing.T) {
	vutest.CheckLeaks(t)
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	fd, err := vutest.HostileCall()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fd.Close() }()
	for ring := range 2 {
		if err := f.SetCallFD(ctx, ring, fd); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, f, 0, shapes(f.Features(), 1400))
}

// TestSuppression checks that both ends keep to what the other one wants: a
// device that polls is not kicked for every frame, and a driver that polls is
// not called.
func TestSuppression(t *testing.T) {
	for _, k := range []vutest.Kind{vutest.QEMU10, vutest.VirtioUser} { // with and without EVENT_IDX
		_, path := serve(t, 1, 0)
		f := vutest.Connect(t, path, vutest.Options{Kind: k})
		if _, err := f.Start(timeout(t)); err != nil {
			t.Fatal(err)
		}
		var frames []vutest.Frame
		for i := range 50 {
			frames = append(frames, vutest.Frame{Data: frame(100, byte(i))})
		}
		before := f.Kicks(1)
		exchange(t, f, 0, frames)
		if n := f.Kicks(1) - before; n > 1 {
			t.Errorf("%s: %d kicks for frames that were published together", k, n)
		}
		calls := f.Calls(0)
		for range 20 { // looks by itself: no calls wanted
			if err := f.Send(0, frames[0]); err != nil {
				t.Fatal(err)
			}
			if err := f.WaitSent(0); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := f.TryRecv(0); err != nil || !ok {
				t.Fatalf("no frame: %t, %v", ok, err)
			}
		}
		if n := f.Calls(0) - calls; n != 0 {
			t.Errorf("%s: %d calls were made to a driver that polls", k, n)
		}
	}
}
