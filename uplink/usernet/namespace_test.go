package usernet

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/virtio"
)

// insideVariable says that the test runs in a network namespace of its own.
const insideVariable = "VHOSTNET_USERNET_NAMESPACE"

// inNamespace runs the test once more in a network namespace, where it may set
// what the host may not be asked for, and reports whether it is there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.count", "1")
	cmd.Env = append(os.Environ(), insideVariable+"=yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
	return false
}

func sh(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// addLocal6 gives the namespace an address. The kernel says that it has it before
// its route to itself is there: what is connected between the two gets no answer.
func addLocal6(t *testing.T, a string) {
	t.Helper()
	sh(t, "ip", "addr", "add", a+"/128", "dev", "lo", "nodad")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		out, err := exec.Command("ip", "-6", "route", "get", a).CombinedOutput()
		if bytes.HasPrefix(out, []byte("local ")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: there is no route to it: %v: %s", a, err, out)
		}
	}
}

// beyondTheGateway gives the namespace an address of each protocol that is not the
// gateway's, behind an MTU of 1300.
func beyondTheGateway(t *testing.T) []netip.Addr {
	t.Helper()
	v4, v6 := "192.0.2.1", "2001:db8::1"
	sh(t, "ip", "link", "set", "lo", "mtu", "1300", "up")
	sh(t, "ip", "addr", "add", v4+"/32", "dev", "lo")
	addLocal6(t, v6)
	return []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

// Where the host lets everybody ping, guests ping beyond the gateway, over both
// protocols; and what is too long for the way is told with its MTU.
func TestBeyondTheGateway(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	beyond := beyondTheGateway(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range beyond {
		if err := g.ping(a, 10*time.Second); err != nil {
			t.Errorf("ping %v: %v; %+v", a, err, l.n.Snapshot())
		}
	}
	if s := l.n.Snapshot(); s.PingForbidden != 0 || s.FlowsMade != 2 {
		t.Errorf("%d pings were forbidden, %d flows made; want 0 and 2", s.PingForbidden, s.FlowsMade)
	}

	var mtu atomic.Uint32
	show := func(f []byte) {
		h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
		switch {
		case !ok:
		case h.proto == protoICMP && h.payload[0] == icmpUnreachable && h.payload[1] == 4:
			mtu.Store(uint32(binary.BigEndian.Uint16(h.payload[6:])))
		case h.proto == protoICMPv6 && h.payload[0] == icmp6TooBig:
			mtu.Store(binary.BigEndian.Uint32(h.payload[4:]))
		}
	}
	g.raw.Store(&show)
	for _, a := range beyond {
		mtu.Store(0)
		sink, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		l.must(err)
		to := netip.MustParseAddrPort(sink.LocalAddr().String())
		src := g.v4
		if a.Is6() {
			src = g.v6
		}
		b := make([]byte, udpLen+1400)
		putUDP(b, netip.AddrPortFrom(src, 99), to, b[udpLen:])
		f := g.forge(l, src, a, protoUDP, b)
		notToBeCut(f)
		g.send(f)
		l.wait("packet too big", func() bool { return mtu.Load() == 1300 })
		_ = sink.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := sink.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
			t.Errorf("%v: %d bytes came all the same", a, n)
		}
		sink.Close()
	}
}

// notToBeCut makes f a frame that is not to be cut on the way, as any of IPv6 is.
func notToBeCut(f []byte) {
	if h := f[headerLen+ethernetLen:][:ipv4Len]; h[0]>>4 == 4 {
		h[6] |= 0x40
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], sum(h))
	}
}

// A datagram that its sender left to be cut into fragments is longer than the way
// takes and gets there, whatever its header says of fragments; one that its sender
// did not, of the same flow, is told the MTU.
func TestDatagramsLeftToBeCut(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	beyond := beyondTheGateway(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures|virtio.NetHostUFO)
	var tooBig atomic.Int32
	show := func(f []byte) {
		h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
		if ok && (h.proto == protoICMP && h.payload[0] == icmpUnreachable && h.payload[1] == 4 || h.proto == protoICMPv6 && h.payload[0] == icmp6TooBig) {
			tooBig.Add(1)
		}
	}
	g.raw.Store(&show)
	data := long(9050)
	for _, a := range beyond {
		src := g.v4
		if a.Is6() {
			src = g.v6
		}
		port, got := sink(t, netip.AddrPortFrom(a, 0).String())
		from, to := netip.AddrPortFrom(src, 99), netip.AddrPortFrom(a, port.Port())
		for round := range 2 {
			f := g.offloaded(l, from, to, virtio.GSOUDP, 1400, data)
			notToBeCut(f)
			g.send(f)
			awaitDatagram(t, got, data)
			if n := tooBig.Load(); n != int32(round) {
				t.Fatalf("%v, round %d: %d errors", a, round, n)
			}
			f = g.forge(l, src, a, protoUDP, datagram(from, to, data[:1400]))
			notToBeCut(f)
			g.send(f)
			l.wait("packet too big", func() bool { return tooBig.Load() == int32(round)+1 })
		}
		tooBig.Store(0)
	}
	if s := l.n.Snapshot(); s.Malformed != 0 || s.FlowsMade != 2 {
		t.Errorf("%d malformed, %d flows; want 0 and 2", s.Malformed, s.FlowsMade)
	}
}
