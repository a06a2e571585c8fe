package vswitch

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// A receiver without room makes its sender wait, but not for long:
//
//	                    accepted none, and a
//	                    frame's Wait is over
//	           moving ------------------------> stalled
//	   the rest is Busy <---------------------- the rest is dropped at once
//	                      accepted one frame,
//	                      or a part of one
//
// A Busy frame waits at most the receiver's Wait from when it became Busy,
// whatever the receiver accepts meanwhile: one that takes a frame now and then
// slows its senders down, but does not hold up what they have for others. A
// packet that the receiver takes in parts gets another Wait after each part,
// maxRenewals at most.
//
// Frames of one sender to one port stay in order: what a port did not accept
// is a suffix of what it was handed, and is handed to it again before anything
// newer, because its sender takes no new frames until none is Busy.

// maxRenewals bounds how long a packet is waited for that a receiver takes in
// small parts: without it, one that posts a buffer now and then could hold a
// sender for as many Waits as a packet has segments.
const maxRenewals = 8

// hold decides what becomes of rest, which p did not accept; moving says that
// it accepted others just now, part that it accepted a part of the first of
// rest. In both cases it is not stalled any more.
func (b *batch) hold(p *port, rest []*nbl.List, moving, part bool) {
	if part {
		b.renew(rest[0])
		moving = true
	}
	if p.stalled.Load() {
		b.dropAll(rest, metrics.ReasonStalled)
		return
	}
	waited := 0
	for waited < len(rest) && b.isOver(p, rest[waited]) {
		waited++
	}
	b.dropAll(rest[:waited], metrics.ReasonNoBuffer)
	rest = rest[waited:]
	if waited > 0 && !moving {
		if !p.stalled.Swap(true) {
			p.counters.Stalls.Add(1)
		}
		b.dropAll(rest, metrics.ReasonStalled)
		return
	}
	for _, l := range rest {
		if l.Status != nbl.Busy {
			l.Status = nbl.Busy
			l.Since = b.now
			l.Renewed = 0
		}
	}
}

// renew begins another wait for a packet that made progress.
func (b *batch) renew(l *nbl.List) {
	if l.Status == nbl.Busy && l.Renewed < maxRenewals {
		l.Since = b.now
		l.Renewed++
	}
}

// isOver reports whether l has waited for p as long as it may.
func (b *batch) isOver(p *port, l *nbl.List) bool {
	if p.wait < 0 {
		return true
	}
	return l.Status == nbl.Busy && b.now-l.Since >= p.wait
}
