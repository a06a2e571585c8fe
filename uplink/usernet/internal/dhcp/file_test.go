package dhcp

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// run has l's leases saved by Run, until its end.
func (l *lab) run(during func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	during()
	cancel()
	if err := <-done; err != nil {
		l.t.Error(err)
	}
}

func TestLeasesOutliveTheProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases.json")
	keep := func(c *Config) { c.File = file }
	l := newLab(t, keep)
	var v4, v6 netip.Addr
	l.run(func() {
		v4, v6 = l.lease(vm("web", 1)), l.lease6(vm("web", 1))
		l.discover(vm("undecided", 2))
	})
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	again := newLab(t, keep)
	if got := again.Leases(start.Add(time.Minute)); len(got) != 2 || got[0].Client != vm("web", 1) {
		t.Errorf("%v, want two of web's", got)
	}
	// Another asks first for these addresses, in vain.
	if r := again.request(vm("db", 9), v4, false); r.YourIPAddr.Equal(v4.AsSlice()) {
		t.Error("the address was given to another")
	}
	if got := again.lease(vm("web", 1)); got != v4 {
		t.Errorf("%v, want %v", got, v4)
	}
	if got := again.lease6(vm("web", 1)); got != v6 {
		t.Errorf("%v, want %v", got, v6)
	}
	if again.log.String() != "" {
		t.Errorf("log:\n%s", again.log.String())
	}
}

// Leases that no longer fit are forgotten, the others stay.
func TestLeasesOfAnotherNetwork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases.json")
	l := newLab(t, func(c *Config) { c.File = file })
	var kept netip.Addr
	l.run(func() {
		for i := range byte(3) {
			kept = l.lease(vm("web", i))
		}
		l.lease6(vm("web", 1))
	})
	again := newLab(t, func(c *Config) {
		c.File, c.IPv6 = file, nil
		c.IPv4.First, c.IPv4.Last = kept, kept
	})
	if got := again.Leases(start.Add(time.Minute)); len(got) != 1 || got[0].Address != kept {
		t.Errorf("%v, want %v alone", got, kept)
	}
}

func TestBrokenFiles(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"no JSON":         "{",
		"another version": `{"version": 2}`,
		"no MAC":          `{"version": 1, "leases": [{"mac": "x", "address": "10.0.2.15"}]}`,
		"no address":      `{"version": 1, "leases": [{"mac": "52:54:00:00:00:01"}]}`,
		"too long":        strings.Repeat(" ", maxFile+1),
	} {
		file := filepath.Join(t.TempDir(), "leases.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := newLab(t, func(c *Config) { c.File = file })
		if l.logged("the lease file cannot be used") != 1 || strings.Count(l.log.String(), "\n") != 1 {
			t.Errorf("%s: log:\n%s", name, l.log.String())
		}
		l.run(func() { l.lease(vm("web", 1)) })
		if again := newLab(t, func(c *Config) { c.File = file }); len(again.Leases(start)) != 1 {
			t.Errorf("%s: the file is not usable afterwards", name)
		}
		if aside, err := os.ReadFile(file + ".bad"); err != nil || string(aside) != text {
			t.Errorf("%s: set aside: %v", name, err)
		}
	}
}

// Changes of a second are written together; a directory that is gone is told
// once and tried again.
func TestSaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		l := newLab(t, func(c *Config) { c.File = filepath.Join(dir, "leases.json") })
		l.run(func() {
			synctest.Wait()
			for i := range byte(4) {
				l.lease(vm("web", i))
			}
			time.Sleep(2 * saveEvery)
			if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
				t.Errorf("%v %v, want one file", names, err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			for i := range byte(10) {
				l.lease(vm("db", i))
				time.Sleep(saveEvery)
			}
			if n := l.logged("leases are not kept"); n != 1 || l.Counters.SaveFails.Value() == 0 {
				t.Errorf("told %d times, counted %d", n, l.Counters.SaveFails.Value())
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		})
		if again := newLab(t, func(c *Config) { c.File = filepath.Join(dir, "leases.json") }); len(again.Leases(start)) != 14 {
			t.Errorf("%d leases are kept, want 14", len(again.Leases(start)))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"at least one":             func(c *Config) { c.IPv4, c.IPv6 = nil, nil },
		"lease of 1s":              func(c *Config) { c.Lease = time.Second },
		"addresses for each guest": func(c *Config) { c.PerGuest = -1 },
		"domain":                   func(c *Config) { c.Domain = "-bad" },
		"server's address":         func(c *Config) { c.IPv4.Server = netip.MustParseAddr("10.9.9.9") },
		"router":                   func(c *Config) { c.IPv4.Router = netip.MustParseAddr("10.9.9.9") },
		"MTU":                      func(c *Config) { c.IPv4.MTU = 67 },
		"to be told by DHCPv4":     func(c *Config) { c.IPv4.NTP = c.IPv6.NTP },
		"to be told by DHCPv6":     func(c *Config) { c.IPv6.DNS = c.IPv4.DNS },
		"no MAC":                   func(c *Config) { c.IPv6.MAC = [6]byte{} },
		"the smaller first":        func(c *Config) { c.IPv4.Last = netip.MustParseAddr("10.0.2.14") },
		"hold the server's own":    func(c *Config) { c.IPv4.First = netip.MustParseAddr("10.0.2.1") },
		"more than 16384":          func(c *Config) { c.IPv6.Last = netip.MustParseAddr("fd00::1:0:0:0") },
		"an IPv6 prefix":           func(c *Config) { c.IPv6.Prefix = c.IPv4.Prefix },
		"want a port, a MAC":       func(c *Config) { c.Reservations = []Reservation{{IPv4: c.IPv4.First}} },
		"the gateway's own":        func(c *Config) { c.Reservations = []Reservation{{Port: "a", IPv4: c.IPv4.Server}} },
		"outside of the network":   func(c *Config) { c.Reservations = []Reservation{{Port: "a", IPv6: netip.MustParseAddr("fd01::1")}} },
		"hostname":                 func(c *Config) { c.Reservations = []Reservation{{Port: "a", Hostname: "a b"}} },
		"of the network fd00::/64": func(c *Config) { c.Reservations = []Reservation{{Port: "a", IPv6: c.IPv6.Prefix.Addr()}} },
		"address of all":           func(c *Config) { c.Reservations = []Reservation{{Port: "a", IPv4: netip.MustParseAddr("10.0.2.255")}} },
		"of a family":              func(c *Config) { c.Reservations, c.IPv4 = []Reservation{{Port: "a", IPv4: c.IPv4.First}}, nil },
		"reserved twice": func(c *Config) {
			c.Reservations = []Reservation{{Port: "a", IPv4: c.IPv4.First}, {Port: "b", IPv4: c.IPv4.First}}
		},
		"firmware":         func(c *Config) { c.IPv4.Boot.Files = map[Firmware]string{"coreboot": "x"} },
		"1 to 255 bytes":   func(c *Config) { c.IPv4.Boot.Files = map[Firmware]string{BIOS: ""} },
		"want a URL":       func(c *Config) { c.IPv6.Boot.Files = map[Firmware]string{HTTPx64: "boot.efi"} },
		"next server fd00": func(c *Config) { c.IPv4.Boot.NextServer = c.IPv6.First },
	} {
		cfg := config()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
