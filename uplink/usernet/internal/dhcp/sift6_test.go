package dhcp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// option6 is an option of DHCPv6.
func option6(code dhcpv6.OptionCode, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(code))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// Names that refer to each other, and options within options, cost what the
// message is long and not what they would grow to.
func TestHostileOptions6(t *testing.T) {
	l := newLab(t, nil)
	names := bytes.Repeat([]byte{1, 'a'}, 300)
	names = append(names, bytes.Repeat([]byte{0xc0, 0}, 300)...)
	long := append(bytes.Repeat([]byte{1, 'a'}, 2000), bytes.Repeat([]byte{0xc0, 0}, 100)...)
	nested := make([]byte, ianaHead6)
	for range 80 {
		nested = append(make([]byte, ianaHead6), option6(dhcpv6.OptionIANA, nested)...)
	}
	crowd := bytes.Repeat(option6(dhcpv6.OptionIANA, make([]byte, ianaHead6)), 4000)
	solicit := func(options ...[]byte) []byte {
		m := append([]byte{byte(dhcpv6.MessageTypeSolicit), 1, 2, 3}, option6(dhcpv6.OptionClientID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 9})...)
		return append(m, bytes.Join(options, nil)...)
	}
	iana := option6(dhcpv6.OptionIANA, make([]byte, ianaHead6))
	for name, c := range map[string]struct {
		message  []byte
		answered bool
	}{
		"nothing odd":          {solicit(iana), true},
		"names":                {solicit(iana, option6(dhcpv6.OptionDomainSearchList, names)), true},
		"names, too long":      {solicit(iana, option6(dhcpv6.OptionDomainSearchList, long)), false},
		"IA_NA in IA_NA":       {solicit(option6(dhcpv6.OptionIANA, nested)), false},
		"thousands of IA_NA":   {solicit(crowd), false},
		"longer than the rest": {append(solicit(iana), 0, 6, 0, 200), false},
		"names in an address":  {solicit(option6(dhcpv6.OptionIANA, append(make([]byte, ianaHead6), option6(dhcpv6.OptionIAAddr, append(make([]byte, iaddrHead6), option6(dhcpv6.OptionDomainSearchList, names[:100])...))...))), false},
	} {
		var before, after runtime.MemStats
		malformed := l.Counters.Malformed.Value()
		runtime.ReadMemStats(&before)
		_, ok := l.Answer6(l.now, vm("a", 9), netip.MustParseAddr("fe80::9"), c.message)
		runtime.ReadMemStats(&after)
		if ok != c.answered || (l.Counters.Malformed.Value() == malformed) != c.answered {
			t.Errorf("%s: answered %v, %d malformed; want %v", name, ok, l.Counters.Malformed.Value()-malformed, c.answered)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
			t.Errorf("%s: %d bytes were allocated for %d", name, n, len(c.message))
		}
	}
}
