package dhcp

import (
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// The longest answer: what every client takes (RFC 2131, 2), or what it says
// that it takes (option 57), at most a packet of the smallest usual MTU. Of
// either 28 bytes are the headers of IP and UDP.
const (
	minMessage4   = 576 - 28
	maxMessage4   = 1500 - 28
	fixedMessage4 = 241 // all but the options: the header and their end
	longFile      = 127 // the longest name that fits before them
	vendorHTTP    = "HTTPClient"
)

func add(r *dhcpv4.DHCPv4, options ...dhcpv4.Option) {
	for _, o := range options {
		r.Options.Update(o)
	}
}

// copyClientID copies what the client calls itself (RFC 6842).
func copyClientID(r, m *dhcpv4.DHCPv4) {
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 {
		add(r, dhcpv4.OptClientIdentifier(id))
	}
}

// options4 puts the options into an answer: first what every client needs,
// then what it asks for and has room for.
func (s *Server) options4(r, m *dhcpv4.DHCPv4, c Client, kind dhcpv4.MessageType) {
	cfg := s.cfg.IPv4
	add(r, dhcpv4.OptMessageType(kind), dhcpv4.OptServerIdentifier(cfg.Server.AsSlice()))
	if m.MessageType() != dhcpv4.MessageTypeInform {
		add(r, dhcpv4.OptIPAddressLeaseTime(s.cfg.Lease), dhcpv4.OptRenewTimeValue(s.cfg.Lease/2), dhcpv4.OptRebindingTimeValue(s.cfg.Lease*7/8))
	}
	add(r, dhcpv4.OptSubnetMask(net.CIDRMask(cfg.Prefix.Bits(), 32)))
	copyClientID(r, m)
	room := limit4(m) - fixedMessage4 - length(r.Options)
	asked := m.ParameterRequestList()
	for _, o := range append(s.boot4(r, m), s.offers4(c)...) {
		always := o.Code == dhcpv4.OptionRouter || o.Code == dhcpv4.OptionDomainNameServer || o.Code == dhcpv4.OptionClassIdentifier
		n := length(dhcpv4.OptionsFromList(o))
		if n > room || !always && len(asked) > 0 && !asked.Has(o.Code) {
			continue
		}
		add(r, o)
		room -= n
	}
}

// length is how many bytes options take, with one for the end of them all.
func length(o dhcpv4.Options) int { return len(o.ToBytes()) }

// limit4 is how long an answer may be.
func limit4(m *dhcpv4.DHCPv4) int {
	size, err := m.MaxMessageSize()
	if err != nil {
		return minMessage4
	}
	return min(max(int(size)-28, minMessage4), maxMessage4)
}

// offers4 is all that there is to tell, most important first.
func (s *Server) offers4(c Client) (all []dhcpv4.Option) {
	cfg := s.cfg.IPv4
	if cfg.Router.IsValid() {
		all = append(all, dhcpv4.OptRouter(cfg.Router.AsSlice()))
	}
	if len(cfg.DNS) > 0 {
		all = append(all, dhcpv4.OptDNS(slices4(cfg.DNS)...))
	}
	if cfg.MTU != 0 {
		all = append(all, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(cfg.MTU >> 8), byte(cfg.MTU)}))
	}
	all = append(all, dhcpv4.OptBroadcastAddress(last4(cfg.Prefix).AsSlice()))
	if s.cfg.Domain != "" {
		all = append(all, dhcpv4.OptDomainName(s.cfg.Domain))
	}
	if name := s.hostname(c); name != "" {
		all = append(all, dhcpv4.OptHostName(name))
	}
	if search := s.search(); len(search) > 0 {
		all = append(all, dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: search}))
	}
	if len(cfg.NTP) > 0 {
		all = append(all, dhcpv4.OptNTPServers(slices4(cfg.NTP)...))
	}
	return all
}

// boot4 puts the boot file into r and answers the options that go with it.
func (s *Server) boot4(r, m *dhcpv4.DHCPv4) (all []dhcpv4.Option) {
	boot := s.cfg.IPv4.Boot
	class := m.ClassIdentifier()
	file := boot.file(firmware(m.ClientArch(), isIPXE4(m)))
	if file == "" {
		return nil
	}
	server := boot.NextServer
	if !server.IsValid() {
		server = s.cfg.IPv4.Server
	}
	r.ServerIPAddr = server.AsSlice()
	all = append(all, dhcpv4.OptBootFileName(file), dhcpv4.OptTFTPServerName(server.String()))
	if len(file) <= longFile {
		r.BootFileName = file
	}
	// UEFI that boots by HTTP takes no offer without its class (UEFI 2.10,
	// 24.7.3.1). With the class of PXE it would look for a boot server beside
	// this one (PXE 2.1, 2.2.5), so that is not said.
	if strings.HasPrefix(class, vendorHTTP) {
		all = append(all, dhcpv4.OptClassIdentifier(vendorHTTP))
	}
	return all
}

// isIPXE4 reports whether iPXE asks: it says so in its user class, and has
// options of its own.
func isIPXE4(m *dhcpv4.DHCPv4) bool {
	const encapsulated = dhcpv4.GenericOptionCode(175)
	return string(m.Options.Get(dhcpv4.OptionUserClassInformation)) == "iPXE" || m.Options.Has(encapsulated)
}

func slices4(addresses []netip.Addr) (all []net.IP) {
	for _, a := range addresses {
		all = append(all, a.AsSlice())
	}
	return all
}

// last4 is the last address of a network.
func last4(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
