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
//	                      accepted one frame
//
// A Busy frame waits at most the receiver's Wait from when it became Busy,
// whatever the receiver accepts meanwhile: one that takes a frame now and then
// slows its senders down, but does not hold up what they have for others.
//
// Frames of one sender to one port stay in order: what a port did not accept
// is a suffix of what it was handed, and is handed to it again before anything
// newer, because its sender takes no new frames until none is Busy.

// hold decides what becomes of rest, which p did not accept; moving says that
// it accepted others just now, and so is not stalled any more.
func (b *batch) hold(p *port, rest []*nbl.List, moving bool) {
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
		}
	}
}

// isOver reports whether l has waited for p as long as it may.
func (b *batch) isOver(p *port, l *nbl.List) bool {
	if p.wait < 0 {
		return true
	}
	return l.Status == nbl.Busy && b.now-l.Since >= p.wait
}
