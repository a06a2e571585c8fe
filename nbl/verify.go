package nbl

import "fmt"

// poison is what a freed List is filled with in a pool that verifies.
const poison = 0xa5

// verifier finds Lists that are used after they were given back, or given back
// twice.
type verifier struct {
	pool   *Pool
	in     map[*List]bool // the pool's Lists, and whether they are in it
	used   int            // freed Lists that were written to
	twice  int            // Lists returned that were not out
	kept   int            // Lists that a receiver kept beyond its call
	header [MaxHeader]byte
}

func newVerifier(p *Pool) *verifier {
	v := &verifier{pool: p, in: make(map[*List]bool, len(p.all))}
	for i := range v.header {
		v.header[i] = poison
	}
	for i := range p.all {
		v.in[&p.all[i]] = true
		v.spoil(&p.all[i])
	}
	return v
}

// spoil fills l and its memory with the pattern.
func (v *verifier) spoil(l *List) {
	l.reset(^uint64(0))
	l.Buffer = Buffer{Offset: poison}
	l.Dst, l.Src, l.VLAN, l.EtherType, l.L3 = poison, poison, poison, poison, poison
	l.QueueID, l.Status, l.Since = poison, Dropped, poison
	l.header = v.header
	if d := l.more.data[0]; d.Len() > 0 {
		c := NewCursor(l.more.data[:])
		for left := d.Len(); left > 0; left -= min(left, MaxHeader) {
			c.Write(v.header[:min(left, MaxHeader)])
		}
	}
}

// spoiled reports whether l is as spoil left it.
func (v *verifier) spoiled(l *List) bool {
	if l.MDLs != nil || l.Offset != poison || l.Length != 0 || l.serial != ^uint64(0) || l.headerLen != 0 ||
		l.Dst != poison || l.Src != poison || l.VLAN != poison || l.EtherType != poison || l.L3 != poison ||
		l.QueueID != poison || l.Status != Dropped || l.Since != poison || l.header != v.header || l.Children() != 0 {
		return false
	}
	c := NewCursor(l.more.data[:])
	var b [MaxHeader]byte
	for {
		n := c.Read(b[:])
		if n == 0 {
			return true
		}
		for _, x := range b[:n] {
			if x != poison {
				return false
			}
		}
	}
}

// take looks at Lists that leave the pool.
func (v *verifier) take(lists []*List) {
	for _, l := range lists {
		if !v.spoiled(l) {
			v.used++
		}
		v.in[l] = false
	}
}

// put spoils Lists that come back and answers those that were out.
func (v *verifier) put(lists []*List) []*List {
	var good []*List
	for _, l := range lists {
		if in, ours := v.in[l]; in || !ours {
			v.twice++
			continue
		}
		if l.Children() != 0 {
			v.kept++
		}
		v.in[l] = true
		v.spoil(l)
		good = append(good, l)
	}
	return good
}

// err says what was found.
func (v *verifier) err() error {
	if v.used+v.twice+v.kept == 0 {
		return nil
	}
	return fmt.Errorf("nbl: pool %q: %d lists were written to after they were freed, %d were returned that were not out, %d were kept by others when they came back",
		v.pool.tag, v.used, v.twice, v.kept)
}
