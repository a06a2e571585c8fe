package usernet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"vhostnet/nbl"
)

// A way in by the name of a VM's port leads to the address that the VM has when
// somebody calls; before it has one the call is broken off, or the datagram dropped,
// and counted.
func TestForwardByName(t *testing.T) {
	noLeak(t)
	to := netip.AddrPortFrom(netip.Addr{}, 80)
	l := newLab(t, Options{Forwards: []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: to, VM: "Guest"}}})
	l.must(l.n.AddForward(Forward{Network: "udp", Listen: "127.0.0.1:0", Guest: to, VM: "Guest"}))
	at := l.n.Forwards()
	if words := at[0].String(); words != "tcp 127.0.0.1:0 to Guest:80" {
		t.Error(words)
	}
	tcp := func() net.Conn {
		c, err := net.DialTimeout("tcp", at[0].Address, 5*time.Second)
		l.must(err)
		l.must(c.SetDeadline(time.Now().Add(30 * time.Second)))
		return c
	}
	l.brokenOff(at[0].Address)
	udp, err := net.Dial("udp", at[1].Address)
	l.must(err)
	defer udp.Close()
	_, err = udp.Write([]byte("to nobody"))
	l.must(err)
	l.wait("both to be counted", func() bool { return l.n.Snapshot().ForwardFailed == 2 })

	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.listen(g.v4, 80)
	said, err := g.dial(netip.AddrPortFrom(gateways[0], portDNS)) // so that it is known
	l.must(err)
	defer said.Close()
	c := tcp()
	l.must(transfer(c, 4, 1000))
	if n, err := receive(c); err != nil || n != 1000 {
		t.Errorf("%d bytes came back: %v", n, err)
	}
	c.Close()
	_, err = udp.Write([]byte("to the guest"))
	l.must(err)
	l.wait("both to be carried", func() bool { return l.n.Snapshot().Forwarded == 2 })
	if s := l.n.Snapshot(); s.ForwardFailed != 2 {
		t.Errorf("%d ways failed", s.ForwardFailed)
	}
}

// Of several addresses of a VM its leases are tried, in their order, and what it does
// not answer for is passed over.
func TestForwardByNameTriesAll(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.listen(g.v6, 80) // and not at the other one
	for _, a := range gateways[:2] {
		c, err := g.dial(netip.AddrPortFrom(a, portDNS))
		l.must(err)
		defer c.Close()
	}
	f := Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(netip.Addr{}, 80), VM: "guest"}
	if list, others := l.n.guestsOf(f); len(list) != 2 || list[0].Addr() != g.v4 || list[1].Addr() != g.v6 || len(others) != 0 {
		t.Fatalf("%v, %v", list, others)
	}
	l.must(l.n.AddForward(f))
	c, err := net.DialTimeout("tcp", l.n.Forwards()[0].Address, 5*time.Second)
	l.must(err)
	defer c.Close()
	l.must(c.SetDeadline(time.Now().Add(30 * time.Second)))
	l.must(transfer(c, 4, 1000))
	if n, err := receive(c); err != nil || n != 1000 {
		t.Errorf("%d bytes came back: %v", n, err)
	}
}
