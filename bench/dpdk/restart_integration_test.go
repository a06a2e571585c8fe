//go:build integration

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestRestart kills DPDK's front-end and vhostnet, one at a time, while frames
// go round and while they do not, in both roles at the sockets. What is killed is
// started again, and frames must go round again.
func TestRestart(t *testing.T) {
	binary := buildVhostnet(t)
	// A front-end that connects does so once: when the back-end is gone it has to
	// be started again as well.
	t.Run("VhostnetListens", func(t *testing.T) {
		restart(t, binary, false, false, []func(*rig, context.Context) error{(*rig).killFrontEnd, (*rig).killBoth})
	})
	t.Run("VhostnetConnects", func(t *testing.T) {
		restart(t, binary, true, false, []func(*rig, context.Context) error{(*rig).killFrontEnd, (*rig).killBackEnd, (*rig).killBackEnd})
	})
	t.Run("InOrder", func(t *testing.T) {
		restart(t, binary, true, true, []func(*rig, context.Context) error{(*rig).killBackEnd})
	})
}

// restartTime bounds each half of TestRestart.
const restartTime = 3 * time.Minute

func restart(t *testing.T, binary string, server, inOrder bool, kills []func(*rig, context.Context) error) {
	ctx, cancel := context.WithTimeout(t.Context(), restartTime)
	defer cancel()
	o, err := parseOptions([]string{"-check", "-vhostnet", binary}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	o.server = server
	m, err := inspectMachine(o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{options: o, machine: m, progress: t.Output()}
	what := combination{Size: 256, Queues: 1, Ring: ringSize, Mergeable: true, InOrder: inOrder}
	r, err := b.newRig(ctx, vhostnetBackend, what, nil)
	if err == nil {
		if r.back.inOrder != inOrder {
			t.Errorf("IN_ORDER is negotiated: %t", r.back.inOrder)
		}
		err = r.finish(r.restarts(ctx, kills))
	}
	if failed, ok := errors.AsType[*runError](err); ok {
		t.Log(failed.tails)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// restarts does each of kills twice, in traffic and in silence.
func (r *rig) restarts(ctx context.Context, kills []func(*rig, context.Context) error) error {
	if err := r.awaitTraffic(ctx); err != nil {
		return fmt.Errorf("before any restart: %w", err)
	}
	for i, kill := range kills {
		for _, quiet := range []bool{false, true} {
			if quiet {
				if err := r.frontEnd.commands(ctx, "stop"); err != nil {
					return err
				}
			}
			if err := kill(r, ctx); err != nil {
				return fmt.Errorf("kill %d, quiet: %t: %w", i, quiet, err)
			}
			if err := r.awaitTraffic(ctx); err != nil {
				return fmt.Errorf("after kill %d, quiet: %t: %w", i, quiet, err)
			}
		}
	}
	return nil
}

// awaitTraffic sends frames, as often as it takes, until they go round: a
// connection takes a moment to come back.
func (r *rig) awaitTraffic(ctx context.Context) error {
	for {
		// Not an error where nothing is being forwarded.
		_, _ = r.frontEnd.command(ctx, "stop")
		err := r.frontEnd.commands(ctx, fmt.Sprintf("set eth-peer 0 %s", macs[1]), fmt.Sprintf("set eth-peer 1 %s", macs[0]),
			fmt.Sprintf("start tx_first %d", firstShot))
		if err != nil {
			return err
		}
		if _, err = r.observe(ctx, look, look); err == nil {
			return nil
		}
		if r.frontEnd.ended() || r.back.ended() || ctx.Err() != nil {
			return err
		}
	}
}

func (r *rig) killFrontEnd(ctx context.Context) error {
	kill(r.frontEnd.process)
	if r.options.server {
		// DPDK refuses to start on the sockets that were left.
		for _, socket := range r.sockets {
			if err := os.Remove(socket); err != nil {
				return err
			}
		}
	}
	var err error
	r.frontEnd, err = r.startFrontEnd(ctx, nil)
	return err
}

func (r *rig) killBackEnd(ctx context.Context) error {
	kill(r.back.process)
	var err error
	r.back, err = r.startBackEnd(ctx, vhostnetBackend)
	return err
}

func (r *rig) killBoth(ctx context.Context) error {
	return errors.Join(r.killBackEnd(ctx), r.killFrontEnd(ctx))
}

// kill ends a process as a crash would.
func kill(p *process) {
	p.signal(syscall.SIGKILL)
	<-p.done
}
