package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// clientPort6 is where clients of DHCPv6 listen.
const clientPort6 = 546

// Answer6 answers a message to UDP port 547 that came from address src.
// Without ok there is nothing to send. payload is not kept.
func (s *Server) Answer6(now time.Time, c Client, src netip.Addr, payload []byte) (reply Reply, ok bool) {
	if s.v6 == nil {
		return reply, false
	}
	if !s.rate.Allow(now, c.guest()) {
		s.Counters.TooOften.Add(1)
		return reply, false
	}
	if len(payload) > 0 && isRelay6(dhcpv6.MessageType(payload[0])) {
		s.Counters.Relayed.Add(1)
		return reply, false
	}
	sifted, ok := sift6(payload)
	if !ok {
		s.Counters.Malformed.Add(1)
		return reply, false
	}
	m, err := dhcpv6.MessageFromBytes(sifted)
	if err != nil {
		s.Counters.Malformed.Add(1)
		return reply, false
	}
	if !s.valid6(m) {
		return reply, false
	}
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if id := m.GetOneOption(dhcpv6.OptionClientID); id != nil {
		r.AddOption(id)
	}
	r.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.cfg.IPv6.MAC[:]}))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dispatch6(now, c, m, r) {
		return reply, false
	}
	return Reply{Payload: r.ToBytes(), To: netip.AddrPortFrom(src, clientPort6)}, true
}

func isRelay6(t dhcpv6.MessageType) bool {
	return t == dhcpv6.MessageTypeRelayForward || t == dhcpv6.MessageTypeRelayReply
}

// valid6 checks who a message is from and for (RFC 8415, 16).
func (s *Server) valid6(m *dhcpv6.Message) bool {
	client, server := m.GetOneOption(dhcpv6.OptionClientID), m.GetOneOption(dhcpv6.OptionServerID)
	needClient, needServer, mayServer := true, false, false
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		needServer, mayServer = true, true
	case dhcpv6.MessageTypeInformationRequest:
		needClient, mayServer = false, true
	default:
		s.Counters.Malformed.Add(1)
		return false
	}
	if needClient && client == nil || needServer && server == nil || !mayServer && server != nil {
		s.Counters.Malformed.Add(1)
		return false
	}
	if server != nil && !bytes.Equal(server.ToBytes(), s.duid) {
		s.Counters.Foreign.Add(1)
		return false
	}
	return true
}

// dispatch6 fills in r, the answer to m. It reports whether there is one.
func (s *Server) dispatch6(now time.Time, c Client, m, r *dhcpv6.Message) bool {
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		return s.solicit6(now, c, m, r)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		if len(m.Options.IANA()) == 0 {
			s.Counters.Malformed.Add(1)
			return false
		}
		s.bind6(now, c, m, r)
	case dhcpv6.MessageTypeConfirm:
		return s.confirm6(m, r)
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		s.giveBack6(now, c, m)
		r.AddOption(status6(iana.StatusSuccess, ""))
		return true
	default: // an information request
		s.Counters.Informs.Add(1)
	}
	s.options6(m, r)
	return true
}

func (s *Server) solicit6(now time.Time, c Client, m, r *dhcpv6.Message) bool {
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil && len(m.Options.IANA()) > 0 {
		r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		s.bind6(now, c, m, r)
		s.options6(m, r)
		return true
	}
	r.MessageType = dhcpv6.MessageTypeAdvertise
	for i, ia := range m.Options.IANA() {
		l := s.ask6(now, c, i, ia)
		if l == nil {
			r.AddOption(without6(ia, iana.StatusNoAddrsAvail, "no address is left for this guest"))
			continue
		}
		s.offer(now, l)
		s.Counters.Offers.Add(1)
		r.AddOption(s.with6(ia, l))
	}
	s.options6(m, r)
	return true
}

// bind6 gives the address of the first identity association, or gives it
// again. The others get none: a client has one address.
func (s *Server) bind6(now time.Time, c Client, m, r *dhcpv6.Message) {
	for i, ia := range m.Options.IANA() {
		l := s.ask6(now, c, i, ia)
		if l == nil {
			r.AddOption(without6(ia, iana.StatusNoAddrsAvail, "no address is left for this guest"))
			continue
		}
		l.state, l.until = bound, now.Add(s.cfg.Lease)
		s.changed()
		s.Counters.Acks.Add(1)
		out := s.with6(ia, l)
		for _, a := range ia.Options.Addresses() { // what it has of others, it has no longer (RFC 8415, 18.3.4)
			if addr6(a.IPv6Addr) != l.address {
				out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
			}
		}
		r.AddOption(out)
	}
}

// ask6 is the lease for the i-th identity association of a message, nil for
// none.
func (s *Server) ask6(now time.Time, c Client, i int, ia *dhcpv6.OptIANA) *lease {
	if i > 0 {
		return nil
	}
	var asked netip.Addr
	if a := ia.Options.OneAddress(); a != nil {
		asked = addr6(a.IPv6Addr)
	}
	l, o := s.v6.lease(now, c, asked)
	if !s.note(now, c, s.v6, o) {
		return nil
	}
	return l
}

func (s *Server) with6(ia *dhcpv6.OptIANA, l *lease) *dhcpv6.OptIANA {
	t := s.cfg.Lease
	return &dhcpv6.OptIANA{
		IaId: ia.IaId, T1: t / 2, T2: t * 4 / 5,
		Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
			&dhcpv6.OptIAAddress{IPv6Addr: l.address.AsSlice(), PreferredLifetime: t, ValidLifetime: t},
		}},
	}
}

func without6(ia *dhcpv6.OptIANA, code iana.StatusCode, why string) *dhcpv6.OptIANA {
	return &dhcpv6.OptIANA{IaId: ia.IaId, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{status6(code, why)}}}
}

func status6(code iana.StatusCode, why string) *dhcpv6.OptStatusCode {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: why}
}

func addr6(ip net.IP) netip.Addr {
	if len(ip) != 16 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(ip))
}

// confirm6 says whether the client is still on this link (RFC 8415, 18.3.3).
func (s *Server) confirm6(m, r *dhcpv6.Message) bool {
	asked := false
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			asked = true
			if !s.cfg.IPv6.Prefix.Contains(addr6(a.IPv6Addr)) {
				s.Counters.Naks.Add(1)
				r.AddOption(status6(iana.StatusNotOnLink, "this is another network"))
				return true
			}
		}
	}
	if asked {
		r.AddOption(status6(iana.StatusSuccess, ""))
	}
	return asked
}

// giveBack6 is for releases, and for addresses that are in use already.
func (s *Server) giveBack6(now time.Time, c Client, m *dhcpv6.Message) {
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			l := s.v6.byClient[c]
			if l == nil || l.address != addr6(a.IPv6Addr) {
				continue
			}
			if m.MessageType == dhcpv6.MessageTypeDecline {
				s.decline(now, s.v6, l)
				continue
			}
			s.Counters.Releases.Add(1)
			l.until = now
			s.changed()
		}
	}
}
