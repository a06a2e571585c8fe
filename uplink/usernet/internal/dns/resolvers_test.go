package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/dns/dnsmessage"
)

// The next resolver is asked when one fails, refuses or is silent.
func TestNextResolver(t *testing.T) {
	good := newUpstream(t, "127.0.0.1:0", yes)
	for name, answer := range map[string]func([]byte, bool) [][]byte{
		"failing": withCode(dnsmessage.RCodeServerFailure), "refusing": withCode(dnsmessage.RCodeRefused), "silent": silent,
	} {
		bad := newUpstream(t, "127.0.0.1:0", answer)
		l := newLab(t, func(c *Config) { c.Timeout = 50 * time.Millisecond }, bad, good)
		q := question(t, "example.org.", dnsmessage.TypeA)
		if answer := l.ask("web", q); !bytes.Equal(answer, withA(q, 60)) {
			t.Errorf("%s: %x", name, answer)
		}
	}
	// If none knows better, the guest is told what they said.
	bad := newUpstream(t, "127.0.0.1:0", withCode(dnsmessage.RCodeRefused))
	l := newLab(t, nil, bad)
	if answer := l.ask("web", question(t, "example.org.", dnsmessage.TypeA)); code(answer) != dnsmessage.RCodeRefused {
		t.Errorf("%x", answer)
	}
}

// A resolver that is dead is told once; guests are then told at once, without
// its being asked, until it is alive again.
func TestDeadResolver(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", yes)
	at := u.at
	u.close()
	l := newLab(t, func(c *Config) {
		c.Resolvers = []netip.AddrPort{at}
		c.Timeout = 50 * time.Millisecond
	})
	q := question(t, "example.org.", dnsmessage.TypeA)
	for range suspectAfter {
		if answer := l.ask("web", q); code(answer) != dnsmessage.RCodeServerFailure {
			t.Fatalf("%x", answer)
		}
	}
	l.await("does not answer")
	before := l.Counters.Unanswered.Value()
	for range 20 {
		if answer := l.ask("db", q); code(answer) != dnsmessage.RCodeServerFailure {
			t.Fatalf("%x", answer)
		}
	}
	if after := l.Counters.Unanswered.Value(); after != before {
		t.Errorf("a dead resolver was asked %d times", after-before)
	}
	if answer := l.ask("web", question(t, "host.internal.", dnsmessage.TypeA)); code(answer) != 0 {
		t.Errorf("names that are known here: %x", answer)
	}
	newUpstream(t, at.String(), yes)
	deadline := time.Now().Add(patience)
	for code(l.ask("web", q)) != 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if answer := l.ask("web", q); code(answer) != 0 {
		t.Errorf("it is alive again: %x", answer)
	}
	if n := l.log.count("does not answer"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func (l *lab) await(text string) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); l.log.count(text) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("the log never said %q", text)
		}
	}
}

// A guest that asks what the resolver takes its time for makes nobody think
// that it is dead.
func TestSlowNamesAreNotDeath(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", func(m []byte, _ bool) [][]byte {
		if bytes.Contains(m, []byte("slow")) {
			return nil
		}
		return yes(m, false)
	})
	l := newLab(t, func(c *Config) { c.Timeout = 20 * time.Millisecond }, u)
	for i := range 4 * suspectAfter {
		if answer := l.ask("evil", question(t, fmt.Sprintf("slow%d.example.", i), dnsmessage.TypeA)); code(answer) != dnsmessage.RCodeServerFailure {
			t.Fatalf("%x", answer)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it may be asked just now
		answer := l.ask("web", question(t, "example.org.", dnsmessage.TypeA))
		if code(answer) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%x", answer)
		}
	}
	if l.log.count("does not answer") != 0 {
		t.Error("the resolver was told to be dead")
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver fe80::1%eth0\nnameserver\nnameserver x\n" +
		"options timeout:1\nnameserver 2001:db8::1 trailing\nnameserver 192.0.2.4\n")
	got, err := readResolvConf(file)
	if want := "[192.0.2.1:53 [fe80::1%eth0]:53 [2001:db8::1]:53]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v %v, want %s", got, err, want)
	}
	write("search example.org\n")
	if got, err := readResolvConf(file); err != nil || fmt.Sprint(got) != "[127.0.0.1:53]" {
		t.Errorf("without any: %v %v", got, err)
	}

	log := new(safeBuffer)
	f, err := New(Config{ResolvConf: file, Log: hclog.New(&hclog.LoggerOptions{Output: log})})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	alive := func() string {
		now = now.Add(lookEvery)
		var all []string
		for _, r := range f.resolvers.alive(now) {
			all = append(all, r.at.String())
		}
		return strings.Join(all, " ")
	}
	write("nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
	if got := alive(); got != "192.0.2.1:53 192.0.2.2:53" {
		t.Errorf("%s", got)
	}
	f.resolvers.judge(f.resolvers.servers[1], errMalformed)
	write("nameserver 192.0.2.2\nnameserver 192.0.2.3 # changed\n")
	if got := alive(); got != "192.0.2.3:53" {
		t.Errorf("after a change %s, want the one that is new, not the one that is dead", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := alive(); got != "" {
			t.Errorf("without a file %s", got)
		}
	}
	if n := log.count("the host's resolvers are not known"); n != 1 {
		t.Errorf("told %d times", n)
	}
	write("nameserver 192.0.2.9\n")
	if got := alive(); got != "192.0.2.9:53" {
		t.Errorf("a new file %s", got)
	}
}
