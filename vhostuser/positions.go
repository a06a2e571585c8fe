package vhostuser

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// positions are a file in which the positions of a port's packed rings outlive
// the process: the memory of a packed ring does not tell its device where it
// stood, and the front-end does not know. A journal per ring begins at a
// multiple of positionStride. The file is as long as rings can need, and as
// large as those need that were used.
type positions struct {
	fd  *sys.FD
	mem *sharedmem.Map

	mu    sync.Mutex
	users int // the server until it is closed, and Serve
}

// positionStride is room for the journal of the largest ring, and whole pages.
const positionStride = 66 * 4096

// openPositions opens the file at path, or makes it. "" is no file, and nil.
func openPositions(path string, rings int) (p *positions, err error) {
	if path == "" {
		return nil, nil
	}
	defer func() {
		if err != nil {
			p.drop()
			p, err = nil, fmt.Errorf("vhostuser: keep the positions of packed rings: %w", err)
		}
	}()
	p = &positions{users: 1}
	if p.fd, err = sys.OpenRunFile(path); err != nil {
		return p, err
	}
	size := uint64(rings) * positionStride
	if err = sys.Grow(p.fd, size); err != nil {
		return p, err
	}
	again, err := p.fd.Dup()
	if err != nil {
		return p, err
	}
	file, err := sharedmem.OpenFile(again)
	if err != nil {
		return p, err
	}
	defer file.Unref() // the Map has its own reference
	p.mem, err = sharedmem.NewMap([]sharedmem.Region{{Size: size, File: file}}, sharedmem.MapOptions{Owner: path})
	return p, err
}

// take makes the caller one more user; nil when there is none any more.
func (p *positions) take() *positions {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users == 0 {
		return nil
	}
	p.users++
	return p
}

// drop ends a user. The last one gives the file back to whoever comes next.
func (p *positions) drop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users > 0 {
		return
	}
	if p.mem != nil {
		p.mem.Unref()
	}
	_ = p.fd.Close() // what was written, was written to memory
}

// of is the journal's memory of ring i with so many entries.
func (p *positions) of(i, size int) (sharedmem.Block, error) {
	at, n := uint64(i)*positionStride, virtqueue.JournalLen(size)
	if err := sys.Allocate(p.fd, at, n); err != nil {
		return sharedmem.Block{}, err
	}
	return p.mem.Block(at, n)
}

// keepPosition gives the ring of c, which is packed, its journal. At its first
// start in a session it goes on from what is kept: the front-end's base is that
// of the last time it asked. Without room for a journal the ring does without.
func (s *session) keepPosition(r *ring, c *virtqueue.Config, fresh bool) {
	if s.srv.keeping == nil || !c.Features.Has(virtio.RingPacked) {
		return
	}
	key, ok := s.ringKey(r, c)
	if !ok {
		return
	}
	memory, err := s.srv.keeping.of(r.index, c.Size)
	if err != nil {
		s.log(hclog.Warn, "the position of a packed ring is not kept, so that the ring is lost if this process is killed", "ring", r.index, "error", err)
		return
	}
	c.Journal = &virtqueue.Journal{Memory: memory, Key: key, Recover: fresh && !r.ran}
	r.journal = c.Journal
}

// told follows the answer that tells the front-end where a ring stands: it knows
// from here on, and so does whoever it has serve the ring next.
func (s *session) told(r *ring) {
	if r.journal != nil {
		r.journal.Forget()
		r.journal = nil
	}
	s.untrack(r)
}

// ringKey names the ring by where its areas lie in which files: that stays the
// same for as long as the guest's memory does, whoever maps it.
func (s *session) ringKey(r *ring, c *virtqueue.Config) (key [32]byte, ok bool) {
	var b []byte
	for _, at := range []uint64{r.addr.Desc, r.addr.Avail, r.addr.Used} {
		region, ok := s.memory.at(at)
		if !ok {
			return key, false
		}
		for _, word := range []uint64{region.id.dev, region.id.ino, region.Offset + (at - region.User)} {
			b = order.AppendUint64(b, word)
		}
	}
	b = order.AppendUint64(b, uint64(c.Size))
	b = order.AppendUint64(b, uint64(c.Features&virtio.EventIdx))
	return sha256.Sum256(b), true
}

// at is the region with the byte at front-end address user.
func (m *memory) at(user uint64) (region, bool) {
	for _, r := range m.table {
		if user-r.User < r.Size {
			return r, true
		}
	}
	return region{}, false
}

// tellRecovered logs what became of the position that was kept for a ring: once
// per session what was kept in vain, which is so for all rings of another guest.
func (s *session) tellRecovered(r *ring, q *virtqueue.Queue) {
	found, err := q.Recovered()
	switch {
	case found:
		s.log(hclog.Debug, "packed ring goes on where it was left", "ring", r.index)
		if n := q.GivenBack(); n > 0 {
			s.log(hclog.Info, "the front-end has given chains back while nobody served the ring, and those before them are given back unserved", "ring", r.index, "chains", n)
		}
	case err != nil && !s.foreign:
		s.foreign = true
		s.log(hclog.Info, "positions that were kept for packed rings are not used", "ring", r.index, "error", err)
	}
}
