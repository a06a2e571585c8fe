package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/dns/dnsmessage"

	"vhostnet/metrics"
	"vhostnet/uplink/usernet/internal/limit"
)

// Counters count what a Forwarder was asked. They may be read at any time.
type Counters struct {
	Local      metrics.Counter // answered by what is known here
	Cached     metrics.Counter // answered from a cache
	Forwarded  metrics.Counter // handed to the host's resolvers
	Failed     metrics.Counter // of these, answered by SERVFAIL: no resolver did
	Unanswered metrics.Counter // attempts that a resolver did not answer in time
	Cut        metrics.Counter // answers too long for UDP
	TooMany    metrics.Counter // dropped or failed because too many are under way
	TooManyTCP metrics.Counter // connections closed because too many are served
	Malformed  metrics.Counter // messages that are no queries
	Refused    metrics.Counter // queries of kinds that are not served
}

// Forwarder answers queries. Its methods may be called concurrently.
type Forwarder struct {
	cfg       Config
	log       hclog.Logger
	resolvers resolvers
	caches    caches
	slots     *limit.Slots[string]
	conns     *limit.Slots[string]
	jobs      chan job // holds as many as there are slots

	// Counters count. They are the Forwarder's to add to.
	Counters Counters
}

// job is a query that goes to the resolvers. It has a slot.
type job struct {
	guest string
	q     query
	reply func([]byte)
}

// New makes a Forwarder. It starts nothing and reads nothing; what is to be
// forwarded waits for Run.
func New(cfg Config) (*Forwarder, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f := &Forwarder{cfg: cfg, log: cfg.Log, jobs: make(chan job, cfg.InFlight)}
	f.caches = caches{entries: cfg.CacheEntries, bytes: cfg.CacheBytes, byGuest: map[string]*cache{}}
	f.resolvers = resolvers{f: f, suspect: make(chan struct{}, 1)}
	for _, at := range cfg.Resolvers {
		f.resolvers.servers = append(f.resolvers.servers, &resolver{at: at})
	}
	if len(cfg.Resolvers) == 0 {
		f.resolvers.file = cfg.ResolvConf
	}
	if f.slots, err = limit.NewSlots[string](cfg.PerGuest, cfg.InFlight); err != nil {
		return nil, err
	}
	if f.conns, err = limit.NewSlots[string](cfg.PerGuestConns, cfg.Conns); err != nil {
		return nil, err
	}
	return f, nil
}

// Run forwards what Ask and ServeConn were given, until ctx ends and nothing is
// under way. Queries that then still wait are never answered. It is called
// once.
func (f *Forwarder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { f.resolvers.watch(ctx) })
	for {
		select {
		case j := <-f.jobs:
			wg.Go(func() {
				m := f.forward(ctx, j, exchangeUDP)
				f.slots.Give(j.guest)
				j.reply(m)
			})
		case <-ctx.Done():
			return nil
		}
	}
}

// Ask answers a message that guest, a name for whoever has a cache and a number
// of queries, sent by UDP. reply is called with the answer once, or not at all:
// in Ask if the answer is at hand, and by a goroutine of Run otherwise. The
// answer is reply's to keep. payload is not kept.
func (f *Forwarder) Ask(guest string, payload []byte, reply func([]byte)) {
	reply = f.fitting(reply)
	q, m := f.atHand(guest, payload)
	switch {
	case m != nil:
		reply(m)
	case q.raw == nil:
	case f.slots.Take(guest):
		q.raw = append([]byte(nil), q.raw...)
		f.jobs <- job{guest: guest, q: q, reply: reply}
	default:
		f.Counters.TooMany.Add(1)
	}
}

// fitting is reply for what fits into UDP.
func (f *Forwarder) fitting(reply func([]byte)) func([]byte) {
	return func(m []byte) {
		if len(m) > f.cfg.MaxUDP {
			f.Counters.Cut.Add(1)
		}
		reply(fit(m, f.cfg.MaxUDP))
	}
}

// atHand is the answer to a message if there is no need to ask anybody;
// otherwise the query to be forwarded; neither if there is nothing to say.
func (f *Forwarder) atHand(guest string, payload []byte) (q query, answer []byte) {
	if len(payload) < headerSize || flags(payload)&bitResponse != 0 {
		f.Counters.Malformed.Add(1)
		return q, nil
	}
	if flags(payload)&maskOpcode != 0 {
		f.Counters.Refused.Add(1)
		return q, refusal(payload, dnsmessage.RCodeNotImplemented)
	}
	q, err := parse(payload)
	if err != nil {
		f.Counters.Malformed.Add(1)
		return query{}, refusal(payload, dnsmessage.RCodeFormatError)
	}
	const transfer, incremental = 252, 251 // AXFR, IXFR: whole zones
	if t := q.question.Type; t == transfer || t == incremental {
		f.Counters.Refused.Add(1)
		return query{}, refusal(payload, dnsmessage.RCodeRefused)
	}
	if m, known := f.cfg.answerLocal(q); known {
		f.Counters.Local.Add(1)
		return query{}, m
	}
	if m := f.caches.get(time.Now(), guest, q); m != nil {
		f.Counters.Cached.Add(1)
		return query{}, m
	}
	return q, nil
}

// exchange asks one resolver.
type exchange func(context.Context, netip.AddrPort, query) ([]byte, error)

// forward asks the resolvers, each twice if need be. An answer there always is.
func (f *Forwarder) forward(ctx context.Context, j job, ask exchange) []byte {
	f.Counters.Forwarded.Add(1)
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var last []byte
	for range 2 {
		for _, r := range f.resolvers.alive(time.Now()) {
			if ctx.Err() != nil {
				break
			}
			m, err := f.attempt(ctx, r, j.q, ask)
			if err != nil {
				continue
			}
			if last = m; better(m) {
				f.caches.put(time.Now(), j.guest, j.q, m)
				return m
			}
		}
		if last != nil {
			return last
		}
	}
	f.Counters.Failed.Add(1)
	return refusal(j.q.raw, dnsmessage.RCodeServerFailure)
}

func (f *Forwarder) attempt(ctx context.Context, r *resolver, q query, ask exchange) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	m, err := ask(ctx, r.at, q)
	switch {
	case err == nil:
		f.resolvers.answered(r)
	case ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded): // not when this program ends
		f.resolvers.unanswered(r)
	}
	return m, err
}

// Forget drops what is kept for a guest that has left.
func (f *Forwarder) Forget(guest string) { f.caches.forget(guest) }
