package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
)

// StateSaver is a [Device] with a state of its own that moves with its guest;
// only such a one offers the protocol feature DEVICE_STATE.
type StateSaver interface {
	// SaveState is the state as a blob of at most [MaxState] bytes that
	// LoadState understands. No ring runs.
	SaveState() ([]byte, error)
	// LoadState takes the state that a device on another host saved. It came
	// over a front-end, which can have altered it: it is to be checked like
	// any request, and on error nothing has changed. No ring runs.
	LoadState(blob []byte) error
}

// MaxState is the longest state of a device in bytes.
const MaxState = 1 << 20

// DeviceState is the payload of SET_DEVICE_STATE_FD.
type DeviceState struct {
	Direction uint32 // [StateSave] or [StateLoad]
	Phase     uint32 // 0: the device is stopped; there is no other
}

// Directions of a [DeviceState].
const (
	StateSave uint32 = 0 // the back-end writes
	StateLoad uint32 = 1 // the back-end reads
)

// Marshal gives the 8 bytes of d.
func (d DeviceState) Marshal() []byte {
	return order.AppendUint32(order.AppendUint32(nil, d.Direction), d.Phase)
}

// Unmarshal reads d from 8 bytes.
func (d *DeviceState) Unmarshal(b []byte) error {
	if err := exactly(b, 8, "device state"); err != nil {
		return err
	}
	*d = DeviceState{Direction: order.Uint32(b), Phase: order.Uint32(b[4:])}
	return nil
}

// StateNoFD in the reply to SET_DEVICE_STATE_FD says that no descriptor comes
// back: the one that was sent is used. The low eight bits are 0, or the error.
const StateNoFD U64 = 1 << 8

// transfer is a state on its way, carried by a goroutine of its own: the pipe
// holds less than a state, and its other end is read by whom the session has
// to answer meanwhile.
type transfer struct {
	load   bool
	stream *sys.Stream
	done   chan struct{} // closed when the goroutine has ended; then the rest is good
	blob   []byte
	err    error
}

func (t *transfer) run() {
	defer close(t.done)
	defer t.stream.Close() // the end of the state
	if !t.load {
		_, t.err = t.stream.Write(t.blob)
		return
	}
	t.blob, t.err = io.ReadAll(io.LimitReader(t.stream, MaxState+1))
	if t.err == nil && len(t.blob) > MaxState {
		t.err = fmt.Errorf("vhostuser: a device state of more than %d bytes", MaxState)
	}
}

// end stops the transfer and waits for its goroutine.
func (t *transfer) end() {
	if t == nil {
		return
	}
	select {
	case <-t.done:
	default:
		t.stream.Stop()
		<-t.done
	}
}

// setDeviceStateFD: begin to write the state to the descriptor, or to read it
// from there. The reply can say no, so it always comes.
func (s *session) setDeviceStateFD(m *message) ([]byte, error) {
	err := s.beginTransfer(m)
	if err != nil {
		s.srv.counters.refused.Add(1)
		s.log(hclog.Warn, "device state is not moved", "error", err)
		return (StateNoFD | 1).Marshal(), nil
	}
	return StateNoFD.Marshal(), nil
}

func (s *session) beginTransfer(m *message) error {
	var d DeviceState
	if err := d.Unmarshal(m.payload); err != nil {
		return err
	}
	switch {
	case d.Direction > StateLoad || d.Phase != 0:
		return fmt.Errorf("vhostuser: device state in direction %d, phase %d; it is saved (0) or loaded (1) when the device is stopped (0)", d.Direction, d.Phase)
	case len(m.fds) != 1:
		return errors.New("vhostuser: device state without the descriptor that it passes over")
	case s.runs():
		return errors.New("vhostuser: device state while rings run; it is moved when all are stopped")
	}
	t := &transfer{load: d.Direction == StateLoad, done: make(chan struct{})}
	if !t.load {
		blob, err := s.dev.(StateSaver).SaveState()
		if err == nil && len(blob) > MaxState {
			err = fmt.Errorf("vhostuser: a device state of %d bytes, at most %d are passed", len(blob), MaxState)
		}
		if err != nil {
			return err
		}
		t.blob = blob
	}
	stream, err := sys.StreamFrom(m.take(0))
	if err != nil {
		return err
	}
	s.transfer.end()
	t.stream, s.transfer = stream, t
	go t.run()
	return nil
}

// checkDeviceState: what came of the transfer, which the front-end has seen or
// made end. It answers in any case.
func (s *session) checkDeviceState(m *message) ([]byte, error) {
	if err := empty(m); err != nil {
		return nil, err
	}
	if err := s.endTransfer(); err != nil {
		s.log(hclog.Warn, "device state was not moved", "error", err)
		return U64(1).Marshal(), nil
	}
	return U64(0).Marshal(), nil
}

func (s *session) endTransfer() error {
	t := s.transfer
	if t == nil {
		return errors.New("vhostuser: no transfer of the device's state was begun")
	}
	s.transfer = nil
	patience := time.NewTimer(s.srv.o.MessageTimeout)
	defer patience.Stop()
	select {
	case <-t.done:
	case <-patience.C:
		t.end()
		return errors.Join(fmt.Errorf("vhostuser: the device's state did not come to its end in %v", s.srv.o.MessageTimeout), t.err)
	}
	switch {
	case t.err != nil || !t.load:
		return t.err
	case s.runs():
		return errors.New("vhostuser: rings were started before the device's state was there")
	}
	if err := s.dev.(StateSaver).LoadState(t.blob); err != nil {
		return err
	}
	s.log(hclog.Info, "device state was taken over", "bytes", len(t.blob)) // a device would say it as often as it is asked
	return nil
}

// runs reports whether a ring runs.
func (s *session) runs() bool {
	for i := range s.rings {
		if s.rings[i].state == running {
			return true
		}
	}
	return false
}
