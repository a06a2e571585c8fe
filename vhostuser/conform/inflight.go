package conform

import (
	"bytes"
	"fmt"
	"math"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// inflights are what becomes of the region that a front-end keeps for its
// back-end.
func inflights() []Scenario {
	return []Scenario{
		{"inflight-reconnect", "goes on with the inflight region that Cloud Hypervisor has kept, where frames have waited meanwhile", func(s *subject) error {
			return s.keptRegion(vutest.Options{Kind: vutest.CloudHypervisor})
		}},
		{"inflight-reconnect-packed", "goes on by the inflight region where packed rings stood, which their front-end does not know", func(s *subject) error {
			if err := s.needs(virtio.RingPacked, vhostuser.ProtocolInflight); err != nil {
				return err
			}
			return s.keptRegion(vutest.Options{Kind: vutest.QEMU10, Inflight: true, Guest: vutest.Guest{Packed: true}})
		}},
		{"inflight-region-refused", "refuses an inflight region without memory, of more than its file has, or of less than its rings need", (*subject).badInflight},
		{"inflight-nonsense", "lives on after an inflight region that is full of nonsense", (*subject).nonsense},
	}
}

// keptRegion has a guest send frames while its back-end is away, as its front-end
// sees it. None of them may be left behind.
func (s *subject) keptRegion(o vutest.Options) error {
	if err := s.needs(0, vhostuser.ProtocolInflight); err != nil {
		return err
	}
	f, err := s.start(o)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := s.works(f); err != nil {
			return fmt.Errorf("before round %d: %w", i+1, err)
		}
		f.Disconnect()
		for n := range 5 {
			if err := f.Send(0, frame(theirs, ours, 60, byte(n))); err != nil {
				return err
			}
		}
		if err := s.reconnected(f); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		if err := f.WaitSent(0); err != nil {
			return fmt.Errorf("round %d: frames that waited for the back-end are not given back: %w", i+1, err)
		}
	}
	return s.works(f)
}

func (s *subject) badInflight() error {
	if err := s.needs(0, vhostuser.ProtocolInflight); err != nil {
		return err
	}
	const fileSize = 1 << 20
	fd, err := sys.NewMemfd("conform inflight", fileSize, sys.MemfdOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = fd.Close() }()
	for _, c := range []struct {
		what   string
		region vhostuser.Inflight
		fds    []*sys.FD
	}{
		{"without a descriptor", vhostuser.Inflight{Size: fileSize, Queues: 2, QueueSize: 256}, nil},
		{"that is longer than its file", vhostuser.Inflight{Size: 1 << 40, Queues: 2, QueueSize: 256}, []*sys.FD{fd}},
		{"behind the end of its file", vhostuser.Inflight{Size: fileSize, Offset: 16 * fileSize, Queues: 2, QueueSize: 256}, []*sys.FD{fd}},
		{"whose offset and size overflow", vhostuser.Inflight{Size: fileSize, Offset: math.MaxUint64 - 4095, Queues: 2, QueueSize: 256}, []*sys.FD{fd}},
		{"of less than its rings need", vhostuser.Inflight{Size: 64, Queues: 2, QueueSize: 256}, []*sys.FD{fd}},
	} {
		f, err := s.start(vutest.Options{Kind: vutest.CloudHypervisor})
		if err != nil {
			return err
		}
		if err := s.refuses(f, vhostuser.SetInflightFD, c.region.Marshal(), c.fds...); err != nil {
			return fmt.Errorf("a region %s: %w", c.what, err)
		}
		f.Disconnect()
	}
	return s.survives()
}

// nonsense: whether the rings start is the back-end's choice.
func (s *subject) nonsense() error {
	if err := s.needs(0, vhostuser.ProtocolInflight); err != nil {
		return err
	}
	for _, b := range []byte{0x01, 0x7f, 0xff} {
		f, err := s.start(vutest.Options{Kind: vutest.CloudHypervisor})
		if err != nil {
			return err
		}
		f.Disconnect()
		if err := f.WriteInflight(0, bytes.Repeat([]byte{b}, 1024)); err != nil {
			return err
		}
		if err := s.reconnected(f); err == nil {
			if err := f.Send(0, frame(theirs, ours, 60, 1)); err != nil {
				return err
			}
		}
		f.Disconnect()
	}
	return s.survives()
}
