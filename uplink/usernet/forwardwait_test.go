package usernet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// leasesOf is a lease file by which the VM at port "guest" has addresses, each as
// another system.
func leasesOf(l testing.TB, addresses ...netip.Addr) string {
	l.Helper()
	var list []string
	for i, a := range addresses {
		list = append(list, fmt.Sprintf(`{"port": "guest", "mac": "02:00:00:00:02:%02x", "address": %q, "until": %q}`, i, a, time.Now().Add(time.Hour).Format(time.RFC3339)))
	}
	path := filepath.Join(l.TempDir(), "leases")
	if err := os.WriteFile(path, []byte(`{"version": 1, "leases": [`+strings.Join(list, ",")+`]}`), 0o600); err != nil {
		l.Fatal(err)
	}
	return path
}

// questions are the addresses that are asked for by ARP, in their order.
type questions struct {
	mu   sync.Mutex
	list []netip.Addr
}

func (q *questions) see(g *testGuest) {
	show := func(frame []byte) {
		if len(frame) >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 1 {
			q.mu.Lock()
			q.list = append(q.list, netip.AddrFrom4([4]byte(frame[38:42])))
			q.mu.Unlock()
		}
	}
	g.raw.Store(&show)
}

func (q *questions) all() []netip.Addr {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.list)
}

// talk makes the gateway know a guest by an address of its own.
func (g *testGuest) talk(l *lab) {
	l.t.Helper()
	c, err := g.dial(netip.AddrPortFrom(gateways[0], portDNS))
	l.must(err)
	c.Close()
}

// staleLab is a lab with a guest that has leases of systems that it ran before, and
// the lease of the one that it runs, the last one.
func staleLab(t *testing.T) (*lab, *testGuest, Forward, []netip.Addr) {
	own := bareGuest(t, 1, nbl.UplinkFeatures).v4
	var leases []netip.Addr
	for i := range 5 {
		leases = append(leases, netip.AddrFrom4([4]byte{10, 0, 2, byte(70 + i)}))
	}
	leases = append(leases, own)
	l := newLab(t, Options{Services: Services{Leases: leasesOf(t, leases...)}})
	f := Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(netip.Addr{}, 80), VM: "guest"}
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.listen(g.v4, 80)
	return l, g, f, leases
}

// callThrough calls by the first way in.
func callThrough(l *lab) {
	l.t.Helper()
	c, err := net.DialTimeout("tcp", l.n.Forwards()[0].Address, 20*time.Second)
	l.must(err)
	defer c.Close()
	l.must(c.SetDeadline(time.Now().Add(60 * time.Second)))
	l.must(transfer(c, 4, 1000))
	if n, err := receive(c); err != nil || n != 1000 {
		l.t.Errorf("%d bytes came back: %v", n, err)
	}
}

// A way in by name does not ask for leases of which nobody makes use, as long as the
// VM is known by another one.
func TestForwardByNameAsksNobody(t *testing.T) {
	noLeak(t)
	l, g, f, leases := staleLab(t)
	g.talk(l)
	known, others := l.n.guestsOf(f)
	if len(known) != 1 || known[0].Addr() != g.v4 || len(others) != len(leases)-1 {
		t.Fatalf("%v, %v", known, others)
	}
	var q questions
	q.see(g)
	l.must(l.n.AddForward(f))
	callThrough(l)
	if list := q.all(); len(list) != 0 {
		t.Errorf("asked for %v", list)
	}
}

// While nothing is known of the VM all its leases are asked for, before one is asked
// for again.
func TestForwardByNameAsksAll(t *testing.T) {
	noLeak(t)
	l, g, f, leases := staleLab(t)
	var q questions
	q.see(g)
	l.must(l.n.AddForward(f))
	callThrough(l)
	list := q.all()
	if len(list) < len(leases) {
		t.Fatalf("asked for %v, want all of %v", list, leases)
	}
	first := list[:len(leases)]
	for _, a := range leases {
		if !slices.Contains(first, a) {
			t.Errorf("asked for %v before %v", first, a)
		}
	}
}

// The addresses of a VM that are tried are bounded.
func TestForwardByNameBounded(t *testing.T) {
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.talk(l)
	who := l.n.guests.named("guest")[0]
	for i := range 2 * maxTried {
		l.n.learn(netip.AddrFrom4([4]byte{10, 0, 2, byte(128 + i)}), macNumber(g.mac), who, worker.Now())
	}
	f := Forward{Guest: netip.AddrPortFrom(netip.Addr{}, 80), VM: "guest"}
	if known, others := l.n.guestsOf(f); len(known) != maxTried || len(others) != 0 {
		t.Errorf("%v, %v", known, others)
	}
}

// Of two ports whose names differ by case only a way in leads to the one that it
// names, and by a third spelling to any.
func TestForwardByExactName(t *testing.T) {
	l := newLab(t, Options{})
	for i, name := range []string{"Web", "web"} {
		id, err := l.s.Attach(bareGuest(t, i, nbl.UplinkFeatures), vswitch.PortOptions{Name: name})
		l.must(err)
		defer l.s.Detach(id)
		l.n.learn(netip.AddrFrom4([4]byte{10, 0, 2, byte(50 + i)}), uint64(i+1), l.n.guests.of(l.s, id, worker.Now()), worker.Now())
	}
	for name, want := range map[string]string{"Web": "[10.0.2.50:80]", "web": "[10.0.2.51:80]", "WEB": "[10.0.2.50:80 10.0.2.51:80]"} {
		if known, _ := l.n.guestsOf(Forward{Guest: netip.AddrPortFrom(netip.Addr{}, 80), VM: name}); fmt.Sprint(known) != want {
			t.Errorf("%s: %v, want %s", name, known, want)
		}
	}
}

// Datagrams whose guest does not answer keep nobody waiting: what cannot be set aside
// is dropped at once, and all of them are counted.
func TestForwardUDPToNobody(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Forwards: []Forward{{Network: "udp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.77:53")}}})
	c, err := net.Dial("udp", l.n.Forwards()[0].Address)
	l.must(err)
	defer c.Close()
	const count = maxWaiting + 40
	for range count {
		_, err := c.Write([]byte("to nobody"))
		l.must(err)
	}
	l.wait("all to be dropped", func() bool { return l.n.Snapshot().ForwardFailed == count })
	for range 2 { // together more than what is set aside
		_, err := c.Write(make([]byte, waitingBytes/2+1))
		l.must(err)
	}
	l.wait("all to be dropped", func() bool { return l.n.Snapshot().ForwardFailed == count+2 })
}

// A datagram to a guest that is not known yet waits until it has answered.
func TestForwardUDPWaits(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Forwards: []Forward{{Network: "udp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.101:53")}}})
	newTestGuest(l, 1, nbl.UplinkFeatures) // it says nothing until it is asked
	for i := range 3 {
		c, err := net.Dial("udp", l.n.Forwards()[0].Address)
		l.must(err)
		defer c.Close()
		_, err = c.Write([]byte{byte(i)})
		l.must(err)
	}
	l.wait("all to be carried", func() bool { return l.n.Snapshot().Forwarded == 3 })
	if s := l.n.Snapshot(); s.ForwardFailed != 0 {
		t.Errorf("%d failed", s.ForwardFailed)
	}
}
