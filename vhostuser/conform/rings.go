package conform

import (
	"context"
	"encoding/binary"
	"fmt"

	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// rings are traps in what is said about running rings.
func rings() []Scenario {
	return []Scenario{
		{"trap-7.3-base", "starts a split ring at its used index, whatever base the front-end sends (virtio-user: 0)", func(s *subject) error {
			return s.again(vutest.VirtioUser, s.reconnected)
		}},
		{"trap-7.7-vring-base", "answers GET_VRING_BASE with the ring's position, again, and for a ring that never ran", (*subject).vringBase},
		{"trap-7.16-features-again", "goes on when the same features are sent beside running rings", (*subject).featuresAgain},
		{"trap-7.17-header-length", "serves a driver without VERSION_1, whose header has 10 bytes, and then one with", (*subject).headerLength},
		{"trap-7.19-call-exchanged", "loses no interrupt when call descriptors are exchanged beside traffic", func(s *subject) error {
			return s.exchanged((*vutest.FrontEnd).SetCall)
		}},
		{"trap-7.19-kick-exchanged", "loses no kick when kick descriptors are exchanged beside traffic", func(s *subject) error {
			return s.exchanged((*vutest.FrontEnd).SetKick)
		}},
		{"trap-7.20-kick-while-disabled", "takes what was kicked while the ring was disabled once it is enabled", (*subject).kickedWhileDisabled},
		{"trap-7.31-chain-loop", "lives on after a guest whose descriptors go in a circle", func(s *subject) error {
			return s.poisoned(0, flagNext, 0)
		}},
		{"trap-7.31-chain-outside", "lives on after a guest whose descriptor lies outside its memory", func(s *subject) error {
			return s.poisoned(1<<40, 0, 0)
		}},
		{"trap-7.31-next-outside", "lives on after a guest whose chain leaves the table", func(s *subject) error {
			return s.poisoned(0, flagNext, 0xffff)
		}},
		{"trap-7.31-avail-index", "lives on after a guest whose avail index jumps", (*subject).availJumps},
		{"trap-7.36-base-at-once", "answers GET_VRING_BASE while the receiver of the guest's frames takes none", (*subject).baseAtOnce},
	}
}

func (s *subject) vringBase() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	const frames = 5
	for range frames {
		if err := f.Send(0, frame(theirs, ours, 60, 1)); err != nil {
			return err
		}
	}
	if err := f.WaitSent(0); err != nil {
		return err
	}
	for i, ask := range []uint32{1, 1, 0} {
		b, err := f.Request(s.ctx, vhostuser.GetVringBase, vhostuser.VringState{Index: ask}.Marshal(), nil, false)
		if err != nil {
			return fmt.Errorf("question %d, ring %d: %w", i+1, ask, err)
		}
		var v vhostuser.VringState
		if err := v.Unmarshal(b); err != nil {
			return err
		}
		if v.Index != ask || ask == 1 && v.Num != frames {
			return fmt.Errorf("question %d about ring %d: ring %d stands at %d; %d frames were sent", i+1, ask, v.Index, v.Num, frames)
		}
	}
	return s.survives()
}

func (s *subject) featuresAgain() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	for range 3 {
		features := vhostuser.U64(f.Features() | virtio.ProtocolFeatures)
		if _, err := f.Request(s.ctx, vhostuser.SetFeatures, features.Marshal(), nil, false); err != nil {
			return err
		}
		if err := f.Barrier(s.ctx); err != nil {
			return err
		}
		if err := s.works(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *subject) headerLength() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10, Guest: vutest.Guest{Legacy: true, Without: virtio.NetMrgRxBuf}})
	if err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return fmt.Errorf("10 bytes: %w", err)
	}
	if _, err := f.Reboot(s.ctx, vutest.Guest{}); err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return fmt.Errorf("12 bytes: %w", err)
	}
	return nil
}

// exchanged replaces an event of each ring in turn, with frames before and
// behind each.
func (s *subject) exchanged(exchange func(*vutest.FrontEnd, context.Context, int) error) error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	for round := range 4 {
		for ring := range 2 {
			if err := f.Send(0, frame(theirs, ours, 60, byte(round))); err != nil {
				return err
			}
			if err := exchange(f, s.ctx, ring); err != nil {
				return err
			}
			if err := s.works(f); err != nil {
				return fmt.Errorf("round %d, ring %d: %w", round+1, ring, err)
			}
		}
	}
	return nil
}

func (s *subject) kickedWhileDisabled() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	for range 3 {
		if err := f.Enable(s.ctx, 1, false); err != nil {
			return err
		}
		if err := f.Send(0, frame(theirs, ours, 60, 1)); err != nil {
			return err
		}
		if err := f.Enable(s.ctx, 1, true); err != nil {
			return err
		}
		if err := f.WaitSent(0); err != nil {
			return err
		}
	}
	return s.works(f)
}

const (
	flagNext  = 1
	descBytes = 16
)

// poisoned is a guest whose transmit ring gets one chain of one descriptor,
// which makes no sense. What becomes of that ring is the back-end's affair; it
// has to answer its front-end and to serve the next one.
func (s *subject) poisoned(addr uint64, flags, next uint16) error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	const slot = 0
	desc := binary.LittleEndian.AppendUint64(nil, addr)
	desc = binary.LittleEndian.AppendUint32(desc, 64)
	desc = binary.LittleEndian.AppendUint16(desc, flags)
	desc = binary.LittleEndian.AppendUint16(desc, next)
	at, base := f.Driver(1).Rings(), ringStart(f, 1)
	if err := f.Poke(base+at.Desc+slot*descBytes, desc); err != nil {
		return err
	}
	// One entry in the avail ring that names the descriptor, and its index.
	if err := f.Poke(base+at.Avail, []byte{0, 0, 1, 0, slot, 0}); err != nil {
		return err
	}
	return s.answersOn(f)
}

func (s *subject) availJumps() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	if err := f.Poke(ringStart(f, 1)+f.Driver(1).Rings().Avail, []byte{0, 0, 0xff, 0x7f}); err != nil {
		return err
	}
	return s.answersOn(f)
}

// ringStart is the guest address from which the places of a ring's parts count.
func ringStart(f *vutest.FrontEnd, ring int) uint64 {
	return f.VringAddr(ring).Log - f.Driver(ring).Rings().Used
}

// answersOn kicks the transmit ring, sees that the back-end answers, drops the
// connection and sees that the next one is served.
func (s *subject) answersOn(f *vutest.FrontEnd) error {
	if err := f.SetKick(s.ctx, 1); err != nil { // has the back-end look at the ring
		return err
	}
	if err := f.Barrier(s.ctx); err != nil && !hungUp(err) {
		return err
	}
	f.Disconnect()
	return s.survives()
}

// baseAtOnce: the peer has few buffers and does not take its frames, so that
// what is sent to it is stuck.
func (s *subject) baseAtOnce() error {
	if s.o.Peer == "" {
		return lacking("needs a second port, --peer")
	}
	peer, err := s.dial(s.o.Peer, vutest.Options{Kind: vutest.QEMU10, Guest: vutest.Guest{RxBuffers: 2}})
	if err != nil {
		return err
	}
	if err := s.run(peer); err != nil {
		return err
	}
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	if err := peer.Send(0, frame(ours, theirs, 60, 1)); err != nil {
		return err
	}
	for i := range 100 {
		if err := f.Send(0, frame(theirs, ours, 60, byte(i))); err != nil {
			return err
		}
	}
	return f.Stop(s.ctx)
}
