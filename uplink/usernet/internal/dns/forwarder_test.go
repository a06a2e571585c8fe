package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/dns/dnsmessage"
)

// patience is how long a test waits for what is to come; nothing is measured
// by it.
const patience = 20 * time.Second

// upstream is a resolver on loopback, by UDP and TCP.
type upstream struct {
	at     netip.AddrPort
	udp    *net.UDPConn
	tcp    net.Listener
	asked  atomic.Int64
	answer func(m []byte, tcp bool) [][]byte
	wg     sync.WaitGroup
}

func newUpstream(t *testing.T, at string, answer func(m []byte, tcp bool) [][]byte) *upstream {
	t.Helper()
	u := &upstream{answer: answer}
	var err error
	for range 10 { // the port must be free for both
		if u.tcp, err = net.Listen("tcp", at); err != nil {
			t.Fatal(err)
		}
		u.at = u.tcp.Addr().(*net.TCPAddr).AddrPort()
		if u.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(u.at)); err == nil {
			break
		}
		_ = u.tcp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	u.wg.Go(u.serveUDP)
	u.wg.Go(u.serveTCP)
	t.Cleanup(u.close)
	return u
}

func (u *upstream) close() {
	_ = u.udp.Close()
	_ = u.tcp.Close()
	u.wg.Wait()
}

func (u *upstream) serveUDP() {
	b := make([]byte, maxMessage)
	for {
		n, from, err := u.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		u.asked.Add(1)
		for _, m := range u.answer(bytes.Clone(b[:n]), false) {
			_, _ = u.udp.WriteToUDPAddrPort(m, from)
		}
	}
}

func (u *upstream) serveTCP() {
	for {
		conn, err := u.tcp.Accept()
		if err != nil {
			return
		}
		if m, err := readMessage(conn); err == nil {
			u.asked.Add(1)
			for _, answer := range u.answer(m, true) {
				_ = writeMessage(conn, answer)
			}
		}
		_ = conn.Close()
	}
}

// yes answers every question with 192.0.2.1, for a minute.
func yes(m []byte, _ bool) [][]byte { return [][]byte{withA(m, 60)} }

// withA is the answer to m with one address.
func withA(m []byte, ttl uint32) []byte {
	a := refusal(m, dnsmessage.RCodeSuccess)
	a[7] = 1
	a = append(a, 0xc0, headerSize, 0, 1, 0, 1)
	a = binary.BigEndian.AppendUint32(a, ttl)
	return append(a, 0, 4, 192, 0, 2, 1)
}

func withCode(code dnsmessage.RCode) func([]byte, bool) [][]byte {
	return func(m []byte, _ bool) [][]byte { return [][]byte{refusal(m, code)} }
}

func silent([]byte, bool) [][]byte { return nil }

// lab is a Forwarder that runs.
type lab struct {
	*Forwarder
	t   *testing.T
	log *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}

func newLab(t *testing.T, change func(*Config), upstreams ...*upstream) *lab {
	t.Helper()
	l := &lab{t: t, log: new(safeBuffer)}
	cfg := Config{
		Log: hclog.New(&hclog.LoggerOptions{Output: l.log}), ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"),
		Host: []netip.Addr{netip.MustParseAddr("10.0.2.2")}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")},
		Timeout: patience / 10, // no test waits for it unless it says so
	}
	for _, u := range upstreams {
		cfg.Resolvers = append(cfg.Resolvers, u.at)
	}
	if change != nil {
		change(&cfg)
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Forwarder = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := f.slots.InUse(); n > len(f.jobs) {
			t.Errorf("%d slots are taken after the end, %d of queries that wait", n, len(f.jobs))
		}
	})
	return l
}

// question is a query message.
func question(t testing.TB, name string, kind dnsmessage.Type, more ...func(*dnsmessage.Builder) error) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 0x1234, RecursionDesired: true})
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.StartQuestions())
	must(b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}))
	for _, f := range more {
		must(f(&b))
	}
	m, err := b.Finish()
	must(err)
	return m
}

// withOPT adds EDNS, with options if there are any.
func withOPT(options ...dnsmessage.Option) func(*dnsmessage.Builder) error {
	return func(b *dnsmessage.Builder) error {
		if err := b.StartAdditionals(); err != nil {
			return err
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(4096, dnsmessage.RCodeSuccess, true); err != nil {
			return err
		}
		return b.OPTResource(h, dnsmessage.OPTResource{Options: options})
	}
}

// ask waits for the answer to m.
func (l *lab) ask(guest string, m []byte) []byte {
	l.t.Helper()
	got := make(chan []byte, 1)
	l.Ask(guest, m, func(answer []byte) { got <- answer })
	select {
	case answer := <-got:
		return answer
	case <-time.After(patience):
		l.t.Fatal("no answer")
		return nil
	}
}

func code(m []byte) dnsmessage.RCode { return dnsmessage.RCode(flags(m) & maskCode) }

// Queries reach the resolver byte for byte but for the identifier, and answers
// the guest.
func TestForwardsAsItIs(t *testing.T) {
	seen := make(chan []byte, 8)
	u := newUpstream(t, "127.0.0.1:0", func(m []byte, _ bool) [][]byte {
		seen <- m
		return yes(m, false)
	})
	l := newLab(t, nil, u)
	ids := map[uint16]bool{}
	for i := range 8 {
		q := question(t, fmt.Sprintf("Example%d.Org.", i), dnsmessage.TypeA, withOPT(dnsmessage.Option{Code: 10, Data: []byte("cookie")}))
		answer := l.ask("web", q)
		if want := withA(q, 60); !bytes.Equal(answer, want) {
			t.Errorf("answer\n%x, want\n%x", answer, want)
		}
		asked := <-seen
		if !bytes.Equal(asked[2:], q[2:]) {
			t.Errorf("the resolver was asked\n%x, want\n%x", asked, q)
		}
		ids[binary.BigEndian.Uint16(asked)] = true
	}
	if len(ids) < 7 {
		t.Errorf("identifiers %v of 8 queries", ids)
	}
	if n := l.Counters.Forwarded.Value(); n != 8 {
		t.Errorf("%d forwarded, want 8", n)
	}
}

// Answers to something else, or to a guess of the identifier, are not believed.
func TestForgedAnswers(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", func(m []byte, _ bool) [][]byte {
		id, name, notResponse, none := withA(m, 1), withA(m, 1), withA(m, 1), withA(m, 1)
		id[0]++
		name[headerSize+1]++
		notResponse[2] &^= bitResponse >> 8
		none[5] = 0
		return [][]byte{id, name, notResponse, none, {1}, {}, withA(m, 60)}
	})
	l := newLab(t, nil, u)
	q := question(t, "example.org.", dnsmessage.TypeA)
	if answer := l.ask("web", q); !bytes.Equal(answer, withA(q, 60)) {
		t.Errorf("%x was believed", answer)
	}
}

func TestCaching(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", yes)
	l := newLab(t, nil, u)
	first := l.ask("web", question(t, "example.org.", dnsmessage.TypeA))
	q := question(t, "eXample.ORG.", dnsmessage.TypeA)
	q[0] = 0x77
	again := l.ask("web", q)
	if want := withA(q, 60); !bytes.Equal(again[:headerSize+17], want[:headerSize+17]) || code(first) != 0 {
		t.Errorf("again\n%x, want\n%x", again, want)
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once", n)
	}
	for i, other := range [][]byte{
		question(t, "example.org.", dnsmessage.TypeAAAA),
		question(t, "example.org.", dnsmessage.TypeA, withOPT()),
		question(t, "example.org.", dnsmessage.TypeA, withOPT(dnsmessage.Option{Code: 10, Data: []byte("a")})),
		question(t, "example.org.", dnsmessage.TypeA, withOPT(dnsmessage.Option{Code: 10, Data: []byte("a")})), // never kept
	} {
		if l.ask("web", other); u.asked.Load() != int64(i+2) {
			t.Errorf("question %d: the resolver was asked %d times", i, u.asked.Load())
		}
	}
	// Another guest's cache is its own.
	l.ask("db", question(t, "example.org.", dnsmessage.TypeA))
	l.Forget("web")
	l.ask("web", question(t, "example.org.", dnsmessage.TypeA))
	if n := u.asked.Load(); n != 7 {
		t.Errorf("the resolver was asked %d times, want 7", n)
	}
}

// One guest's flood leaves room for others.
func TestQueriesUnderWay(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", func(m []byte, _ bool) [][]byte {
		if bytes.Contains(m, []byte("flood")) {
			return nil
		}
		return yes(m, false)
	})
	l := newLab(t, func(c *Config) { c.PerGuest, c.Timeout = 5, 100*time.Millisecond }, u)
	answers := make(chan []byte, 100)
	for i := range 100 {
		l.Ask("evil", question(t, fmt.Sprintf("flood%d.example.", i), dnsmessage.TypeA), func(m []byte) { answers <- m })
	}
	if n := l.Counters.TooMany.Value(); n < 90 || n > 95 { // some slots may be free again by then
		t.Errorf("%d were dropped, want 95", n)
	}
	if answer := l.ask("web", question(t, "example.org.", dnsmessage.TypeA)); code(answer) != 0 && code(answer) != dnsmessage.RCodeServerFailure {
		t.Errorf("another's: %x", answer)
	}
	for range 100 - int(l.Counters.TooMany.Value()) {
		select {
		case <-answers:
		case <-time.After(patience):
			t.Fatal("a query was never answered")
		}
	}
}
