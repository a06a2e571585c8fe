//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vsockLab is a guest in which vhostnet runs, a VM's front-end, and vhostnet
// guest, which call each other by AF_VSOCK: the module vsock_loopback makes CID 1
// the machine itself.
type vsockLab struct {
	t     *testing.T
	guest *Guest
	ctx   context.Context
}

// The guest channel over a real AF_VSOCK: who calls is known by the CID, sees
// its own port and sets filters for addresses of nobody.
func TestGuestChannelOverVsock(t *testing.T) {
	dir, ctx := t.TempDir(), within(t, 4*time.Minute)
	frontend := filepath.Join(dir, "frontend")
	must(t, Build(ctx, "integration/frontend", frontend))
	img, err := image.Server(ctx, dir, nil, map[string]string{"/usr/bin/vhostnet": binary, "/usr/bin/frontend": frontend})
	must(t, err)
	lab := startLab(t, GuestConfig{Name: "a", QEMU: machine.QEMU, Image: img, MemoryMiB: 384})
	l := &vsockLab{t: t, guest: lab.Guests[0], ctx: ctx}
	run(t, "WithoutVsock", func(t *testing.T) { l.in(t).withoutVsock() })
	l.must("modprobe", "vsock_loopback")
	daemon, err := l.guest.StartJob(ctx, "vhostnet", "run", "--workers", "1",
		"--port", "web=/run/web.sock,mac=52:54:00:00:01:01,guest-cid=1,guest=filters,guest-filters=2,mode=interrupt",
		"--port", "db=/run/db.sock,mac=52:54:00:00:01:02,guest-cid=77,guest=see,mode=interrupt")
	must(t, err)
	l.until("the daemon to answer", func() bool { _, err := l.ask("queue"); return err == nil })
	run(t, "Filters", func(t *testing.T) { l.in(t).filters() })
	run(t, "Stranger", func(t *testing.T) { l.in(t).stranger() })
	must(t, daemon.Stop(ctx))
	out, err := daemon.Wait(ctx)
	must(t, err)
	if !strings.Contains(out, "guest channel is open") {
		t.Errorf("the daemon's log: %s", out)
	}
}

// in is the lab for a part of the test.
func (l *vsockLab) in(t *testing.T) *vsockLab { return &vsockLab{t, l.guest, l.ctx} }

// ask runs vhostnet guest against CID 1.
func (l *vsockLab) ask(args ...string) (string, error) {
	return l.guest.Run(l.ctx, append(append([]string{"vhostnet", "guest"}, args...), "--cid", "1")...)
}

func (l *vsockLab) must(argv ...string) {
	l.t.Helper()
	_, err := l.guest.Run(l.ctx, argv...)
	must(l.t, err)
}

func (l *vsockLab) until(what string, ok func() bool) {
	l.t.Helper()
	must(l.t, pollEvery(l.ctx, 200*time.Millisecond, what, func() (bool, error) { return ok(), nil }))
}

// want runs a command that must print words.
func (l *vsockLab) want(args string, words ...string) {
	l.t.Helper()
	out, err := l.ask(strings.Fields(args)...)
	if err != nil || !containsAll(out, words) {
		l.t.Errorf("vhostnet guest %s: %v, printed %s; want %q", args, err, out, words)
	}
}

// refused runs a command that must fail, for a reason.
func (l *vsockLab) refused(args string, words ...string) {
	l.t.Helper()
	_, err := l.ask(strings.Fields(args)...)
	if err == nil || !containsAll(err.Error(), words) {
		l.t.Errorf("vhostnet guest %s: %v; want a refusal with %q", args, err, words)
	}
}

func containsAll(s string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}

// withoutVsock has a daemon run on a machine without AF_VSOCK, which has its
// modules put away: its log says so, and it serves all others.
func (l *vsockLab) withoutVsock() {
	_, err := l.guest.Shell(l.ctx, "mkdir /run/away && for f in $(find /lib/modules -name '*vsock*.ko*'); do mv $f /run/away; echo $f; done >/run/away/list")
	must(l.t, err)
	daemon, err := l.guest.StartJob(l.ctx, "vhostnet", "run", "--workers", "1",
		"--port", "web=/run/web.sock,guest-cid=1,guest-socket=/run/web.vsock,mode=interrupt")
	must(l.t, err)
	l.until("the daemon to answer at a socket", func() bool {
		out, err := l.guest.Run(l.ctx, "vhostnet", "guest", "queue", "--socket", "/run/web.vsock_8470")
		return err == nil && strings.Contains(out, "web")
	})
	l.refused("queue", "no answer from port 8470 of CID 1")
	must(l.t, daemon.Stop(l.ctx))
	out, err := daemon.Wait(l.ctx)
	must(l.t, err)
	if strings.Count(out, "no AF_VSOCK here") != 1 {
		l.t.Errorf("the daemon's log: %s", out)
	}
	_, err = l.guest.Shell(l.ctx, `while read f; do mv /run/away/${f##*/} $f; done </run/away/list`)
	must(l.t, err)
}

// filters goes through what a guest may do.
func (l *vsockLab) filters() {
	l.want("queue", "web", "52:54:00:00:01:01", "0 (shared)")
	l.refused("filters set 52:54:00:00:01:05", "no guest now")
	vm, err := l.guest.StartJob(l.ctx, "frontend", "/run/web.sock")
	must(l.t, err)
	l.until("the VM's queue to run", func() bool {
		out, err := l.ask("queue")
		return err == nil && strings.Contains(out, "Running")
	})
	events, err := l.guest.StartJob(l.ctx, "vhostnet", "guest", "events", "-o", "json", "--cid", "1")
	must(l.t, err)
	l.want("filters set 52:54:00:00:01:05", "52:54:00:00:01:05", "guest")
	l.want("filters set 52:54:00:00:01:06 --vlan 20", "52:54:00:00:01:06", "20", "guest")
	l.refused("filters set 52:54:00:00:01:07", "NDIS_STATUS_RESOURCES", "set 2 filters")
	l.want("filters clear 52:54:00:00:01:06 --vlan 20")
	l.refused("filters set 52:54:00:00:01:02", "address of another port")
	l.refused("filters clear 52:54:00:00:01:01", "origin: configuration")
	l.want("queue --buffers 128 -o json", `"suggested_buffers":128`, `"state":"Running"`)
	l.wantFilters("52:54:00:00:01:01 configuration", "52:54:00:00:01:05 guest")
	must(l.t, vm.Stop(l.ctx))
	_, err = vm.Wait(l.ctx)
	must(l.t, err)
	l.until("the end of the connection to be told", func() bool {
		out, err := events.Output(l.ctx)
		return err == nil && strings.Contains(out, `"kind":"disconnected"`)
	})
	l.wantFilters("52:54:00:00:01:01 configuration")
	must(l.t, events.Stop(l.ctx))
	_, err = events.Wait(l.ctx)
	must(l.t, err)
}

// wantFilters compares the filters of the port.
func (l *vsockLab) wantFilters(want ...string) {
	l.t.Helper()
	out, err := l.ask("filters", "-o", "json")
	must(l.t, err)
	var list []struct{ MAC, Origin string }
	must(l.t, json.Unmarshal([]byte(out), &list))
	var got []string
	for _, f := range list {
		got = append(got, f.MAC+" "+f.Origin)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		l.t.Errorf("filters %v, want %v", got, want)
	}
}

// stranger calls a daemon that knows no guest of this CID.
func (l *vsockLab) stranger() {
	daemon, err := l.guest.StartJob(l.ctx, "vhostnet", "run", "--workers", "1", "--guest-port", "9000",
		"--port", "other=/run/other.sock,guest-cid=77,mode=interrupt")
	must(l.t, err)
	l.until("the daemon to refuse", func() bool {
		_, err := l.ask("queue", "--port", "9000")
		return err != nil && containsAll(err.Error(), []string{"VM with CID 1 has no port here", "guest-cid=1", "NDIS_STATUS_NOT_ACCEPTED"})
	})
	must(l.t, daemon.Stop(l.ctx))
	_, err = daemon.Wait(l.ctx)
	must(l.t, err)
}
