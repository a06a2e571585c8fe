package vhostuser

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// ring finds the ring that a message is about.
func (s *session) ring(index uint32) (*ring, error) {
	if uint64(index) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("vhostuser: ring %d, there are rings 0 to %d", index, len(s.rings)-1)
	}
	return &s.rings[index], nil
}

// vringState reads a payload of a ring's index and a number.
func (s *session) vringState(m *message) (r *ring, num uint32, err error) {
	var v VringState
	if err := v.Unmarshal(m.payload); err != nil {
		return nil, 0, err
	}
	r, err = s.ring(v.Index)
	return r, v.Num, err
}

// setVringNum: the size, at most 32768, a power of two in a split ring; not of
// a ring in use. It is what every set-up begins with, so on a ring that was
// left running, disabled, it forgets the earlier one: nothing of what is at
// those addresses may be touched any more.
func (s *session) setVringNum(m *message) ([]byte, error) {
	r, n, err := s.vringState(m)
	switch {
	case err != nil:
		return nil, err
	case n == 0 || n > maxRingSize:
		return nil, fmt.Errorf("vhostuser: ring of %d entries, 1 to %d are possible", n, maxRingSize)
	case n&(n-1) != 0 && !s.offered.Has(virtio.RingPacked):
		return nil, fmt.Errorf("vhostuser: ring of %d entries, a split ring's size is a power of two", n)
	}
	if err := r.idle(); err != nil {
		return nil, err
	}
	if r.state != stopped {
		s.stop(r)
	}
	r.size, r.retry = n, true
	return nil, nil
}

// setVringBase: where the ring goes on, see [session.queue]; not of a ring in
// use.
func (s *session) setVringBase(m *message) ([]byte, error) {
	r, base, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	if err := r.idle(); err != nil {
		return nil, err
	}
	r.base, r.baseSet = base, true
	return nil, nil
}

// setVringAddr: the addresses are stored, and translated when the ring starts
// and whenever the memory changes. The same addresses again are legal while
// the ring runs (they come with another log flag when a migration begins or
// ends), others are not. The log address counts only with its flag.
func (s *session) setVringAddr(m *message) ([]byte, error) {
	var a VringAddr
	if err := a.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	r, err := s.ring(a.Index)
	if err != nil {
		return nil, err
	}
	if a.Flags&AddrFlagLog == 0 {
		a.Log = 0
	}
	if r.addrSet && a.Desc == r.addr.Desc && a.Used == r.addr.Used && a.Avail == r.addr.Avail {
		return nil, s.setVringLog(r, a)
	}
	if err := r.idle(); err != nil {
		return nil, err
	}
	s.unseat(r)
	r.state = stopped // set up anew
	r.addr, r.addrSet, r.retry = a, true, true
	return nil, nil
}

// setVringLog takes the log part of the addresses that r has.
func (s *session) setVringLog(r *ring, a VringAddr) error {
	was, before := s.logged(r), r.addr
	r.addr = a
	if a == before || !was && !s.logged(r) {
		return nil
	}
	var err error
	switch r.state {
	case running:
		err = s.replace(r)
	case parked:
		r.retry = true
	case stopped:
	}
	if !s.logged(r) {
		s.dropLog(s.logging)
	}
	return err
}

// getVringBase: stop the ring and say where it stands; always answered, also
// for a ring that never ran. When the reply is out nothing of the ring is
// written and nobody called any more. Addresses, kick and call are forgotten,
// so that no later message revives the ring from stale ones.
func (s *session) getVringBase(m *message) ([]byte, error) {
	r, _, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	s.stop(r)
	s.told(r)
	return VringState{Index: uint32(r.index), Num: r.base}.Marshal(), nil
}

// setVringEnable: legal at any time, before SET_FEATURES and before the ring
// is set up; kept over stops. The device has adapted when it is acknowledged.
func (s *session) setVringEnable(m *message) ([]byte, error) {
	r, on, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	if on > 1 {
		return nil, fmt.Errorf("vhostuser: ring %d can be enabled with 1 or disabled with 0, not %d", r.index, on)
	}
	s.enable(r, on == 1)
	return nil, nil
}

func (s *session) enable(r *ring, on bool) {
	if r.enabled == on {
		return
	}
	r.enabled = on
	s.dev.EnableRing(r.index, on)
	s.log(hclog.Debug, "ring enabled or disabled", "ring", r.index, "enabled", on)
}

// setVringKick: the event by which the driver asks for service; its arrival is
// the last condition of a start, no kick is waited for. Without one the ring
// is polled.
func (s *session) setVringKick(m *message) ([]byte, error) {
	r, e, err := s.vringEvent(m)
	if err != nil {
		return nil, err
	}
	r.kickSet = true
	r.retry = r.state != running
	return nil, s.exchange(r, &r.kick, e)
}

// setVringCall: the event by which the driver is called, none for a driver that
// polls; it may come long before the ring is set up and change while it runs.
func (s *session) setVringCall(m *message) ([]byte, error) {
	r, e, err := s.vringEvent(m)
	if err != nil {
		return nil, err
	}
	if err := s.exchange(r, &r.call, e); err != nil {
		return nil, err
	}
	if r.saved != nil {
		// Chains may have come back while nobody was to be called, and a parked
		// ring makes no call before it is enabled. One too many is harmless.
		tell(r.call)
	}
	return nil, nil
}

// setVringErr: the event that tells the front-end that a ring is broken. It
// survives stops, as QEMU sends it once.
func (s *session) setVringErr(m *message) ([]byte, error) {
	r, e, err := s.vringEvent(m)
	if err != nil {
		return nil, err
	}
	return nil, s.exchange(r, &r.err, e)
}

// vringEvent reads a payload of a ring's index and the event that came with
// it: one descriptor, or none and bit 8 set. Bits from 9 up are reserved.
func (s *session) vringEvent(m *message) (*ring, *sys.Event, error) {
	var v VringFD
	if err := v.Unmarshal(m.payload); err != nil {
		return nil, nil, err
	}
	r, err := s.ring(uint32(v.Index))
	switch {
	case err != nil:
		return nil, nil, err
	case v.Rest != 0:
		return nil, nil, fmt.Errorf("vhostuser: %s: reserved bits %#x are set", m.Request, v.Rest)
	case v.NoFD && len(m.fds) != 0:
		return nil, nil, fmt.Errorf("vhostuser: %s says that it carries no descriptor, and carries one", m.Request)
	case v.NoFD:
		return r, nil, nil
	case len(m.fds) != 1:
		return nil, nil, fmt.Errorf("vhostuser: %s carries no descriptor, and does not say so by bit 8", m.Request)
	}
	e, err := sys.EventFrom(m.take(0))
	if err != nil {
		return nil, nil, fmt.Errorf("vhostuser: %s: %w", m.Request, err)
	}
	return r, e, nil
}
