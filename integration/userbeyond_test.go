//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Addresses of the only host beyond the one that the program runs on.
const (
	beyond4 = "192.0.2.2"
	beyond6 = "2001:db8::2"
)

// beyond is two network namespaces with a cable between them, that takes packets
// of 1300 bytes.
type beyond struct{ host, far string }

// newBeyond makes them. In the second one a server echoes at port 7.
func newBeyond(t *testing.T) beyond {
	t.Helper()
	b := beyond{fmt.Sprintf("vhostnet-ith-%d", os.Getpid()), fmt.Sprintf("vhostnet-itf-%d", os.Getpid())}
	for _, ns := range []string{b.host, b.far} {
		command(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { command(t, "ip", "netns", "del", ns) })
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	command(t, "ip", "-n", b.host, "link", "add", "out", "mtu", "1300", "type", "veth", "peer", "name", "in", "mtu", "1300", "netns", b.far)
	for _, end := range []struct{ ns, dev, v4, v6 string }{{b.host, "out", "192.0.2.1", "2001:db8::1"}, {b.far, "in", beyond4, beyond6}} {
		command(t, "ip", "-n", end.ns, "addr", "add", end.v4+"/24", "dev", end.dev)
		command(t, "ip", "-n", end.ns, "addr", "add", end.v6+"/64", "dev", end.dev, "nodad")
		command(t, "ip", "-n", end.ns, "link", "set", end.dev, "up")
	}
	program := filepath.Join(t.TempDir(), "guest")
	must(t, Build(within(t, time.Minute), "integration/guest", program))
	for _, a := range []string{beyond4, beyond6} {
		serveEcho(t, "ip", "netns", "exec", b.far, program, "echo", "-addr", net.JoinHostPort(a, "7"))
	}
	return b
}

// TestUserNetworkBeyond is a guest that reaches a host behind the one on which the
// program runs, which has no privilege there: ping as far as the host lets it,
// TCP, and datagrams that are too long for the way.
func TestUserNetworkBeyond(t *testing.T) {
	b := newBeyond(t)
	lab := startUnprivilegedIn(t, []string{"ip", "netns", "exec", b.host}, []string{"--uplink", "user"}, GuestConfig{Name: "a", QEMU: machine.QEMU})
	run(t, "NoPrivilege", func(t *testing.T) { testNoPrivilege(t, lab) })
	run(t, "Lease", func(t *testing.T) { testLease(t, lab) })
	run(t, "PingForbidden", func(t *testing.T) { testPingForbidden(t, lab) })
	run(t, "TCP", func(t *testing.T) { testBeyond(t, lab, "connections", 20000) })
	run(t, "UDP", func(t *testing.T) { testBeyond(t, lab, "datagram", 1200) })
	run(t, "PacketTooBig", func(t *testing.T) { testPacketTooBig(t, lab) })
	run(t, "Ping", func(t *testing.T) {
		command(t, "ip", "netns", "exec", b.host, "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
		for _, to := range []string{beyond4, beyond6} {
			for _, size := range []int{56, 4000} {
				must(t, Ping(within(t, 60*time.Second), lab.Guests[0], to, 3, size))
			}
		}
	})
}

// testPingForbidden: where the host forbids ping sockets, the log says once how to
// allow them.
func testPingForbidden(t *testing.T, lab *Lab) {
	for _, to := range []string{beyond4, beyond6} {
		if out, err := lab.Guests[0].Run(within(t, 30*time.Second), "ping", "-c", "2", "-W", "1", to); err == nil {
			t.Errorf("the host answers though it forbids ping:\n%s", out)
		}
	}
	log, err := os.ReadFile(lab.Backend.Log)
	must(t, err)
	if n := strings.Count(string(log), "ping_group_range"); n != 1 {
		t.Errorf("%d lines of the log say how to allow ping, want 1", n)
	}
}

// testBeyond: bytes come back from beyond the host.
func testBeyond(t *testing.T, lab *Lab, how string, size int) {
	t.Helper()
	for _, to := range []string{beyond4, beyond6} {
		_, err := lab.Guests[0].Run(within(t, time.Minute), "/init", how, "-addr", net.JoinHostPort(to, "7"), "-bytes", fmt.Sprint(size))
		if err != nil {
			t.Errorf("%s with %d bytes to %s: %v", how, size, to, err)
		}
	}
}

// testPacketTooBig: a datagram that fits into the guest's MTU and not into that of
// the way comes back as too big, the guest cuts it from then on, and its echo
// comes.
func testPacketTooBig(t *testing.T, lab *Lab) {
	testBeyond(t, lab, "datagram", 1400)
	for _, route := range []string{"-4 route get " + beyond4, "-6 route get " + beyond6} {
		out, err := lab.Guests[0].Run(within(t, 30*time.Second), append([]string{"/bin/ip"}, strings.Fields(route)...)...)
		if err != nil || !strings.Contains(out, "mtu 1300") {
			t.Errorf("the guest was not told the MTU of the way: %v\n%s", err, out)
		}
	}
}
