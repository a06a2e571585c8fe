package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The back-ends' names, as -backend takes them.
const (
	vhostnetBackend = "vhostnet"
	dpdkBackend     = "dpdk"
	ovsBackend      = "ovs"
	bareBackend     = "bare"  // bench/bare: nothing but rings and the copy
	ringsBackend    = "rings" // the same without the copy
)

// backends are all of them.
var backends = []string{vhostnetBackend, dpdkBackend, ovsBackend, bareBackend, ringsBackend}

// back is a running back-end, listening on the rig's two sockets.
type back struct {
	*process
	end    func() error // ends it, within bounds
	report func()       // has it print its counters, for the tail of a failed run
	// settled waits until it forwards in both directions; nil: it does as soon as
	// the front-end is connected.
	settled func(ctx context.Context) error
	inOrder bool // it offered IN_ORDER and the front-end took it
}

// startBackEnd starts the back-end, of the binary named behind its name or the usual
// one, and waits until both sockets are there.
func (r *rig) startBackEnd(ctx context.Context, name string) (*back, error) {
	kind, binary, _ := strings.Cut(name, "=")
	switch kind {
	case dpdkBackend:
		return r.startNetVhost(ctx)
	case ovsBackend:
		return r.startOVS(ctx)
	case bareBackend:
		return r.startBare(ctx, cmp.Or(binary, r.machine.bare))
	case ringsBackend:
		return r.startBare(ctx, cmp.Or(binary, r.machine.bare), "-copy=false")
	}
	return r.startVhostnet(ctx, cmp.Or(binary, r.machine.vhostnet))
}

// startVhostnet starts one worker on the back-end's core.
func (r *rig) startVhostnet(ctx context.Context, binary string) (*back, error) {
	argv := []string{binary, "run", "--workers", "1", "--cpus", strconv.Itoa(r.options.backCore)}
	for i, name := range []string{"a", "b"} {
		port := name + "=" + r.sockets[i]
		if r.options.portOptions != "" {
			port += "," + r.options.portOptions
		}
		if r.options.server {
			port += ",role=connect"
		}
		argv = append(argv, "--port", port)
	}
	p, err := startProcess("vhostnet", nil, append(argv, r.options.vhostnetArgs...)...)
	if err != nil {
		return nil, err
	}
	b := &back{process: p, end: p.terminate, report: func() {
		p.signal(syscall.SIGUSR1)
		time.Sleep(300 * time.Millisecond) // the answer has no end to wait for
	}}
	if r.options.server {
		return b, nil
	}
	return b, r.waitForSockets(ctx, p)
}

// startBare starts the program that is what a back-end cannot do without.
func (r *rig) startBare(ctx context.Context, binary string, flags ...string) (*back, error) {
	argv := append([]string{binary, "-cpu", strconv.Itoa(r.options.backCore)}, flags...)
	p, err := startProcess("bare", nil, append(argv, r.sockets[:]...)...)
	if err != nil {
		return nil, err
	}
	return &back{process: p, end: p.terminate, report: func() {}}, r.waitForSockets(ctx, p)
}

// startNetVhost starts DPDK's own back-end: it forwards one port to the other
// without looking at a frame, and makes two copies of each.
func (r *rig) startNetVhost(ctx context.Context) (*back, error) {
	var devices []string
	for i, path := range r.sockets {
		devices = append(devices, fmt.Sprintf("net_vhost%d,iface=%s,queues=%d", i, path, r.what.Queues))
	}
	t, err := r.startTestpmd(testpmdOptions{
		name: "DPDK's back-end", role: "be", core: r.options.backCore, queues: r.what.Queues,
		vdevs: devices,
		flags: []string{"--auto-start"},
	})
	if err != nil {
		return nil, err
	}
	b := &back{process: t.process, end: t.quit, report: func() {
		_, _ = t.command(ctx, "show fwd stats all") // for the tail only: there a missing answer is visible too
	}}
	if _, err := t.ready(ctx); err != nil {
		return b, err
	}
	return b, r.waitForSockets(ctx, t.process)
}

// waitForSockets waits until the back-end has bound both sockets.
func (r *rig) waitForSockets(ctx context.Context, p *process) error {
	timeout := time.NewTimer(startLimit)
	defer timeout.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !isSocket(r.sockets[0]) || !isSocket(r.sockets[1]) {
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended (%v) before its sockets were there", p.name, p.cmd.ProcessState)
		case <-timeout.C:
			return fmt.Errorf("%s did not make its sockets within %v", p.name, startLimit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}
