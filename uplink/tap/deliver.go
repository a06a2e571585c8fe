package tap

import (
	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

// scratch is a worker's: a frame on its way out, and what completes one that the
// kernel could not.
type scratch struct {
	frame    [frameBytes]byte
	softener *nbl.Softener
}

func newScratch() *scratch {
	return &scratch{softener: nbl.NewSoftener(make([]byte, nbl.SoftenerBytes))}
}

// scratches are of all Uplinks: a worker writes one frame at a time.
var scratches = worker.NewSlot(newScratch)

// Deliver writes the frames to the device (vswitch.Port). It accepts all: what
// the kernel does not take is dropped and counted.
func (u *Uplink) Deliver(c *worker.Context, batch []*nbl.List) (accepted int, part bool) {
	if u.gone.Load() {
		u.counters.Drops.Add(metrics.ReasonBroken, uint64(len(batch)))
		return len(batch), false
	}
	s := scratches.Get(c)
	t := u.o.Queues[max(c.Worker(), 0)%len(u.o.Queues)]
	frames, bytes := uint64(0), uint64(0)
	for _, l := range batch {
		if reason := u.send(t, s, l); reason != metrics.ReasonNone {
			u.counters.Drops.Add(reason, 1)
			continue
		}
		frames++
		bytes += uint64(l.Length)
	}
	u.counters.RxFrames.Add(frames)
	u.counters.RxBytes.Add(bytes)
	return len(batch), false
}

// send writes one frame, in parts if the kernel does not know its offload.
func (u *Uplink) send(t *sys.TAP, s *scratch, l *nbl.List) metrics.Reason {
	if !nbl.Needed(l, nbl.UplinkFeatures) {
		return u.write(t, s, l)
	}
	s.softener.StartBurst()
	parts, ok := s.softener.Soften(l)
	if !ok || len(parts) == 0 {
		return metrics.ReasonSoftOffload
	}
	u.counters.SoftOffload.Add(1)
	for i := range parts {
		if reason := u.write(t, s, &parts[i]); reason != metrics.ReasonNone {
			return reason
		}
	}
	return metrics.ReasonNone
}

func (u *Uplink) write(t *sys.TAP, s *scratch, l *nbl.List) metrics.Reason {
	n := nbl.CopyOut(s.frame[:], l, headerLen)
	if n == 0 {
		return metrics.ReasonTooLong
	}
	switch t.Write(s.frame[:n]) {
	case sys.TAPTaken:
		return metrics.ReasonNone
	case sys.TAPFull:
		return metrics.ReasonNoBuffer
	case sys.TAPDown:
		return metrics.ReasonLinkDown
	case sys.TAPGone:
		u.broken()
		return metrics.ReasonBroken
	default:
		return metrics.ReasonHeader
	}
}
