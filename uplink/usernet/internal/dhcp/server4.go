package dhcp

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// clientPort4 is where clients of DHCPv4 listen.
const clientPort4 = 68

var broadcast4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort4)

// Answer4 answers a message to UDP port 67. Without ok there is nothing to
// send. payload is not kept.
func (s *Server) Answer4(now time.Time, c Client, payload []byte) (reply Reply, ok bool) {
	if s.v4 == nil {
		return reply, false
	}
	if !s.rate.Allow(now, c.guest()) {
		s.Counters.TooOften.Add(1)
		return reply, false
	}
	m, err := dhcpv4.FromBytes(payload)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 {
		s.Counters.Malformed.Add(1)
		return reply, false
	}
	if m.HopCount != 0 || !m.GatewayIPAddr.IsUnspecified() || m.Options.Has(dhcpv4.OptionRelayAgentInformation) {
		s.Counters.Relayed.Add(1)
		return reply, false
	}
	if [6]byte(m.ClientHWAddr) != c.MAC || !s.mine4(m) {
		s.Counters.Foreign.Add(1)
		return reply, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dispatch4(now, c, m)
}

// mine4 reports whether a message is for this server, as far as it names one.
func (s *Server) mine4(m *dhcpv4.DHCPv4) bool {
	id := m.Options.Get(dhcpv4.OptionServerIdentifier)
	return id == nil || addr4(id) == s.cfg.IPv4.Server
}

// addr4 is an address of four bytes; others are invalid.
func addr4(b []byte) netip.Addr {
	if len(b) != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

func (s *Server) dispatch4(now time.Time, c Client, m *dhcpv4.DHCPv4) (reply Reply, ok bool) {
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.discover4(now, c, m)
	case dhcpv4.MessageTypeRequest:
		return s.request4(now, c, m)
	case dhcpv4.MessageTypeInform:
		s.Counters.Informs.Add(1)
		return s.reply4(m, c, dhcpv4.MessageTypeAck, netip.Addr{}), true
	case dhcpv4.MessageTypeRelease:
		if l := s.v4.byClient[c]; l != nil && l.address == addr4(m.ClientIPAddr.To4()) {
			s.Counters.Releases.Add(1)
			l.until = now
			s.changed()
		}
	case dhcpv4.MessageTypeDecline:
		asked := addr4(m.Options.Get(dhcpv4.OptionRequestedIPAddress))
		if l := s.v4.byClient[c]; l != nil && l.address == asked {
			s.decline(now, s.v4, l)
		}
	default:
		s.Counters.Malformed.Add(1)
	}
	return reply, false
}

// decline is for both kinds. The caller holds mu.
func (s *Server) decline(now time.Time, p *pool, l *lease) {
	s.Counters.Declines.Add(1)
	p.decline(l, now.Add(declineTime))
	s.changed()
}

func (s *Server) discover4(now time.Time, c Client, m *dhcpv4.DHCPv4) (reply Reply, ok bool) {
	l, o := s.v4.lease(now, c, addr4(m.Options.Get(dhcpv4.OptionRequestedIPAddress)))
	if !s.note(now, c, s.v4, o) {
		return reply, false
	}
	s.offer(now, l)
	s.Counters.Offers.Add(1)
	return s.reply4(m, c, dhcpv4.MessageTypeOffer, l.address), true
}

// offer keeps an address for its client while that makes up its mind.
func (s *Server) offer(now time.Time, l *lease) {
	if until := now.Add(offerTime); l.until.Before(until) {
		l.state, l.until = offered, until
	}
}

// request4 is about an offer (with the server named), or about an address that
// the client has from before (RFC 2131, 4.3.2).
func (s *Server) request4(now time.Time, c Client, m *dhcpv4.DHCPv4) (reply Reply, ok bool) {
	asked := addr4(m.ClientIPAddr.To4())
	if asked.IsUnspecified() {
		asked = addr4(m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	}
	if !asked.IsValid() {
		s.Counters.Malformed.Add(1)
		return reply, false
	}
	l, o := s.v4.claim(now, c, asked)
	if o == refused {
		s.Counters.Naks.Add(1)
		return s.nak(m), true
	}
	if !s.note(now, c, s.v4, o) {
		return reply, false
	}
	l.state, l.until = bound, now.Add(s.cfg.Lease)
	s.changed()
	s.Counters.Acks.Add(1)
	return s.reply4(m, c, dhcpv4.MessageTypeAck, l.address), true
}

func (s *Server) nak(m *dhcpv4.DHCPv4) Reply {
	r := s.header4(m)
	r.SetBroadcast()
	add(r, dhcpv4.OptMessageType(dhcpv4.MessageTypeNak), dhcpv4.OptServerIdentifier(s.cfg.IPv4.Server.AsSlice()))
	copyClientID(r, m)
	return Reply{Payload: r.ToBytes(), To: broadcast4}
}

// reply4 is an answer to m that gives address, or none, to c.
func (s *Server) reply4(m *dhcpv4.DHCPv4, c Client, kind dhcpv4.MessageType, address netip.Addr) Reply {
	r := s.header4(m)
	r.ClientIPAddr = m.ClientIPAddr
	if address.IsValid() {
		r.YourIPAddr = address.AsSlice()
	}
	s.options4(r, m, c, kind)
	to := broadcast4
	switch own := addr4(m.ClientIPAddr.To4()); {
	case !own.IsUnspecified():
		to = netip.AddrPortFrom(own, clientPort4)
	case !m.IsBroadcast() && address.IsValid():
		to = netip.AddrPortFrom(address, clientPort4)
	}
	return Reply{Payload: r.ToBytes(), To: to}
}

func (s *Server) header4(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	return &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        iana.HWTypeEthernet,
		TransactionID: m.TransactionID,
		Flags:         m.Flags,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
		GatewayIPAddr: net.IPv4zero,
		ClientHWAddr:  m.ClientHWAddr,
		Options:       dhcpv4.Options{},
	}
}
