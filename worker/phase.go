package worker

import "sync/atomic"

// phase is what others may know of a worker: its epoch, the number of rounds
// begun, and whether it runs. Only the worker stores it, except for end of a
// worker that never ran.
type phase struct {
	_    [64]byte // read by others while the worker writes: a line of its own
	word atomic.Uint64
	_    [64]byte
}

// phaseWord is one value of a phase: epoch<<phaseBits | state. At 10 ns a round
// the epoch wraps after 1400 years.
type phaseWord uint64

const (
	phaseEnded  phaseWord = iota // not started yet, or ended: holds nothing
	phaseAwake                   // in a round
	phaseAsleep                  // in epoll or on the way there: holds nothing
	phaseBits   = 2
	phaseMask   = 1<<phaseBits - 1
)

func (p phaseWord) epoch() uint64    { return uint64(p >> phaseBits) }
func (p phaseWord) state() phaseWord { return p & phaseMask }

func (p *phase) load() phaseWord { return phaseWord(p.word.Load()) }

func (p *phase) set(epoch uint64, s phaseWord) {
	p.word.Store(epoch<<phaseBits | uint64(s))
}

func (p *phase) next()  { p.set(p.load().epoch()+1, phaseAwake) }
func (p *phase) sleep() { p.set(p.load().epoch(), phaseAsleep) }
func (p *phase) wake()  { p.set(p.load().epoch(), phaseAwake) }
func (p *phase) end()   { p.set(p.load().epoch(), phaseEnded) }
