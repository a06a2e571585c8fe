package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vhostnet/control"
	"vhostnet/vhostuser/vutest"
)

// onSwitch is a switch of a file, with ports on sockets of their names.
func (r *reloader) onSwitch(name string, ports ...string) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, " port %q {\n  socket = %q\n }\n", p, filepath.Join(r.dir, p))
	}
	return fmt.Sprintf("switch %q {\n%s}\n", name, b.String())
}

// Switches of one file exchange nothing: the same addresses are on both, each has an
// uplink of its own, and one comes and goes while frames pass on the other.
func TestSwitchesAreApart(t *testing.T) {
	const taken = "configuration is read anew"
	path := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q\n", path)
	r := &reloader{dir: t.TempDir()}
	lan, dmz := r.onSwitch("lan", "a", "b"), r.onSwitch("dmz", "c", "d")
	r.file = writeFile(t, "v.hcl", "workers = 1\n"+settings+lan)
	r.program = start(t, programOptions{}, "run", r.file)
	a, b := r.connect("a"), r.connect("b")
	exchange(t, a, b, 3)
	r.reload("workers = 1\n"+settings+lan+dmz, taken, "added=2", "replaced=0", "changed=0")
	c, d := r.connect("c"), r.connect("d")
	x := &changing{reloader: r, client: control.NewClient(path), a: a, b: b, c: c}
	everybody := plain(0, 'a')
	copy(everybody, []byte{255, 255, 255, 255, 255, 255})
	x.expect("a frame to everybody of its switch", x.gets(a, b, slices.Clone(everybody)), true)
	x.expect("a frame to everybody of another switch", x.gets(a, c, slices.Clone(everybody)), false)
	x.expect("a frame with the addresses of the others", x.gets(c, d, plain('b', 'a')), true)
	x.expect("a frame of whose they are", x.gets(a, b, plain('b', 'a')), true)
	x.shows("a", "switch", "lan")
	x.shows("c", "switch", "dmz")
	table, err := x.client.Table(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]bool{}
	for _, e := range table {
		if e.MAC == "52:54:00:00:00:61" {
			at[e.Port] = true
		}
	}
	if len(at) != 2 || !at["a"] || !at["c"] {
		t.Errorf("the address is at %v, want it at a and c", at)
	}

	// An uplink of each, with the same gateway.
	up := func(text, name string) string {
		return strings.TrimSuffix(text, "}\n") + strings.Replace(uplinkText(""), `"out"`, fmt.Sprintf("%q", name), 1) + "}\n"
	}
	r.reload("workers = 1\n"+settings+up(lan, "one")+up(dmz, "two"), taken, "added=2", "replaced=0")
	host := [4]byte{10, 0, 2, 2}
	askFor(t, a, [4]byte{10, 0, 2, 50}, host)
	askFor(t, c, [4]byte{10, 0, 2, 50}, host)
	passes(t, a, b)
	for name, up := range map[string]bool{"a": false, "c": true} {
		if _, err := x.client.SetLink(t.Context(), name, up); err != nil {
			t.Fatal(err)
		}
	}
	x.expect("a frame of a port whose link is down", x.gets(a, b, plain('b', 'a')), false)
	x.expect("a frame of a port of another switch", x.gets(c, d, plain('b', 'a')), true)

	r.reload("workers = 1\n"+settings+lan, taken, "removed=4", "replaced=0")
	if _, err := x.client.SetLink(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	passes(t, a, b)
	if n := r.logged("front-end disconnected", "port=a") + r.logged("front-end disconnected", "port=b"); n != 0 {
		t.Errorf("%d front-ends of the switch that stayed were disconnected", n)
	}
	r.end()
}

// A port that is added is on the only switch, or on the one that it names.
func TestAddToSwitch(t *testing.T) {
	a := runAPI(t, "a,switch=lan", "b,switch=dmz", "c,switch=dmz,mac=52:54:00:00:00:63")
	b, c := connect(t, a.path("b"), vutest.Options{}), connect(t, a.path("c"), vutest.Options{})
	exchangeAs(t, b, c, 'c', 'b', 2)
	a.refuses(exitFailed, "ports add d=DIR/d", "several switches", "lan or dmz")
	a.says("ports add d=DIR/d,switch=dmz", "switch=dmz")
	a.refuses(exitFailed, "ports add w=DIR/w,switch=dmz,mirror=a", "on the same switch")
	a.refuses(exitUsage, "ports add w=DIR/w,switch=", "switch=")
	d := connect(t, a.path("d"), vutest.Options{})
	exchangeAs(t, d, b, 'b', 'd', 2)
	for i := range 40 { // one that has no port any more is not kept
		a.says(fmt.Sprintf("ports add x=DIR/x,switch=s%d", i), fmt.Sprintf("switch=s%d", i))
		a.says("ports remove x")
	}
	if n := len(a.allSwitches()); n > 4 { // that without a name, two, and the last one
		t.Errorf("%d switches", n)
	}
}

// Where ports name no switch the others that do are apart from them.
func TestSwitchWithoutName(t *testing.T) {
	r := runDaemon(t, "a")
	r.must(r.add("x,switch=other"))
	r.must(r.add("b"))
	a, b, x := connect(t, r.path("a"), vutest.Options{}), connect(t, r.path("b"), vutest.Options{}), connect(t, r.path("x"), vutest.Options{})
	r.must(x.Send(0, frame('b', 'x')))
	r.must(x.WaitSent(0))
	exchange(t, a, b, 2)
	if n := len(r.vswitch.Ports()); n != 2 {
		t.Errorf("%d ports are on the switch without a name", n)
	}
}

// Guests of different switches have nothing in common, in whichever VLAN; the JSON
// twin of a file says the same.
func TestSwitchesOfFiles(t *testing.T) {
	hcl := writeFile(t, "a.hcl", "switch \"s\" {\n port \"a\" {\n socket = \"/a\"\n vlan = 7\n }\n}\nswitch \"t\" {\n port \"b\" {\n socket = \"/b\"\n vlan = 7\n }\n uplink \"user\" \"up\" {}\n}\n")
	twin := writeFile(t, "a.hcl.json", `{"switch": {"s": {"port": {"a": {"socket": "/a", "vlan": 7}}}, "t": {"port": {"b": {"socket": "/b", "vlan": 7}}, "uplink": {"user": {"up": {}}}}}}`)
	want, err := parseArgs(t, "--config", hcl)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseArgs(t, "--config", twin)
	if err != nil {
		t.Fatal(err)
	}
	sameConfig(t, "twin", got, want)
	if a, b := want.ports[0], want.ports[1]; a.network != "s" || b.network != "t" || a.meets(b.switching) || !b.meets(b.switching) {
		t.Errorf("%q and %q meet: %v", a.network, b.network, a.meets(b.switching))
	}
	if up := want.ports[2]; up.network != "t" || up.uplink == nil {
		t.Errorf("%+v", up)
	}
	// What flags add has to name one of them.
	if _, err := parseArgs(t, "--config", hcl, "--port", "c=/c"); err == nil || !strings.Contains(err.Error(), "s or t") {
		t.Errorf("a port of no switch: %v", err)
	}
	if _, err := parseArgs(t, "--config", hcl, "--port", "c=/c,switch=t", "--uplink", "user,switch=s"); err != nil {
		t.Error(err)
	}
}

// VMs of --vm on several switches have an uplink on each, with leases of its own; one
// that cannot be is told as what comes with --vm.
func TestUplinksOfVMs(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, c := range []struct {
		args []string
		want []string // port, switch and leases of each uplink
	}{
		{[]string{"--vm", "web", "--vm", "db"}, []string{"internet  leases"}},
		{[]string{"--vm", "web,switch=a", "--vm", "db"}, []string{"internet a leases"}},
		{[]string{"--vm", "web,switch=a", "--port", "db=/db,switch=b"}, []string{"internet a leases"}},
		{[]string{"--vm", "web,switch=a", "--vm", "db,switch=b", "--vm", "x,switch=a"}, []string{"internet-a a a.leases", "internet-b b b.leases"}},
		{[]string{"--vm", "web,switch=a", "--vm", "db,switch=b", "--uplink", "none"}, nil},
	} {
		got, err := parseArgs(t, c.args...)
		if err != nil {
			t.Fatal(c.args, err)
		}
		var list []string
		for _, p := range got.ports {
			if p.uplink != nil {
				list = append(list, fmt.Sprintf("%s %s %s", p.name, p.network, filepath.Base(p.uplink.user.services.Leases)))
			}
		}
		if !slices.Equal(list, c.want) {
			t.Errorf("%q: uplinks %q, want %q", c.args, list, c.want)
		}
	}
	_, err := parseArgs(t, "--vm", "web", "--port", "internet=/internet")
	if err == nil || !hasAll(err.Error(), "comes with --vm", "--uplink none") {
		t.Errorf("a port of its name: %v", err)
	}
}
