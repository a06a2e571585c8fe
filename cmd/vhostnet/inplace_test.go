package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vhostnet/control"
	"vhostnet/uplink/usernet"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
)

// changing is a program whose file changes, with front-ends that stay connected.
type changing struct {
	*reloader
	settings string
	a, b, c  *vutest.FrontEnd
	client   *control.Client
	serial   byte
}

// startChanging starts ports a, b and c.
func startChanging(t *testing.T) *changing {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control")
	x := &changing{settings: fmt.Sprintf("control = %q", path), client: control.NewClient(path)}
	var ports []string
	for _, name := range []string{"a", "b", "c"} {
		ports = append(ports, fmt.Sprintf("%s,mac=\"52:54:00:00:00:%02x\"", name, name[0]))
	}
	x.reloader = startReloader(t, x.settings, ports...)
	x.a, x.b, x.c = x.connect("a"), x.connect("b"), x.connect("c")
	passes(t, x.a, x.b)
	return x
}

// text is a file with ports that are told their MAC addresses.
func (x *changing) text(settings string, ports ...string) string {
	for i, p := range ports {
		if name, _, _ := strings.Cut(p, ","); len(name) == 1 {
			ports[i] = fmt.Sprintf("%s,mac=\"52:54:00:00:00:%02x\"%s", name, name[0], p[1:])
		}
	}
	return strings.ReplaceAll(x.reloader.text(settings, ports...), ";", ", ") // commas part options
}

// change gives the ports other options, with a file that is to be taken.
func (x *changing) change(changed int, ports ...string) {
	x.t.Helper()
	x.reload(x.text(x.settings, ports...), "configuration is read anew", "added=0", "removed=0", "replaced=0", fmt.Sprintf("changed=%d", changed))
}

// gets sends a frame of one front-end and reports whether another gets it: when the
// one has its buffer back it is where it goes.
func (x *changing) gets(from, to *vutest.FrontEnd, data []byte) bool {
	x.t.Helper()
	x.serial++
	data[len(data)-1] = x.serial // so that it is told from those before
	if err := from.Send(0, vutest.Frame{Data: data}); err != nil {
		x.t.Fatal(err)
	}
	if err := from.WaitSent(0); err != nil {
		x.t.Fatal(err)
	}
	for {
		got, err := to.Recv(0, 50*time.Millisecond)
		if err != nil {
			return false
		}
		if bytes.Equal(got.Data, data) {
			return true
		}
	}
}

func (x *changing) expect(what string, is, want bool) {
	x.t.Helper()
	if is != want {
		x.t.Errorf("%s passes: %v, want %v", what, is, want)
	}
}

// shows checks an option of a port, whose front-end is connected, as the control API
// tells it.
func (x *changing) shows(port, option, want string) {
	x.t.Helper()
	list, err := x.client.Ports(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	at := slices.IndexFunc(list, func(p control.Port) bool { return p.Name == port })
	if p := list[at]; !p.Connected || !p.Driver || p.Options[option] != want {
		x.t.Errorf("%+v; want it connected, with %s=%s", p, option, want)
	}
}

// ownFilters checks that each port has its own filter, of every VLAN or not.
func (x *changing) ownFilters(every ...bool) {
	x.t.Helper()
	list, err := x.client.Filters(context.Background())
	if err != nil || len(list) != len(every) {
		x.t.Fatalf("%+v, %v", list, err)
	}
	for i, name := range []string{"a", "b", "c"} {
		at := slices.IndexFunc(list, func(f control.Filter) bool { return f.Port == name })
		if at < 0 || list[at].ID == 0 || list[at].AnyVLAN != every[i] || list[at].Origin != "configuration" {
			x.t.Errorf("filters of %s: %+v", name, list)
		}
	}
}

// plain is a frame without a tag, inVLAN one with.
func plain(to, from byte) []byte { return frame(to, from).Data }

func inVLAN(to, from, vlan byte) []byte {
	f := frame(to, from).Data
	copy(f[12:], []byte{0x81, 0, 0, vlan, 0x88, 0xb5})
	return f
}

// Each option that can change in place does: front-ends stay connected, and the new
// value is in force, also when it is taken back.
func TestChangeInPlace(t *testing.T) {
	for option, try := range changesInPlace {
		t.Run(option, func(t *testing.T) {
			x := startChanging(t)
			try(x)
			if n := x.logged("front-end disconnected"); n != 0 {
				t.Errorf("%d front-ends were disconnected", n)
			}
			x.end()
		})
	}
	for _, list := range [][]followed{followedSwitching, followedVM} {
		for _, f := range list {
			if f.change == stays && changesInPlace[f.option] == nil {
				t.Errorf("option %s changes in place, and no test says so", f.option)
			}
		}
	}
}

var changesInPlace = map[string]func(x *changing){
	"vlan": func(x *changing) {
		x.change(1, "a,vlan=7", "b", "c")
		x.expect("from a VLAN", x.gets(x.a, x.b, plain('b', 'a')), false)
		x.change(1, "a,vlan=7", "b,vlan=7", "c")
		x.expect("in the VLAN", x.gets(x.a, x.b, plain('b', 'a')), true)
		x.expect("to a VLAN", x.gets(x.c, x.a, plain('a', 'c')), false)
		x.shows("a", "vlan", "7")
		x.change(2, "a", "b", "c")
		x.expect("without VLANs", x.gets(x.c, x.a, plain('a', 'c')), true)
	},
	"trunk": func(x *changing) {
		x.change(3, "a,trunk=[7]", "b,vlan=8", "c,trunk=[7;8]")
		x.expect("in VLAN 7", x.gets(x.a, x.c, inVLAN('c', 'a', 7)), true)
		x.expect("in VLAN 8", x.gets(x.a, x.c, inVLAN('c', 'a', 8)), false)
		x.ownFilters(true, false, true)
		x.change(1, "a,trunk=[8]", "b,vlan=8", "c,trunk=[7;8]")
		x.expect("in VLAN 7, which it is not in any more", x.gets(x.a, x.c, inVLAN('c', 'a', 7)), false)
		x.expect("in VLAN 8, which it is in now", x.gets(x.a, x.c, inVLAN('c', 'a', 8)), true)
		x.expect("from the other trunk", x.gets(x.c, x.a, inVLAN('a', 'c', 8)), true)
		x.expect("to a port of the VLAN", x.gets(x.a, x.b, inVLAN('b', 'a', 8)), false) // it has no tag there
		x.shows("a", "trunk", "8")
		x.change(2, "a", "b,vlan=8", "c")
		x.expect("without VLANs", x.gets(x.c, x.a, plain('a', 'c')), true)
		x.ownFilters(false, false, false)
	},
	"native": func(x *changing) {
		x.change(2, "a,trunk=[7;8]", "b,vlan=7", "c")
		x.expect("untagged, and there is no VLAN of such", x.gets(x.a, x.b, plain('b', 'a')), false)
		x.change(1, "a,trunk=[7;8],native=7", "b,vlan=7", "c")
		x.expect("untagged", x.gets(x.a, x.b, plain('b', 'a')), true)
		x.shows("a", "native", "7")
	},
	"protected": func(x *changing) {
		x.change(2, "a,protected=true", "b,protected=true", "c")
		x.expect("between protected ports", x.gets(x.a, x.b, plain('b', 'a')), false)
		x.expect("to a port that is not", x.gets(x.a, x.c, plain('c', 'a')), true)
		x.shows("a", "protected", "on")
		x.change(1, "a,protected=true", "b", "c")
		x.expect("when one is not any more", x.gets(x.a, x.b, plain('b', 'a')), true)
	},
	"mirror": func(x *changing) {
		x.change(2, "a,mirror=\"c\"", "b", "c")
		x.expect("a copy", x.gets(x.a, x.c, plain('b', 'a')), true)
		x.expect("from a port that watches", x.gets(x.c, x.a, plain('a', 'c')), false)
		x.shows("a", "mirror", "c")
		x.change(3, "a", "b,mirror=\"a\"", "c")
		x.expect("a copy for another", x.gets(x.b, x.a, plain('c', 'b')), true)
		x.expect("to one that watches no more", x.gets(x.b, x.c, plain('c', 'b')), true)
		x.change(2, "a", "b", "c")
		x.expect("a copy when there are none", x.gets(x.b, x.a, plain('c', 'b')), false)
		x.expect("as before", x.gets(x.a, x.c, plain('c', 'a')), true)
	},
	"sink": func(x *changing) {
		x.change(1, "a", "b", "c,sink=true")
		x.expect("to a sink", x.gets(x.a, x.c, plain('c', 'a')), false)
		x.expect("from a sink", x.gets(x.c, x.a, plain('a', 'c')), false)
		x.shows("c", "sink", "on")
		x.change(1, "a", "b", "c")
		x.expect("to a port again", x.gets(x.a, x.c, plain('c', 'a')), true)
	},
	"transparent": func(x *changing) {
		lldp := plain('b', 'a')
		copy(lldp, []byte{0x01, 0x80, 0xc2, 0, 0, 0x0e})
		x.expect("LLDP", x.gets(x.a, x.b, lldp), false)
		x.change(1, "a,transparent=true", "b", "c")
		x.expect("LLDP of a transparent port", x.gets(x.a, x.b, lldp), true)
		x.shows("a", "transparent", "on")
	},
	"static": func(x *changing) {
		to := plain('s', 'a')
		x.expect("an unknown address", x.gets(x.a, x.c, to), true)
		x.change(1, "a", "b,static=[\"52:54:00:00:00:73\"]", "c")
		x.expect("a static address", x.gets(x.a, x.b, to), true)
		x.expect("a static address of another", x.gets(x.a, x.c, to), false)
		x.shows("b", "static", "52:54:00:00:00:73")
		x.change(2, "a", "b", "c,static=[\"52:54:00:00:00:73\"]")
		x.expect("a static address that has moved", x.gets(x.a, x.b, to), false)
		// One of a VLAN in which its port is not: refused, and all is as before.
		x.reload(x.text(x.settings, "a", "b", "c,static=[\"52:54:00:00:00:74/9\"],vlan=7"), "ERROR", "is not taken", "static address", "VLAN 9")
		x.expect("the address of before", x.gets(x.a, x.c, to), true)
	},
	"mode": func(x *changing) {
		kicked := func() bool {
			before := x.a.Kicks(1)
			x.expect("a frame", x.gets(x.a, x.b, plain('b', 'a')), true)
			return x.a.Kicks(1) != before
		}
		x.change(1, "a,mode=\"poll\"", "b", "c")
		kicked() // its kicks are off when a worker has looked
		for range 20 {
			x.expect("a kick of a ring that is polled", kicked(), false)
		}
		x.shows("a", "mode", "poll")
		x.change(1, "a,mode=\"interrupt\"", "b", "c")
		waitFor(x.t, "a kick", kicked)
	},
}

// The options of an uplink that the switch is concerned with change in place, too: who
// is connected by it stays.
func TestChangeUplinkInPlace(t *testing.T) {
	x := startChanging(t)
	at := freeTCP(t)
	ports := func(list ...string) string { return x.text(x.settings, list...) }
	forward := "tcp/" + at + "/10.0.2.99:80"
	x.reload(ports("a", "b", "c")+uplinkText("", forward), "configuration is read anew", "added=1")
	host := [4]byte{10, 0, 2, 2}
	askFor(t, x.a, [4]byte{10, 0, 2, 50}, host)
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const taken = "configuration is read anew"
	x.reload(ports("a,vlan=7", "b", "c")+uplinkText("vlan = 7", forward), taken, "replaced=0", "changed=2")
	askFor(t, x.a, [4]byte{10, 0, 2, 50}, host)
	x.reload(ports("a,vlan=7", "b", "c")+uplinkText("trunk = [7, 8]\n mirror = \"c\"\n protected = true\n transparent = true", forward), taken, "replaced=0", "changed=2")
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection: %v", err)
	}
	x.reload(ports("a", "b", "c")+uplinkText("mode = \"interrupt\"", forward), taken, "replaced=1", "changed=2")
	if n := x.logged("front-end disconnected"); n != 0 {
		t.Errorf("%d front-ends were disconnected", n)
	}
	x.end()
}

// A port that watches and is replaced is watched with again, and the watched one is
// not disconnected; so it is when the new configuration cannot be had.
func TestReplacedSink(t *testing.T) {
	x := startChanging(t)
	x.change(2, "a,mirror=\"c\"", "b", "c")
	x.reload(x.text(x.settings, "a,mirror=\"c\"", "b", "c,inflight=true"), "configuration is read anew", "replaced=1", "changed=1")
	x.c = x.connect("c")
	x.expect("a copy", x.gets(x.a, x.c, plain('b', 'a')), true)
	x.reload(x.text(x.settings, "a,mirror=\"d\"", "b", "no")+"port \"d\" {\n socket = \"/no/such/directory/d\"\n}\n", "ERROR", "is not taken", "/no/such/directory")
	x.c = x.connect("c")
	x.expect("a copy as before", x.gets(x.a, x.c, plain('b', 'a')), true)
	x.expect("a frame", x.gets(x.a, x.b, plain('b', 'a')), true)
	if n := x.logged("front-end disconnected", "port=a") + x.logged("front-end disconnected", "port=b"); n != 0 {
		t.Errorf("%d front-ends were disconnected", n)
	}
	x.end()
}

// The table has every key of a port, and whatever differs is told.
func TestFollowedHasAll(t *testing.T) {
	has := func(lists ...[]followed) map[string]bool {
		m := map[string]bool{}
		for _, list := range lists {
			for _, f := range list {
				m[f.option] = true
			}
		}
		return m
	}
	vm := has(followedSwitching, followedVM)
	vm[""] = vm["socket"] // as the keys have it
	for _, k := range portKeys {
		if !vm[k.option] {
			t.Errorf("nothing says what a new %s of a port does", k.name)
		}
	}
	up := has(followedSwitching, followedUplink)
	for _, k := range uplinkKeys {
		if !up[k.option] {
			t.Errorf("nothing says what a new %s of an uplink does", k.name)
		}
	}
	// Each field of a description that differs is seen by a line of the table.
	for i, spec := range []portSpec{{}, {uplink: &uplinkSpec{}}} {
		lists := [][]followed{append(slices.Clone(followedSwitching), followedVM...), append(slices.Clone(followedSwitching), followedUplink...)}
		seen := map[string]bool{}
		for path, other := range variants(t, spec) {
			for _, f := range lists[i] {
				if !reflect.DeepEqual(f.of(&spec), f.of(&other)) {
					seen[path] = true
				}
			}
			if !seen[path] {
				t.Errorf("a port with another %s is taken for the same", path)
			}
		}
		if len(seen) < 8 {
			t.Errorf("only %d fields were tried", len(seen))
		}
	}
}

// variants are copies of a description of which one field differs each.
func variants(t *testing.T, spec portSpec) map[string]portSpec {
	t.Helper()
	list := map[string]portSpec{}
	add := func(path string, change func(p *portSpec)) {
		p := spec
		if spec.uplink != nil {
			u := *spec.uplink
			p.uplink = &u
		}
		change(&p)
		list[path] = p
	}
	add("vlan", func(p *portSpec) { p.vlan.Access = 1 })
	add("trunk", func(p *portSpec) { p.vlan.Trunk = []uint16{1} })
	add("native", func(p *portSpec) { p.vlan.Native = 1 })
	add("protected", func(p *portSpec) { p.protected = true })
	add("transparent", func(p *portSpec) { p.transparent = true })
	add("mirror", func(p *portSpec) { p.mirror = "x" })
	add("mode", func(p *portSpec) { p.mode++ })
	if spec.uplink != nil {
		add("kind", func(p *portSpec) { p.uplink.kind = "x" })
		add("tap", func(p *portSpec) { p.uplink.tap.queues = 2 })
		add("host", func(p *portSpec) { p.uplink.user.host = true })
		add("leases", func(p *portSpec) { p.uplink.user.services.Leases = "x" })
		add("forward", func(p *portSpec) { p.uplink.user.forwards = []usernet.Forward{{}} })
		return list
	}
	add("sink", func(p *portSpec) { p.sink = true })
	add("path", func(p *portSpec) { p.path = "x" })
	add("fd", func(p *portSpec) { p.fd = 7 })
	add("role", func(p *portSpec) { p.dial = true })
	add("access", func(p *portSpec) { p.access.group = "1" })
	add("mac", func(p *portSpec) { p.mac[5] = 1 })
	add("mtu", func(p *portSpec) { p.mtu = 68 })
	add("pairs", func(p *portSpec) { p.pairs = 1 })
	add("mask", func(p *portSpec) { p.mask = 1 })
	add("inflight", func(p *portSpec) { p.inflight = true })
	add("queue", func(p *portSpec) { p.queue++ })
	add("statics", func(p *portSpec) { p.statics = make([]vswitch.Address, 1) })
	add("guest", func(p *portSpec) { p.guest.what = "see" })
	return list
}

// The documentation says of every option what a new value does.
func TestFollowedIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[following]string{}
	for line := range strings.Lines(string(text)) {
		for change, word := range map[following]string{stays: "**stays**", replaced: "**replaced**", refused: "**not taken**"} {
			if strings.Contains(line, word) {
				lines[change] = line
			}
		}
	}
	for _, f := range slices.Concat(followedSwitching, followedVM, followedUplink[:1]) {
		if key := "`" + strings.ReplaceAll(f.option, "-", "_") + "`"; f.option != "switch" && !strings.Contains(f.option, " ") && !strings.Contains(lines[f.change], key) {
			t.Errorf("docs/configuration.md does not say that %s is of kind %d", key, f.change)
		}
	}
}
