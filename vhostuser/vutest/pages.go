package vutest

import (
	"fmt"
	"slices"
	"sync"
)

// pages is the guest's memory allocator: whole pages, from all regions in
// turn, so that a few buffers touch every region. It is safe for concurrent
// use.
//
// Where two regions follow one another in guest addresses, the pages on both
// sides of the border are kept for buffers that lie across it.
type pages struct {
	mu      sync.Mutex
	regions []pageRegion
	next    int             // region to try first
	borders map[uint64]bool // guest address of a border: taken
}

// pageRegion is one region and which of its pages are taken.
type pageRegion struct {
	Region
	taken []bool
	hint  int // no page below is free
}

// straddleMax is the longest buffer across a border, bytes.
const straddleMax = 2 * pageSize

// cover makes the allocator hand out pages of regions. What is allocated in
// regions that stay, stays allocated.
func (p *pages) cover(regions []Region) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var next []pageRegion
	for _, r := range regions {
		old := slices.IndexFunc(p.regions, func(o pageRegion) bool { return o.Region == r })
		if old >= 0 {
			next = append(next, p.regions[old])
			continue
		}
		next = append(next, pageRegion{Region: r, taken: make([]bool, r.Size/pageSize)})
	}
	p.regions = next
	p.findBorders()
}

// findBorders keeps the pages around each border that is not known yet and
// whose pages are free.
func (p *pages) findBorders() {
	known := p.borders
	p.borders = make(map[uint64]bool)
	for i := range p.regions {
		for j := range p.regions {
			below, above := &p.regions[i], &p.regions[j]
			at := above.GPA
			if below.end() != at {
				continue
			}
			if taken, ok := known[at]; ok {
				p.borders[at] = taken
				continue
			}
			last := len(below.taken) - 1
			if below.taken[last] || above.taken[0] {
				continue
			}
			below.taken[last], above.taken[0] = true, true
			p.borders[at] = false
		}
	}
}

// reset forgets every allocation, as a guest does that boots.
func (p *pages) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.regions {
		clear(p.regions[i].taken)
		p.regions[i].hint = 0
	}
	p.next, p.borders = 0, nil
	p.findBorders()
}

// pagesFor is at least 1: an empty buffer has an address, too.
func pagesFor(n int) int { return (max(n, 1) + pageSize - 1) / pageSize }

// take allocates pages for n bytes that lie in one region, and gives the guest
// address of the first.
func (p *pages) take(n int) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.regions {
		r := &p.regions[(p.next+i)%len(p.regions)]
		if at, ok := r.take(pagesFor(n)); ok {
			p.next = (p.next + i + 1) % len(p.regions)
			return r.GPA + uint64(at)*pageSize, nil
		}
	}
	return 0, fmt.Errorf("vutest: the guest has no %d bytes of memory left; give it more by Options.MemorySize", n)
}

// take finds n free pages in a row.
func (r *pageRegion) take(n int) (first int, ok bool) {
	for r.hint < len(r.taken) && r.taken[r.hint] {
		r.hint++
	}
	run := 0
	for i := r.hint; i < len(r.taken); i++ {
		if r.taken[i] {
			run = 0
			continue
		}
		if run++; run == n {
			first = i + 1 - n
			for j := first; j <= i; j++ {
				r.taken[j] = true
			}
			return first, true
		}
	}
	return 0, false
}

// straddle allocates n bytes, at most straddleMax, half of them on each side
// of a border between two regions.
func (p *pages) straddle(n int) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > straddleMax {
		return 0, fmt.Errorf("vutest: a buffer of %d bytes across a border; at most %d are possible", n, straddleMax)
	}
	for at, taken := range p.borders {
		if !taken {
			p.borders[at] = true
			return at - uint64(n/2), nil
		}
	}
	return 0, fmt.Errorf("vutest: no free border of two regions among %d; Cloud Hypervisor's layout has two", len(p.borders))
}

// give frees what take or straddle allocated for n bytes at gpa.
func (p *pages) give(gpa uint64, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := range p.borders {
		if gpa >= at-pageSize && gpa < at { // the page that take never gives
			p.borders[at] = false
			return
		}
	}
	for i := range p.regions {
		r := &p.regions[i]
		if gpa < r.GPA || gpa >= r.end() {
			continue
		}
		first := int(gpa-r.GPA) / pageSize
		for j := range pagesFor(n) {
			r.taken[first+j] = false
		}
		r.hint = min(r.hint, first)
	}
}
