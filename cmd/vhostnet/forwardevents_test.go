package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vhostnet/control"
)

// forwardEvents are the events of a daemon with a user-mode network, but for those of
// VMs.
type forwardEvents struct {
	t      *testing.T
	stream *control.EventStream
}

func listenToForwards(t *testing.T, c *control.Client) *forwardEvents {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	stream, err := c.Events(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return &forwardEvents{t, stream}
}

// want reads as many events as are wanted and compares them: "KIND PORT", or "KIND
// PORT NETWORK/LISTEN/GUEST ORIGIN", and what is behind it is in the error.
func (f *forwardEvents) want(want ...string) {
	f.t.Helper()
	for i, w := range want {
		e, err := f.stream.Next()
		if err != nil {
			f.t.Fatalf("event %d of %q: %v", i, want, err)
		}
		got := e.Kind + " " + e.Port
		if e.Forward != nil {
			got += fmt.Sprintf(" %s/%s/%s %s", e.Forward.Network, e.Forward.Listen, e.Forward.Guest, e.Forward.Origin)
			if e.Forward.Port != e.Port {
				f.t.Errorf("%+v is of port %s", e.Forward, e.Port)
			}
		}
		if words, ok := strings.CutPrefix(w, got); !ok || !strings.Contains(e.Error, strings.TrimSpace(words)) || (words == "") != (e.Error == "") {
			f.t.Errorf("event %d is %s %q, want %s", i, got, e.Error, w)
		}
	}
}

// Ways in that come, go and cannot be had are told, whoever wants them and whichever
// way they go.
func TestForwardEvents(t *testing.T) {
	const guest, inUse = "/10.0.2.50:80", " address already in use"
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	file, hand := freeTCP(t), freeTCP(t)
	a := runNetworks(t, "user,forward=tcp/"+file+guest)
	events := listenToForwards(t, a.Client)
	a.says("forwards add tcp/"+hand+guest, hand)
	a.refuses(exitFailed, "forwards add tcp/"+busy.Addr().String()+guest, "address already in use")
	a.refuses(exitFailed, "forwards add tcp/127.0.0.1:0/10.9.9.9:80", "no guest's address") // which is no try to listen
	a.says("forwards remove tcp/" + file)
	a.says("forwards add udp/"+hand+guest, hand)
	a.must(a.removePort("internet"))
	events.want(
		"forward-added internet tcp/"+hand+guest+" control",
		"forward-failed internet tcp/"+busy.Addr().String()+guest+" control"+inUse,
		"forward-removed internet tcp/"+file+guest+" configuration",
		"forward-added internet udp/"+hand+guest+" control",
		"forward-removed internet tcp/"+hand+guest+" control",
		"forward-removed internet udp/"+hand+guest+" control",
		"port-removed internet")
	for note, e := range map[string]control.Event{
		"internet - - tcp/[::1]:80/10.0.2.50:80\n":            {Kind: control.EventForwardRemoved},
		"internet - - tcp/[::1]:80/10.0.2.50:80: no, never\n": {Kind: control.EventForwardFailed, Error: "no, never"},
	} {
		var out text
		e.Port, e.Forward = "internet", &control.Forward{Network: "tcp", Listen: "[::1]:80", Guest: "10.0.2.50:80", Port: "internet", Origin: "control"}
		a.must((&ctl{output: "table", out: &out}).tellOne(e))
		if line := strings.Join(strings.Fields(out.String()), " ") + "\n"; !strings.Contains(line, " "+e.Kind+" "+note) {
			t.Errorf("%q, want %q", line, note)
		}
	}
}

// A network that goes with very many forwards is told to the end.
func TestForwardEventsInABurst(t *testing.T) {
	const many = 600
	var spec strings.Builder
	spec.WriteString("user")
	for i := range many {
		fmt.Fprintf(&spec, ",forward=udp/127.0.0.1:0/10.0.2.50:%d", i+1)
	}
	a := runNetworks(t, spec.String())
	events := listenToForwards(t, a.Client)
	a.must(a.removePort("internet"))
	kinds := map[string]int{}
	for kinds[control.EventPortRemoved] == 0 {
		e, err := events.stream.Next()
		if err != nil {
			t.Fatalf("after %v: %v", kinds, err)
		}
		kinds[e.Kind]++
	}
	if kinds[control.EventForwardRemoved] != many || len(kinds) != 2 {
		t.Errorf("%v, want %d %s and one %s", kinds, many, control.EventForwardRemoved, control.EventPortRemoved)
	}
}

// So are those of a file that is read anew: what is taken back of a file that cannot
// be had as well.
func TestForwardEventsOfReload(t *testing.T) {
	const taken, refused, guest, inUse = "configuration is read anew", "is not taken", "/10.0.2.99:80", " address already in use"
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	at := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q", at)
	r := startReloader(t, settings, "a")
	ports, first, second := r.text(settings, "a"), freeTCP(t), freeTCP(t)
	one, two, none := "tcp/"+first+"/a:80", "tcp/"+second+guest, "tcp/"+busy.Addr().String()+guest
	events := listenToForwards(t, control.NewClient(at))
	said := func(list ...string) string { return ports + uplinkText("", list...) }
	of := func(kind string, list ...string) (words []string) {
		for _, f := range list {
			words = append(words, "forward-"+kind+" out "+f+" configuration")
		}
		return words
	}

	r.reload(said(one), taken)
	events.want(append([]string{"port-added out"}, of("added", one)...)...)
	r.reload(said(two), taken)
	events.want(append(of("removed", one), of("added", two)...)...)
	r.reload(said(one, none), refused)
	events.want(slices.Concat(of("removed", two), of("added", one), []string{of("failed", none)[0] + inUse}, of("removed", one), of("added", two))...)
	r.reload(ports+uplinkText("mtu = 9000", two, none), refused) // a network with what cannot be had, in the place of one that comes back
	events.want(slices.Concat(of("removed", two), []string{"port-removed out", of("failed", none)[0] + inUse, "port-added out"}, of("added", two))...)
	r.reload(ports, taken)
	events.want(append(of("removed", two), "port-removed out")...)
	r.end()
}
