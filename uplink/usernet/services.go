package usernet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/uplink/usernet/internal/boot"
	"vhostnet/uplink/usernet/internal/dhcp"
	"vhostnet/uplink/usernet/internal/dns"
	"vhostnet/uplink/usernet/internal/ndp"
)

// Services say what the gateway does for guests beside carrying their packets:
// it gives them addresses, resolves names, and lets them boot. The zero
// Services do all but the last.
type Services struct {
	Domain       string           // of the VMs' names; empty means "internal"
	Leases       string           // file that keeps leases over restarts; empty: they are not kept
	Reservations []Reservation    // addresses and names of certain VMs
	NTP          []netip.Addr     // time servers that guests are told of
	Resolvers    []netip.AddrPort // that names are asked of; none: those of ResolvConf
	ResolvConf   string           // empty means /etc/resolv.conf

	// Boot is a directory that guests read by TFTP and HTTP from the gateway;
	// empty: there is none. BootFiles are the files that firmware asks for by
	// DHCP.
	Boot      string
	BootFiles map[Firmware]string

	// Moved reports whether the VM with a MAC address has left a port of the
	// switch for another one, as one that migrates does; its addresses follow it
	// then. nil: they stay.
	Moved func(mac [6]byte, from, to string) bool
}

// Reservation sets addresses apart for a VM.
type Reservation = dhcp.Reservation

// Firmware is what asks for a file to boot.
type Firmware = dhcp.Firmware

// Ports of the services.
const (
	portDNS    = 53
	portDHCP   = 67
	portTFTP   = 69
	portHTTP   = 80
	portDHCPv6 = 547
)

// services are the Services of a Network.
type services struct {
	ndp  *ndp.Gateway
	dhcp *dhcp.Server
	dns  *dns.Forwarder

	directory *boot.Directory // nil: no boot
	tftp      *boot.TFTP
	http      *boot.HTTP
	web       *connListener
}

// pool4 is the addresses of IPv4 that are given out: those above the gateway's,
// from the fifteenth of the network on, or those below it where there are more.
func pool4(gateway netip.Prefix) (first, last netip.Addr) {
	base := number4(gateway.Masked().Addr())
	size := uint32(1) << (32 - gateway.Bits())
	own := number4(gateway.Addr())
	lo, hi := max(own+1, base+min(15, size/4)), base+size-2
	if hi < lo || own-base > size/2 {
		lo, hi = base+1, own-1
	}
	hi = min(hi, lo+maxPool-1)
	return addr4(lo), addr4(hi)
}

// maxPool is how many addresses are given out at most.
const maxPool = 16384

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// pool6 is the same of IPv6: a piece of the network in which no station makes
// itself an address, and the gateway's is not.
func pool6(gateway netip.Prefix) (first, last netip.Addr) {
	b := gateway.Masked().Addr().As16()
	b[13] = 1
	if own := gateway.Addr().As16(); own[13] == 1 {
		b[13] = 2
	}
	e := b
	e[14], e[15] = 0x3f, 0xff
	return netip.AddrFrom16(b), netip.AddrFrom16(e)
}

// newServices makes the services; nothing runs yet.
func (n *Network) newServices() (err error) {
	o, s := n.o.Services, &n.services
	v4, v6 := n.o.IPv4.Addr(), n.o.IPv6.Addr()
	if o.Domain == "" {
		o.Domain = "internal"
	}
	first4, last4 := pool4(n.o.IPv4)
	first6, last6 := pool6(n.o.IPv6)
	files := dhcp.Boot{Files: o.BootFiles}
	s.dhcp, err = dhcp.New(dhcp.Config{
		IPv4: &dhcp.IPv4{
			Server: v4, Prefix: n.o.IPv4.Masked(), First: first4, Last: last4, Router: v4, DNS: []netip.Addr{v4},
			NTP: only(o.NTP, netip.Addr.Is4), MTU: n.o.MTU, Boot: files,
		},
		IPv6: &dhcp.IPv6{
			MAC: n.o.MAC, Prefix: n.o.IPv6.Masked(), First: first6, Last: last6, DNS: []netip.Addr{v6},
			NTP: only(o.NTP, netip.Addr.Is6), Boot: files, BootServer: v6,
		},
		Domain: o.Domain, PerGuest: min(16, n.o.Limits.GuestAddresses), Reservations: o.Reservations,
		Moved: n.leaseMoved, Taken: n.taken, File: o.Leases, Log: n.log("dhcp"),
	})
	if err != nil {
		return err
	}
	host := []netip.Addr{v4, v6}
	if !n.o.Host {
		host = nil
	}
	s.dns, err = dns.New(dns.Config{
		Domain: o.Domain, Host: host, Networks: []netip.Prefix{n.o.IPv4.Masked(), n.o.IPv6.Masked()},
		Names: n.addressesOf, Pointer: n.nameOf, ResolvConf: o.ResolvConf, Resolvers: o.Resolvers, Log: n.log("dns"),
	})
	if err != nil {
		return err
	}
	if s.ndp, err = n.newGateway(o.Domain); err != nil {
		return err
	}
	return n.newBoot(o)
}

// checkWithoutBoot refuses files that would be told to firmware and served by
// nobody.
func checkWithoutBoot(files map[Firmware]string) error {
	for _, file := range files {
		if !strings.Contains(file, "://") {
			return fmt.Errorf("firmware is to boot %s, and there is no directory to boot from: name one, or the file's whole URL", file)
		}
	}
	return nil
}

// newBoot opens the directory to boot from, if there is to be one.
func (n *Network) newBoot(o Services) (err error) {
	s := &n.services
	if o.Boot == "" {
		return checkWithoutBoot(o.BootFiles)
	}
	if s.directory, err = boot.Open(o.Boot); err != nil {
		return err
	}
	if s.tftp, err = boot.NewTFTP(boot.TFTPConfig{Directory: s.directory, MaxBlock: n.o.MTU - ipv6Len - udpLen - 4}); err != nil {
		return err
	}
	if s.http, err = boot.NewHTTP(s.directory); err != nil {
		return err
	}
	s.web = newConnListener(netip.AddrPortFrom(n.o.IPv4.Addr(), portHTTP))
	return nil
}

func (n *Network) log(service string) hclog.Logger { return n.o.Log.Named(service) }

func only(list []netip.Addr, of func(netip.Addr) bool) (some []netip.Addr) {
	for _, a := range list {
		if of(a) {
			some = append(some, a)
		}
	}
	return some
}

// runServices starts what services do by themselves.
func (n *Network) runServices() {
	s := &n.services
	n.start(func() { n.complain("leases are not saved any more", s.dhcp.Run(n.ctx)) })
	n.start(func() { n.complain("names are not resolved any more", s.dns.Run(n.ctx)) })
	if s.http != nil {
		n.start(func() { n.complain("no files are given by HTTP any more", s.http.Serve(n.ctx, s.web)) })
	}
}

// complain logs that a service has failed, unless the Network ends.
func (n *Network) complain(what string, err error) {
	if err != nil && n.ctx.Err() == nil {
		n.o.Log.Error(what, "uplink", n.o.Name, "error", err)
	}
}

// closeServices gives back what services hold.
func (n *Network) closeServices() error {
	s := &n.services
	if s.tftp != nil {
		s.tftp.Forget("")
	}
	if s.directory != nil {
		return s.directory.Close()
	}
	return nil
}

// forget tells the services that guests have left.
func (n *Network) forget(names []string) {
	for _, name := range names {
		n.services.dns.Forget(name)
		n.services.ndp.Forget(name)
		if n.services.tftp != nil {
			n.services.tftp.Forget(name)
		}
	}
}

// tend does what is due.
func (n *Network) tend(now time.Time) {
	n.advertise(now)
	if t := n.services.tftp; t != nil {
		t.Resend(now, func(p boot.Peer, b []byte) { n.sendTFTP(p, b) })
	}
}

func (n *Network) sendTFTP(p boot.Peer, b []byte) {
	n.sendUDP(netip.AddrPortFrom(p.Local, portTFTP), p.Addr, b)
}

// addressesOf is what the VM at a port, whose name is in lower case, has.
func (n *Network) addressesOf(port string) (list []netip.Addr) {
	return n.addressesAt(n.guests.named(port))
}

// addressesAt is what guests have.
func (n *Network) addressesAt(guests []*guest) (list []netip.Addr) {
	for _, g := range guests {
		list = append(list, n.services.dhcp.Addresses(time.Now(), g.name)...)
		for _, a := range n.stations.of(g) {
			if !a.IsLinkLocalUnicast() && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

// nameOf is the port of the VM that has an address.
func (n *Network) nameOf(a netip.Addr) (port string, ok bool) {
	if c, ok := n.services.dhcp.Holder(time.Now(), a); ok && c.Port != "" {
		return strings.ToLower(c.Port), true
	}
	if st := n.stations.find(a); st != nil {
		return strings.ToLower(st.guest.name), true
	}
	return "", false
}

// moved reports whether the VM with a MAC address has left one port for another.
func (n *Network) moved(mac uint64, from, to string) bool {
	var b [6]byte
	putMAC(b[:], mac)
	return from != to && n.o.Services.Moved != nil && n.o.Services.Moved(b, from, to)
}

func (n *Network) leaseMoved(c dhcp.Client, to string) bool {
	return n.moved(macNumber(c.MAC), c.Port, to)
}

// taken reports whether a guest uses an address that is not c.
func (n *Network) taken(a netip.Addr, c dhcp.Client) bool {
	st, mac := n.stations.find(a), macNumber(c.MAC)
	return st != nil && st.guest.name != c.Port && (st.mac != mac || !n.moved(mac, st.guest.name, c.Port))
}

// mayHave reports whether a guest may use an address from mac, as far as it was
// given to anybody, or is reserved.
func (n *Network) mayHave(a netip.Addr, mac uint64, g *guest, now int64) bool {
	if c, ok := n.services.dhcp.Holder(time.Now(), a); ok {
		return c.Port == g.name || macNumber(c.MAC) == mac && n.movedTo(mac, c.Port, g, now)
	}
	r, ok := n.services.dhcp.Reserved(a)
	if !ok {
		return true
	}
	c := dhcp.Client{Port: g.name}
	putMAC(c.MAC[:], mac)
	if r.Matches(c) {
		return true
	}
	before := dhcp.Client{Port: r.Port, MAC: c.MAC}
	return r.Port != "" && r.Matches(before) && n.movedTo(mac, r.Port, g, now)
}

// movedTo is moved for what is asked with each packet: that a VM has not left is
// believed for stayedFor.
func (n *Network) movedTo(mac uint64, from string, to *guest, now int64) bool {
	vm := vmAt{mac, from}
	if to.stayed.has(vm, now) {
		return false
	}
	moved := n.moved(mac, from, to.name)
	if !moved {
		to.stayed.note(vm, now)
	}
	return moved
}

// serveUDP answers a datagram to a service of the gateway and reports whether it
// is one.
func (n *Network) serveUDP(p *packet, h ip, from, to netip.AddrPort, data []byte) bool {
	ours := n.isGateway(to.Addr())
	switch {
	case to.Port() == portDHCP && h.src.Is4() && (ours || n.isBroadcast(to.Addr())):
		c := dhcp.Client{Port: p.guest.name, MAC: [6]byte(p.frame[6:12])}
		if r, ok := n.services.dhcp.Answer4(time.Now(), c, data); ok {
			n.sendUDPTo(p.mac(), p.guest, netip.AddrPortFrom(n.o.IPv4.Addr(), portDHCP), r.To, r.Payload)
		}
	case to.Port() == portDHCPv6 && h.src.Is6() && (ours || to.Addr().IsMulticast()):
		c := dhcp.Client{Port: p.guest.name, MAC: [6]byte(p.frame[6:12])}
		if r, ok := n.services.dhcp.Answer6(time.Now(), c, h.src, data); ok {
			src := n.linkLocal
			if !r.To.Addr().IsLinkLocalUnicast() {
				src = n.o.IPv6.Addr()
			}
			n.sendUDPTo(p.mac(), p.guest, netip.AddrPortFrom(src, portDHCPv6), r.To, r.Payload)
		}
	case to.Port() == portDNS && ours:
		n.services.dns.Ask(p.guest.name, data, func(answer []byte) { n.sendUDP(to, from, answer) })
	case to.Port() == portTFTP && ours && n.services.tftp != nil:
		peer := boot.Peer{Guest: p.guest.name, MAC: [6]byte(p.frame[6:12]), Addr: from, Local: to.Addr()}
		n.services.tftp.Answer(time.Now(), peer, data, func(b []byte) { n.sendTFTP(peer, b) })
	default:
		return false
	}
	return true
}

// servesTCP reports whether a connection is to a service of the gateway.
func (n *Network) servesTCP(to netip.AddrPort) bool {
	return n.isGateway(to.Addr()) && (to.Port() == portDNS || to.Port() == portHTTP && n.services.web != nil)
}

// serveConn serves a guest's connection to a service until it is closed, or ctx
// ends.
func (n *Network) serveConn(ctx context.Context, g *guest, to netip.AddrPort, c *guestConn) {
	if to.Port() == portDNS {
		n.services.dns.ServeConn(ctx, g.name, c)
		return
	}
	n.services.web.give(ctx, c)
}
