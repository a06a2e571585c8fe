package sharedmem

import (
	"errors"
	"fmt"
	"sync"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
)

// ErrBudget is wrapped by the error for a memory table that would exceed a
// budget.
var ErrBudget = errors.New("the budget for mapped memory is exhausted")

// Limits bound what front-ends can make this process map. Address space and
// the kernel's mappings are shared by all ports and by the Go heap: whoever
// exhausts them stops everybody. 0 in a field stands for its default.
type Limits struct {
	PortBytes     uint64 // one Map of a port, bytes; default 1 TiB
	TotalBytes    uint64 // all Maps, bytes; default 32 TiB
	PortMappings  int    // regions in one Map of a port; default 509
	TotalMappings int    // kernel mappings of all Maps, gaps included; default half of vm.max_map_count
}

// DefaultLimits are the limits of a process of this machine.
func DefaultLimits() Limits {
	const linuxDefault = 65530
	most, err := sys.MaxMapCount()
	if err != nil {
		most = linuxDefault
	}
	return Limits{PortBytes: 1 << 40, TotalBytes: 32 << 40, PortMappings: MaxRegions, TotalMappings: most / 2}
}

// Budget is shared by all ports of a process. All methods may be called
// concurrently.
type Budget struct {
	limits  Limits
	refused metrics.Counter

	mu       sync.Mutex
	bytes    uint64
	mappings int
}

// NewBudget makes a Budget with nothing spent.
func NewBudget(l Limits) (*Budget, error) {
	d := DefaultLimits()
	if l.PortBytes == 0 {
		l.PortBytes = d.PortBytes
	}
	if l.TotalBytes == 0 {
		l.TotalBytes = d.TotalBytes
	}
	if l.PortMappings == 0 {
		l.PortMappings = d.PortMappings
	}
	if l.TotalMappings == 0 {
		l.TotalMappings = d.TotalMappings
	}
	switch {
	case l.PortMappings < 0 || l.TotalMappings < 0:
		return nil, fmt.Errorf("sharedmem: a budget of %d regions and %d mappings: neither can be negative", l.PortMappings, l.TotalMappings)
	case l.TotalBytes > maxMapBytes:
		return nil, fmt.Errorf("sharedmem: a budget of %d bytes exceeds the address space, at most %d are possible", l.TotalBytes, uint64(maxMapBytes))
	case l.PortBytes > l.TotalBytes:
		return nil, fmt.Errorf("sharedmem: a port's budget of %d bytes exceeds that of all ports, %d", l.PortBytes, l.TotalBytes)
	}
	return &Budget{limits: l}, nil
}

// Port makes the share of one port. A port keeps it for as long as it exists.
func (b *Budget) Port() *PortBudget { return &PortBudget{all: b} }

// Spent is what all live Maps have mapped: bytes, and mappings of the kernel.
func (b *Budget) Spent() (bytes uint64, mappings int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes, b.mappings
}

// Refused is how many memory tables were refused.
func (b *Budget) Refused() uint64 { return b.refused.Value() }

// PortBudget is one port's share of a Budget. While a front-end replaces its
// memory table, the old Map and the new one are both mapped, so a port's Maps
// together may be twice as large as one of them. The nil PortBudget allows
// everything.
type PortBudget struct {
	all     *Budget
	refused metrics.Counter

	// Guarded by all.mu.
	bytes   uint64
	regions int
}

// Spent is what the port's live Maps have mapped: bytes, and regions.
func (p *PortBudget) Spent() (bytes uint64, regions int) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	return p.bytes, p.regions
}

// Refused is how many of the port's memory tables were refused.
func (p *PortBudget) Refused() uint64 { return p.refused.Value() }

// kernelMappings is what a Map of some regions costs: the regions, and the gap
// before, between and after them.
func kernelMappings(regions int) int {
	if regions == 0 {
		return 0
	}
	return 2*regions + 1
}

// take charges a Map that is about to be made, or refuses it whole. No sum can
// wrap: layOut bounds bytes, the limits bound what is spent.
func (p *PortBudget) take(bytes uint64, regions int) error {
	if p == nil {
		return nil
	}
	b := p.all
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &b.limits
	mappings := kernelMappings(regions)
	var what string
	switch {
	case bytes > l.PortBytes || p.bytes+bytes > 2*l.PortBytes:
		what = fmt.Sprintf("%d bytes where a port may map %d", bytes, l.PortBytes)
	case regions > l.PortMappings || p.regions+regions > 2*l.PortMappings:
		what = fmt.Sprintf("%d regions where a port may map %d", regions, l.PortMappings)
	case b.bytes+bytes > l.TotalBytes:
		what = fmt.Sprintf("%d bytes where %d of %d are left for all ports", bytes, l.TotalBytes-b.bytes, l.TotalBytes)
	case b.mappings+mappings > l.TotalMappings:
		what = fmt.Sprintf("%d mappings where %d of %d are left for all ports", mappings, l.TotalMappings-b.mappings, l.TotalMappings)
	default:
		p.bytes, p.regions = p.bytes+bytes, p.regions+regions
		b.bytes, b.mappings = b.bytes+bytes, b.mappings+mappings
		return nil
	}
	p.refused.Add(1)
	b.refused.Add(1)
	return fmt.Errorf("sharedmem: a memory table of %s: %w", what, ErrBudget)
}

// give returns what take charged.
func (p *PortBudget) give(bytes uint64, regions int) {
	if p == nil {
		return
	}
	b := p.all
	b.mu.Lock()
	defer b.mu.Unlock()
	p.bytes, p.regions = p.bytes-bytes, p.regions-regions
	b.bytes, b.mappings = b.bytes-bytes, b.mappings-kernelMappings(regions)
}
