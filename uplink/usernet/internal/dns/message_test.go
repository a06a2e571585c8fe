package dns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var start = time.Unix(1_000_000, 0)

func mustParse(t testing.TB, m []byte) query {
	t.Helper()
	q, err := parse(m)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// withSOA is the answer to m that there is nothing.
func withSOA(m []byte, code dnsmessage.RCode, ttl, minimum uint32) []byte {
	a := refusal(m, code)
	a[9] = 1
	a = append(a, 0, 0, 6, 0, 1)
	a = binary.BigEndian.AppendUint32(a, ttl)
	a = append(a, 0, 22, 0, 0)
	a = append(a, make([]byte, 16)...)
	return binary.BigEndian.AppendUint32(a, minimum)
}

func TestLifetimes(t *testing.T) {
	m := question(t, "example.org.", dnsmessage.TypeA)
	short := withA(m, 60)
	cut := withA(m, 60)
	cut[2] |= bitTruncated >> 8
	for _, c := range []struct {
		name string
		m    []byte
		want time.Duration
	}{
		{"an address", short, time.Minute},
		{"for days", withA(m, 400000), maxTTL},
		{"for no time", withA(m, 0), 0},
		{"for a negative time", withA(m, 1<<31), 0},
		{"cut", cut, 0},
		{"no such name", withSOA(m, dnsmessage.RCodeNameError, 300, 60), time.Minute},
		{"nothing of the type", withSOA(m, dnsmessage.RCodeSuccess, 30, 60), 30 * time.Second},
		{"no such name for days", withSOA(m, dnsmessage.RCodeNameError, 400000, 400000), maxNegativeTTL},
		{"no such name, without SOA", refusal(m, dnsmessage.RCodeNameError), 0},
		{"nothing, without SOA", refusal(m, dnsmessage.RCodeSuccess), 0},
		{"a failure", withSOA(m, dnsmessage.RCodeServerFailure, 60, 60), 0},
		{"half of an answer", short[:len(short)-1], 0},
	} {
		if _, got := lifetime(c.m); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCacheAges(t *testing.T) {
	c := caches{entries: 2, bytes: 1 << 20, byGuest: map[string]*cache{}}
	m := question(t, "example.org.", dnsmessage.TypeA)
	q := mustParse(t, m)
	c.put(start, "web", q, withA(m, 60))
	for after, want := range map[time.Duration]uint32{0: 60, 1500 * time.Millisecond: 59, 59 * time.Second: 1} {
		got := c.get(start.Add(after), "web", q)
		if got == nil || binary.BigEndian.Uint32(got[len(got)-10:]) != want {
			t.Errorf("after %v: %x, want a TTL of %d", after, got, want)
		}
	}
	if got := c.get(start.Add(time.Minute), "web", q); got != nil {
		t.Errorf("after its time: %x", got)
	}
	if own := c.byGuest["web"]; own.size != 0 || len(own.byKey) != 0 {
		t.Errorf("%d bytes of %d entries are left", own.size, len(own.byKey))
	}
}

func TestCacheBounds(t *testing.T) {
	c := caches{entries: 4, bytes: 400, byGuest: map[string]*cache{}}
	ask := func(guest string, i int) query {
		m := question(t, fmt.Sprintf("n%02d.example.", i), dnsmessage.TypeA)
		q := mustParse(t, m)
		c.put(start, guest, q, withA(m, 60))
		return q
	}
	first := ask("web", 0)
	for i := range 30 {
		ask("evil", i)
	}
	if c.get(start, "web", first) == nil {
		t.Error("one guest's flood took another's answer away")
	}
	own := c.byGuest["evil"]
	if own.size > 400 || own.order.Len() > 4 || len(own.byKey) != own.order.Len() {
		t.Errorf("%d bytes, %d entries", own.size, own.order.Len())
	}
	if c.get(start, "evil", mustParse(t, question(t, "n29.example.", dnsmessage.TypeA))) == nil {
		t.Error("the last answer is not kept")
	}
	// What is used stays.
	c = caches{entries: 3, bytes: 1 << 20, byGuest: map[string]*cache{}}
	first = ask("web", 0)
	for i := range 10 {
		if ask("web", 1+i); c.get(start, "web", first) == nil {
			t.Fatalf("what is asked for all the time went after %d others", i)
		}
	}
	// There are no more caches than guests can be.
	for i := range maxCaches + 10 {
		ask(fmt.Sprint(i), 0)
	}
	if n := len(c.byGuest); n != maxCaches {
		t.Errorf("%d caches, want %d", n, maxCaches)
	}
}

func TestMalformed(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	good := question(t, "example.org.", dnsmessage.TypeA, withOPT())
	change := func(f func([]byte)) []byte {
		m := bytes.Clone(good)
		f(m)
		return m
	}
	const none = dnsmessage.RCode(255)
	for _, c := range []struct {
		name string
		m    []byte
		want dnsmessage.RCode
	}{
		{"nothing", nil, none},
		{"half a header", good[:11], none},
		{"an answer", change(func(m []byte) { m[2] |= 0x80 }), none},
		{"a header alone", good[:12], dnsmessage.RCodeFormatError},
		{"no question", change(func(m []byte) { m[5] = 0 }), dnsmessage.RCodeFormatError},
		{"two questions", change(func(m []byte) { m[5] = 2 }), dnsmessage.RCodeFormatError},
		{"an endless name", change(func(m []byte) { m[12] = 63 }), dnsmessage.RCodeFormatError},
		{"a pointer to itself", change(func(m []byte) { m[12], m[13] = 0xc0, 12 }), dnsmessage.RCodeFormatError},
		{"half of EDNS", good[:len(good)-1], dnsmessage.RCodeFormatError},
		{"a notification", change(func(m []byte) { m[2] |= 4 << 3 }), dnsmessage.RCodeNotImplemented},
		{"a whole zone", change(func(m []byte) { m[26] = 252 }), dnsmessage.RCodeRefused},
	} {
		got := none
		f.Ask("web", c.m, func(m []byte) { got = code(m) })
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if m, r := f.Counters.Malformed.Value(), f.Counters.Refused.Value(); m != 9 || r != 2 {
		t.Errorf("%d malformed, %d refused; want 9 and 2", m, r)
	}
	if len(f.jobs) != 0 {
		t.Error("something was forwarded")
	}
}

// FuzzQuery: whatever a guest sends, an answer is one to its question, and is
// found again in the cache.
func FuzzQuery(f *testing.F) {
	f.Add(question(f, "example.org.", dnsmessage.TypeA))
	f.Add(question(f, "web.internal.", dnsmessage.TypeALL, withOPT()))
	f.Add(question(f, "15.2.0.10.in-addr.arpa.", dnsmessage.TypePTR))
	f.Fuzz(func(t *testing.T, m []byte) {
		fw, err := New(zone())
		if err != nil {
			t.Fatal(err)
		}
		fw.Ask("web", m, func(answer []byte) {
			if len(answer) < headerSize || !bytes.Equal(answer[:2], m[:2]) || flags(answer)&bitResponse == 0 {
				t.Fatalf("%x", answer)
			}
		})
		if len(fw.jobs) == 0 {
			return
		}
		j := <-fw.jobs
		answer := withA(j.q.raw, 60)
		if !j.q.answers(answer, binary.BigEndian.Uint16(m)) {
			t.Fatalf("%x does not answer %x", answer, m)
		}
		fw.caches.put(start, "web", j.q, answer)
		if again := fw.caches.get(start, "web", j.q); j.q.cacheable != "" && !bytes.Equal(again, answer) {
			t.Fatalf("%x, want %x", again, answer)
		}
	})
}

// FuzzAnswer: whatever a resolver sends is walked to its end or refused.
func FuzzAnswer(f *testing.F) {
	m := question(f, "example.org.", dnsmessage.TypeA)
	f.Add(withA(m, 60))
	f.Add(withSOA(m, dnsmessage.RCodeNameError, 60, 60))
	q := mustParse(f, m)
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) >= q.end { // most inputs would answer another question
			copy(answer[headerSize:q.end], m[headerSize:q.end])
			answer[0], answer[1], answer[4], answer[5] = m[0], m[1], 0, 1
			answer[2] |= bitResponse >> 8
		}
		if !q.answers(answer, 0x1234) {
			return
		}
		c := caches{entries: 4, bytes: 1 << 16, byGuest: map[string]*cache{}}
		c.put(start, "web", q, answer)
		if again := c.get(start, "web", q); again != nil && !bytes.Equal(again, answer) {
			t.Fatalf("%x, want %x", again, answer)
		}
		if short := fit(answer, 40); len(short) > 40 {
			t.Fatalf("%d bytes", len(short))
		}
	})
}
