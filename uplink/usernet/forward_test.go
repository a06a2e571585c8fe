package usernet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
)

// listen is a server in the guest that sends back what it gets.
func (g *testGuest) listen(a netip.Addr, port uint16) {
	g.t.Helper()
	ln, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(a), Port: port}, protocolOf(a))
	if err != nil {
		g.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, err := receive(c)
				if err == nil {
					err = transfer(c, 3, n)
				}
				if err != nil {
					g.t.Errorf("the guest's server: %v", err)
				}
			}()
		}
	}()
	g.t.Cleanup(func() {
		ln.Close()
		<-done
	})
}

// A Forward carries connections to a guest, over IPv4, IPv6 and a unix socket,
// from the start and later, until it is removed.
func TestForwardTCP(t *testing.T) {
	noLeak(t)
	const size = 3 << 20
	g1 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, 101}), 80)
	l := newLab(t, Options{Forwards: []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: g1}}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.listen(g.v4, 80)
	g.listen(g.v6, 80)
	path := filepath.Join(t.TempDir(), "web.sock")
	l.must(l.n.AddForward(Forward{Network: "tcp", Listen: "[::1]:0", Guest: netip.AddrPortFrom(g.v6, 80)}))
	l.must(l.n.AddForward(Forward{Network: "tcp", Listen: "unix:" + path, Guest: g1}))
	list := l.n.Forwards()
	if len(list) != 3 {
		t.Fatalf("%d forwards, want 3: %v", len(list), list)
	}
	for _, f := range list {
		network, address := "tcp", f.Address
		if strings.HasPrefix(address, unixPrefix) {
			network, address = "unix", path
		}
		c, err := net.DialTimeout(network, address, 5*time.Second)
		l.must(err)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if err := transfer(c, 4, size); err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		if n, err := receive(c); err != nil || n != size {
			t.Errorf("%v: %d bytes came back: %v", f, n, err)
		}
		c.Close()
		l.must(l.n.RemoveForward(f.Network, f.Address))
		if c, err := net.DialTimeout(network, address, 5*time.Second); err == nil {
			c.Close()
			t.Errorf("%v is removed and takes connections", f)
		}
	}
	if s := l.n.Snapshot(); s.Forwarded != 3 || s.ForwardFailed != 0 {
		t.Errorf("%d connections forwarded, %d failed; want 3 and 0", s.Forwarded, s.ForwardFailed)
	}
}

// A Forward carries datagrams to a guest and the answers back, for each client.
func TestForwardUDP(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range []netip.Addr{g.v4, g.v6} {
		server, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: nicID, Addr: stackAddress(a), Port: 53}, nil, protocolOf(a))
		l.must(err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			b := make([]byte, 2000)
			for {
				n, from, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = server.WriteTo(b[:n], from)
			}
		}()
		l.must(l.n.AddForward(Forward{Network: "udp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(a, 53)}))
		at := l.n.Forwards()[0].Address
		for i := range 3 {
			c, err := net.Dial("udp", at)
			l.must(err)
			exchange(t, c, []byte{byte(i), 2, 3})
			c.Close()
		}
		l.must(l.n.RemoveForward("udp", at))
		l.wait("the flows of a forward that is removed to end", func() bool { return l.n.Snapshot().Flows == 0 })
		server.Close()
		<-done
	}
}

// Nobody at the address: the caller is refused, and it is counted.
func TestForwardToNobody(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Forwards: []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.77:80")}}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	l.must(l.n.AddForward(Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(g.v4, 81)}))
	for _, f := range l.n.Forwards() {
		l.brokenOff(f.Address)
	}
	if s := l.n.Snapshot(); s.ForwardFailed != 2 {
		t.Errorf("%d forwards failed, want 2", s.ForwardFailed)
	}
}

// brokenOff fails the test if who connects to a way in is not broken off: before the
// connection is open, or behind that.
func (l *lab) brokenOff(address string) {
	l.t.Helper()
	c, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err == nil {
		defer c.Close()
		l.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		l.t.Errorf("%s: %v; want the connection to be broken off", address, err)
	}
}

// What cannot be forwarded is refused by a sentence that says what can.
func TestForwardRefused(t *testing.T) {
	l := newLab(t, Options{})
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	defer busy.Close()
	guest := netip.MustParseAddrPort("10.0.2.15:80")
	for _, c := range []struct {
		f    Forward
		want string
	}{
		{Forward{Network: "sctp", Listen: "127.0.0.1:0", Guest: guest}, "tcp or udp"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: guest, VM: "web"}, "not both"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", VM: "web"}, "guest web:0; a VM's port"},
		{Forward{Network: "tcp", Listen: "web", Guest: netip.AddrPortFrom(netip.Addr{}, 80), VM: "web"}, "127.0.0.1:8080"},
		{Forward{Network: "udp", Listen: "unix:/tmp/x", Guest: guest}, "tcp is possible"},
		{Forward{Network: "tcp", Listen: "localhost", Guest: guest}, "127.0.0.1:8080"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPort{}}, "10.0.2.1:80"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("192.0.2.1:80")}, "10.0.2.0/24"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.2:80")}, "no guest's address"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.0:80")}, "address of the network"},
		{Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("[fd76:686f:7374::]:80")}, "address of the network"},
		{Forward{Network: "udp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.255:80")}, "the address of all"},
		{Forward{Network: "tcp", Listen: busy.Addr().String(), Guest: guest}, "in use"},
		{Forward{Network: "tcp", Listen: "unix:/nowhere/at/all", Guest: guest}, "no such file"},
	} {
		if err := l.n.AddForward(c.f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v; want %q in it", c.f, err, c.want)
		}
	}
	f := Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: guest}
	l.must(l.n.AddForward(f))
	f.Listen = l.n.Forwards()[0].Address
	if err := l.n.AddForward(f); err == nil || !strings.Contains(err.Error(), "remove it first") {
		t.Errorf("a forward twice: %v", err)
	}
	if err := l.n.RemoveForward("udp", "127.0.0.1:1"); err == nil {
		t.Error("a forward that is not there was removed")
	}
}

// A socket that a killed process left behind is replaced, one that is served is
// not.
func TestForwardStaleSocket(t *testing.T) {
	l := newLab(t, Options{})
	path := filepath.Join(t.TempDir(), "web")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	l.must(err)
	old.SetUnlinkOnClose(false)
	f := Forward{Network: "tcp", Listen: "unix:" + path, Guest: netip.MustParseAddrPort("10.0.2.15:80")}
	if err := l.n.AddForward(f); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket that somebody serves: %v", err)
	}
	l.must(old.Close())
	l.must(l.n.AddForward(f))
}

// What is no socket is nobody's to remove, neither when a way in comes nor when it
// goes.
func TestForwardLeavesFilesAlone(t *testing.T) {
	l := newLab(t, Options{})
	dir := t.TempDir()
	path := filepath.Join(dir, "precious")
	f := Forward{Network: "tcp", Listen: "unix:" + path, Guest: netip.MustParseAddrPort("10.0.2.15:80")}
	l.must(os.WriteFile(path, []byte("data"), 0o600))
	if err := l.n.AddForward(f); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file that is no socket: %v", err)
	}
	unchanged := func() {
		t.Helper()
		if b, err := os.ReadFile(path); string(b) != "data" {
			t.Errorf("the file: %q, %v", b, err)
		}
	}
	unchanged()
	l.must(os.Rename(path, filepath.Join(dir, "away")))
	l.must(l.n.AddForward(f))
	l.must(os.Remove(path))
	l.must(os.Rename(filepath.Join(dir, "away"), path))
	l.must(l.n.RemoveForward("tcp", f.Listen))
	unchanged()
	l.must(os.Remove(path))
	l.must(l.n.AddForward(f))
	l.must(l.n.RemoveForward("tcp", f.Listen))
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket of a way in that is gone is left")
	}
}

// A way in at an address of IPv4 is one of IPv4, also at the one that stands for
// all.
func TestForwardOfIPv4(t *testing.T) {
	noLeak(t)
	guest := netip.MustParseAddrPort("10.0.2.15:80")
	l := newLab(t, Options{})
	for _, network := range []string{"tcp", "udp"} {
		l.must(l.n.AddForward(Forward{Network: network, Listen: "0.0.0.0:0", Guest: guest}))
		at := l.n.Forwards()[0].Address
		a, err := netip.ParseAddrPort(at)
		l.must(err)
		if !a.Addr().Is4() || !a.Addr().IsUnspecified() {
			t.Errorf("%s 0.0.0.0:0 listens at %v", network, a)
		}
		if err := l.n.AddForward(Forward{Network: network, Listen: at, Guest: guest}); err == nil || !strings.Contains(err.Error(), "remove it first") {
			t.Errorf("a second one from %s %s: %v", network, at, err)
		}
		l.must(l.n.RemoveForward(network, at))
		l.must(l.n.AddForward(Forward{Network: network, Listen: "[::]:0", Guest: guest}))
		l.must(l.n.RemoveForward(network, l.n.Forwards()[0].Address))
	}
}

// There are no more ways in than the limit says, and there is room for one again
// when another has gone.
func TestForwardsAreLimited(t *testing.T) {
	guest := netip.MustParseAddrPort("10.0.2.15:80")
	l := newLab(t, Options{Limits: Limits{Forwards: 3}})
	f := Forward{Network: "udp", Listen: "127.0.0.1:0", Guest: guest}
	for range 3 {
		l.must(l.n.AddForward(f))
	}
	if err := l.n.AddForward(f); !errors.Is(err, ErrForwards) || !strings.Contains(err.Error(), "there are 3") {
		t.Errorf("one more: %v", err)
	}
	l.must(l.n.RemoveForward("udp", l.n.Forwards()[1].Address))
	l.must(l.n.AddForward(f))
	if n := len(l.n.Forwards()); n != 3 {
		t.Errorf("%d ways in", n)
	}
}
