package dns

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The longest that an answer, and that the lack of one, is believed.
const (
	maxTTL         = time.Hour
	maxNegativeTTL = 15 * time.Minute
)

// maxCaches is how many guests have a cache: more than a switch has ports.
const maxCaches = 4096

// caches are those of all guests.
type caches struct {
	entries, bytes int // for each

	mu      sync.Mutex
	byGuest map[string]*cache // guarded by mu
}

// cache is that of one guest: the least recently used answers go first.
type cache struct {
	size  int // bytes of keys and messages
	byKey map[cacheable]*list.Element
	order *list.List // of *entry; the most recently used first
}

type entry struct {
	key     cacheable
	message []byte
	ttls    []int // where in message times to live are
	at      time.Time
	until   time.Time
}

func (e *entry) size() int { return len(e.key) + len(e.message) }

// get is an answer to q as of now, nil if none is kept.
func (c *caches) get(now time.Time, guest string, q query) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.byGuest[guest]
	if own == nil || q.cacheable == "" {
		return nil
	}
	found := own.byKey[q.cacheable]
	if found == nil {
		return nil
	}
	e := found.Value.(*entry)
	if !now.Before(e.until) {
		own.remove(found)
		return nil
	}
	own.order.MoveToFront(found)
	m := bytes.Clone(e.message)
	copy(m[:2], q.raw)
	copy(m[headerSize:q.end], q.raw[headerSize:q.end]) // with its capitals
	age := uint32(now.Sub(e.at) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(m[at:])
		binary.BigEndian.PutUint32(m[at:], ttl-min(ttl, age))
	}
	return m
}

// put keeps m, the answer to q, for as long as it says.
func (c *caches) put(now time.Time, guest string, q query, m []byte) {
	if q.cacheable == "" || c.entries < 0 || c.bytes < 0 {
		return
	}
	ttls, life := lifetime(m)
	e := &entry{key: q.cacheable, message: bytes.Clone(m), ttls: ttls, at: now, until: now.Add(life)}
	if life <= 0 || e.size() > c.bytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.of(guest)
	if old := own.byKey[e.key]; old != nil {
		own.remove(old)
	}
	own.byKey[e.key] = own.order.PushFront(e)
	own.size += e.size()
	for own.order.Len() > c.entries || own.size > c.bytes {
		own.remove(own.order.Back())
	}
}

// of is the cache of a guest, made if need be. The caller holds mu.
func (c *caches) of(guest string) *cache {
	own := c.byGuest[guest]
	if own == nil {
		for other := range c.byGuest {
			if len(c.byGuest) < maxCaches {
				break
			}
			delete(c.byGuest, other)
		}
		own = &cache{byKey: map[cacheable]*list.Element{}, order: list.New()}
		c.byGuest[guest] = own
	}
	return own
}

func (c *cache) remove(e *list.Element) {
	old := c.order.Remove(e).(*entry)
	delete(c.byKey, old.key)
	c.size -= old.size()
}

// forget drops the cache of a guest that has left.
func (c *caches) forget(guest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byGuest, guest)
}

// lifetime is for how long an answer holds, 0 for one that is not to be kept,
// and where its times to live are.
func lifetime(m []byte) (ttls []int, life time.Duration) {
	code := dnsmessage.RCode(flags(m) & maskCode)
	if flags(m)&bitTruncated != 0 || code != dnsmessage.RCodeSuccess && code != dnsmessage.RCodeNameError {
		return nil, 0
	}
	least := time.Duration(-1)
	shorten := func(seconds uint32) {
		if seconds > 1<<31-1 { // RFC 2181, 8
			seconds = 0
		}
		if d := time.Duration(seconds) * time.Second; least < 0 || d < least {
			least = d
		}
	}
	// What is not there is told by a name that has no records of the type: the
	// answers, if any, are aliases on the way. It holds as long as the SOA says.
	negative, soa := code == dnsmessage.RCodeNameError || count(m, 1) == 0, false
	err := walk(m, func(r record) {
		if r.kind == uint16(dnsmessage.TypeOPT) {
			return
		}
		ttls = append(ttls, r.ttl)
		shorten(binary.BigEndian.Uint32(m[r.ttl:]))
		if r.section == 2 && r.kind == uint16(dnsmessage.TypeSOA) && r.length >= 22 {
			soa = true
			shorten(binary.BigEndian.Uint32(m[r.data+r.length-4:]))
		}
	})
	switch {
	case err != nil || least < 0 || negative && !soa:
		return nil, 0
	case negative || soa:
		return ttls, min(least, maxNegativeTTL)
	}
	return ttls, min(least, maxTTL)
}
