package limit

import (
	"fmt"
	"sync"
	"time"
)

// Rate is a token bucket for each key. Its methods may be called concurrently.
type Rate[K comparable] struct {
	perSecond int64
	burst     int64 // tokens, in billionths
	most      int   // keys with a bucket of their own

	mu       sync.Mutex
	buckets  map[K]*bucket // guarded by mu
	overflow bucket        // guarded by mu: all keys that found no room together
}

// bucket starts full: used tokens are counted, so its zero value is that.
type bucket struct {
	used int64 // in billionths of a token
	at   time.Time
}

const token = int64(time.Second) // nanoseconds times tokens per second

// NewRate allows each key perSecond and, after a rest, burst at once. It keeps
// buckets for at most keys keys: while that many are in use, further keys share
// one. All three are at least 1.
func NewRate[K comparable](perSecond, burst, keys int) (*Rate[K], error) {
	if perSecond < 1 || burst < 1 || keys < 1 || int64(burst) > 1<<30 || int64(perSecond) > 1<<30 {
		return nil, fmt.Errorf("limit: %d a second, %d at once, %d keys; each is 1 to %d", perSecond, burst, keys, 1<<30)
	}
	return &Rate[K]{
		perSecond: int64(perSecond),
		burst:     int64(burst) * token,
		most:      keys,
		buckets:   map[K]*bucket{},
	}, nil
}

// Allow reports whether key may do one more thing at now, and counts it.
func (r *Rate[K]) Allow(now time.Time, key K) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[key]
	if b == nil {
		b = r.add(now, key)
	}
	r.refill(b, now)
	if b.used+token > r.burst {
		return false
	}
	b.used += token
	return true
}

// add makes a bucket for key, or finds the one that keys without room share.
func (r *Rate[K]) add(now time.Time, key K) *bucket {
	if len(r.buckets) >= r.most {
		for k, b := range r.buckets {
			if r.refill(b, now); b.used == 0 {
				delete(r.buckets, k)
			}
		}
	}
	if len(r.buckets) >= r.most {
		return &r.overflow
	}
	b := &bucket{at: now}
	r.buckets[key] = b
	return b
}

// refill gives b what it has gained since it was last looked at.
func (r *Rate[K]) refill(b *bucket, now time.Time) {
	passed := int64(now.Sub(b.at))
	if passed <= 0 {
		return
	}
	b.at = now
	if passed > b.used/r.perSecond {
		b.used = 0
		return
	}
	b.used -= passed * r.perSecond
}
