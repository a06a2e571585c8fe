package conform

import (
	"fmt"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// starts are the sequences by which front-ends bring their guests up.
func starts() (list []Scenario) {
	for _, k := range vutest.Kinds() {
		list = append(list,
			Scenario{
				"start-" + k.String(), "serves the messages of " + k.String() + " in their order; its guest's frames pass",
				func(s *subject) error {
					f, err := s.start(vutest.Options{Kind: k})
					if err != nil {
						return err
					}
					return s.works(f)
				},
			},
			Scenario{
				"restart-" + k.String(), "stops and starts the rings of " + k.String() + " on one connection, where they stood",
				func(s *subject) error { return s.again(k, s.stopped) },
			},
			Scenario{
				"reboot-" + k.String(), "serves another driver of " + k.String() + ", with fewer features and smaller rings, on one connection",
				func(s *subject) error { return s.again(k, s.rebooted) },
			})
		if k == vutest.Crosvm || k == vutest.Libkrun {
			continue // they do not connect again
		}
		list = append(list, Scenario{
			"reconnect-" + k.String(), "takes " + k.String() + " back over a new connection while its guest runs on",
			func(s *subject) error { return s.again(k, s.reconnected) },
		})
	}
	return append(list, Scenario{
		"start-two-pairs", "serves two queue pairs, and a guest that uses one of them, then two, then one",
		func(s *subject) error {
			if err := s.needs(virtio.NetMQ, 0); err != nil {
				return err
			}
			// A back-end may carry frames from pair to pair of the same number.
			s.peerPairs = 2
			f, err := s.start(vutest.Options{Kind: vutest.QEMU10, Pairs: 2, Guest: vutest.Guest{Pairs: 1}})
			if err != nil {
				return err
			}
			for _, n := range []int{1, 2, 1} {
				if err := f.UsePairs(s.ctx, n); err != nil {
					return err
				}
				for pair := range n {
					if err := s.worksBy(f, pair); err != nil {
						return fmt.Errorf("pair %d of %d in use: %w", pair, n, err)
					}
				}
			}
			return nil
		},
	}, Scenario{
		"start-packed", "serves packed rings",
		func(s *subject) error {
			if err := s.needs(virtio.RingPacked, 0); err != nil {
				return err
			}
			return s.boots(vutest.QEMU10, vutest.Guest{Packed: true})
		},
	}, Scenario{
		"start-control-queue", "answers the guest's control queue where the front-end forwards it (crosvm)",
		func(s *subject) error {
			if err := s.needs(virtio.NetCtrlVQ|virtio.NetCtrlRx, 0); err != nil {
				return err
			}
			f, err := s.start(vutest.Options{Kind: vutest.Crosvm, Guest: vutest.Guest{Control: true}})
			if err != nil {
				return err
			}
			ack, err := f.Control(vutest.Command{Data: []byte{virtio.CtrlRx, virtio.CtrlRxPromisc, 1}})
			if err != nil {
				return err
			}
			if ack != virtio.CtrlOK {
				return fmt.Errorf("a command was answered with %d", ack)
			}
			return s.works(f)
		},
	})
}

// again runs a guest, lets something happen to it, and wants it to work as
// before, twice.
func (s *subject) again(k vutest.Kind, happen func(f *vutest.FrontEnd) error) error {
	f, err := s.start(vutest.Options{Kind: k})
	if err != nil {
		return err
	}
	for i := range 2 {
		if err := s.works(f); err != nil {
			return fmt.Errorf("before round %d: %w", i+1, err)
		}
		if err := happen(f); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	return s.works(f)
}

func (s *subject) stopped(f *vutest.FrontEnd) error {
	if err := f.Stop(s.ctx); err != nil {
		return err
	}
	return s.run(f)
}

func (s *subject) rebooted(f *vutest.FrontEnd) error {
	if _, err := f.Reboot(s.ctx, vutest.Guest{Without: virtio.NetMrgRxBuf | virtio.EventIdx | virtio.NetMQ, RingSize: 64}); err != nil {
		return err
	}
	if err := f.Barrier(s.ctx); err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return err
	}
	if _, err := f.Reboot(s.ctx, vutest.Guest{}); err != nil {
		return err
	}
	return f.Barrier(s.ctx)
}

func (s *subject) reconnected(f *vutest.FrontEnd) error {
	if _, err := f.Reconnect(s.ctx); err != nil {
		return err
	}
	return f.Barrier(s.ctx)
}

// boots runs one guest.
func (s *subject) boots(k vutest.Kind, g vutest.Guest) error {
	f, err := s.start(vutest.Options{Kind: k, Guest: g})
	if err != nil {
		return err
	}
	return s.works(f)
}
