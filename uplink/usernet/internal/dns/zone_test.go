package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func zone() Config {
	web := []netip.Addr{netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd00::15")}
	return Config{
		Host:     []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::1")},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64")},
		Names: func(port string) []netip.Addr {
			switch port {
			case "web":
				return web
			case "four":
				return web[:1]
			}
			return nil
		},
		Pointer: func(a netip.Addr) (string, bool) { return "web", a == web[0] || a == web[1] },
	}
}

// say is an answer in short: its code, answers and negative lifetime.
func say(t *testing.T, m []byte) string {
	t.Helper()
	var p dnsmessage.Parser
	h, err := p.Start(m)
	if err != nil {
		t.Fatal(err)
	}
	if !h.Response || !h.RecursionAvailable {
		t.Errorf("header %+v", h)
	}
	if err := p.SkipAllQuestions(); err != nil {
		t.Fatal(err)
	}
	words := []string{h.RCode.String()[len("RCode"):]}
	answers, err := p.AllAnswers()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			words = append(words, netip.AddrFrom4(r.A).String())
		case *dnsmessage.AAAAResource:
			words = append(words, netip.AddrFrom16(r.AAAA).String())
		case *dnsmessage.PTRResource:
			words = append(words, r.PTR.String())
		}
	}
	authorities, err := p.AllAuthorities()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authorities {
		words = append(words, fmt.Sprint("SOA ", a.Header.Name, " ", a.Body.(*dnsmessage.SOAResource).MinTTL))
	}
	return strings.Join(words, " ")
}

func TestZone(t *testing.T) {
	const (
		a, aaaa, ptr = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR
		nobody       = "NameError SOA internal. 10"
		nothing      = "Success SOA internal. 10"
		forwarded    = ""
	)
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"web.internal.", a, "Success 10.0.2.15"},
		{"WEB.Internal.", aaaa, "Success fd00::15"},
		{"web.internal.", dnsmessage.TypeALL, "Success 10.0.2.15 fd00::15"},
		{"web.", a, "Success 10.0.2.15"},
		{"four.internal.", aaaa, nothing},
		{"web.internal.", dnsmessage.TypeMX, nothing},
		{"internal.", a, nothing},
		{"nobody.internal.", a, nobody},
		{"host.internal.", a, "Success 10.0.2.2"},
		{"gateway.internal.", aaaa, "Success fd00::1"},
		{"metadata.google.internal.", a, forwarded}, // the domain of others, deeper down
		{"nobody.", a, forwarded},
		{"host.", a, forwarded},
		{".", dnsmessage.TypeNS, forwarded},
		{"example.org.", a, forwarded},
		{"15.2.0.10.in-addr.arpa.", ptr, "Success web.internal."},
		{"2.2.0.10.in-addr.arpa.", ptr, "Success host.internal."},
		{"16.2.0.10.IN-ADDR.arpa.", ptr, nobody},
		{"15.2.0.10.in-addr.arpa.", a, nothing},
		{"16.2.168.192.in-addr.arpa.", ptr, forwarded},
		{"2.0.10.in-addr.arpa.", ptr, forwarded},
		{"5.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "Success web.internal."},
		{"6.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.ip6.arpa.", ptr, nobody},
		{"6.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.ip6.arpa.", ptr, forwarded},
		{"10.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, forwarded},
	} {
		cfg, err := zone().complete()
		if err != nil {
			t.Fatal(err)
		}
		q, err := parse(question(t, c.name, c.kind, withOPT()))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		m, known := cfg.answerLocal(q)
		got := forwarded
		if known {
			got = say(t, m)
			if count(m, 3) != 1 {
				t.Errorf("%s: no EDNS in the answer to a question with it", c.name)
			}
		}
		if got != c.want {
			t.Errorf("%s %v: %q, want %q", c.name, c.kind, got, c.want)
		}
	}
}

// In another domain the host keeps its name; closed, it has none.
func TestOtherDomains(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"host.internal.", func(c *Config) { c.Domain = "Lab.Example." }, "Success 10.0.2.2"},
		{"web.lab.example.", func(c *Config) { c.Domain = "Lab.Example." }, "Success 10.0.2.15"},
		{"web.internal.", func(c *Config) { c.Domain = "lab.example" }, ""},
		{"host.internal.", func(c *Config) { c.Host = nil }, "NameError SOA internal. 10"},
		{"web.internal.", func(c *Config) { c.Names, c.Pointer = nil, nil }, "NameError SOA internal. 10"},
	} {
		cfg := zone()
		c.change(&cfg)
		cfg, err := cfg.complete()
		if err != nil {
			t.Fatal(err)
		}
		q, err := parse(question(t, c.name, dnsmessage.TypeA))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if m, known := cfg.answerLocal(q); known {
			got = say(t, m)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"domain":      func(c *Config) { c.Domain = "a..b" },
		"want 512":    func(c *Config) { c.MaxUDP = 100 },
		"a port":      func(c *Config) { c.Resolvers = []netip.AddrPort{{}} },
		"bounds":      func(c *Config) { c.PerGuest = -1 },
		"to answer":   func(c *Config) { c.Timeout = 2 * queryTimeout },
		"connections": func(c *Config) { c.Conns = -1 },
	} {
		cfg := zone()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
