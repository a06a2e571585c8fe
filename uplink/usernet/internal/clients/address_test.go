//go:build integration

package clients

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vhostnet/uplink/usernet/internal/dhcp"
	"vhostnet/uplink/usernet/internal/ndp"
)

// script makes a program that writes what a client tells it into a file.
func (l *link) script(kinds string) (program, out string) {
	l.t.Helper()
	program, out = filepath.Join(l.dir, "script"), filepath.Join(l.dir, "told")
	text := "#!/bin/sh\ncase \"$1$reason\" in " + kinds + ") { echo \"== $1$reason\"; env; } >>" + out + " ;; esac\nexit 0\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		l.t.Fatal(err)
	}
	return program, out
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// address is the only one that the server has given out of a kind.
func (l *link) address(v6 bool) netip.Addr {
	l.t.Helper()
	var found []netip.Addr
	for _, a := range l.dhcp.Addresses(time.Now(), "web") {
		if a.Is6() == v6 {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		l.t.Fatalf("leases of %v, want one", found)
	}
	return found[0]
}

// awaitRelease waits until all is given back: a client has ended when its
// message is on the way.
func (l *link) awaitRelease() {
	l.t.Helper()
	await(l.t, "a release", func() bool {
		return len(l.dhcp.Leases(time.Now())) == 0 && l.dhcp.Counters.Releases.Value() == 1
	})
}

func TestUdhcpc(t *testing.T) {
	l := newLink(t, nil)
	program, out := l.script("bound|renew|deconfig")
	run(t, "udhcpc", "-i", l.clients, "-s", program, "-n", "-q", "-f", "-O", "mtu", "-O", "ntpsrv", "-O", "search", "-O", "bootfile")
	a := l.address(false).String()
	wants(t, read(t, out), "ip="+a, "router=10.0.2.2", "dns=10.0.2.2", "domain=internal", "mtu=1400", "ntpsrv=10.0.2.2",
		"search=internal example.org", "subnet=255.255.255.0", "lease=3600", "boot_file=boot.ipxe", "siaddr=10.0.2.2")
	// The same again, as if after a reboot; then given back.
	run(t, "udhcpc", "-i", l.clients, "-s", program, "-n", "-q", "-f", "-r", a)
	if again := l.address(false).String(); again != a {
		t.Errorf("%s, then %s", a, again)
	}
	run(t, "ip", "addr", "add", a+"/24", "dev", l.clients) // a release is sent from it
	told := strings.Count(read(t, out), "== bound")
	stop := start(t, "udhcpc", "-i", l.clients, "-s", program, "-f", "-R")
	await(t, "a third lease", func() bool { return strings.Count(read(t, out), "== bound") > told })
	stop()
	l.awaitRelease()
	if n := l.dhcp.Counters.Malformed.Value(); n != 0 {
		t.Errorf("%d messages were malformed", n)
	}
}

func TestDhclient(t *testing.T) {
	l := newLink(t, nil)
	program, out := l.script("*BOUND|*REBOOT|*RENEW|*EXPIRE|*FAIL")
	leases, pid := filepath.Join(l.dir, "dhclient.leases"), filepath.Join(l.dir, "dhclient.pid")
	conf := filepath.Join(l.dir, "dhclient.conf")
	write(t, conf, "request subnet-mask, routers, domain-name, domain-name-servers, domain-search, host-name, interface-mtu, ntp-servers, broadcast-address;\n")
	args := []string{"-4", "-1", "-v", "-cf", conf, "-sf", program, "-lf", leases, "-pf", pid}
	stop := func() {
		run(t, "dhclient", "-4", "-x", "-cf", conf, "-sf", program, "-lf", leases, "-pf", pid, l.clients)
	}
	run(t, "dhclient", append(args, l.clients)...)
	a := l.address(false).String()
	wants(t, read(t, out), "reason=BOUND", "new_ip_address="+a, "new_routers=10.0.2.2", "new_domain_name=internal",
		"new_domain_name_servers=10.0.2.2", "new_host_name=web", "new_interface_mtu=1400", "new_ntp_servers=10.0.2.2",
		"new_broadcast_address=10.0.2.255", "new_domain_search=internal. example.org.", "new_dhcp_lease_time=3600")
	stop()
	// It knows its address from before, and asks for it.
	run(t, "dhclient", append(args, l.clients)...)
	wants(t, read(t, out), "reason=REBOOT")
	if again := l.address(false).String(); again != a {
		t.Errorf("%s, then %s", a, again)
	}
	run(t, "ip", "addr", "add", a+"/24", "dev", l.clients) // a release is sent from it
	run(t, "dhclient", "-4", "-r", "-cf", conf, "-sf", program, "-lf", leases, "-pf", pid, l.clients)
	l.awaitRelease()
}

func TestDhclient6(t *testing.T) {
	l := newLink(t, nil)
	l.awaitAddress("fe80:")
	program, out := l.script("*BOUND6|*REBIND6|*FAIL")
	leases, pid := filepath.Join(l.dir, "dhclient6.leases"), filepath.Join(l.dir, "dhclient6.pid")
	common := []string{"-sf", program, "-lf", leases, "-pf", pid}
	run(t, "dhclient", append(append([]string{"-6", "-1", "-v"}, common...), l.clients)...)
	a := l.address(true).String()
	wants(t, read(t, out), "reason=BOUND6", "new_ip6_address="+a, "new_dhcp6_name_servers=fd00::1", "new_dhcp6_domain_search=internal. example.org.")
	run(t, "dhclient", append(append([]string{"-6", "-r"}, common...), l.clients)...)
	l.awaitRelease()
	// Without an address, for the rest.
	run(t, "dhclient", append(append([]string{"-6", "-S", "-1", "-v"}, common...), l.clients)...)
	run(t, "dhclient", append(append([]string{"-6", "-S", "-x"}, common...), l.clients)...)
	if n := l.dhcp.Counters.Informs.Value(); n == 0 {
		t.Error("no information was asked for")
	}
}

// dhcpcd does all at once: DHCPv4, router advertisements, DHCPv6.
func TestDhcpcd(t *testing.T) {
	l := newLink(t, nil)
	program, out := l.script("*BOUND|*BOUND6|*ROUTERADVERT|*REBOOT|*REBOOT6")
	conf := filepath.Join(l.dir, "dhcpcd.conf")
	write(t, conf, "duid\noption domain_name_servers, domain_name, domain_search, host_name, interface_mtu, ntp_servers\nnoarp\n")
	run(t, "mount", "-t", "tmpfs", "none", "/var/lib/dhcpcd") // what it remembers
	defer run(t, "umount", "-l", "/var/lib/dhcpcd")
	stop := start(t, "dhcpcd", "-B", "-f", conf, "-c", program, l.clients)
	defer stop()
	told := func() string { b, _ := os.ReadFile(out); return string(b) }
	await(t, "DHCPv6", func() bool { return strings.Contains(told(), "reason=BOUND6") })
	wants(t, told(), "new_ip_address="+l.address(false).String(), "new_domain_name=internal", "new_interface_mtu=1400",
		"new_dhcp6_ia_na1_ia_addr1="+l.address(true).String(), "nd1_rdnss1_servers=fd00::1", "nd1_mtu=1400")
}

// A full pool keeps clients waiting, a lease kept by file brings the same.
func TestRestartAndFullPool(t *testing.T) {
	l := newLink(t, func(d *dhcp.Config, _ *ndp.Config) { d.IPv4.Last = d.IPv4.First })
	program, _ := l.script("bound")
	run(t, "udhcpc", "-i", l.clients, "-s", program, "-n", "-q", "-f")
	a := l.address(false)
	run(t, "ip", "link", "set", l.clients, "down")
	run(t, "ip", "link", "set", l.clients, "address", "52:54:00:00:00:03")
	run(t, "ip", "link", "set", l.clients, "up")
	if out, err := try(t, "udhcpc", "-i", l.clients, "-s", program, "-n", "-q", "-f", "-t", "2", "-T", "1"); err == nil {
		t.Errorf("a full pool gave an address:\n%s", out)
	}
	if n := l.dhcp.Counters.Full.Value(); n == 0 {
		t.Error("nothing was counted")
	}
	if got := l.address(false); got != a {
		t.Errorf("%v, then %v", a, got)
	}
}
