//go:build integration

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The gateway of the user-mode network, and a guest's address that no lease has.
const (
	gateway4 = "10.0.2.2"
	gateway6 = "fd76:686f:7374::2"
	fixed4   = "10.0.2.9"
)

// pageVariable names the MB that guests fetch and send in TestUserNetwork.
const pageVariable = "VHOSTNET_PAGE"

// TestUserNetwork is two guests behind the gateway that the program is without
// any privilege: addresses, names, pages of the host over both protocols, many
// connections, datagrams of all lengths, and ways in.
func TestUserNetwork(t *testing.T) {
	w := serveWeb(t, amount(t, pageVariable, 100)*megabyte)
	in := newWays(t)
	client, err := image.Server(within(t, time.Minute), t.TempDir(), []string{"dhclient"}, nil)
	must(t, err)
	leases := filepath.Join(sharedDir(t), "leases")
	lab := startUnprivileged(t, []string{
		"--uplink", "user,host=on,resolver=" + serveNames(t) + ",leases=" + leases + in.options(),
	}, GuestConfig{Name: "a", QEMU: machine.QEMU, MemoryMiB: 768, Image: client}, GuestConfig{Name: "b", QEMU: machine.QEMU})
	run(t, "NoPrivilege", func(t *testing.T) { testNoPrivilege(t, lab) })
	run(t, "Lease", func(t *testing.T) { testLease(t, lab) })
	run(t, "Lease6", func(t *testing.T) { testLease6(t, lab) })
	run(t, "Names", func(t *testing.T) { testNames(t, lab) })
	run(t, "Resolver", func(t *testing.T) { testResolver(t, lab) })
	run(t, "Ping", func(t *testing.T) { testGatewayPing(t, lab) })
	run(t, "Datagrams", func(t *testing.T) { testDatagrams(t, lab) })
	run(t, "Connections", func(t *testing.T) { testConnections(t, lab) })
	run(t, "Pages", func(t *testing.T) { testPages(t, lab, w) })
	run(t, "Forwards", func(t *testing.T) { testForwards(t, lab, in) })
	run(t, "GuestReboot", func(t *testing.T) { testLeaseAfterReboot(t, lab) })
	run(t, "Restart", func(t *testing.T) { testLeaseAfterRestart(t, lab, leases) })
}

// startUnprivileged is startLab whose program runs as nobody, without any
// capability.
func startUnprivileged(t *testing.T, args []string, guests ...GuestConfig) *Lab {
	t.Helper()
	return startUnprivilegedIn(t, nil, args, guests...)
}

// startUnprivilegedIn is startUnprivileged by way of a program that puts itself
// elsewhere and then runs its arguments.
func startUnprivilegedIn(t *testing.T, by, args []string, guests ...GuestConfig) *Lab {
	t.Helper()
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o777))
	}
	wrapper := filepath.Join(dir, "vhostnet")
	script := "#!/bin/sh\nexec " + strings.Join(by, " ") + " setpriv --reuid=65534 --regid=65534 --clear-groups --pdeathsig=KILL --bounding-set=-all --inh-caps=-all --no-new-privs " + readable(t, binary, dir) + " \"$@\"\n"
	must(t, os.WriteFile(wrapper, []byte(script), 0o755))
	lab, err := StartLab(within(t, 3*time.Minute), LabConfig{Dir: dir, Binary: wrapper, Image: image, Guests: guests, Backend: args})
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lab.Report(t.Output())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// sharedDir is a directory that the program without privileges can use.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhostnet-shared-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

// readable is a copy of a program where everybody can run it.
func readable(t *testing.T, program, dir string) string {
	t.Helper()
	data, err := os.ReadFile(program)
	must(t, err)
	to := filepath.Join(dir, "program")
	must(t, os.WriteFile(to, data, 0o755))
	return to
}

func testNoPrivilege(t *testing.T, lab *Lab) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", lab.Backend.proc.cmd.Process.Pid))
	must(t, err)
	for _, line := range []string{"Uid:\t65534\t65534", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("the program is not without privileges: want %q in\n%s", line, status)
		}
	}
}

// leaseScript is what udhcpc does with a lease.
const leaseScript = `cat > /run/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
/bin/ip addr replace $ip/$mask dev $interface
/bin/ip route replace default via $router
echo "search $domain" > /etc/resolv.conf
for d in $dns; do echo "nameserver $d" >> /etc/resolv.conf; done
echo "$ip" > /run/ip
END
chmod +x /run/lease
modprobe af_packet 2>/dev/null
/bin/ip addr flush dev eth0 scope global
udhcpc -i eth0 -n -q -f -t 20 -T 1 -s /run/lease %s >&2
cat /run/ip`

// lease has a guest take a lease and answers the address.
func lease(t *testing.T, g *Guest) string {
	t.Helper()
	return leaseOf(t, g, "")
}

// leaseOf is lease with options of udhcpc.
func leaseOf(t *testing.T, g *Guest, options string) string {
	t.Helper()
	out, err := g.Shell(within(t, 60*time.Second), fmt.Sprintf(leaseScript, options))
	must(t, err)
	fields := strings.Fields(out)
	if len(fields) == 0 {
		t.Fatalf("%s got no lease: %s", g.Name(), out)
	}
	return fields[len(fields)-1]
}

// wish is the address that guest b asks for, which it would not be given by itself.
const wish = "10.0.2.77"

// testLease: both guests get addresses of both kinds, each its own.
func testLease(t *testing.T, lab *Lab) {
	network4, network6 := netip.MustParsePrefix(gateway4+"/24"), netip.MustParsePrefix(gateway6+"/64")
	taken := map[string]bool{gateway4: true}
	for _, g := range lab.Guests {
		options := ""
		if g.Name() == "b" {
			options = "-r " + wish
		}
		a := leaseOf(t, g, options)
		if options != "" && a != wish {
			t.Errorf("%s asked for %s and was given %s", g.Name(), wish, a)
		}
		if ip, err := netip.ParseAddr(a); err != nil || !network4.Contains(ip) || taken[a] {
			t.Errorf("%s has the address %q", g.Name(), a)
		}
		taken[a] = true
		out, err := g.Shell(within(t, 30*time.Second), `/bin/ip link set eth0 down; /bin/ip link set eth0 up
until /bin/ip -6 addr show dev eth0 scope global | grep -q dynamic; do sleep 0.2; done
/bin/ip addr replace $(cat /run/ip)/24 dev eth0; /bin/ip route replace default via `+gateway4+`
/bin/ip -6 -o addr show dev eth0 scope global; /bin/ip -6 route show default`)
		must(t, err)
		if !strings.Contains(out, strings.TrimSuffix(network6.Masked().Addr().String(), "::")) || !strings.Contains(out, "default via fe80::") {
			t.Errorf("%s made itself no IPv6 address and route:\n%s", g.Name(), out)
		}
	}
}

// testNames: the gateway, and the other guest by the name of its port.
func testNames(t *testing.T, lab *Lab) {
	for name, want := range map[string]string{"host.internal": gateway4, "b.internal": "10.0.2.", "a.internal": "10.0.2."} {
		out, err := lab.Guests[0].Run(within(t, 30*time.Second), "nslookup", name, gateway4)
		if err != nil || !strings.Contains(out[max(0, strings.Index(out, "Name:")):], want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func testGatewayPing(t *testing.T, lab *Lab) {
	for _, to := range []string{gateway4, gateway6, "b.internal"} {
		out, err := lab.Guests[0].Run(within(t, 40*time.Second), "ping", "-c", "3", "-W", "5", to)
		if err != nil {
			t.Errorf("ping %s: %v\n%s", to, err, out)
		}
	}
}

// web is two servers on the host's loopback: one gives bytes away by HTTP, one
// hashes what it gets.
type web struct {
	port, sink int
	sum        string // of what is given away
}

func serveWeb(t *testing.T, size int) *web {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	sum := sha256.Sum256(data)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
	w := &web{port: freePort(t), sink: freePort(t), sum: hex.EncodeToString(sum[:])}
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(w.port)))
		must(t, err)
		serveHashes(t, net.JoinHostPort(host, fmt.Sprint(w.sink)))
		s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(ln)
		}()
		t.Cleanup(func() {
			_ = s.Close()
			<-done
		})
	}
	return w
}

// serveHashes answers each connection, when its other side has sent all, by the
// hash of it.
func serveHashes(t *testing.T, address string) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
				h := sha256.New()
				_, _ = io.Copy(h, c) // what is missing shows in the hash
				fmt.Fprintln(c, hex.EncodeToString(h.Sum(nil)))
			})
		}
	})
	t.Cleanup(func() {
		must(t, ln.Close())
		serving.Wait()
	})
}

// freePort is a port that nobody listens on, on either loopback address.
func freePort(t *testing.T) int {
	t.Helper()
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		port := ln.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", port))
		must(t, ln.Close())
		if err == nil {
			must(t, second.Close())
			return port
		}
	}
	t.Fatal("no port is free on both loopback addresses")
	return 0
}

// testPages: a page comes whole by name, over IPv4 and over IPv6, and goes back.
func testPages(t *testing.T, lab *Lab, w *web) {
	for _, host := range []string{"host.internal", gateway4, "[" + gateway6 + "]"} {
		began := time.Now()
		out, err := lab.Guests[0].Shell(within(t, 3*time.Minute), fmt.Sprintf("wget -q -O /tmp/page http://%s:%d/page && sha256sum < /tmp/page", host, w.port))
		if err != nil || !strings.HasPrefix(out, w.sum) {
			t.Fatalf("the page of %s: %v\n%s", host, err, out)
		}
		t.Logf("from %s in %v", host, time.Since(began).Round(time.Millisecond))
		began = time.Now()
		out, err = lab.Guests[0].Shell(within(t, 3*time.Minute), fmt.Sprintf("nc %s %d < /tmp/page", strings.Trim(host, "[]"), w.sink))
		if err != nil || !strings.HasPrefix(out, w.sum) {
			t.Fatalf("the page to %s: %v\n%s", host, err, out)
		}
		t.Logf("to %s in %v", host, time.Since(began).Round(time.Millisecond))
	}
}

// serveEchoes echoes on the host's loopback addresses, both protocols, and answers
// the port.
func serveEchoes(t *testing.T) int {
	t.Helper()
	port := freePort(t)
	program := filepath.Join(t.TempDir(), "guest")
	must(t, Build(within(t, time.Minute), "integration/guest", program))
	for _, host := range []string{"127.0.0.1", "::1"} {
		serveEcho(t, program, "echo", "-addr", net.JoinHostPort(host, fmt.Sprint(port)))
	}
	return port
}

// serveEcho starts the guest's program on the host, perhaps by another one, and
// waits until it is ready.
func serveEcho(t *testing.T, argv ...string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "echo.log")
	p, err := start("echo", log, argv...)
	must(t, err)
	t.Cleanup(p.kill)
	awaitText(within(t, 30*time.Second), t, log, "ready")
}

// testDatagrams: datagrams that fit, and those that the guest or the gateway cuts,
// come back, over both protocols.
func testDatagrams(t *testing.T, lab *Lab) {
	port := serveEchoes(t)
	for _, gateway := range []string{gateway4, gateway6} {
		for _, size := range []int{1, 1472, 1473, 9000, 60000} {
			_, err := lab.Guests[0].Run(within(t, 60*time.Second), "/init", "datagram", "-addr", net.JoinHostPort(gateway, fmt.Sprint(port)), "-bytes", fmt.Sprint(size))
			if err != nil {
				t.Errorf("%d bytes to %s: %v", size, gateway, err)
			}
		}
		if err := Ping(within(t, 60*time.Second), lab.Guests[0], gateway, 3, 5000); err != nil {
			t.Error(err)
		}
	}
}

// testConnections: a thousand connections are open at once, and each carries
// bytes.
func testConnections(t *testing.T, lab *Lab) {
	addr := net.JoinHostPort(gateway4, fmt.Sprint(serveEchoes(t)))
	out, err := lab.Guests[0].Run(within(t, 3*time.Minute), "/init", "connections", "-addr", addr, "-count", "1000", "-bytes", "5000")
	if err != nil || !strings.HasPrefix(out, "1000 connections, 5000 bytes each") {
		t.Errorf("%v\n%s", err, out)
	}
}

// testLeaseAfterReboot: a guest has the address that it had.
func testLeaseAfterReboot(t *testing.T, lab *Lab) {
	g := lab.Guests[1]
	before, err := g.Run(within(t, 10*time.Second), "cat", "/run/ip")
	must(t, err)
	must(t, g.Reboot(within(t, time.Minute)))
	if after := lease(t, g); after != strings.TrimSpace(before) {
		t.Errorf("the guest had %s, and has %s after it was started again", before, after)
	}
}
