package main

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

// Each back-end has a front-end of its own, and all of them are running programs
// of which all but one pair are stopped. A round is one window of each, a fraction of a second
// behind one another, so that a machine that changes changes for all; and a
// window begins with a loop that runs, not with a start.

const (
	windowSettle    = 50 * time.Millisecond
	windowContended = 0.06 // a window is left out from so much waiting on
)

// measureWindows measures every back-end under one combination in so many windows.
func (b *bench) measureWindows(ctx context.Context, names []label, what combination) (all []measurement, err error) {
	rigs := make([]*rig, 0, len(names))
	defer func() {
		for _, r := range rigs {
			r.resume() // a stopped program does not end
			err = errors.Join(err, r.finish(nil))
		}
	}()
	for _, l := range names {
		r, err := b.newRig(ctx, l.backend, what, nil)
		if err != nil {
			return nil, err
		}
		rigs = append(rigs, r)
		if err := r.begin(ctx); err != nil {
			return nil, err
		}
		r.pause()
	}
	for round := range b.options.windows {
		order := make([]int, len(rigs))
		for i := range order {
			order[i] = (i + round) % len(order)
		}
		if round/len(order)%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			m, err := rigs[i].window(ctx)
			m.Backend, m.Round = names[i].label, round+1
			if err != nil {
				return all, err
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// window lets a rig run for one window.
func (r *rig) window(ctx context.Context) (measurement, error) {
	m := measurement{Combination: r.what, InOrder: r.back.inOrder}
	r.resume()
	defer r.pause()
	p, err := r.observe(ctx, windowSettle, r.options.duration)
	if m.LeftOut = max(p.front, p.back) > windowContended; m.LeftOut {
		return m, nil // perhaps nothing moved at all
	}
	if err == nil {
		err = m.note(p)
	}
	return m, err
}

// pause stops both programs where they are.
func (r *rig) pause() { r.signalBoth(syscall.SIGSTOP) }

// resume lets them go on, and does nothing to those that run.
func (r *rig) resume() { r.signalBoth(syscall.SIGCONT) }

func (r *rig) signalBoth(s syscall.Signal) {
	if r.frontEnd != nil {
		r.frontEnd.signal(s)
	}
	r.back.signal(s)
}
