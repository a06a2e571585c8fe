package vhostuser

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
)

// errNoLog says that a ring is to be logged and there is no log yet.
var errNoLog = errors.New("vhostuser: writes are to be noted in a dirty log, which has not come yet")

// LogBase is the payload of SET_LOG_BASE and of its reply.
type LogBase struct {
	Size   uint64 // bytes of the log
	Offset uint64 // of the log in the descriptor that comes with it
}

// Marshal gives the 16 bytes of l.
func (l LogBase) Marshal() []byte {
	return order.AppendUint64(order.AppendUint64(nil, l.Size), l.Offset)
}

// Unmarshal reads l from 16 bytes.
func (l *LogBase) Unmarshal(b []byte) error {
	if err := exactly(b, 16, "log base"); err != nil {
		return err
	}
	*l = LogBase{Size: order.Uint64(b), Offset: order.Uint64(b[8:])}
	return nil
}

// setLogBase: the log of a migration, or another one in its place: front-ends
// repeat it per queue pair, with each growth of memory, or at each look at the
// log. When it is answered nobody writes to the log before. The reply is what
// was asked for, which every front-end takes.
func (s *session) setLogBase(m *message) ([]byte, error) {
	var v LogBase
	if err := v.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	if len(m.fds) != 1 {
		return nil, errors.New("vhostuser: SET_LOG_BASE without the descriptor of the log")
	}
	file, err := sharedmem.OpenFile(m.take(0))
	if err != nil {
		return nil, err
	}
	defer file.Unref() // the log has its own reference
	log, err := sharedmem.NewDirtyLog(file, v.Offset, v.Size, sharedmem.MapOptions{Owner: s.srv.o.Name + " dirty log", Budget: s.srv.budget})
	if err != nil {
		return nil, err
	}
	if last := s.memory.last(); !log.Covers(last) {
		log.Unref()
		return nil, fmt.Errorf("vhostuser: a dirty log of %d bytes has no bit for guest address %#x, where memory ends", v.Size, last)
	}
	defer s.dirtyLog.Unref() // the one before
	s.dirtyLog = log
	s.remake((*session).logged)
	s.log(hclog.Debug, "dirty log set", "bytes", v.Size)
	return v.Marshal(), nil
}

// last is the guest's last address.
func (m *memory) last() (gpa uint64) {
	for i := range m.table {
		gpa = max(gpa, m.table[i].GPA+(m.table[i].Size-1))
	}
	return gpa
}

// logged reports whether the writes of ring r are to be noted.
func (s *session) logged(r *ring) bool { return s.logAll || r.addr.Flags&AddrFlagLog != 0 }

// setLogAll takes bit 26 of the features, which comes and goes on running rings
// and is no change of the driver's. When logging ends, the log does: the next
// migration brings its own.
func (s *session) setLogAll(on bool) {
	if on == s.logAll {
		return
	}
	s.logAll = on
	s.remake(func(*session, *ring) bool { return true })
	if !on {
		s.dropLog(s.logging)
	}
	s.log(hclog.Info, "dirty logging", "on", on)
}

// dropLog lets the log go unless a ring has a use for it.
func (s *session) dropLog(use func(*ring) bool) {
	for i := range s.rings {
		if use(&s.rings[i]) {
			return
		}
	}
	s.dirtyLog.Unref()
	s.dirtyLog = nil
}

// logging reports whether r writes to the log, or waits for it.
func (s *session) logging(r *ring) bool { return r.state != stopped && s.logged(r) }

// live reports whether r has been set up.
func (r *ring) live() bool { return r.state != stopped }

// remake gives those rings that have, or wait for, a Queue another one. A ring
// that fails has told by its error event, and costs only itself.
func (s *session) remake(which func(*session, *ring) bool) {
	for i := range s.rings {
		switch r := &s.rings[i]; {
		case !which(s, r):
		case r.state == running:
			_ = s.replace(r)
		case r.state == parked:
			r.retry = true
		}
	}
}

// logInto makes the ring's Queue note what it writes. The ring's own words are
// noted where its flag says, or where they lie.
func (s *session) logInto(r *ring, c *virtqueue.Config) error {
	if !s.logged(r) {
		return nil
	}
	if s.dirtyLog == nil {
		return errNoLog
	}
	c.Log, c.LogUsed = s.dirtyLog, r.addr.Log
	if r.addr.Flags&AddrFlagLog == 0 {
		c.LogUsed, _ = s.memory.current.GuestAddress(c.Used) // it lies there: the caller has found it
	}
	return nil
}

// waits reports whether err only says that something has not come yet.
func waits(err error) bool { return errors.Is(err, sharedmem.ErrUnmapped) || errors.Is(err, errNoLog) }
