package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// localTTL is for how many seconds an answer of this zone may be kept: VMs come
// and go.
const localTTL = 10

// hostName is the host's, in whichever domain the VMs are.
const hostName = "host.internal"

// local is what is known here of a name.
type local struct {
	addresses []netip.Addr
	pointer   string // the name of an address
	absent    bool   // there is no such name
}

// lookup answers whether a name, in lower case and without final dot, is known
// here, or is known not to be.
func (c *Config) lookup(name string) (l local, known bool) {
	if a, ok := reverse(name); ok {
		return c.pointer(a)
	}
	if name == hostName && len(c.Host) > 0 {
		return local{addresses: c.Host}, true
	}
	label, inDomain := strings.CutSuffix(name, "."+c.Domain)
	switch {
	case name == c.Domain:
		return local{}, true
	case label == "" || strings.Contains(label, "."):
		return local{}, false
	case inDomain && (label == "host" || label == "gateway") && len(c.Host) > 0:
		return local{addresses: c.Host}, true
	}
	if c.Names != nil {
		l.addresses = c.Names(label)
	}
	l.absent = len(l.addresses) == 0
	return l, inDomain || !l.absent
}

func (c *Config) pointer(a netip.Addr) (l local, known bool) {
	if slices.Contains(c.Host, a) {
		return local{pointer: hostName}, true
	}
	if !slices.ContainsFunc(c.Networks, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return local{}, false
	}
	if c.Pointer != nil {
		if port, ok := c.Pointer(a); ok {
			return local{pointer: strings.ToLower(port) + "." + c.Domain}, true
		}
	}
	return local{absent: true}, true
}

// reverse is the address of a name in in-addr.arpa or ip6.arpa.
func reverse(name string) (a netip.Addr, ok bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(v4, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(v6, ".")
	if !ok || len(labels) != 32 {
		return a, false
	}
	var b [16]byte
	for i, label := range labels {
		n, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return a, false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// answerLocal is the answer to q if it can be given here.
func (c *Config) answerLocal(q query) ([]byte, bool) {
	name := strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
	if q.question.Class != dnsmessage.ClassINET {
		return nil, false
	}
	l, known := c.lookup(name)
	if !known {
		return nil, false
	}
	m, err := c.build(q, l)
	if err != nil { // a name that is too long for what is to be put before it
		return refusal(q.raw, dnsmessage.RCodeServerFailure), true
	}
	return m, true
}

func (c *Config) build(q query, l local) ([]byte, error) {
	h := dnsmessage.Header{
		ID: binary.BigEndian.Uint16(q.raw), Response: true, Authoritative: true,
		RecursionDesired: flags(q.raw)&bitRecursion != 0, RecursionAvailable: true,
	}
	if l.absent {
		h.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.question); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	n, err := addAnswers(&b, q.question, l)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		if err := c.addAuthority(&b); err != nil {
			return nil, err
		}
	}
	if q.edns {
		if err := addEDNS(&b, c.MaxUDP); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// addAnswers adds what l has of the type that is asked for.
func addAnswers(b *dnsmessage.Builder, q dnsmessage.Question, l local) (n int, err error) {
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: localTTL}
	wants := func(t dnsmessage.Type) bool { return q.Type == t || q.Type == dnsmessage.TypeALL }
	for _, a := range l.addresses {
		switch {
		case a.Is4() && wants(dnsmessage.TypeA):
			err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && wants(dnsmessage.TypeAAAA):
			err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
		default:
			continue
		}
		if err != nil {
			return n, err
		}
		n++
	}
	if l.pointer == "" || !wants(dnsmessage.TypePTR) {
		return n, nil
	}
	name, err := dnsmessage.NewName(l.pointer + ".")
	if err != nil {
		return n, err
	}
	return n + 1, b.PTRResource(h, dnsmessage.PTRResource{PTR: name})
}

// addAuthority says for how long there is nothing (RFC 2308, 3).
func (c *Config) addAuthority(b *dnsmessage.Builder) error {
	if err := b.StartAuthorities(); err != nil {
		return err
	}
	name, err := dnsmessage.NewName(c.Domain + ".")
	if err != nil {
		return err
	}
	h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: localTTL}
	return b.SOAResource(h, dnsmessage.SOAResource{NS: name, MBox: name, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: localTTL})
}

func addEDNS(b *dnsmessage.Builder, size int) error {
	if err := b.StartAdditionals(); err != nil {
		return err
	}
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(size, dnsmessage.RCodeSuccess, false); err != nil {
		return err
	}
	return b.OPTResource(h, dnsmessage.OPTResource{})
}
