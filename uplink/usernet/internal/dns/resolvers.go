package dns

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"vhostnet/uplink/usernet/internal/limit"
)

const (
	resolverPort  = 53
	maxResolvers  = 3               // as many as resolv.conf(5) has
	maxResolvConf = 64 << 10        // bytes of it that are read
	lookEvery     = time.Second     // how often it is looked at, while there are queries
	suspectAfter  = 3               // queries without an answer, one after the other
	queryTimeout  = 4 * time.Second // all attempts together; clients wait for 5 s
)

// resolvers are the host's.
type resolvers struct {
	file string // empty: they are fixed
	f    *Forwarder

	mu      sync.Mutex
	servers []*resolver // guarded by mu
	looked  time.Time   // guarded by mu: when file was looked at
	stamp   string      // guarded by mu: which version of it was read

	suspect chan struct{} // one may be dead; it holds one
}

// resolver is one of them. Its fields are guarded by resolvers.mu.
type resolver struct {
	at     netip.AddrPort
	silent int  // queries without an answer since the last with one
	asked  bool // Run is to ask whether it is alive
	dead   bool
	edge   limit.Edge
}

// alive are those that may be asked, in their order.
func (r *resolvers) alive(now time.Time) (all []*resolver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != "" && (r.looked.IsZero() || now.Sub(r.looked) >= lookEvery || now.Before(r.looked)) {
		r.looked = now
		r.reread()
	}
	for _, s := range r.servers {
		if !s.dead {
			all = append(all, s)
		}
	}
	return all
}

// reread takes over the file if it has changed. Who was dead stays so. The
// caller holds mu.
func (r *resolvers) reread() {
	stamp := "none"
	if info, err := os.Stat(r.file); err == nil {
		stamp = fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode())
	}
	if stamp == r.stamp {
		return
	}
	r.stamp = stamp
	found, err := readResolvConf(r.file)
	if err != nil {
		r.f.log.Warn("the host's resolvers are not known; guests get names of VMs only", "file", r.file, "error", err)
	} else {
		r.f.log.Info("the host's resolvers", "file", r.file, "resolvers", found)
	}
	old := r.servers
	r.servers = nil
	for _, at := range found {
		i := slices.IndexFunc(old, func(s *resolver) bool { return s.at == at })
		if i >= 0 {
			r.servers = append(r.servers, old[i])
		} else {
			r.servers = append(r.servers, &resolver{at: at})
		}
	}
}

// readResolvConf is the resolvers of a file like resolv.conf(5), the one on
// this host if it names none.
func readResolvConf(file string) (all []netip.AddrPort, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for n := 0; lines.Scan() && len(all) < maxResolvers; {
		if n += len(lines.Bytes()); n > maxResolvConf {
			break
		}
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, netip.AddrPortFrom(a.Unmap(), resolverPort))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		all = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), resolverPort)}
	}
	return all, nil
}

// answered and unanswered say how a query went.
func (r *resolvers) answered(s *resolver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.silent = 0
}

func (r *resolvers) unanswered(s *resolver) {
	r.f.Counters.Unanswered.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.silent++; s.silent < suspectAfter || s.asked {
		return
	}
	s.asked = true
	select {
	case r.suspect <- struct{}{}:
	default:
	}
}

// watch asks resolvers that have been silent whether they are alive, until ctx
// ends.
func (r *resolvers) watch(ctx context.Context) {
	for {
		select {
		case <-r.suspect:
		case <-ctx.Done():
			return
		}
		for r.askSuspects(ctx) {
			select {
			case <-time.After(r.f.cfg.Timeout):
			case <-ctx.Done():
				return
			}
		}
	}
}

// askSuspects asks each that is suspected, or dead, all at once. It reports
// whether one is dead.
func (r *resolvers) askSuspects(ctx context.Context) (dead bool) {
	r.mu.Lock()
	var suspects []*resolver
	for _, s := range r.servers {
		if s.asked {
			suspects = append(suspects, s)
		}
	}
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range suspects {
		wg.Go(func() { r.judge(s, alive(ctx, s.at, r.f.cfg.Timeout)) })
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.servers, func(s *resolver) bool { return s.dead })
}

// judge takes note of whether s is alive.
func (r *resolvers) judge(s *resolver, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.dead = err != nil
	s.asked = s.dead
	if !s.dead {
		s.silent = 0
	}
	if !s.edge.Set(time.Now(), s.dead) {
		return
	}
	if s.dead {
		r.f.log.Warn("a resolver does not answer", "resolver", s.at, "error", err)
	} else {
		r.f.log.Info("a resolver answers again", "resolver", s.at)
	}
}

// alive asks a resolver for the name servers of the root, which it knows or
// refuses to tell: any answer will do.
func alive(ctx context.Context, at netip.AddrPort, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	const root = "\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01" // . NS IN
	q, err := parse([]byte(root))
	if err != nil {
		return err
	}
	_, err = exchangeUDP(ctx, at, q)
	return err
}
