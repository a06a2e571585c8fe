package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// refresh is when a client that has no address asks for the rest again.
const refresh = 24 * time.Hour

// options6 puts into an answer what the client asks for.
func (s *Server) options6(m, r *dhcpv6.Message) {
	cfg := s.cfg.IPv6
	asked := m.Options.RequestedOptions()
	if len(cfg.DNS) > 0 && asked.Contains(dhcpv6.OptionDNSRecursiveNameServer) {
		r.AddOption(dhcpv6.OptDNS(slices6(cfg.DNS)...))
	}
	if search := s.search(); len(search) > 0 && asked.Contains(dhcpv6.OptionDomainSearchList) {
		r.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: search}))
	}
	if len(cfg.NTP) > 0 && asked.Contains(dhcpv6.OptionNTPServer) {
		ntp := &dhcpv6.OptNTPServer{}
		for _, a := range cfg.NTP {
			server := dhcpv6.NTPSuboptionSrvAddr(a.AsSlice())
			ntp.Suboptions.Add(&server)
		}
		r.AddOption(ntp)
	}
	if asked.Contains(dhcpv6.OptionBootfileURL) {
		if url := cfg.bootURL(firmware(m.Options.ArchTypes(), isIPXE6(m))); url != "" {
			r.AddOption(dhcpv6.OptBootFileURL(url))
			copyVendorClass6(m, r)
		}
	}
	if m.MessageType == dhcpv6.MessageTypeInformationRequest {
		r.AddOption(dhcpv6.OptInformationRefreshTime(refresh))
	}
}

// bootURL is what firmware f boots; empty: nothing.
func (c *IPv6) bootURL(f Firmware) string {
	file := c.Boot.file(f)
	switch {
	case file == "" || strings.Contains(file, "://"):
		return file
	case !c.BootServer.IsValid():
		return ""
	}
	return "tftp://[" + c.BootServer.String() + "]/" + strings.TrimPrefix(file, "/")
}

// copyVendorClass6 copies the class of UEFI that boots by HTTP: it takes no
// answer without (UEFI 2.10, 24.7.2.1).
func copyVendorClass6(m, r *dhcpv6.Message) {
	for _, class := range m.Options.VendorClasses() {
		for _, data := range class.Data {
			if bytes.HasPrefix(data, []byte(vendorHTTP)) {
				r.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: class.EnterpriseNumber, Data: [][]byte{[]byte(vendorHTTP)}})
				return
			}
		}
	}
}

func isIPXE6(m *dhcpv6.Message) bool {
	for _, class := range m.Options.UserClasses() {
		if string(class) == "iPXE" {
			return true
		}
	}
	return false
}

func slices6(addresses []netip.Addr) (all []net.IP) {
	for _, a := range addresses {
		all = append(all, a.AsSlice())
	}
	return all
}
