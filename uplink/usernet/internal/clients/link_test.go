//go:build integration

package clients

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"vhostnet/uplink/usernet/internal/dhcp"
	"vhostnet/uplink/usernet/internal/ndp"
)

var (
	gatewayMAC = [6]byte{0x02, 0, 0, 0, 0, 1}
	gateway4   = netip.MustParseAddr("10.0.2.2")
	gateway6   = netip.MustParseAddr("fd00::1")
	linkLocal  = netip.MustParseAddr("fe80::1")
)

// link is a cable: one end is the clients' interface, at the other a gateway
// answers with the services. Time at the gateway is shifted by skew.
//
//	kernel, clients -- guest0 ======= gw0 -- packet socket -- ndp, dhcp
type link struct {
	t       *testing.T
	ndp     *ndp.Gateway
	dhcp    *dhcp.Server
	socket  *os.File
	clients string // the interface
	dir     string // of the test's files
}

func newLink(t *testing.T, change func(*dhcp.Config, *ndp.Config)) *link {
	t.Helper()
	l := &link{t: t, clients: "guest0", dir: t.TempDir()}
	resolv := filepath.Join(l.dir, "resolv.conf") // clients write it
	write(t, resolv, "")
	run(t, "mount", "--bind", resolv, "/etc/resolv.conf")
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "ip", "link", "add", "gw0", "type", "veth", "peer", "name", l.clients, "address", "52:54:00:00:00:02")
	t.Cleanup(func() {
		run(t, "ip", "link", "del", "gw0")
		run(t, "umount", "/etc/resolv.conf")
	})
	write(t, "/proc/sys/net/ipv6/conf/gw0/disable_ipv6", "1")
	write(t, "/proc/sys/net/ipv6/conf/guest0/dad_transmits", "0")
	d, n := configs(l.dir)
	if change != nil {
		change(&d, &n)
	}
	var err error
	if l.dhcp, err = dhcp.New(d); err != nil {
		t.Fatal(err)
	}
	if l.ndp, err = ndp.New(n); err != nil {
		t.Fatal(err)
	}
	l.serve()
	run(t, "ip", "link", "set", "gw0", "up")
	run(t, "ip", "link", "set", l.clients, "up")
	return l
}

func configs(dir string) (dhcp.Config, ndp.Config) {
	dns4, dns6 := []netip.Addr{gateway4}, []netip.Addr{gateway6}
	d := dhcp.Config{
		Domain: "internal", Search: []string{"example.org"}, File: filepath.Join(dir, "leases.json"),
		IPv4: &dhcp.IPv4{
			Server: gateway4, Prefix: netip.MustParsePrefix("10.0.2.0/24"),
			First: netip.MustParseAddr("10.0.2.15"), Last: netip.MustParseAddr("10.0.2.31"),
			Router: gateway4, DNS: dns4, NTP: dns4, MTU: 1400,
			Boot: dhcp.Boot{Files: map[dhcp.Firmware]string{dhcp.OtherFirmware: "boot.ipxe"}},
		},
		IPv6: &dhcp.IPv6{
			MAC: gatewayMAC, Prefix: netip.MustParsePrefix("fd00::/64"),
			First: netip.MustParseAddr("fd00::1000"), Last: netip.MustParseAddr("fd00::10ff"), DNS: dns6,
		},
	}
	n := ndp.Config{
		MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6, linkLocal},
		Router: &ndp.Router{
			Prefix: d.IPv6.Prefix, Autonomous: true, Managed: true, MTU: 1400, DNS: dns6, Search: []string{"internal"},
		},
	}
	return d, n
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve answers what comes out of gw0 until the test ends.
func (l *link) serve() {
	l.t.Helper()
	const every = 0x0300 // ETH_P_ALL, as the network has it
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, every)
	if err != nil {
		l.t.Fatal(err)
	}
	l.socket = os.NewFile(uintptr(fd), "gw0")
	end, err := net.InterfaceByName("gw0")
	if err != nil {
		l.t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: every, Ifindex: end.Index}); err != nil {
		l.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		frame := make([]byte, 65536)
		for {
			n, err := l.socket.Read(frame)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil { // the interface is down, or up again
				continue
			}
			if reply := l.answer(frame[:n]); len(reply) > 0 {
				_, _ = l.socket.Write(reply)
			}
		}
	})
	l.t.Cleanup(func() {
		_ = l.socket.Close()
		wg.Wait()
	})
}

// answer is what a gateway does with a frame.
func (l *link) answer(frame []byte) []byte {
	if reply, mine := l.ndp.Answer("web", frame, nil); mine || len(frame) < 14 {
		return reply
	}
	eth, body := header.Ethernet(frame), frame[14:]
	c := dhcp.Client{Port: "web", MAC: [6]byte(frame[6:12])}
	switch eth.Type() {
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(body)
		if !ip.IsValid(len(body)) || ip.TransportProtocol() != header.UDPProtocolNumber {
			return nil
		}
		udp := header.UDP(ip.Payload())
		if len(udp) < header.UDPMinimumSize || udp.DestinationPort() != 67 {
			return nil
		}
		if r, ok := l.dhcp.Answer4(time.Now(), c, udp.Payload()); ok {
			return packet4(c.MAC, r.To, r.Payload)
		}
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(body)
		if !ip.IsValid(len(body)) || ip.NextHeader() != uint8(header.UDPProtocolNumber) {
			return nil
		}
		udp := header.UDP(ip.Payload())
		if len(udp) < header.UDPMinimumSize || udp.DestinationPort() != 547 {
			return nil
		}
		src := netip.AddrFrom16(ip.SourceAddress().As16())
		if r, ok := l.dhcp.Answer6(time.Now(), c, src, udp.Payload()); ok {
			return packet6(c.MAC, r.To, r.Payload)
		}
	}
	return nil
}

func ethernet(to [6]byte, kind tcpip.NetworkProtocolNumber, room int) []byte {
	b := make([]byte, header.EthernetMinimumSize+room)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(gatewayMAC[:]), DstAddr: tcpip.LinkAddress(to[:]), Type: kind})
	return b
}

func packet4(to [6]byte, dst netip.AddrPort, payload []byte) []byte {
	n := header.UDPMinimumSize + len(payload)
	b := ethernet(to, header.IPv4ProtocolNumber, header.IPv4MinimumSize+n)
	ip := header.IPv4(b[14:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + n), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(gateway4.As4()), DstAddr: tcpip.AddrFrom4(dst.Addr().As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp(b[14+header.IPv4MinimumSize:], ip.SourceAddress(), ip.DestinationAddress(), 67, dst.Port(), payload)
	return b
}

func packet6(to [6]byte, dst netip.AddrPort, payload []byte) []byte {
	n := header.UDPMinimumSize + len(payload)
	b := ethernet(to, header.IPv6ProtocolNumber, header.IPv6MinimumSize+n)
	ip := header.IPv6(b[14:])
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(n), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(linkLocal.As16()), DstAddr: tcpip.AddrFrom16(dst.Addr().As16()),
	})
	udp(b[14+header.IPv6MinimumSize:], ip.SourceAddress(), ip.DestinationAddress(), 547, dst.Port(), payload)
	return b
}

func udp(b []byte, src, dst tcpip.Address, from, to uint16, payload []byte) {
	u := header.UDP(b)
	u.Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(len(b))})
	copy(b[header.UDPMinimumSize:], payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(b)))
	u.SetChecksum(^u.CalculateChecksum(checksum.Checksum(payload, sum)))
}
