//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// What the test's resolver knows.
const (
	outside     = "outside.test."
	outsideName = "\x07outside\x04test\x00" // as messages have it
	textParts   = 12                        // of 250 bytes: more than fits into a datagram
)

// serveNames is a resolver on the host's loopback: outside.test is the gateway
// and has a long text.
func serveNames(t *testing.T) (at string) {
	t.Helper()
	at = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	packets, err := net.ListenPacket("udp", at)
	must(t, err)
	listener, err := net.Listen("tcp", at)
	must(t, err)
	done := make(chan struct{}, 2)
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				break
			}
			if err == nil {
				_, _ = packets.WriteTo(answerName(t, b[:n]), from) // whoever asked asks again
			}
		}
		done <- struct{}{}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				break
			}
			answerConn(t, conn)
		}
		done <- struct{}{}
	}()
	t.Cleanup(func() {
		_ = packets.Close()
		_ = listener.Close()
		<-done
		<-done
	})
	return at
}

// answerConn answers one connection's queries (RFC 1035, 4.2.2).
func answerConn(t *testing.T, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var length [2]byte
	for {
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		b := make([]byte, int(length[0])<<8|int(length[1]))
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		b = answerName(t, b)
		if _, err := conn.Write(append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)); err != nil {
			return
		}
	}
}

// Kinds of records (RFC 1035, 3.2.2).
const (
	kindA   = 1
	kindTXT = 16
)

// answerName answers a query of one question (RFC 1035, 4.1).
func answerName(t *testing.T, query []byte) []byte {
	const head = 12
	end := head + bytes.IndexByte(query[min(head, len(query)):], 0) + 1 + 4
	if end < head+1+4 || end > len(query) {
		t.Errorf("a query that is none: %x", query)
		return nil
	}
	// A response to a wish for recursion, which there is; one question, no answer.
	b := append(bytes.Clone(query[:2]), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, query[head:end]...)
	if !strings.EqualFold(string(query[head:end-4]), outsideName) {
		b[3] |= 3 // there is no such name
		return b
	}
	var data []byte
	kind := query[end-3]
	switch kind {
	case kindA:
		data = netip.MustParseAddr(gateway4).AsSlice()
	case kindTXT:
		for i := range textParts {
			data = append(append(data, 250), bytes.Repeat([]byte{byte('a' + i)}, 250)...)
		}
	default:
		return b
	}
	b[7] = 1
	b = append(b, 0xc0, head, 0, kind, 0, 1, 0, 0, 0, 60, byte(len(data)>>8), byte(len(data))) // of the question's name
	return append(b, data...)
}

// testResolver: a guest asks the host's resolver through the gateway by UDP, by
// TCP, and by TCP because an answer is too long for UDP.
func testResolver(t *testing.T, lab *Lab) {
	for _, network := range []string{"udp", "tcp"} {
		out, err := lab.Guests[0].Run(within(t, 60*time.Second), "/init", "resolve", "-addr", gateway4+":53", "-network", network, "host.internal.")
		if err != nil || !strings.Contains(out, gateway4) || !strings.Contains(out, gateway6) || !strings.Contains(out, "by "+network) {
			t.Errorf("the host's name by %s: %v\n%s", network, err, out)
		}
	}
	for _, gateway := range []string{gateway4, "[" + gateway6 + "]"} {
		out, err := lab.Guests[0].Run(within(t, 60*time.Second), "/init", "resolve", "-addr", gateway+":53", outside)
		if err != nil || !strings.Contains(out, gateway4) || !strings.Contains(out, fmt.Sprint("text of ", 250*textParts)) || !strings.Contains(out, "by tcp") {
			t.Errorf("a name outside, with a long text, of %s: %v\n%s", gateway, err, out)
		}
	}
}

// dhcp6Script is what dhclient does with a lease of IPv6.
const dhcp6Script = `cat > /run/lease6 <<'END'
#!/bin/sh
[ "$reason" = BOUND6 ] || exit 0
/bin/ip -6 addr add $new_ip6_address/128 dev $interface nodad
echo "$new_ip6_address $new_dhcp6_name_servers $new_dhcp6_domain_search" > /run/ip6
END
chmod +x /run/lease6
echo > /run/leases6
until /bin/ip -6 addr show dev eth0 scope link | grep inet6 | grep -qv tentative; do sleep 0.2; done
dhclient -6 -1 -sf /run/lease6 -lf /run/leases6 -pf /run/dhclient6.pid eth0 >&2
kill $(cat /run/dhclient6.pid)
ping -6 -c 2 -W 5 -I $(cut -d' ' -f1 /run/ip6) ` + gateway6 + ` || exit 1
cat /run/ip6`

// testLease6: dhclient gets an address, with the resolver and the domain, and
// can use it.
func testLease6(t *testing.T, lab *Lab) {
	out, err := lab.Guests[0].Shell(within(t, 90*time.Second), dhcp6Script)
	must(t, err)
	fields := strings.Fields(out)
	if n := len(fields); n < 3 {
		t.Fatalf("dhclient got %q", out)
	} else {
		fields = fields[n-3:]
	}
	a, err := netip.ParseAddr(fields[0])
	if err != nil || !netip.MustParsePrefix(gateway6+"/64").Contains(a) || fields[1] != gateway6 || !strings.HasPrefix(fields[2], "internal") {
		t.Errorf("dhclient was given %q", fields)
	}
}

// testLeaseAfterRestart: a guest has the address that it once asked for, though
// the program was killed and started again meanwhile, and again asks for none.
func testLeaseAfterRestart(t *testing.T, lab *Lab, leases string) {
	g := lab.Guests[1]
	must(t, poll(within(t, 30*time.Second), "the lease to be saved", func() (bool, error) {
		b, err := os.ReadFile(leases)
		return err == nil && strings.Contains(string(b), wish), nil
	}))
	lab.Backend.Kill()
	must(t, lab.Backend.Start(within(t, 30*time.Second)))
	if got := lease(t, g); got != wish {
		t.Errorf("the guest had %s, and has %s after the back-end was started again", wish, got)
	}
	out, err := g.Run(within(t, 40*time.Second), "ping", "-c", "3", "-W", "5", gateway4)
	if err != nil {
		t.Errorf("ping: %v\n%s", err, out)
	}
}
