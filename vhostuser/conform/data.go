package conform

import (
	"fmt"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// data are traps in how frames lie in the rings.
func data() []Scenario {
	return []Scenario{
		{"trap-7.32-header-anywhere", "takes frames whose header lies alone, with the frame, or is cut in two", (*subject).headerAnywhere},
		{"frames-in-many-parts", "takes a frame that is spread over many descriptors", func(s *subject) error {
			f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
			if err != nil {
				return err
			}
			return s.takesFrames(f, vutest.Frame{Data: long(), Parts: 17}, vutest.Frame{Data: long(), Parts: 3, HeaderAlone: true})
		}},
		{"frames-indirect", "takes frames in indirect tables, whole and behind direct descriptors", func(s *subject) error {
			if err := s.needs(virtio.IndirectDesc, 0); err != nil {
				return err
			}
			f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
			if err != nil {
				return err
			}
			return s.takesFrames(f, vutest.Frame{Data: long(), Parts: 5, Indirect: true}, vutest.Frame{Data: long(), Parts: 5, Indirect: true, HeaderAlone: true})
		}},
		{"frames-across-regions", "takes a frame that lies across two regions of memory", func(s *subject) error {
			f, err := s.start(vutest.Options{Kind: vutest.CloudHypervisor})
			if err != nil {
				return err
			}
			return s.takesFrames(f, vutest.Frame{Data: long(), Straddle: true})
		}},
		{"frames-too-short", "passes over frames that are shorter than their header or than any frame", (*subject).tooShort},
		{"trap-7.35-buffers-before-enable", "delivers into buffers that were posted before the ring was enabled", (*subject).buffersFirst},
		{"trap-7.24-pairs-not-in-use", "delivers nothing to a pair that the guest does not use", (*subject).pairsNotInUse},
	}
}

func long() []byte { return frame(theirs, ours, 1400, 9).Data }

// takesFrames sends frames one by one.
func (s *subject) takesFrames(f *vutest.FrontEnd, frames ...vutest.Frame) error {
	for i := range frames {
		if err := f.Send(0, frames[i]); err != nil {
			return fmt.Errorf("frame %d: %w", i+1, err)
		}
		if err := f.WaitSent(0); err != nil {
			return fmt.Errorf("frame %d: %w", i+1, err)
		}
	}
	return s.works(f)
}

func (s *subject) headerAnywhere() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	return s.takesFrames(f,
		vutest.Frame{Data: long(), HeaderAlone: true}, vutest.Frame{Data: long(), HeaderCut: 1}, vutest.Frame{Data: long(), HeaderCut: 11})
}

func (s *subject) tooShort() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	return s.takesFrames(f, vutest.Frame{}, vutest.Frame{Data: []byte{1}}, vutest.Frame{Data: make([]byte, 13)})
}

// buffersFirst: virtio-user enables behind everything else.
func (s *subject) buffersFirst() error {
	if s.o.Peer == "" {
		return lacking("needs a second port, --peer")
	}
	f, err := s.start(vutest.Options{Kind: vutest.VirtioUser})
	if err != nil {
		return err
	}
	if err := s.meet(); err != nil {
		return err
	}
	if err := f.Enable(s.ctx, 0, false); err != nil {
		return err
	}
	if err := f.Enable(s.ctx, 0, true); err != nil {
		return err
	}
	return s.works(f)
}

func (s *subject) pairsNotInUse() error {
	if s.o.Peer == "" {
		return lacking("needs a second port, --peer")
	}
	if err := s.needs(virtio.NetMQ, 0); err != nil {
		return err
	}
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10, Pairs: 2, Guest: vutest.Guest{Pairs: 1}})
	if err != nil {
		return err
	}
	for range 8 {
		if err := s.works(f); err != nil {
			return err
		}
	}
	if n := f.Driver(2).UsedIdx(); n != 0 {
		return fmt.Errorf("%d frames were put into a ring that is not enabled", n)
	}
	return nil
}
