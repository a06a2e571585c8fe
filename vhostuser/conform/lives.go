package conform

import (
	"fmt"
	"os"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// lives are what happens to a whole connection, and migration.
func lives() []Scenario {
	return []Scenario{
		{"trap-7.26-connections", "serves 20 front-ends one after the other, which leave without a word", (*subject).connections},
		{"trap-7.21-log", "starts and ends a dirty log beside running rings, again and again, with the log exchanged in between", (*subject).logs},
		{"trap-7.22-log-is-written", "marks the pages that it writes: the frame's and the used ring's", (*subject).logIsWritten},
		// The last one: it is what ends a back-end that is not prepared for it.
		{"trap-7.40-truncated-file", "lives on when a front-end cuts the file of the memory that rings lie in", (*subject).truncated},
	}
}

func (s *subject) connections() error {
	for i := range 20 {
		f, err := s.start(vutest.Options{Kind: vutest.Kinds()[i%2]})
		if err != nil {
			return fmt.Errorf("front-end %d: %w", i+1, err)
		}
		if err := f.Send(0, frame(theirs, ours, 60, byte(i))); err != nil {
			return err
		}
		f.Disconnect()
	}
	return s.survives()
}

// dirtyLog is a map of dirty pages that is shared with the back-end.
type dirtyLog struct{ fd *sys.FD }

// logBytes covers the guest memory of these scenarios: addresses up to 8 GiB.
const logBytes = 8 << 30 / 4096 / 8

// setLog gives the back-end a new log.
func (s *subject) setLog(f *vutest.FrontEnd) (*dirtyLog, error) {
	fd, err := sys.NewMemfd("conform log", logBytes, sys.MemfdOptions{})
	if err != nil {
		return nil, err
	}
	payload := append(vhostuser.U64(logBytes).Marshal(), vhostuser.U64(0).Marshal()...)
	// It has a reply of its own, of which every back-end has another form.
	err = f.SendRaw(s.ctx, vhostuser.Message(vhostuser.SetLogBase, vhostuser.FlagVersion, payload), []*sys.FD{fd})
	if err == nil {
		_, _, err = f.Receive(s.ctx)
	}
	if err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("SET_LOG_BASE: %w", err)
	}
	return &dirtyLog{fd}, nil
}

// toggle turns the log on or off as QEMU does: features first, then each ring's
// addresses.
func (s *subject) toggle(f *vutest.FrontEnd, on bool) error {
	features, flags := f.Features()|virtio.ProtocolFeatures, uint32(0)
	if on {
		features, flags = features|virtio.LogAll, 1
	}
	if _, err := f.Request(s.ctx, vhostuser.SetFeatures, vhostuser.U64(features).Marshal(), nil, false); err != nil {
		return err
	}
	for ring := range f.Rings() {
		addr := f.VringAddr(ring)
		addr.Flags = flags
		if _, err := f.Request(s.ctx, vhostuser.SetVringAddr, addr.Marshal(), nil, false); err != nil {
			return err
		}
	}
	return f.Barrier(s.ctx)
}

func (s *subject) logs() error {
	if err := s.needs(virtio.LogAll, vhostuser.ProtocolLogShmFD); err != nil {
		return err
	}
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	for round := range 3 {
		for range 2 {
			l, err := s.setLog(f)
			if err != nil {
				return err
			}
			_ = l.fd.Close()
			if err := s.toggle(f, true); err != nil {
				return err
			}
			if err := s.works(f); err != nil {
				return fmt.Errorf("round %d, with a log: %w", round+1, err)
			}
		}
		if err := s.toggle(f, false); err != nil {
			return err
		}
		if err := s.works(f); err != nil {
			return fmt.Errorf("round %d, without a log: %w", round+1, err)
		}
	}
	return nil
}

func (s *subject) logIsWritten() error {
	if err := s.needs(virtio.LogAll, vhostuser.ProtocolLogShmFD); err != nil {
		return err
	}
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	l, err := s.setLog(f)
	if err != nil {
		return err
	}
	defer func() { _ = l.fd.Close() }()
	if err := s.toggle(f, true); err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return err
	}
	if err := f.Stop(s.ctx); err != nil {
		return err
	}
	rings := []int{1}
	if s.o.Peer != "" {
		rings = append(rings, 0)
	}
	for _, ring := range rings {
		marked, err := l.has(f.VringAddr(ring).Log)
		if err != nil {
			return err
		}
		if !marked {
			return fmt.Errorf("the page of the used ring of ring %d is not marked", ring)
		}
	}
	return nil
}

// has reports whether the page of a guest address is marked.
func (l *dirtyLog) has(gpa uint64) (bool, error) {
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", l.fd.Num()))
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	var b [1]byte
	page := gpa / 4096
	if _, err := file.ReadAt(b[:], int64(page/8)); err != nil {
		return false, err
	}
	return b[0]&(1<<(page%8)) != 0, nil
}
