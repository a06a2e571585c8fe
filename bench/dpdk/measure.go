package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// measurement is one back-end measured once under one combination.
type measurement struct {
	Backend     string      `json:"backend"`
	Combination combination `json:"combination"`
	Round       int         `json:"round"` // from 1
	Seconds     float64     `json:"seconds"`
	Doubt       float64     `json:"doubt"`        // how far Seconds may be off, as a part of it: the samples' own duration
	Mpps        float64     `json:"mpps"`         // frames forwarded by the back-end, both directions, in millions a second
	Gbps        float64     `json:"gbps"`         // their bits, from the Ethernet header on, in 10^9 a second
	FrontWaited float64     `json:"front_waited"` // how long the front-end waited for its core, as a part of Seconds
	BackWaited  float64     `json:"back_waited"`
	StartDrops  uint64      `json:"start_drops"`
	LeftOut     bool        `json:"left_out,omitempty"` // a window that is not to be quoted
	InOrder     bool        `json:"in_order"`           // IN_ORDER was negotiated
	Failure     string      `json:"failure,omitempty"`
}

// contended tells whether other programs used the two cores meanwhile.
func (m *measurement) contended() bool {
	return max(m.FrontWaited, m.BackWaited) > contended
}

const (
	settle    = 500 * time.Millisecond // from "start" to the first sample
	firstShot = 32                     // bursts of 32 that "start tx_first" sends into each queue
)

// measureAll runs every combination in rounds and writes the result to out.
// Within a round the back-ends follow each other, in changing order, so that a
// machine that grows slower or faster favours none.
func (b *bench) measureAll(ctx context.Context, out io.Writer) error {
	var all []measurement
	failures := 0
	labels := labels(b.options.backends)
	for _, what := range b.options.combinations() {
		if b.options.windows > 0 {
			more, ok := b.runWindows(ctx, labels, what)
			if all = append(all, more...); !ok {
				failures++
			}
			continue
		}
		for round := range b.options.runs {
			order := slices.Clone(labels)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, l := range order {
				m, err := b.measureUndisturbed(ctx, l, what, round+1)
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
				if err != nil {
					failures++
				}
				all = append(all, m)
			}
		}
	}
	if err := writeReport(out, b.options.format, labels, all); err != nil {
		return err
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d measurements failed", failures, len(all))
	}
	return nil
}

// measureUndisturbed measures, and again as often as patience allows when other
// programs used the cores meanwhile. The last measurement counts.
func (b *bench) measureUndisturbed(ctx context.Context, l label, what combination, round int) (measurement, error) {
	for tries := 0; ; tries++ {
		m, err := b.measure(ctx, l.backend, what)
		m.Backend, m.Round = l.label, round
		if err != nil {
			m.Failure = err.Error()
		}
		b.announce(m, err)
		if err != nil || !m.contended() || tries == b.options.patience {
			return m, err
		}
	}
}

// announce reports one measurement as it is made.
func (b *bench) announce(m measurement, err error) {
	if err != nil {
		b.logf("%s, round %d, %s: FAILED: %v", m.Combination, m.Round, m.Backend, err)
		b.logTails(err)
		return
	}
	b.logf("%s, round %d, %s: %.2f Mpps, %.2f Gbps (within %.1f %%; IN_ORDER %s; %d frames dropped at the start)",
		m.Combination, m.Round, m.Backend, m.Mpps, m.Gbps, m.Doubt*100, choose(m.InOrder, "on", "off"), m.StartDrops)
	if m.contended() {
		b.logf("    other programs used the cores: the front-end waited %.0f %% of the time, the back-end %.0f %%; the figure says little", m.FrontWaited*100, m.BackWaited*100)
	}
}

// logTails prints what the programs of a failed run printed last.
func (b *bench) logTails(err error) {
	if run, ok := errors.AsType[*runError](err); ok {
		b.logf("%s", run.tails)
	}
}

// runWindows is measureAll's way with -windows: what came before a failure is
// in the result too.
func (b *bench) runWindows(ctx context.Context, names []label, what combination) ([]measurement, bool) {
	all, err := b.measureWindows(ctx, names, what)
	if err != nil {
		b.logf("%s: FAILED: %v", what, err)
		b.logTails(err)
	}
	return all, err == nil
}

// measure makes one run with fresh processes.
func (b *bench) measure(ctx context.Context, backend string, what combination) (measurement, error) {
	m := measurement{Combination: what}
	r, err := b.newRig(ctx, backend, what, nil)
	if err != nil {
		return m, err
	}
	err = r.loop(ctx, &m)
	return m, r.finish(err)
}

// begin sends frames round.
func (r *rig) begin(ctx context.Context) error {
	lines := []string{fmt.Sprintf("set txpkts %d", r.what.Size)}
	if !r.what.Flood { // unset, the destinations are 02:00:00:00:00:00 and :01, which nobody owns
		lines = append(lines, "set eth-peer 0 "+macs[1], "set eth-peer 1 "+macs[0])
	}
	lines = append(lines, fmt.Sprintf("start tx_first %d", firstShot))
	if r.back.settled != nil {
		if err := r.back.settled(ctx); err != nil {
			return err
		}
	}
	return r.frontEnd.commands(ctx, lines...)
}

// loop sends frames round and takes the difference of two samples.
func (r *rig) loop(ctx context.Context, m *measurement) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	p, err := r.observe(ctx, settle, r.options.duration)
	if err != nil {
		return err
	}
	if err := m.note(p); err != nil {
		return err
	}
	m.InOrder = r.back.inOrder
	if m.StartDrops, err = r.frontEnd.forwardDropped(ctx); err != nil {
		return err
	}
	return r.frontEnd.commands(ctx, "stop")
}

// note makes m of what passed.
func (m *measurement) note(p passage) error {
	if err := p.checkSize(m.Combination.Size); err != nil {
		return err
	}
	if p.errors > 0 {
		return fmt.Errorf("the front-end counted %d receive or transmit errors", p.errors)
	}
	m.Seconds, m.Doubt = p.seconds, p.doubt
	m.FrontWaited, m.BackWaited = p.front, p.back
	m.Mpps = float64(p.frames) / p.seconds / 1e6
	m.Gbps = float64(p.bytes) * 8 / p.seconds / 1e9
	return nil
}
