package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// subject is the back-end within one scenario.
type subject struct {
	ctx  context.Context
	o    Options
	open []*vutest.FrontEnd
	last *vutest.FrontEnd // on the port itself, which has one front-end at a time
	peer *vutest.FrontEnd // on the other port, made when it is needed

	peerPairs int // queue pairs of the peer's guest; 0 is 1
}

// end closes what the scenario has opened.
func (s *subject) end() {
	for _, f := range s.open {
		_ = f.Close() // of a front-end of ours nothing is lost
	}
}

// dial connects a front-end. On the port itself it takes the place of the one
// before.
func (s *subject) dial(path string, o vutest.Options) (*vutest.FrontEnd, error) {
	if path == s.o.Path && s.last != nil {
		s.last.Disconnect()
	}
	o.Timeout = s.o.Timeout
	f, err := vutest.Dial(path, o)
	if err != nil {
		return nil, err
	}
	s.open = append(s.open, f)
	if path == s.o.Path {
		s.last = f
	}
	return f, nil
}

// start is a front-end whose guest runs.
func (s *subject) start(o vutest.Options) (*vutest.FrontEnd, error) {
	f, err := s.dial(s.o.Path, o)
	if err != nil {
		return nil, err
	}
	return f, s.run(f)
}

// run starts f's guest and waits until the back-end has heard all of it.
func (s *subject) run(f *vutest.FrontEnd) error {
	if _, err := f.Start(s.ctx); err != nil {
		return err
	}
	return f.Barrier(s.ctx)
}

// greeted is a front-end that has said nothing but what names it, as a guest
// that has not booted: requests can be sent at will. It is virtio-user's kind,
// which sends what it is told to.
func (s *subject) greeted() (*vutest.FrontEnd, error) {
	return s.dial(s.o.Path, vutest.Options{Kind: vutest.VirtioUser})
}

// Addresses of the two guests.
var (
	ours   = [6]byte{0x52, 0x54, 0, 0xc0, 0xfe, 1}
	theirs = [6]byte{0x52, 0x54, 0, 0xc0, 0xfe, 2}
)

// frame is one from a guest to the other, with a number.
func frame(dst, src [6]byte, n int, number byte) vutest.Frame {
	b := make([]byte, n)
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12], b[13] = 0x88, 0xb5
	for i := 14; i < n; i++ {
		b[i] = number + byte(i)
	}
	return vutest.Frame{Data: b}
}

// works is what a running guest is to be able to do: its frames are taken and
// given back, and with a peer they arrive there and the peer's arrive here.
func (s *subject) works(f *vutest.FrontEnd) error { return s.worksBy(f, 0) }

func (s *subject) worksBy(f *vutest.FrontEnd, pair int) error {
	if err := f.Send(pair, frame(theirs, ours, 60, 1), frame(theirs, ours, 1000, 2)); err != nil {
		return err
	}
	if err := f.WaitSent(pair); err != nil {
		return fmt.Errorf("frames of the guest are not given back: %w", err)
	}
	if s.o.Peer == "" {
		return nil
	}
	if err := s.meet(); err != nil {
		return err
	}
	if err := s.passes(f, s.peer, pair, theirs, ours); err != nil {
		return fmt.Errorf("to the peer: %w", err)
	}
	if err := s.passes(s.peer, f, 0, ours, theirs); err != nil {
		return fmt.Errorf("from the peer: %w", err)
	}
	return nil
}

// meet makes the front-end on the other port.
func (s *subject) meet() (err error) {
	switch {
	case s.o.Peer == "":
		return lacking("needs a second port, --peer")
	case s.peer != nil:
		return nil
	}
	if s.peer, err = s.dial(s.o.Peer, vutest.Options{Kind: vutest.QEMU10, Pairs: s.peerPairs}); err == nil {
		err = s.run(s.peer)
	}
	if err != nil {
		return fmt.Errorf("the peer's port: %w", err)
	}
	return nil
}

// resend is how long a frame may be under way before another one is sent: a
// back-end may drop what comes while a link is not up yet.
const resend = 50 * time.Millisecond

// passes sends frames until one arrives whole, on whichever pair.
func (s *subject) passes(from, to *vutest.FrontEnd, pair int, dst, src [6]byte) error {
	want := frame(dst, src, 300, 3)
	for end := time.Now().Add(s.o.Timeout); ; {
		if err := from.Send(min(pair, from.Pairs()-1), want); err != nil {
			return err
		}
		for next := time.Now().Add(resend); time.Now().Before(next); time.Sleep(time.Millisecond) {
			for p := range to.Pairs() {
				got, ok, err := to.TryRecv(p)
				if err != nil {
					return err
				}
				if ok && bytes.Equal(got.Data, want.Data) {
					return nil
				}
			}
		}
		if time.Now().After(end) || s.ctx.Err() != nil {
			return fmt.Errorf("no frame arrived within %v", s.o.Timeout)
		}
	}
}

// survives asks whether a new front-end is served, after one that misbehaved.
func (s *subject) survives() error {
	for end := time.Now().Add(s.o.Timeout); ; time.Sleep(10 * time.Millisecond) {
		f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
		if err == nil {
			return s.works(f)
		}
		if time.Now().After(end) || s.ctx.Err() != nil {
			return fmt.Errorf("a later front-end is not served: %w", err)
		}
	}
}

// refuses sends a request that cannot be done: the back-end has to say no or to
// close the connection, not to say yes and not to stay silent. NEED_REPLY is
// set.
func (s *subject) refuses(f *vutest.FrontEnd, r vhostuser.Request, payload []byte, fds ...*sys.FD) error {
	_, err := f.Request(s.ctx, r, payload, fds, true)
	if err == nil {
		return fmt.Errorf("%s was accepted", r)
	}
	if _, refused := errors.AsType[*vutest.RefusedError](err); refused || hungUp(err) {
		return nil
	}
	return fmt.Errorf("%s was neither refused nor the connection closed: %w", r, err)
}

// hungUp reports whether the back-end has closed the connection.
func hungUp(err error) bool {
	for _, end := range []error{io.EOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// number asks for one.
func (s *subject) number(f *vutest.FrontEnd, r vhostuser.Request) (uint64, error) {
	b, err := f.Request(s.ctx, r, nil, nil, false)
	if err != nil {
		return 0, err
	}
	var u vhostuser.U64
	if err := u.Unmarshal(b); err != nil {
		return 0, fmt.Errorf("reply to %s: %w", r, err)
	}
	return uint64(u), nil
}

// offers asks a fresh connection what is offered.
func (s *subject) offers() (virtio.Features, vhostuser.Protocol, error) {
	f, err := s.greeted()
	if err != nil {
		return 0, 0, err
	}
	defer f.Disconnect()
	features, err := s.number(f, vhostuser.GetFeatures)
	if err != nil || !virtio.Features(features).Has(virtio.ProtocolFeatures) {
		return virtio.Features(features), 0, err
	}
	protocol, err := s.number(f, vhostuser.GetProtocolFeatures)
	return virtio.Features(features), vhostuser.Protocol(protocol), err
}

// needs ends a scenario whose features are not offered.
func (s *subject) needs(features virtio.Features, protocol vhostuser.Protocol) error {
	f, p, err := s.offers()
	switch {
	case err != nil:
		return err
	case !f.Has(features):
		return lacking("feature " + (features &^ f).String())
	case !p.Has(protocol):
		return lacking("protocol feature " + (protocol &^ p).String())
	}
	return nil
}
