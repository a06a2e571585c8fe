//go:build integration

package integration

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// conformTime bounds one run of all scenarios; a back-end that hangs in each
// takes longest.
const conformTime = 8 * time.Minute

// vhostnet does all that front-ends need of it.
func TestConformVhostnet(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), conformTime)
	defer cancel()
	dir := t.TempDir()
	b := &Backend{Binary: binary, Log: filepath.Join(dir, "vhostnet.log"), Ports: []Port{
		{Name: "a", Socket: filepath.Join(dir, "a"), Inflight: true}, {Name: "b", Socket: filepath.Join(dir, "b")},
	}}
	defer b.Close()
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := Conform(ctx, binary, b.Ports[0].Socket, b.Ports[1].Socket)
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, out := range list {
		switch out.Result {
		case "pass":
			passed++
		case "fail":
			t.Errorf("%s (%s): %s", out.Name, out.About, out.Detail)
		default:
			t.Logf("%s: %s: %s", out.Name, out.Result, out.Detail)
		}
	}
	if passed < 60 {
		t.Errorf("%d scenarios passed, want 60 at least", passed)
	}
	if err := b.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// DPDK's back-end is asked the same; what it fails is for docs/conformance.md,
// and the last scenario may end it. That most hold shows that the scenarios ask for what
// back-ends do, and not for what vhostnet does.
func TestConformNetVhost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), conformTime)
	defer cancel()
	dir := t.TempDir()
	n := &NetVhost{Dir: dir, Sockets: [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}}
	defer n.Close()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := Conform(ctx, binary, n.Sockets[0], n.Sockets[1])
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, out := range list {
		if out.Result == "pass" {
			passed++
		} else {
			t.Logf("%s: %s: %s", out.Name, out.Result, out.Detail)
		}
	}
	if passed < 40 {
		t.Errorf("%d scenarios of %d passed, want 40 at least", passed, len(list))
	}
}
