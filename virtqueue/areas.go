package virtqueue

import "vhostnet/sharedmem"

// Areas are the parts of guest memory that the ring itself lies in: descriptor
// table, avail ring, used ring.
func (q *Queue) Areas() []sharedmem.Block {
	return []sharedmem.Block{q.cfg.Desc, q.cfg.Avail, q.cfg.Used}
}
