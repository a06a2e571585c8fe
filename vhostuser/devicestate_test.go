package vhostuser

import (
	"bytes"
	"io"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// channels are the ways over which front-ends pass a state: QEMU and crosvm use
// a pipe, Cloud Hypervisor a socket pair.
var channels = map[string]func(t testing.TB) (r, w *sys.FD){
	"pipe": func(t testing.TB) (r, w *sys.FD) {
		t.Helper()
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return sys.OwnFD(fds[0]), sys.OwnFD(fds[1])
	},
	"socket": func(t testing.TB) (r, w *sys.FD) { t.Helper(); return socketPair(t) },
}

// file is our end of a channel.
func file(t testing.TB, fd *sys.FD) *sys.Stream {
	t.Helper()
	s, err := sys.StreamFrom(fd)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// move begins a transfer and gives the reply's number.
func (b *bench) move(d DeviceState, fds ...*sys.FD) U64 {
	b.t.Helper()
	b.say(SetDeviceStateFD, d.Marshal(), fds...)
	got, err := b.reply(SetDeviceStateFD)
	if err != nil {
		b.t.Fatal(err)
	}
	var u U64
	if err := u.Unmarshal(got); err != nil {
		b.t.Fatal(err)
	}
	return u
}

func TestDeviceState(t *testing.T) {
	state := bytes.Repeat([]byte("state "), MaxState/6) // more than a pipe holds
	for name, open := range channels {
		t.Run(name, func(t *testing.T) {
			d := newStub()
			d.setState(state)
			b := newBench(t, d, nil)
			b.ok(SetProtocolFeatures, U64(ProtocolDeviceState).Marshal())
			r, w := open(t)
			if got := b.move(DeviceState{Direction: StateSave}, w); got != StateNoFD {
				t.Fatalf("save: %#x", got)
			}
			b.number(GetFeatures) // the session answers while nobody reads
			from := file(t, r)
			got, err := io.ReadAll(from)
			from.Close()
			if err != nil || !bytes.Equal(got, state) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(state), err)
			}
			if n := b.number(CheckDeviceState); n != 0 {
				t.Fatalf("check: %d", n)
			}

			d.setState(nil)
			r, w = open(t)
			if got := b.move(DeviceState{Direction: StateLoad}, r); got != StateNoFD {
				t.Fatalf("load: %#x", got)
			}
			b.calls("save") // nothing is loaded before it is there and asked for
			to := file(t, w)
			if _, err := to.Write(state); err != nil {
				t.Fatal(err)
			}
			to.Close()
			if n := b.number(CheckDeviceState); n != 0 {
				t.Fatalf("check: %d", n)
			}
			b.calls("load")
			if !bytes.Equal(d.saved(), state) {
				t.Errorf("%d bytes were loaded", len(d.saved()))
			}
			if n := b.number(CheckDeviceState); n == 0 {
				t.Error("a transfer is checked twice")
			}
		})
	}
}

// A state of no length is one, too.
func TestDeviceStateEmpty(t *testing.T) {
	b := newBench(t, newStub(), nil)
	r, w := channels["pipe"](t)
	b.move(DeviceState{Direction: StateSave}, w)
	from := file(t, r)
	if got, err := io.ReadAll(from); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	from.Close()
	if n := b.number(CheckDeviceState); n != 0 {
		t.Errorf("check: %d", n)
	}
	b.calls("save")
}

func TestDeviceStateRefused(t *testing.T) {
	b := newBench(t, newStub(), func(o *Options) { o.MessageTimeout = 100 * time.Millisecond })
	g := newGuest(t)
	no := func(what string, d DeviceState, fds ...*sys.FD) {
		t.Helper()
		if got := b.move(d, fds...); got&0xff == 0 || got&StateNoFD == 0 {
			t.Errorf("%s: %#x", what, got)
		}
	}
	one := func() *sys.FD {
		r, w := channels["socket"](t)
		t.Cleanup(func() { _ = r.Close() })
		return w
	}
	if n := b.number(CheckDeviceState); n == 0 {
		t.Error("nothing was begun, and is fine")
	}
	no("direction", DeviceState{Direction: 2}, one())
	no("phase", DeviceState{Phase: 1}, one())
	no("no descriptor", DeviceState{})
	no("memory", DeviceState{Direction: StateLoad}, g.fd(t))
	no("event", DeviceState{Direction: StateLoad}, newFD(t))
	b.calls()
	b.dev.failing("save", errStub)
	no("device", DeviceState{}, one())
	b.dev.failing("save", nil)
	b.dev.setState(make([]byte, MaxState+1))
	no("too long", DeviceState{}, one())
	b.calls("save", "save")

	load := func(blob []byte) uint64 {
		t.Helper()
		r, w := channels["pipe"](t)
		b.move(DeviceState{Direction: StateLoad}, r)
		to := file(t, w)
		_, _ = to.Write(blob) // the reader may have enough before its end
		to.Close()
		return b.number(CheckDeviceState)
	}
	if load(make([]byte, MaxState+1)) == 0 {
		t.Error("a state that is too long is loaded")
	}
	b.calls()
	b.dev.failing("load", errStub)
	if load([]byte("x")) == 0 {
		t.Error("the device refuses a state, and nobody is told")
	}
	b.calls("load")

	// One that does not come to its end.
	r, w := channels["pipe"](t)
	b.move(DeviceState{Direction: StateLoad}, r)
	if b.number(CheckDeviceState) == 0 {
		t.Error("a state without end is loaded")
	}
	_ = w.Close()

	b.handshake(g)
	b.ring(0)
	no("running", DeviceState{}, one())
	b.calls()
}

// A transfer that nobody takes part in ends with the next one and with the
// session, and leaves nothing.
func TestDeviceStateAbandoned(t *testing.T) {
	before := measure(t)
	for name, open := range channels {
		d := newStub()
		d.setState(make([]byte, MaxState))
		b := newBench(t, d, nil)
		var kept []*sys.FD
		for range 10 {
			r, w := open(t)
			b.move(DeviceState{Direction: StateSave}, w)
			kept = append(kept, r)
			r, w = open(t)
			b.move(DeviceState{Direction: StateLoad}, r)
			kept = append(kept, w)
		}
		b.close()
		sys.CloseAll(kept)
		t.Log(name)
	}
	atRest(t, before)
}
