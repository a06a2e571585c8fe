package conform

import (
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// messages are traps in what is said before and beside the rings.
func messages() []Scenario {
	return []Scenario{
		{"offers-protocol-features", "offers bit 30, REPLY_ACK and VERSION_1: without them QEMU's NIC does not come up", (*subject).offersBasics},
		{"offers-nothing-odd", "offers neither in-band notifications nor Xen mappings, which QEMU accepts blindly, nor bits 41 and 42 (trap 7.37)", (*subject).offersNothingOdd},
		{"trap-7.1-enable-early", "takes SET_VRING_ENABLE before SET_FEATURES and before any ring", func(s *subject) error {
			return s.takes(vhostuser.SetVringEnable, vhostuser.VringState{Index: 0, Num: 1}.Marshal(), vhostuser.VringState{Index: 1, Num: 1}.Marshal())
		}},
		{"trap-7.8-queue-number", "answers GET_QUEUE_NUM, and refuses rings beyond it without hanging", (*subject).refusesRingsBeyond},
		{"trap-7.13-no-descriptor", "serves rings without call descriptors: their drivers poll", func(s *subject) error {
			return s.boots(vutest.QEMU10, vutest.Guest{NoVector: true})
		}},
		{"trap-7.14-call-never", "starts rings for which SET_VRING_CALL never comes", func(s *subject) error {
			return s.boots(vutest.CloudHypervisor, vutest.Guest{NoVector: true})
		}},
		{"trap-7.23-extra-descriptors", "lives on after messages with descriptors that do not belong to them", (*subject).extraDescriptors},
		{"trap-7.25-reset-owner", "keeps the session at RESET_OWNER, which old QEMUs send at each stop", func(s *subject) error {
			return s.keepsWorking(vutest.QEMU72, vhostuser.ResetOwner, nil)
		}},
		{"trap-7.28-set-owner-again", "takes SET_OWNER a second time", func(s *subject) error {
			return s.keepsWorking(vutest.Libkrun, vhostuser.SetOwner, nil)
		}},
		{"trap-7.38-reply-flags", "replies with flags of exactly 5, in one piece, also with NEED_REPLY set on a request that has a reply of its own", (*subject).replyFlags},
		{"trap-7.43-status-zero", "keeps memory and session at SET_STATUS 0", func(s *subject) error {
			if err := s.needs(0, vhostuser.ProtocolStatus); err != nil {
				return err
			}
			return s.again(vutest.QEMU10, s.stopped)
		}},
		{"refuses-unknown-request", "refuses a request that it does not know", (*subject).unknownRequest},
		{"refuses-half-message", "serves others after a front-end that left in the middle of a message", (*subject).halfMessage},
		{"refuses-wrong-version", "does not act on a message of another version", (*subject).wrongVersion},
		{"config-space", "answers GET_CONFIG at once, as long as it was asked for", (*subject).configSpace},
		{"reset-device", "goes on with a new driver after RESET_DEVICE, on the memory that it knows", (*subject).resetDevice},
	}
}

func (s *subject) offersBasics() error {
	f, p, err := s.offers()
	if err != nil {
		return err
	}
	if lost := (virtio.ProtocolFeatures | virtio.Version1) &^ f; lost != 0 {
		return fmt.Errorf("%s is not offered", lost)
	}
	if !p.Has(vhostuser.ProtocolReplyAck) {
		return fmt.Errorf("protocol feature %s is not offered", vhostuser.ProtocolReplyAck)
	}
	return nil
}

// Features that a back-end cannot mean: see the scenario.
const (
	inbandNotifications vhostuser.Protocol = 1 << 14
	xenMmap             vhostuser.Protocol = 1 << 17
	oldBits             virtio.Features    = 1<<41 | 1<<42
)

func (s *subject) offersNothingOdd() error {
	f, p, err := s.offers()
	if err != nil {
		return err
	}
	if odd := p & (inbandNotifications | xenMmap); odd != 0 {
		return fmt.Errorf("protocol features %s are offered", odd)
	}
	if odd := f & oldBits; odd != 0 {
		return fmt.Errorf("features %s are offered", odd)
	}
	return nil
}

// takes sends requests of one kind as the first ones, each of which is to be
// acknowledged or passed over in silence, and the connection to live on.
func (s *subject) takes(r vhostuser.Request, payloads ...[]byte) error {
	f, err := s.greeted()
	if err != nil {
		return err
	}
	for _, payload := range payloads {
		if _, err := f.Request(s.ctx, r, payload, nil, false); err != nil {
			return err
		}
	}
	if err := f.Barrier(s.ctx); err != nil {
		return fmt.Errorf("after %s: %w", r, err)
	}
	return nil
}

// keepsWorking sends one request beside running rings.
func (s *subject) keepsWorking(k vutest.Kind, r vhostuser.Request, payload []byte) error {
	f, err := s.start(vutest.Options{Kind: k})
	if err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return err
	}
	if err := f.Stop(s.ctx); err != nil {
		return err
	}
	if _, err := f.Request(s.ctx, r, payload, nil, false); err != nil {
		return err
	}
	if err := s.run(f); err != nil {
		return fmt.Errorf("after %s: %w", r, err)
	}
	return s.works(f)
}

func (s *subject) refusesRingsBeyond() error {
	if err := s.needs(0, vhostuser.ProtocolMQ); err != nil {
		return err
	}
	f, err := s.greeted()
	if err != nil {
		return err
	}
	n, err := s.number(f, vhostuser.GetQueueNum)
	if err != nil {
		return err
	}
	if n == 0 || n > 0x8000 {
		return fmt.Errorf("GET_QUEUE_NUM is %d", n)
	}
	for _, index := range []uint32{1 << 16, 1<<32 - 1} {
		if f, err = s.greeted(); err != nil {
			return err
		}
		if err := s.refuses(f, vhostuser.SetVringNum, vhostuser.VringState{Index: index, Num: 256}.Marshal()); err != nil {
			return fmt.Errorf("ring %d: %w", index, err)
		}
	}
	return s.survives()
}

// extraDescriptors: each request that carries none gets two.
func (s *subject) extraDescriptors() error {
	fd, err := sys.NewMemfd("conform", 4096, sys.MemfdOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = fd.Close() }()
	for _, r := range []vhostuser.Request{vhostuser.SetVringNum, vhostuser.SetVringEnable, vhostuser.SetVringBase} {
		f, err := s.greeted()
		if err != nil {
			return err
		}
		_, err = f.Request(s.ctx, r, vhostuser.VringState{Index: 0, Num: 0}.Marshal(), []*sys.FD{fd, fd}, false)
		if err != nil && !hungUp(err) {
			return err
		}
		if err := f.Barrier(s.ctx); err != nil && !hungUp(err) {
			return fmt.Errorf("after %s with two descriptors: %w", r, err)
		}
	}
	return s.survives()
}

func (s *subject) replyFlags() error {
	f, err := s.greeted()
	if err != nil {
		return err
	}
	for _, r := range []vhostuser.Request{vhostuser.GetFeatures, vhostuser.GetProtocolFeatures, vhostuser.GetFeatures} {
		if _, err := f.Request(s.ctx, r, nil, nil, true); err != nil {
			return err
		}
	}
	return f.Barrier(s.ctx) // a second reply to one of them would be found here
}

func (s *subject) unknownRequest() error {
	f, err := s.greeted()
	if err != nil {
		return err
	}
	if err := s.refuses(f, 200, nil); err != nil {
		return err
	}
	return s.survives()
}

func (s *subject) halfMessage() error {
	whole := vhostuser.Message(vhostuser.SetFeatures, vhostuser.FlagVersion, vhostuser.U64(0).Marshal())
	for _, n := range []int{1, vhostuser.HeaderLen - 1, vhostuser.HeaderLen, len(whole) - 1} {
		f, err := s.greeted()
		if err != nil {
			return err
		}
		if err := f.SendRaw(s.ctx, whole[:n], nil); err != nil {
			return err
		}
		f.Disconnect()
	}
	return s.survives()
}

func (s *subject) wrongVersion() error {
	f, err := s.greeted()
	if err != nil {
		return err
	}
	const version2, needReply = 2, vhostuser.FlagNeedReply
	if err := f.SendRaw(s.ctx, vhostuser.Message(vhostuser.GetFeatures, version2|needReply, nil), nil); err != nil {
		return err
	}
	switch h, _, err := f.Receive(s.ctx); {
	case err == nil:
		return fmt.Errorf("version 2 of %s was answered with flags %#x", vhostuser.GetFeatures, h.Flags)
	case !hungUp(err):
		return fmt.Errorf("the connection was not closed: %w", err)
	}
	return s.survives()
}

func (s *subject) configSpace() error {
	if err := s.needs(0, vhostuser.ProtocolConfig); err != nil {
		return err
	}
	f, err := s.greeted()
	if err != nil {
		return err
	}
	const head, length = 12, 12 // offset, size and flags; then so many bytes: up to and with the MTU
	payload := make([]byte, head+length)
	payload[4] = length
	reply, err := f.Request(s.ctx, vhostuser.GetConfig, payload, nil, false)
	if err != nil {
		return err
	}
	if len(reply) != len(payload) {
		return fmt.Errorf("GET_CONFIG of %d bytes was answered with %d bytes in all, want %d", length, len(reply), len(payload))
	}
	return nil
}

func (s *subject) resetDevice() error {
	if err := s.needs(0, vhostuser.ProtocolResetDevice); err != nil {
		return err
	}
	return s.keepsWorking(vutest.QEMU10, vhostuser.ResetDevice, nil)
}
