package usernet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// descriptor runs f with the descriptor of a connection.
func descriptor(t *testing.T, c net.Conn, f func(fd int)) {
	t.Helper()
	s, ok := c.(streamConn)
	if !ok {
		t.Fatalf("%T has no descriptor", c)
	}
	raw, err := s.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lookUntil looks until there is something, or the end.
func lookUntil(t *testing.T, s *hostSource, fd int) error {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		again, err := s.look(fd)
		if !again {
			return err
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing comes")
		}
	}
}

// A source gives exactly what it says there is, and the rest the next time.
func TestHostSource(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	defer far.Close()
	descriptor(t, near, func(fd int) {
		var s hostSource
		if again, err := s.look(fd); !again || err != nil {
			t.Fatalf("nothing was sent: again %v, %v", again, err)
		}
		_, _ = far.Write([]byte("first")) // what is missing shows below
		if err := lookUntil(t, &s, fd); err != nil || s.Len() != 5 {
			t.Fatalf("%d bytes, %v, want 5", s.Len(), err)
		}
		b := make([]byte, 100)
		if n, err := s.Read(b[:2]); n != 2 || err != nil || s.Len() != 3 {
			t.Errorf("%d bytes, %v, %d left", n, err, s.Len())
		}
		if err := lookUntil(t, &s, fd); err != nil || s.Len() != 3 {
			t.Errorf("%d bytes, %v, want the other 3", s.Len(), err)
		}
		if n, err := s.Read(nil); n != 0 || err != nil {
			t.Errorf("%d, %v, want nothing and no end", n, err)
		}
		if n, err := s.Read(b); err != nil || string(b[:n]) != "rst" {
			t.Errorf("%q, %v", b[:n], err)
		}
		if n, err := s.Read(nil); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%d, %v, want the end", n, err)
		}
		s = hostSource{fd: fd, kept: []byte{'x'}} // it came between two looks
		if err := lookUntil(t, &s, fd); err != nil || s.Len() != 1 {
			t.Errorf("%d bytes, %v, want the one that was read", s.Len(), err)
		}
		if n, err := s.Read(b); n != 1 || b[0] != 'x' || err != nil || s.Len() != 0 || s.kept != nil {
			t.Errorf("%q, %v, %+v", b[:n], err, s)
		}
		far.Close()
		if err := lookUntil(t, &s, fd); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end", err)
		}
	})
}

// Where less comes than was said, what came is there again, and its end is found
// by reading: nothing is lost or comes twice, however much the stack takes.
func TestHostSourceShort(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	defer far.Close()
	descriptor(t, near, func(fd int) {
		var s hostSource
		b := make([]byte, 100)
		_, _ = far.Write([]byte("first")) // what is missing shows below
		if err := lookUntil(t, &s, fd); err != nil || s.Len() != 5 {
			t.Fatalf("%d bytes, %v, want 5", s.Len(), err)
		}
		s.left = 9
		for i, want := range []string{"fir", "st", ""} {
			n, err := s.Read(b[10*i : 10*i+3])
			if string(b[10*i:10*i+n]) != want || (err == nil) != (want != "") {
				t.Fatalf("%q, %v, want %q", b[10*i:10*i+n], err, want)
			}
		}
		if !errors.Is(s.err, errShort) {
			t.Errorf("%v, want errShort", s.err)
		}
		s.forget()
		clear(b) // the stack lets go of it
		for _, want := range []string{"fi", "rst"} {
			if again, err := s.look(fd); again || err != nil {
				t.Fatalf("again %v, %v, want what was kept", again, err)
			}
			n, err := s.Read(b[:len(want)])
			if string(b[:n]) != want || err != nil {
				t.Errorf("%q, %v, want %q", b[:n], err, want)
			}
		}
		if again, err := s.look(fd); !again || err != nil || s.Len() != 0 {
			t.Errorf("again %v, %v, %d bytes; want nothing", again, err, s.Len())
		}
		s.short = true // and so says the next look
		far.Close()
		if err := lookUntil(t, &s, fd); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end", err)
		}
	})
}

// A socket of MPTCP says that there is a byte where there is the end.
func TestHostSourceMultipath(t *testing.T) {
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	ln, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	far, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	const size = 100000
	_, err = far.Write(make([]byte, size))
	if err = errors.Join(err, far.Close()); err != nil {
		t.Fatal(err)
	}
	descriptor(t, near, func(fd int) {
		var s hostSource
		got, b := 0, make([]byte, 30000)
		for {
			err := lookUntil(t, &s, fd)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			turn := 0
			for s.Len() > 0 && err == nil {
				var n int
				n, err = s.Read(b)
				turn += n
			}
			if s.forget(); err == nil {
				got += turn
			} else if !errors.Is(err, errShort) {
				t.Fatal(err)
			}
		}
		if got != size {
			t.Errorf("%d bytes of %d", got, size)
		}
	})
}

// A host that breaks off is no end of a stream.
func TestHostSourceReset(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	reset(far)
	descriptor(t, near, func(fd int) {
		var s hostSource
		if err := lookUntil(t, &s, fd); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%v, want an error", err)
		}
	})
}

// A sink takes what fits and says why no more; nothing is lost between.
func TestHostSink(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	defer far.Close()
	var sent int
	var s hostSink
	chunk := bytes.Repeat([]byte("sink"), relayBytes/16)
	descriptor(t, near, func(fd int) {
		s = hostSink{fd: fd}
		for range 4 {
			if n, err := s.Write(chunk); n != len(chunk) || err != nil && !errors.Is(err, errEnough) {
				t.Fatalf("%d, %v", n, err)
			}
			sent += len(chunk)
		}
		if !errors.Is(s.err, errEnough) {
			t.Errorf("%d bytes and %v, want errEnough", s.done, s.err)
		}
		if n, err := s.Write(chunk); n != 0 || !errors.Is(err, errEnough) {
			t.Errorf("%d, %v, want errEnough again", n, err)
		}
		for s.err == nil || errors.Is(s.err, errEnough) {
			s = hostSink{fd: fd}
			n, _ := s.Write(chunk) // the loop looks at it
			sent += n
		}
	})
	if !errors.Is(s.err, errFull) {
		t.Fatalf("%v, want errFull", s.err)
	}
	got := make([]byte, sent)
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got[:len(chunk)], chunk) {
		t.Errorf("%v: not what was written", err)
	}
	reset(far)
	descriptor(t, near, func(fd int) {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			s = hostSink{fd: fd}
			if _, err := s.Write(chunk); err != nil && !errors.Is(err, errFull) && !errors.Is(err, errEnough) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v, want the reset", s.err)
			}
		}
	})
}

// A host that does not read for a while, and a guest that does not, get all of
// it in the end: the bytes wait in the stack, and in the host's socket.
func TestSlowReaders(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	slowReader(l, g, true)
	slowReader(l, g, false)
	l.wait("the connections to be over", func() bool { return l.n.conns.count() == 0 })
}

// slowReader carries more than all buffers on the way hold, from the guest or to
// it, to a reader that begins when that is full.
func slowReader(l *lab, g *testGuest, up bool) {
	const size = 24 << 20
	stalled := 512 << 10
	if !up {
		stalled = 32 << 10 // the host's socket has no more for sure: its buffer grows with its reader's haste
	}
	hosts, over := make(chan net.Conn, 1), make(chan struct{})
	defer close(over)
	at := server(l.t, "127.0.0.1:0", func(c net.Conn) {
		hosts <- c
		<-over
	})
	c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
	l.must(err)
	defer c.Close()
	host := <-hosts
	tcp, ok := host.(*net.TCPConn)
	if !ok {
		l.t.Fatalf("a connection of TCP is a %T", host)
	}
	l.must(tcp.SetReadBuffer(64 << 10))
	var from, to net.Conn = c, host
	if !up {
		from, to = to, from
	}
	ended := make(chan error, 2)
	go func() { ended <- transfer(from, 3, size) }()
	l.wait("the bytes to wait", func() bool { return l.waiting(up) > stalled })
	go func() {
		n, err := receive(to)
		if err == nil && n != size {
			err = errHash
		}
		ended <- err
	}()
	for range 2 {
		select {
		case err := <-ended:
			l.must(err)
		case <-time.After(60 * time.Second):
			l.t.Fatalf("up %v: nothing comes any more; %+v", up, l.n.Snapshot())
		}
	}
}

// waiting is how many bytes of the connections wait to be carried.
func (l *lab) waiting(up bool) (sum int) {
	l.n.conns.mu.Lock()
	defer l.n.conns.mu.Unlock()
	for r := range l.n.conns.m {
		n, terr := r.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		if up && terr == nil {
			sum += n
		}
		raw, err := r.host.SyscallConn()
		if err == nil && !up {
			_ = raw.Control(func(fd uintptr) { n, err = sys.Waiting(int(fd)) }) // it may be over
			sum += n
		}
	}
	return sum
}

// A packet of the stack becomes the frame that it is, in however many pieces it
// lies; those that are not copied are the stack's until the visit is over.
func TestFillParts(t *testing.T) {
	l := newSwitch(t)
	n, err := New(Options{Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger()})
	l.must(err)
	defer func() { l.must(n.Close(t.Context())) }()
	for _, sizes := range [][]int{{}, {10}, {300}, {shortPart, 4000}, {1000, 10, 1000}, make([]int, 40)} {
		released := 0
		var payload buffer.Buffer
		for i, size := range sizes {
			if size == 0 {
				size = 1000
			}
			l.must(payload.Append(buffer.NewViewWithData(bytes.Repeat([]byte{byte(i + 1)}, size))))
		}
		want := payload.Flatten()
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 40, Payload: payload, OnRelease: func() { released++ }})
		copy(pkt.NetworkHeader().Push(20), bytes.Repeat([]byte{0x45}, 20))
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
		n.out.put([]outItem{{stack: pkt, to: 0x020304050607}})
		if !n.out.take(visitFrames) {
			t.Fatal("nothing is taken")
		}
		frame := make([]byte, nbl.MaxFrame)
		got := frame[:nbl.CopyOut(frame, n.out.held[0], 0)]
		if !bytes.Equal(got[:6], []byte{2, 3, 4, 5, 6, 7}) || !bytes.Equal(got[12:14], []byte{8, 0}) ||
			!bytes.Equal(got[14:34], bytes.Repeat([]byte{0x45}, 20)) || !bytes.Equal(got[34:], want) {
			t.Errorf("pieces of %v: a frame of %d bytes is not the packet", sizes, len(got))
		}
		if released != 0 {
			t.Errorf("pieces of %v: the packet is let go while it is read", sizes)
		}
		n.out.held[0].Drop(metrics.ReasonStopped)
		n.out.settle()
		if released != 1 || n.out.waiting != 0 {
			t.Errorf("pieces of %v: the packet is let go %d times, %d are held", sizes, released, n.out.waiting)
		}
	}
}

// The headers of a packet are in a piece of their own, as long as they are.
func TestHeaders(t *testing.T) {
	b := make([]byte, 200)
	for _, test := range []struct {
		ip, words, seen, want int
	}{
		{20, 5, 200, 40},
		{20, 8, 200, 52},
		{40, 15, 200, 100},
		{60, 15, 200, 120},
		{60, 15, 72, headView}, // the offset is not to be seen
		{40, 0, 200, 60},       // shorter than a header is
	} {
		b[test.ip+12] = byte(test.words<<4) | 0x0f
		if got := headers(b[:test.seen], test.ip); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}
