package dhcp

import (
	"encoding/binary"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// longest6 is the longest message that is read, bytes: clients send a tenth.
const longest6 = 1500

// Lengths in a message of DHCPv6, bytes (RFC 8415, sections 8, 21.1, 21.4, 21.6).
const (
	head6       = 4  // type and transaction id
	optionHead6 = 4  // code and length
	ianaHead6   = 12 // of an IA_NA, before its options
	iaddrHead6  = 24 // of an IA Address, before its options
)

// sift6 is a message with those options only that a Server reads. The codec takes
// every option apart, names of domains that refer to each other and options
// within options as well, at a cost without proportion to a message's length: a
// guest must not choose what it is asked to take apart. It answers false for a
// message that is too long or whose options do not fill it.
func sift6(m []byte) ([]byte, bool) {
	if len(m) < head6 || len(m) > longest6 {
		return nil, false
	}
	out := append(make([]byte, 0, len(m)), m[:head6]...)
	ok := eachOption6(m[head6:], func(code dhcpv6.OptionCode, whole, body []byte) bool {
		switch code {
		case dhcpv6.OptionIANA:
			if !plain6(body, ianaHead6, dhcpv6.OptionIAAddr) {
				return false
			}
		case dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionORO, dhcpv6.OptionRapidCommit,
			dhcpv6.OptionUserClass, dhcpv6.OptionVendorClass, dhcpv6.OptionClientArchType:
		default:
			return true
		}
		out = append(out, whole...)
		return true
	})
	return out, ok
}

// plain6 reports whether the options behind the first bytes of an option are a
// status, or of the one kind, which holds nothing but a status itself.
func plain6(body []byte, head int, kind dhcpv6.OptionCode) bool {
	if len(body) < head {
		return false
	}
	return eachOption6(body[head:], func(code dhcpv6.OptionCode, _, inner []byte) bool {
		return code == dhcpv6.OptionStatusCode || code == kind && kind != 0 && plain6(inner, iaddrHead6, 0)
	})
}

// eachOption6 calls f for each option of list, whole and without its head, until
// f answers false or the list ends. It answers false for the former, and when an
// option is longer than the rest.
func eachOption6(list []byte, f func(code dhcpv6.OptionCode, whole, body []byte) bool) bool {
	for len(list) > 0 {
		if len(list) < optionHead6 {
			return false
		}
		end := optionHead6 + int(binary.BigEndian.Uint16(list[2:]))
		if end > len(list) || !f(dhcpv6.OptionCode(binary.BigEndian.Uint16(list)), list[:end], list[optionHead6:end]) {
			return false
		}
		list = list[end:]
	}
	return true
}
