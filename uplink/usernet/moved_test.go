package usernet

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/uplink/usernet/internal/dhcp"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// portOf attaches a port that gets nothing.
func portOf(l *lab, name string) vswitch.PortID {
	id, err := l.s.Attach(deaf{}, vswitch.PortOptions{Name: name})
	l.must(err)
	return id
}

type deaf struct{}

func (deaf) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) { return len(batch), false }

// A VM that migrates from one port to another keeps the address that it uses, and
// its lease, from the moment on at which the first port has let it go; another VM
// gets neither.
func TestAddressesFollowTheVM(t *testing.T) {
	var gone atomic.Bool
	const mac, other = 0x020000000001, 0x020000000002
	l := newLab(t, Options{Services: Services{Moved: func(m [6]byte, from, to string) bool {
		return gone.Load() && from == "one" && to == "two" && macNumber(m) == mac
	}}})
	now := worker.Now()
	one := l.n.guests.of(l.s, portOf(l, "one"), now)
	two := l.n.guests.of(l.s, portOf(l, "two"), now)
	client := dhcp.Client{Port: "one", MAC: [6]byte{2, 0, 0, 0, 0, 1}}
	leased, free := l.leaseTo(client), netip.MustParseAddr("10.0.2.240")
	for _, a := range []netip.Addr{leased, free} {
		if !l.n.learn(a, mac, one, now) {
			t.Fatalf("%v cannot be used", a)
		}
		if l.n.learn(a, mac, two, now) {
			t.Errorf("%v is taken from a port that uses it", a)
		}
	}
	if l.n.learn(leased, mac, two, now+2*stationClaims) {
		t.Error("a lease is used by who borrows its MAC, as soon as it rests")
	}
	now += 2*stationClaims + stayedFor // from when on it is asked anew whether it has moved
	for _, a := range []netip.Addr{leased, free} {
		if !l.n.learn(a, mac, one, now) {
			t.Fatalf("%v cannot be used any more", a)
		}
	}
	gone.Store(true)
	for _, a := range []netip.Addr{leased, free} {
		if l.n.learn(a, other, two, now) {
			t.Errorf("%v is taken by another VM", a)
		}
		if !l.n.learn(a, mac, two, now) {
			t.Errorf("%v does not follow its VM", a)
		}
		if st := l.n.stations.find(a); st == nil || st.guest != two || one.addresses.Load() > 1 {
			t.Errorf("%v: %+v", a, st)
		}
	}
	client.Port = "two"
	if l.n.taken(leased, client) || !l.n.taken(leased, dhcp.Client{Port: "three"}) {
		t.Error("an address in use is somebody else's")
	}
	if again := l.leaseTo(client); again != leased {
		t.Errorf("the VM had %v and is given %v at its other port", leased, again)
	}
}

// leaseTo takes a lease for a client.
func (l *lab) leaseTo(c dhcp.Client) netip.Addr {
	l.t.Helper()
	m := make([]byte, 240, 300)
	m[0], m[1], m[2] = 1, 1, 6
	copy(m[28:], c.MAC[:])
	copy(m[236:], []byte{99, 130, 83, 99})
	r, ok := l.n.services.dhcp.Answer4(time.Now(), c, append(m, 53, 1, 1, 255))
	if !ok {
		l.t.Fatal("no offer")
	}
	a := netip.AddrFrom4([4]byte(r.Payload[16:20]))
	m = append(m, 53, 1, 3, 50, 4)
	m = append(append(m, a.AsSlice()...), 54, 4)
	m = append(append(m, DefaultIPv4.Addr().AsSlice()...), 255)
	if _, ok = l.n.services.dhcp.Answer4(time.Now(), c, m); !ok {
		l.t.Fatal("no lease")
	}
	return a
}

// A port that is removed and added again under its name is the guest that it was,
// with its addresses and what it has open; one of another name is not.
func TestPortComesAgain(t *testing.T) {
	l := newLab(t, Options{})
	now := worker.Now()
	a := netip.MustParseAddr("10.0.2.240")
	id := portOf(l, "one")
	first := l.n.guests.of(l.s, id, now)
	first.flows.Store(3)
	if !l.n.learn(a, 7, first, now) {
		t.Fatal("an address cannot be used")
	}
	l.s.Detach(id)
	other := l.n.guests.of(l.s, portOf(l, "other"), now)
	if other == first || l.n.learn(a, 8, other, now) {
		t.Error("another port has what the first one had")
	}
	again := l.n.guests.of(l.s, portOf(l, "one"), now)
	if again.flows.Load() != 3 || !l.n.learn(a, 9, again, now) || again.addresses.Load() != 1 {
		t.Errorf("the port comes again with %d flows and %d addresses, want 3 and 1", again.flows.Load(), again.addresses.Load())
	}
	if twin := l.n.guests.of(l.s, portOf(l, "one"), now); twin == again {
		t.Error("two ports that are there are one guest")
	}
	first.flows.Store(0)
}

// Whether a VM has moved is asked once in a while, not with each packet of who
// borrows its address, and while the addresses can be looked up.
func TestMovedIsAskedOnce(t *testing.T) {
	const mac, packets = 0x020000000001, 1000
	var asked atomic.Int32
	var l *lab
	looked := make(chan struct{}, packets)
	l = newLab(t, Options{Services: Services{Moved: func([6]byte, string, string) bool {
		asked.Add(1)
		go func() {
			l.n.stations.find(netip.Addr{})
			looked <- struct{}{}
		}()
		select {
		case <-looked:
		case <-time.After(10 * time.Second):
			t.Error("no address can be looked up meanwhile")
		}
		return false
	}}})
	now := worker.Now()
	one := l.n.guests.of(l.s, portOf(l, "one"), now)
	two := l.n.guests.of(l.s, portOf(l, "two"), now)
	leased := l.leaseTo(dhcp.Client{Port: "one", MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	free := netip.MustParseAddr("10.0.2.240")
	for round := range int32(3) {
		for _, a := range []netip.Addr{leased, free} {
			if !l.n.learn(a, mac, one, now) {
				t.Fatalf("%v cannot be used", a)
			}
			for range packets {
				if l.n.learn(a, mac, two, now) {
					t.Fatalf("%v is taken", a)
				}
			}
		}
		if n := asked.Load(); n != round+1 {
			t.Errorf("asked %d times in %d seconds", n, round+1)
		}
		now += stayedFor
	}
	for i := range uint64(3 * maxStayed) {
		two.stayed.note(vmAt{i, "one"}, now)
	}
	if n := len(two.stayed.m); n > maxStayed {
		t.Errorf("%d VMs are remembered, want at most %d", n, maxStayed)
	}
}
