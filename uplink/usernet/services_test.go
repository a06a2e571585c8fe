package usernet

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/nbl"
)

// discover is a DHCPDISCOVER of the guest's, a frame.
func (g *testGuest) discover(l *lab) []byte {
	m := make([]byte, 240, 300)
	m[0], m[1], m[2] = 1, 1, 6
	copy(m[4:], "xid1")
	copy(m[28:], g.mac[:])
	copy(m[236:], []byte{99, 130, 83, 99})
	m = append(m, 53, 1, 1, 55, 3, 1, 3, 6, 255)
	udp := make([]byte, udpLen+len(m))
	from, to := netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67")
	putUDP(udp, from, to, m)
	f := g.forge(l, from.Addr(), to.Addr(), protoUDP, udp)
	copy(f[headerLen:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return f
}

// A guest without an address is offered one of the network's, with the gateway as
// router and resolver, in a frame to its MAC.
func TestDHCP(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	var offer atomic.Pointer[[]byte]
	show := func(f []byte) {
		h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
		if ok && h.proto == protoUDP && binary.BigEndian.Uint16(h.payload) == portDHCP && [6]byte(f[:6]) == g.mac {
			b := bytes.Clone(h.payload[udpLen:])
			offer.Store(&b)
		}
	}
	g.raw.Store(&show)
	g.send(g.discover(l))
	l.wait("an offer", func() bool { return offer.Load() != nil })
	b := *offer.Load()
	a := netip.AddrFrom4([4]byte(b[16:20]))
	if !DefaultIPv4.Contains(a) || l.n.isGateway(a) || string(b[4:8]) != "xid1" {
		t.Errorf("offered %v by message %q", a, b[4:8])
	}
	gateway := DefaultIPv4.Addr().As4()
	for _, option := range [][]byte{{3, 4}, {6, 4}, {54, 4}} {
		if !bytes.Contains(b[240:], append(option, gateway[:]...)) {
			t.Errorf("option %d does not say the gateway", option[0])
		}
	}
}

// The router says that it is there, what its network is, and that it is gone.
func TestRouter(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	var lifetimes [2]atomic.Uint32 // of those that say that it is there, and that it is gone
	show := func(f []byte) {
		h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
		if !ok || h.proto != protoICMPv6 || h.payload[0] != 134 || transportSum(h.src, h.dst, protoICMPv6, h.payload) != 0 {
			return
		}
		prefix := DefaultIPv6.Masked().Addr().As16()
		if life := binary.BigEndian.Uint16(h.payload[6:]); life == 0 {
			lifetimes[1].Add(1)
		} else if bytes.Contains(h.payload, prefix[:]) {
			lifetimes[0].Add(1)
		}
	}
	g.raw.Store(&show)
	l.wait("a router's advertisement", func() bool { return lifetimes[0].Load() > 0 })
	l.end()
	if lifetimes[1].Load() == 0 {
		t.Error("the router did not say that it goes")
	}
}

// query is a DNS question for an address of name.
func query(kind uint16, labels ...string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	b = append(b, 0)
	return append(binary.BigEndian.AppendUint16(b, kind), 0, 1)
}

// The gateway resolves the host and the VMs, by UDP and by TCP, over IPv4 and
// IPv6.
func TestDNS(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	v4, v6 := DefaultIPv4.Addr().AsSlice(), DefaultIPv6.Addr().AsSlice()
	own := g.v4.AsSlice()
	for _, gateway := range gateways {
		c := g.dialUDP(netip.AddrPortFrom(gateway, portDNS))
		s, err := g.dial(netip.AddrPortFrom(gateway, portDNS))
		l.must(err)
		for _, q := range []struct {
			ask, want []byte
		}{
			{query(1, "host", "internal"), v4},
			{query(28, "host", "internal"), v6},
			{query(1, "guest", "internal"), own},
		} {
			if q.want[0] == own[0] && bytes.Equal(q.want, own) {
				// It is known when it has sent something from it.
				l.wait("the guest to be known", func() bool { return l.n.stations.find(g.v4) != nil })
			}
			got := make([]byte, 1500)
			n := 0
			for try := 0; n == 0 && try < 5; try++ {
				_, err := c.Write(q.ask)
				l.must(err)
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
				n, _ = c.Read(got)
			}
			if !bytes.Contains(got[:n], q.want) {
				t.Errorf("by UDP to %v: %x does not say %v", gateway, got[:n], q.want)
			}
			_ = s.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := s.Write(append([]byte{0, byte(len(q.ask))}, q.ask...))
			l.must(err)
			_, err = io.ReadFull(s, got[:2])
			l.must(err)
			n = int(binary.BigEndian.Uint16(got))
			_, err = io.ReadFull(s, got[:n])
			l.must(err)
			if !bytes.Contains(got[:n], q.want) {
				t.Errorf("by TCP to %v: %x does not say %v", gateway, got[:n], q.want)
			}
		}
		s.Close()
	}
}

// A guest reads a file of the boot directory by HTTP from the gateway, and by
// TFTP; nothing else listens there.
func TestBoot(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	file := bytes.Repeat([]byte("boot me "), 20000)
	if err := os.WriteFile(filepath.Join(dir, "vmlinuz"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, Options{Services: Services{Boot: dir}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return g.dial(netip.MustParseAddrPort(address))
		},
	}}
	for _, url := range []string{"http://10.0.2.2/vmlinuz", "http://[fd76:686f:7374::2]:80/vmlinuz"} {
		if url[7] != '[' {
			url = "http://10.0.2.2:80/vmlinuz"
		}
		r, err := client.Get(url)
		l.must(err)
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || !bytes.Equal(b, file) {
			t.Errorf("%s: %d bytes, %v; want %d, the same", url, len(b), err, len(file))
		}
	}
	if got := g.tftp(t, "vmlinuz"); !bytes.Equal(got, file) {
		t.Errorf("by TFTP %d bytes came, want %d, the same", len(got), len(file))
	}
}

// tftp reads a file by TFTP.
func (g *testGuest) tftp(t testing.TB, name string) (file []byte) {
	t.Helper()
	c := g.dialUDP(netip.AddrPortFrom(gateways[0], portTFTP))
	say := append([]byte{0, 1}, name+"\x00octet\x00"...)
	b := make([]byte, 2000)
	for block, tries := uint16(1), 0; tries < 10; {
		if _, err := c.Write(say); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(b)
		if err != nil || n < 4 || b[1] != 3 || binary.BigEndian.Uint16(b[2:]) != block {
			tries++
			continue
		}
		file = append(file, b[4:n]...)
		say = binary.BigEndian.AppendUint16([]byte{0, 4}, block)
		block++
		if n < 516 {
			_, _ = c.Write(say)
			return file
		}
	}
	return file
}

// The addresses that are given out are of the network, and not the gateway's.
func TestPools(t *testing.T) {
	for _, s := range []string{"10.0.2.2/24", "10.0.0.1/8", "192.168.1.254/24", "192.168.1.1/30", "192.168.1.2/30", "172.16.0.100/16", "10.255.255.254/8"} {
		p := netip.MustParsePrefix(s)
		first, last := pool4(p)
		a := p.Addr()
		if !p.Contains(first) || !p.Contains(last) || last.Less(first) || !a.Less(first) && !last.Less(a) || number4(last)-number4(first) >= maxPool {
			t.Errorf("%s: %v to %v", s, first, last)
		}
	}
	for _, s := range []string{"fd00::1/64", "fd00::1:1/64"} {
		p := netip.MustParsePrefix(s)
		first, last := pool6(p)
		if a := p.Addr(); !p.Contains(first) || last.Less(first) || !a.Less(first) && !last.Less(a) {
			t.Errorf("%s: %v to %v", s, first, last)
		}
	}
}
