package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/control"
	"vhostnet/queues"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// portOf is a port as the control API tells it.
func portOf(t *testing.T, c *control.Client, name string) control.Port {
	t.Helper()
	list, err := c.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(list, func(p control.Port) bool { return p.Name == name })
	if at < 0 {
		t.Fatalf("no port %s: %+v", name, list)
	}
	return list[at]
}

// A port that was added at run time under the name of one of the file is not the
// file's: nothing that the file says of its own changes, replaces or removes it.
func TestReloadLeavesPortsOfOthers(t *testing.T) {
	const taken = "configuration is read anew"
	at := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q", at)
	r, client := startReloader(t, settings, "a", "web"), control.NewClient(at)
	if err := client.RemovePort(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(r.dir, "other")
	options := map[string]string{"switch": "s2", "mac": "52:54:00:00:00:77"}
	if _, err := client.AddPort(t.Context(), control.PortRequest{Name: "web", Socket: socket, Options: options}); err != nil {
		t.Fatal(err)
	}
	web := connect(t, socket, vutest.Options{})
	as := func(what string) {
		t.Helper()
		p := portOf(t, client, "web")
		if !p.Connected || p.Socket != socket || p.MAC != options["mac"] || p.Options["switch"] != "s2" || p.Options["vlan"] != "" || p.Options["inflight"] != "" {
			t.Errorf("%s: %+v", what, p)
		}
	}
	for _, options := range []string{"vlan=7", "inflight=true"} {
		r.reload(r.text(settings, "a", "web,"+options), "ERROR", "is not taken", `port \"web\"`, "added at run time", "ports remove web")
		as("with " + options)
	}
	if portOf(t, client, "a").Options["vlan"] != "" {
		t.Error("a port was changed by a file that is not taken")
	}
	r.reload(r.text(settings, "a,vlan=7", "web"), taken, "changed=1")
	as("said as before")
	r.reload(r.text(settings, "a"), taken, "removed=0", "changed=1")
	as("not in the file any more")
	if r.logged("added at run time and stays", "port=web") != 1 {
		t.Error("the log does not say that the port stays")
	}
	r.reload(r.text(settings, "a", "web"), "ERROR", "is not taken", "added at run time", "ports remove web")
	as("in the file again")
	if n := r.logged("front-end disconnected"); n != 0 {
		t.Errorf("%d front-ends were disconnected", n)
	}
	web.Close()
	r.end()
}

// A port of a file that names no switch is on the one without a name, whatever others
// have added.
func TestReloadGuessesNoSwitch(t *testing.T) {
	at := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q", at)
	r, client := startReloader(t, settings, "a"), control.NewClient(at)
	request := control.PortRequest{Name: "x", Socket: filepath.Join(r.dir, "x"), Options: map[string]string{"switch": "s2"}}
	if _, err := client.AddPort(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := client.RemovePort(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r.reload(r.text(settings, "a", "b", "c"), "configuration is read anew", "added=2")
	for _, name := range []string{"b", "c"} {
		if p := portOf(t, client, name); p.Options["switch"] != "" {
			t.Errorf("port %s is on switch %s", name, p.Options["switch"])
		}
	}
	b, c := r.connect("b"), r.connect("c")
	exchangeAs(t, b, c, 'c', 'b', 2)
	r.reload(r.text(settings, "a", "b,vlan=7", "c,vlan=7"), "configuration is read anew", "changed=2")
	exchangeAs(t, b, c, 'c', 'b', 2)
	r.end()
}

// Ports that are apart before and after a change are so in between, in whichever
// order they get what is new.
func TestStepsOfAChangeKeepPortsApart(t *testing.T) {
	spec := func(options ...string) portSpec {
		p := portSpec{}
		for _, o := range options {
			key, value, _ := strings.Cut(o, "=")
			if err := p.option(key, value); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	list := []portSpec{
		spec(), spec("vlan=7"), spec("vlan=8"), spec("trunk=7"), spec("trunk=7+8"), spec("trunk=8+9", "native=7"), spec("trunk=8", "native=9"),
		spec("protected=on"), spec("vlan=7", "protected=on"),
	}
	// share: frames of one may get to the other.
	share := func(a, b portSpec) bool { return a.meets(b.switching) && (!a.protected || !b.protected) }
	var changes []portChange
	for _, was := range list {
		for _, is := range list {
			changes = append(changes, portChange{was: was, is: is})
		}
	}
	tried := 0
	for _, a := range changes {
		for _, b := range changes {
			if share(a.was, b.was) || share(a.is, b.is) {
				continue
			}
			tried++
			half, _ := a.parts(4094)
			other, _ := b.parts(4094)
			for _, pair := range [][2]portSpec{{half.is, b.was}, {half.is, other.is}, {a.is, other.is}} {
				if share(pair[0], pair[1]) {
					t.Fatalf("%+v to %+v, and %+v to %+v, meet as %+v and %+v", a.was.switching, a.is.switching, b.was.switching, b.is.switching, pair[0].switching, pair[1].switching)
				}
			}
		}
	}
	if tried < 100 {
		t.Errorf("only %d pairs are apart", tried)
	}
	keeps := portChange{was: spec("trunk=7+8", "native=9"), is: spec("trunk=8+10", "native=9")}
	if lose, _ := keeps.parts(4094); !slices.Equal(lose.is.vlan.Trunk, []uint16{8}) || lose.is.vlan.Native != 9 || lose.is.protected {
		t.Errorf("what is in both: %+v", lose.is.switching)
	}
}

// The VLAN of ports that have none in both is nobody's.
func TestVLANApart(t *testing.T) {
	r := runDaemon(t, "a,vlan=4094", "b,trunk=1-4094")
	p := &plan{change: []portChange{{is: portSpec{switching: switching{vlan: vswitch.VLANOptions{Access: 4093}}}}}}
	p.add = []portSpec{{switching: switching{vlan: vswitch.VLANOptions{Trunk: []uint16{4092}}}}}
	if id := r.vlanApart(p); id != 4091 {
		t.Errorf("VLAN %d", id)
	}
	r.must(r.add("c,trunk=2-4094"))
	r.must(r.add("d,vlan=1"))
	if id := r.vlanApart(p); id != 0 {
		t.Errorf("VLAN %d, and all are somebody's", id)
	}
}

// When a plan is carried out no worker goes by the options of before.
func TestFollowWaitsForWorkers(t *testing.T) {
	r := runDaemon(t, "a")
	p := r.ports.find("a")
	is := *p.spec()
	is.vlan.Access = 7
	begun, ended := make(chan struct{}), make(chan error, 1)
	var left atomic.Bool
	changed := func() bool { return p.spec().vlan.Access == 7 }
	go func() {
		ended <- r.group.Workers()[0].Do(t.Context(), func(*worker.Context) {
			close(begun)
			for range 10_000 {
				if changed() {
					break
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(20 * time.Millisecond) // still with what it has loaded
			left.Store(true)
		})
	}()
	<-begun
	r.must(r.follow(&plan{change: []portChange{{was: *p.spec(), is: is}}}))
	if !changed() || !left.Load() {
		t.Errorf("changed: %v, the worker has left: %v", changed(), left.Load())
	}
	r.must(<-ended)
}

// A port that leaves gets no copies any more, and that one has gone fails no change.
func TestChangeOfMirrors(t *testing.T) {
	r := runDaemon(t, "a", "w,sink=on")
	was := *r.ports.find("a").spec()
	is := was
	is.mirror = "w"
	w, err := r.ports.leave("w")
	r.must(err)
	if err := r.changePort(portChange{was: was, is: is}); err == nil || !strings.Contains(err.Error(), "mirror=w") {
		t.Errorf("a port that leaves gets copies: %v", err)
	}
	r.ports.mu.Lock()
	w.leaving = false
	r.ports.mu.Unlock()
	r.ports.changes.Done()
	r.must(r.changePort(portChange{was: was, is: is}))
	gone := is
	gone.mirror = "nobody"
	r.must(r.changePort(portChange{was: gone, is: was}))
	r.must(r.removePort("w"))
}

// A port that others are about to be copied to does not leave, from when the change
// has looked for it.
func TestMirrorIsClaimed(t *testing.T) {
	r := runDaemon(t, "a", "w,sink=on")
	connect(t, r.path("a"), vutest.Options{})
	was := *r.ports.find("a").spec()
	is := was
	is.mirror, is.mode = "w", worker.Poll
	held, released := make(chan struct{}), make(chan struct{})
	changed, let := make(chan error, 1), make(chan error, 1)
	go func() {
		let <- r.group.Workers()[0].Do(t.Context(), func(*worker.Context) {
			close(held)
			<-released
		})
	}()
	<-held
	go func() { changed <- r.changePort(portChange{was: was, is: is}) }() // which takes rings from the worker
	waitFor(t, "the switch to be told", func() bool {
		return slices.ContainsFunc(r.vswitch.Ports(), func(p vswitch.PortInfo) bool { return p.Options.Mirror != 0 })
	})
	if len(changed) > 0 || r.ports.find("a").spec().mirror != "" {
		t.Error("the change did not wait for the worker")
	}
	w, err := r.ports.leave("w")
	if err == nil || !strings.Contains(err.Error(), "port a are copied to port w") {
		t.Errorf("a port that another one is about to be copied to leaves: %v", err)
	}
	if w != nil {
		r.ports.drop(w)
		r.ports.changes.Done()
	}
	close(released)
	r.must(<-let)
	r.must(<-changed)
	r.must(r.changePort(portChange{was: is, is: was}))
	r.must(r.removePort("w"))
}

// The link of a port that leaves is refused with one status.
func TestLinkOfALeavingPort(t *testing.T) {
	a := runAPI(t, "a", "b")
	a.vswitch.Detach(a.ports.find("b").vm.device.Port())
	_, err := a.SetLink(t.Context(), "b", false)
	e, ok := errors.AsType[*control.Error](err)
	if !ok || e.Message != "port b is being removed" || e.Status != queues.StatusInvalidParameter.String() {
		t.Errorf("%v", err)
	}
}

// What a change in place tells a port leaves what it is made of.
func TestToldKeepsWhatItIsMadeOf(t *testing.T) {
	p := portSpec{path: "/p", mac: [6]byte{2}, switching: switching{network: "s"}}
	is := portSpec{path: "/q", mac: [6]byte{4}, mode: worker.Poll, switching: switching{network: "t", protected: true}, uplink: &uplinkSpec{}}
	if now := p.told(is); now.path != "/p" || now.mac != p.mac || now.network != "s" || now.uplink != nil || !now.protected || now.mode != worker.Poll {
		t.Errorf("%+v, %v", now, net.HardwareAddr(now.mac[:]))
	}
}
