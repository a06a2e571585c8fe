package main

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/control"
	"vhostnet/uplink/usernet"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
)

// runGuests runs a daemon whose ports' guests call at sockets of their own.
// Behind a port's name are its options; "uplink WHAT" is one.
func runGuests(t *testing.T, names ...string) (a *api, call func(name string) *control.Client) {
	t.Helper()
	a = &api{}
	ports := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return strings.HasPrefix(s, "uplink ") })
	a.running = runDaemonWith(t, func(r *running, o *runOptions) {
		o.control = r.path("control")
		for _, s := range names {
			if uplink, ok := strings.CutPrefix(s, "uplink "); ok {
				o.uplinks = append(o.uplinks, uplink)
			}
		}
		for i := range o.ports {
			if strings.Contains(o.ports[i], "guest=") {
				name, _, _ := strings.Cut(o.ports[i], "=")
				o.ports[i] += ",guest-socket=" + r.path(name+".vsock")
			}
		}
	}, ports...)
	a.Client = control.NewClient(a.path("control"))
	return a, func(name string) *control.Client { return control.NewClient(a.path(name + ".vsock_8470")) }
}

const (
	webMAC    = "52:54:00:00:00:61"
	dbMAC     = "52:54:00:00:00:62"
	nestedMAC = "52:54:00:00:00:63"
)

func guestFilter(mac string) control.FilterRequest {
	return control.FilterRequest{Address: control.Address{MAC: mac}}
}

// A guest sets a filter for a nested one, whose frames then come to its queue,
// takes no other port's address, and loses it when it leaves.
func TestGuestSetsFilters(t *testing.T) {
	a, call := runGuests(t, "web,guest=filters,guest-filters=2,mac="+webMAC, "db,guest=see,mac="+dbMAC, "third")
	ctx := t.Context()
	web, db := connect(t, a.path("web"), vutest.Options{}), connect(t, a.path("db"), vutest.Options{})
	third := connect(t, a.path("third"), vutest.Options{})
	exchangeAs(t, third, web, 'a', 'e', 1) // the switch learns where e is
	guest := call("web")
	before, err := guest.Filters(ctx)
	a.must(err)
	if len(before) != 1 || before[0].Origin != "configuration" || before[0].MAC != webMAC {
		t.Errorf("the guest of web sees filters %+v", before)
	}
	f, err := guest.SetFilter(ctx, guestFilter(nestedMAC))
	a.must(err)
	if f.ID == 0 || f.Origin != "guest" || f.Port != "web" {
		t.Errorf("set is %+v", f)
	}
	exchangeAs(t, db, web, 'c', 'b', 3)
	for what, mac := range map[string]string{"told": dbMAC, "learned": "52:54:00:00:00:65"} {
		if err := second(guest.SetFilter(ctx, guestFilter(mac))); status(err) != control.StatusNotAccepted {
			t.Errorf("an address of another port (%s): %v", what, err)
		}
	}
	if err := second(call("db").SetFilter(ctx, guestFilter(nestedMAC))); status(err) != control.StatusNotAccepted {
		t.Errorf("a guest that may only look: %v", err)
	}
	list, err := call("db").Filters(ctx)
	a.must(err)
	if len(list) != 1 || list[0].Port != "db" {
		t.Errorf("the guest of db sees %+v", list)
	}
	a.must(second(guest.SetQueue(ctx, f.Queue, control.QueueChange{SuggestedBuffers: new(uint32(512))})))
	q, err := guest.Queues(ctx)
	a.must(err)
	if len(q) != 1 || q[0].SuggestedBuffers != 512 || q[0].Filters != 2 {
		t.Errorf("the guest's queue is %+v", q)
	}
	web.Disconnect()
	waitFor(t, "the guest's filter to go", func() bool {
		list, err := guest.Filters(ctx)
		a.must(err)
		return len(list) == 1 && list[0].Origin == "configuration"
	})
	if err := second(guest.SetFilter(ctx, guestFilter(nestedMAC))); status(err) != control.StatusInvalidParameter {
		t.Errorf("a filter of a guest that is not there: %v", err)
	}
}

// The gateway's address is taken before it has sent anything.
func TestGuestAndGateway(t *testing.T) {
	a, call := runGuests(t, "web,guest=filters,mac="+webMAC, "uplink user")
	connect(t, a.path("web"), vutest.Options{})
	gateway := net.HardwareAddr(usernet.DefaultMAC[:]).String()
	if err := second(call("web").SetFilter(t.Context(), guestFilter(gateway))); status(err) != control.StatusNotAccepted {
		t.Errorf("the gateway's address: %v", err)
	}
	for _, c := range []struct {
		what string
		spec portSpec
		mac  [6]byte
		has  bool
	}{
		{"a gateway that is told its own", portSpec{uplink: &uplinkSpec{kind: "user", user: userSpec{mac: [6]byte{2, 1}}}}, [6]byte{2, 1}, true},
		{"and not the other", portSpec{uplink: &uplinkSpec{kind: "user", user: userSpec{mac: [6]byte{2, 1}}}}, usernet.DefaultMAC, false},
		{"a TAP device that is not there", portSpec{uplink: &uplinkSpec{kind: "tap", tap: tapSpec{device: "none"}}}, [6]byte{2, 1}, false},
		{"a station behind a VM", portSpec{statics: []vswitch.Address{{MAC: [6]byte{2, 1}, VLAN: 7}}}, [6]byte{2, 1}, true},
	} {
		if got := c.spec.has(c.mac); got != c.has {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// The host goes before its guests: a port that is added, and a filter that is
// set, with an address of which a guest has a filter.
func TestGuestGivesWay(t *testing.T) {
	a, call := runGuests(t, "web,guest=filters,mac="+webMAC, "db,mac="+dbMAC)
	ctx := t.Context()
	connect(t, a.path("web"), vutest.Options{})
	guest := call("web")
	has := func(mac string) bool {
		list, err := guest.Filters(ctx)
		a.must(err)
		for _, f := range list {
			if f.MAC == mac {
				return true
			}
		}
		return false
	}
	a.must(second(guest.SetFilter(ctx, guestFilter(nestedMAC))))
	a.must(second(a.AddPort(ctx, control.PortRequest{Name: "late", Socket: a.path("late"), Options: map[string]string{"mac": nestedMAC}})))
	if has(nestedMAC) {
		t.Error("a guest keeps the address of a port that was added")
	}
	if err := second(guest.SetFilter(ctx, guestFilter(nestedMAC))); status(err) != control.StatusNotAccepted {
		t.Errorf("the address of a port that was added: %v", err)
	}
	const behind = "52:54:00:00:00:67"
	a.must(second(guest.SetFilter(ctx, guestFilter(behind))))
	a.must(second(a.AddPort(ctx, control.PortRequest{Name: "router", Socket: a.path("router"), Options: map[string]string{"static": behind}})))
	if has(behind) {
		t.Error("a guest keeps the address of a station behind a port that was added")
	}
	const other = "52:54:00:00:00:64"
	a.must(second(guest.SetFilter(ctx, guestFilter(other))))
	a.must(second(a.SetFilter(ctx, control.FilterRequest{Port: "db", Address: control.Address{MAC: other}})))
	if has(other) {
		t.Error("a guest keeps an address of which the host has set a filter elsewhere")
	}
	const byHand = "52:54:00:00:00:68"
	a.must(second(guest.SetFilter(ctx, guestFilter(byHand))))
	a.must(second(a.AddPort(ctx, control.PortRequest{Name: "hand", Socket: a.path("hand"), Options: map[string]string{"queue": "manual"}})))
	q, err := a.AllocateQueue(ctx, control.QueueRequest{Port: "hand"})
	a.must(err)
	a.must(second(a.SetFilter(ctx, control.FilterRequest{Queue: q.ID, Address: control.Address{MAC: byHand}})))
	if has(byHand) {
		t.Error("a guest keeps an address of which the host has set a filter on a queue that it drives by hand")
	}
	a.must(second(guest.SetFilter(ctx, guestFilter("52:54:00:00:00:66"))))
	a.must(a.DropFilter(ctx, "web", control.Address{MAC: "52:54:00:00:00:66"}))
}

// VLANs that are apart are apart for guests, too.
func TestGuestsInVLANs(t *testing.T) {
	a, call := runGuests(t, "web,guest=filters,trunk=10+20,mac="+webMAC, "db,vlan=30,mac="+dbMAC, "both,vlan=20,mac="+nestedMAC)
	ctx := t.Context()
	connect(t, a.path("web"), vutest.Options{})
	guest := call("web")
	set := func(mac string, vlan uint16) string {
		return status(second(guest.SetFilter(ctx, control.FilterRequest{Address: control.Address{MAC: mac, VLAN: vlan}})))
	}
	if got := set(dbMAC, 10); got != control.StatusSuccess {
		t.Errorf("an address of a port in other VLANs: %s", got)
	}
	if got := set(nestedMAC, 10); got != control.StatusNotAccepted {
		t.Errorf("an address of a port in one of its VLANs: %s", got)
	}
	if got := set(dbMAC, 30); got != control.StatusNotAccepted {
		t.Errorf("a VLAN of another port: %s", got)
	}
}

// A machine without AF_VSOCK is a line of the log.
func TestNoVsock(t *testing.T) {
	var log bytes.Buffer
	d := &daemon{log: hclog.New(&hclog.LoggerOptions{Output: &log}), c: config{guest: control.GuestPort}}
	g := newGuestChannel(d)
	calls := 0
	g.listen = func(uint32) (net.Listener, error) {
		calls++
		return nil, errors.New("address family not supported by protocol")
	}
	g.need()
	g.need()
	g.close()
	if calls != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "no AF_VSOCK") {
		t.Errorf("%d calls, log %q", calls, log.String())
	}
}

// The commands of a guest, against a daemon, and what they say when it does not
// let them.
func TestGuestCommands(t *testing.T) {
	a, _ := runGuests(t, "web,guest=filters,guest-filters=1,mac="+webMAC)
	connect(t, a.path("web"), vutest.Options{})
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"queue", exitDone, []string{"PORT", "web", webMAC, "up", "Running"}},
		{"queue --buffers 64 -o json", exitDone, []string{`"suggested_buffers":64`, `"name":"web"`}},
		{"filters set 02:00:00:00:00:05 --vlan 20", exitDone, []string{"FILTER", "02:00:00:00:00:05", "20", "guest"}},
		{"filters", exitDone, []string{webMAC, "configuration", "02:00:00:00:00:05"}},
		{"filters set 02:00:00:00:00:06", exitFailed, []string{"set 1 filters", control.StatusResources}},
		{"filters clear 02:00:00:00:00:05", exitFailed, []string{"no filter of 02:00:00:00:00:05", control.StatusFileNotFound}},
		{"filters clear 02:00:00:00:00:05 --vlan 20", exitDone, nil},
		{"filters -o json", exitDone, []string{`[{"id":`, `"origin":"configuration"`}},
		{"filters set 02:00:00:00:00:05 --vlan any -o json", exitDone, []string{`"any_vlan":true`}},
		{"filters clear " + webMAC, exitFailed, []string{"origin: configuration"}},
		{"filters set x", exitUsage, []string{"address mac=x", "unicast"}},
		{"filters set", exitUsage, []string{"takes one address"}},
		{"filters set 02:00:00:00:00:05 --vlan x", exitUsage, []string{"--vlan=x", "or any"}},
		{"queue -o xml", exitUsage, []string{"--output xml", "table or json"}},
		{"queue now", exitUsage, []string{"no argument", "now"}},
		{"quue", exitUsage, []string{"guest", "quue"}},
	} {
		args := append([]string{"guest"}, strings.Fields(c.args)...)
		if c.code != exitUsage {
			args = append(args, "--socket", a.path("web.vsock_8470"))
		}
		code, out, log := runHere(t.Context(), args...)
		if code != c.code || !hasAll(out+log, c.want...) {
			t.Errorf("vhostnet %v: exit code %d, output %q, log %q; want code %d with %q", args, code, out, log, c.code, c.want)
		}
	}
	code, _, log := runHere(t.Context(), "guest", "queue", "--socket", a.path("nobody"))
	if code != exitFailed || !hasAll(log, "no answer from "+a.path("nobody")) {
		t.Errorf("nobody at the socket: exit code %d, log %q", code, log)
	}
}
