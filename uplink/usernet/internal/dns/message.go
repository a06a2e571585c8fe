package dns

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/net/dns/dnsmessage"
)

const headerSize = 12 // RFC 1035, 4.1.1

// Bits of the second word of the header.
const (
	bitResponse  = 1 << 15
	maskOpcode   = 0xf << 11
	bitTruncated = 1 << 9
	bitRecursion = 1 << 8
	bitAuthentic = 1 << 5
	bitNoCheck   = 1 << 4
	maskCode     = 0xf
)

// query is a guest's question.
type query struct {
	raw      []byte // as it came
	question dnsmessage.Question
	end      int // of the question in raw
	edns     bool
	version  byte // of EDNS
	cacheable
}

// cacheable is by what an answer is found again; empty: by nothing.
type cacheable string

var errMalformed = errors.New("malformed")

func flags(m []byte) uint16 { return binary.BigEndian.Uint16(m[2:]) }

// count is a number of entries: 0 of questions, 1 of answers, 2 of authorities,
// 3 of others.
func count(m []byte, section int) int { return int(binary.BigEndian.Uint16(m[4+2*section:])) }

// parse reads a message that has a header and is a query.
func parse(raw []byte) (q query, err error) {
	var p dnsmessage.Parser
	if _, err = p.Start(raw); err != nil || count(raw, 0) != 1 {
		return q, errMalformed
	}
	if q.question, err = p.Question(); err != nil {
		return q, errMalformed
	}
	q.raw = raw
	if q.end = skipName(raw, headerSize); q.end < 0 || q.end+4 > len(raw) {
		return q, errMalformed
	}
	q.end += 4
	options := false
	if err := walk(raw, func(r record) {
		if r.kind != uint16(dnsmessage.TypeOPT) {
			return
		}
		q.edns = true
		q.version = raw[r.ttl+1]
		options = options || r.length > 0
	}); err != nil {
		return q, err
	}
	if !options { // of whom and when may be in them
		q.cacheable = key(raw, q.end)
	}
	return q, nil
}

// key is what two queries with one answer have in common: the question without
// regard to case, and all that is beside it.
func key(raw []byte, end int) cacheable {
	k := make([]byte, 0, len(raw))
	k = binary.BigEndian.AppendUint16(k, flags(raw)&(bitRecursion|bitAuthentic|bitNoCheck))
	k = append(k, lower(raw[headerSize:end])...)
	return cacheable(append(k, raw[end:]...))
}

// lower is ASCII without capitals (RFC 4343). Lengths of labels are below 'A'.
func lower(b []byte) []byte {
	b = bytes.Clone(b)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// answers reports whether m answers q with an identifier.
func (q query) answers(m []byte, id uint16) bool {
	return len(m) >= q.end && binary.BigEndian.Uint16(m) == id && flags(m)&bitResponse != 0 && count(m, 0) == 1 &&
		bytes.Equal(lower(m[headerSize:q.end]), lower(q.raw[headerSize:q.end]))
}

// record is a resource record in a message.
type record struct {
	section int // 1 of answers, 2 of authorities, 3 of others
	kind    uint16
	ttl     int // where its time to live is
	data    int // where its data are
	length  int // of the data
}

// walk calls f for each resource record of a message with a header.
func walk(m []byte, f func(record)) error {
	at := headerSize
	for range count(m, 0) {
		if at = skipName(m, at); at < 0 || at+4 > len(m) {
			return errMalformed
		}
		at += 4
	}
	for section := 1; section <= 3; section++ {
		for range count(m, section) {
			if at = skipName(m, at); at < 0 || at+10 > len(m) {
				return errMalformed
			}
			r := record{
				section: section, kind: binary.BigEndian.Uint16(m[at:]),
				ttl: at + 4, data: at + 10, length: int(binary.BigEndian.Uint16(m[at+8:])),
			}
			if at = r.data + r.length; at > len(m) {
				return errMalformed
			}
			f(r)
		}
	}
	return nil
}

// skipName is where a name ends, -1 if it does not.
func skipName(m []byte, at int) int {
	for at < len(m) {
		switch n := int(m[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0: // the rest is elsewhere (RFC 1035, 4.1.4)
			return at + 2
		case n > 63:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}

// refusal is an answer to raw, a message with a header, that has a code and
// nothing else.
func refusal(raw []byte, code dnsmessage.RCode) []byte {
	end := headerSize
	if count(raw, 0) == 1 {
		if n := skipName(raw, headerSize); n > 0 && n+4 <= len(raw) {
			end = n + 4
		}
	}
	m := bytes.Clone(raw[:end])
	clear(m[4:headerSize])
	if end > headerSize {
		m[5] = 1
	}
	const bitAvailable = 1 << 7 // recursion
	f := flags(raw)&(maskOpcode|bitRecursion|bitNoCheck) | bitResponse | bitAvailable | uint16(code)&maskCode
	binary.BigEndian.PutUint16(m[2:], f)
	return m
}

// fit is m, or if that is too long for UDP, word that there is more.
func fit(m []byte, most int) []byte {
	if len(m) <= most {
		return m
	}
	short := refusal(m, dnsmessage.RCode(flags(m)&maskCode))
	short[2] |= bitTruncated >> 8
	return short
}
