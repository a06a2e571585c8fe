//go:build integration

package clients

import (
	"strings"
	"testing"
)

// awaitAddress waits until the clients' interface has an IPv6 address that can
// be used.
func (l *link) awaitAddress(prefix string) {
	l.t.Helper()
	await(l.t, "an address of "+prefix, func() bool {
		out := run(l.t, "ip", "-6", "-o", "addr", "show", "dev", l.clients)
		return strings.Contains(out, " "+prefix) && !strings.Contains(out, "tentative")
	})
}

// The kernel takes its address, its route, its MTU from advertisements.
func TestKernelAutoconfiguration(t *testing.T) {
	l := newLink(t, nil)
	l.awaitAddress("fd00::5054:ff:fe00:2")
	out := run(t, "ip", "-6", "route", "show", "dev", l.clients)
	wants(t, out, "default via fe80::1 proto ra", "fd00::/64 proto kernel")
	wants(t, run(t, "cat", "/proc/sys/net/ipv6/conf/"+l.clients+"/mtu"), "1400")
	wants(t, run(t, "cat", "/proc/sys/net/ipv6/conf/"+l.clients+"/hop_limit"), "64")
	if n := l.ndp.Counters.Malformed.Value(); n != 0 {
		t.Errorf("%d messages were malformed", n)
	}
	// And it forgets the router that says farewell.
	if _, err := l.socket.Write(l.ndp.Farewell(nil)); err != nil {
		t.Fatal(err)
	}
	await(t, "no route", func() bool {
		return !strings.Contains(run(t, "ip", "-6", "route", "show", "dev", l.clients), "default")
	})
}

func TestRdisc6(t *testing.T) {
	l := newLink(t, nil)
	l.awaitAddress("fe80:")
	out := run(t, "rdisc6", "-1", l.clients)
	wants(t, out, "from fe80::1", "Prefix                   : fd00::/64", "On-link                 :          Yes",
		"Autonomous address conf.:          Yes", "Recursive DNS server     : fd00::1", "DNS search list          : internal",
		"MTU                      :         1400", "Source link-layer address: 02:00:00:00:00:01", "Stateful address conf.    :          Yes",
		"Hop limit                 :           64", "Router lifetime           :         1800")
}

func TestNdisc6(t *testing.T) {
	l := newLink(t, nil)
	l.awaitAddress("fd00:")
	for _, a := range []string{"fe80::1", "fd00::1"} {
		wants(t, run(t, "ndisc6", "-1", a, l.clients), "Target link-layer address: 02:00:00:00:00:01", "from "+a)
	}
	if out, err := try(t, "ndisc6", "-1", "-r", "1", "-w", "200", "fd00::99", l.clients); err == nil {
		t.Errorf("somebody has fd00::99:\n%s", out)
	}
}

func TestArping(t *testing.T) {
	l := newLink(t, nil)
	l.awaitAddress("fe80:") // the link is up
	run(t, "ip", "addr", "add", "10.0.2.20/24", "dev", l.clients)
	wants(t, run(t, "arping", "-c", "1", "-I", l.clients, "10.0.2.2"), "[02:00:00:00:00:01]", "Received 1 response")
	if out, err := try(t, "arping", "-c", "1", "-w", "1", "-I", l.clients, "10.0.2.99"); err == nil {
		t.Errorf("somebody has 10.0.2.99:\n%s", out)
	}
	// Whoever looks whether the gateway's address is free is told that it is not.
	if out, err := try(t, "arping", "-D", "-c", "1", "-w", "2", "-I", l.clients, "10.0.2.2"); err == nil {
		t.Errorf("10.0.2.2 is free:\n%s", out)
	}
	if mac, ok := l.ndp.Lookup(mustAddr("10.0.2.20")); !ok || mac != [6]byte{0x52, 0x54, 0, 0, 0, 2} {
		t.Errorf("the gateway knows %x %v", mac, ok)
	}
}
