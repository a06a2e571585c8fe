package conform

import (
	"fmt"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// memories are traps in the guest's memory.
func memories() []Scenario {
	return []Scenario{
		{"trap-7.9-memory-changes", "goes on over running rings when memory is added and removed, by table (virtio-user)", func(s *subject) error {
			return s.plugged(vutest.VirtioUser)
		}},
		{"trap-7.9-memory-slots", "goes on over running rings when regions are added and removed one by one (QEMU, Cloud Hypervisor)", func(s *subject) error {
			if err := s.needs(0, vhostuser.ProtocolMemSlots); err != nil {
				return err
			}
			if err := s.plugged(vutest.QEMU10); err != nil {
				return fmt.Errorf("QEMU: %w", err)
			}
			return s.plugged(vutest.CloudHypervisor)
		}},
		{"trap-7.11-many-regions", "takes more than 8 regions in one table", (*subject).manyRegions},
		{"trap-7.12-empty-region", "refuses a region of no bytes", func(s *subject) error {
			return s.badRegion(vhostuser.MemRegion{GPA: 0, Size: 0, User: 1 << 32})
		}},
		{"trap-7.12-offset-overflow", "refuses a region whose offset and size overflow", func(s *subject) error {
			return s.badRegion(vhostuser.MemRegion{GPA: 0, Size: 1 << 20, User: 1 << 32, Offset: 1<<64 - 4096})
		}},
		{"trap-7.40-short-file", "refuses a region that is longer than its file", func(s *subject) error {
			return s.badRegion(vhostuser.MemRegion{GPA: 0, Size: 1 << 30, User: 1 << 32})
		}},
	}
}

func (s *subject) plugged(k vutest.Kind) error {
	f, err := s.start(vutest.Options{Kind: k})
	if err != nil {
		return err
	}
	for round := range 3 {
		region, err := f.AddMemory(s.ctx, 2<<20)
		if err != nil {
			return err
		}
		if err := s.works(f); err != nil {
			return fmt.Errorf("round %d, memory added: %w", round+1, err)
		}
		if err := f.RemoveMemory(s.ctx, region); err != nil {
			return err
		}
		if err := s.works(f); err != nil {
			return fmt.Errorf("round %d, memory removed: %w", round+1, err)
		}
	}
	return nil
}

func (s *subject) manyRegions() error {
	var layout []vutest.Region
	const size = 1 << 20
	for i := range uint64(16) {
		layout = append(layout, vutest.Region{GPA: i * 2 * size, User: 0x7e00_0000_0000 + i*4*size, Size: size, File: int(i)})
	}
	f, err := s.start(vutest.Options{Kind: vutest.CloudHypervisor, Layout: layout, Guest: vutest.Guest{RingSize: 64}})
	if err != nil {
		return err
	}
	return s.works(f)
}

// badRegion sends a table of one region over a file of 2 MiB.
func (s *subject) badRegion(r vhostuser.MemRegion) error {
	fd, err := sys.NewMemfd("conform", 2<<20, sys.MemfdOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = fd.Close() }()
	f, err := s.greeted()
	if err != nil {
		return err
	}
	if err := s.refuses(f, vhostuser.SetMemTable, vhostuser.MemTable{Regions: []vhostuser.MemRegion{r}}.Marshal(), fd); err != nil {
		return err
	}
	f.Disconnect()
	return s.survives()
}

// hostileTime is how long a back-end that polls has to look at memory that is
// gone, before the front-end leaves.
const hostileTime = 100 * time.Millisecond

func (s *subject) truncated() error {
	f, err := s.start(vutest.Options{Kind: vutest.QEMU10, Truncatable: true})
	if err != nil {
		return err
	}
	if err := s.works(f); err != nil {
		return err
	}
	if err := f.Truncate(0, 0); err != nil {
		return err
	}
	if err := f.SetKick(s.ctx, 1); err != nil && !hungUp(err) { // has the back-end look at the ring
		return err
	}
	time.Sleep(hostileTime)
	f.Disconnect()
	return s.survives()
}
