//go:build integration

package clients

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vhostnet/uplink/usernet/internal/boot"
	"vhostnet/uplink/usernet/internal/dns"
)

func mustAddr(a string) netip.Addr { return netip.MustParseAddr(a) }

// onUDP hands what comes to a socket on loopback to answer, which calls send,
// until the test ends.
func onUDP(t *testing.T, answer func(from netip.AddrPort, payload []byte, send func([]byte))) *net.UDPConn {
	t.Helper()
	run(t, "ip", "link", "set", "lo", "up")
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			answer(from, b[:n], func(m []byte) { _, _ = conn.WriteToUDPAddrPort(m, from) })
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return conn
}

func port(a net.Addr) string {
	_, p, _ := strings.Cut(a.String(), ":")
	return p
}

// files is a directory with a kernel of some size in it.
func files(t *testing.T) (d *boot.Directory, kernel []byte) {
	t.Helper()
	dir := t.TempDir()
	kernel = make([]byte, 3_000_001)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(kernel)
	write(t, filepath.Join(dir, "kernel"), string(kernel))
	d, err := boot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, kernel
}

// Three clients of TFTP: of lockstep, of large blocks, of windows.
func TestTFTP(t *testing.T) {
	d, kernel := files(t)
	s, err := boot.NewTFTP(boot.TFTPConfig{Directory: d})
	if err != nil {
		t.Fatal(err)
	}
	conn := onUDP(t, func(from netip.AddrPort, payload []byte, send func([]byte)) {
		s.Answer(time.Now(), boot.Peer{Guest: "web", Addr: from}, payload, send)
	})
	// Without an address that is not loopback's, tftp-hpa finds that it has no
	// use for 127.0.0.1.
	run(t, "ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
	defer run(t, "ip", "link", "del", "spare0")
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "spare0")
	p, got := port(conn.LocalAddr()), filepath.Join(t.TempDir(), "got")
	for name, client := range map[string][]string{
		"tftp-hpa":        {"tftp", "-m", "binary", "127.0.0.1", p, "-c", "get", "kernel", got},
		"curl":            {"curl", "-sS", "-o", got, "tftp://127.0.0.1:" + p + "/kernel"},
		"curl, 1400":      {"curl", "-sS", "--tftp-blksize", "1400", "-o", got, "tftp://127.0.0.1:" + p + "/kernel"},
		"atftp, windows":  {"atftp", "--option", "blksize 1400", "--option", "windowsize 8", "--option", "tsize 0", "-g", "-r", "kernel", "-l", got, "127.0.0.1", p},
		"busybox, 1428":   {"busybox", "tftp", "-b", "1428", "-g", "-r", "kernel", "-l", got, "127.0.0.1", p},
		"busybox, larger": {"busybox", "tftp", "-b", "60000", "-g", "-r", "kernel", "-l", got, "127.0.0.1", p},
	} {
		_ = os.Remove(got)
		out := run(t, client[0], client[1:]...)
		if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, kernel) {
			t.Errorf("%s: %d bytes of %d, %v\n%s", name, len(b), len(kernel), err, out)
		}
	}
	if out, err := try(t, "curl", "-sS", "tftp://127.0.0.1:"+p+"/../secret"); err == nil {
		t.Errorf("%s", out)
	}
	if n := s.Counters.Done.Value(); n != 6 {
		t.Errorf("%d read to the end, want 6", n)
	}
}

func TestHTTP(t *testing.T) {
	d, kernel := files(t)
	h, err := boot.NewHTTP(d)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "link", "set", "lo", "up")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	got, url := filepath.Join(t.TempDir(), "got"), "http://"+l.Addr().String()
	run(t, "curl", "-sS", "--fail", "-o", got, url+"/kernel")
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, kernel) {
		t.Errorf("curl: %d bytes of %d, %v", len(b), len(kernel), err)
	}
	run(t, "curl", "-sS", "--fail", "-r", "1000000-1999999", "-o", got, url+"/kernel")
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, kernel[1_000_000:2_000_000]) {
		t.Errorf("curl, a part: %d bytes, %v", len(b), err)
	}
	run(t, "busybox", "wget", "-q", "-O", got, url+"/kernel")
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, kernel) {
		t.Errorf("wget: %d bytes of %d, %v", len(b), len(kernel), err)
	}
	wants(t, run(t, "curl", "-sS", "-w", "%{http_code}", "--path-as-is", url+"/../../etc/passwd"), "404")
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// dig asks for names of VMs, of dnsmasq behind the forwarder, and of a resolver
// that is not there.
func TestDNS(t *testing.T) {
	run(t, "ip", "link", "set", "lo", "up")
	dir := t.TempDir()
	resolver := startDnsmasq(t, dir)
	f, err := dns.New(dns.Config{
		Host: []netip.Addr{mustAddr("10.0.2.2"), mustAddr("fd00::1")}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")},
		Names: func(port string) []netip.Addr {
			if port == "web" {
				return []netip.Addr{mustAddr("10.0.2.15"), mustAddr("fd00::15")}
			}
			return nil
		},
		Pointer:   func(a netip.Addr) (string, bool) { return "web", a == mustAddr("10.0.2.15") },
		Resolvers: []netip.AddrPort{resolver},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	conn := onUDP(t, func(_ netip.AddrPort, payload []byte, send func([]byte)) { f.Ask("web", payload, send) })
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.ServeConn(ctx, "web", c) })
		}
	})
	dig := func(args ...string) string {
		t.Helper()
		return run(t, "dig", append([]string{"@127.0.0.1", "-p", port(conn.LocalAddr()), "+tries=1", "+time=10"}, args...)...)
	}
	for _, c := range []struct {
		args  string
		words []string
	}{
		{"web.internal A +short", []string{"10.0.2.15"}},
		{"web.internal AAAA +short", []string{"fd00::15"}},
		{"+short -x 10.0.2.15", []string{"web.internal."}},
		{"host.internal A +short +tcp", []string{"10.0.2.2"}},
		{"nobody.internal A", []string{"status: NXDOMAIN", "SOA", "EDNS: version: 0"}},
		{"www.example.test A +short", []string{"192.0.2.80"}},
		{"www.example.test AAAA +short +tcp", []string{"2001:db8::80"}},
		{"none.example.test A", []string{"status: NXDOMAIN"}},
		{"big.example.test TXT +noedns +ignore", []string{"flags: qr aa tc"}},
		{"big.example.test TXT", []string{"part19"}}, // cut by UDP, whole by TCP
		{"www.example.test A +cookie=0123456789abcdef +nsid +subnet=192.0.2.0/24", []string{"192.0.2.80"}},
		{"www.example.test A +opcode=NOTIFY", []string{"status: NOTIMP"}},
		{"www.example.test AXFR +tcp", []string{"Transfer failed"}},
	} {
		wants(t, dig(strings.Fields(c.args)...), c.words...)
	}
	if n := f.Counters.Malformed.Value(); n != 0 {
		t.Errorf("%d queries were malformed", n)
	}
}

// startDnsmasq starts a resolver that knows example.test.
func startDnsmasq(t *testing.T, dir string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, in a namespace of our own
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	args := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--bind-interfaces", "--listen-address=127.0.0.1",
		"--port=" + strconv.Itoa(int(at.Port())), "--pid-file=" + filepath.Join(dir, "pid"), "--user=root", "--local=/example.test/",
		"--host-record=www.example.test,192.0.2.80,2001:db8::80",
	}
	for i := range 20 {
		args = append(args, "--txt-record=big.example.test,part"+strconv.Itoa(i)+strings.Repeat("x", 200))
	}
	t.Cleanup(start(t, "dnsmasq", args...))
	await(t, "dnsmasq", func() bool {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return at
}
