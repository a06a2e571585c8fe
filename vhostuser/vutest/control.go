package vutest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// Command is one of a guest's control queue.
type Command struct {
	Data []byte // class, number in the class, and what follows

	// Parts spreads the command evenly over so many descriptors; 0 is 1.
	Parts int
	// NoRoom leaves out the descriptor for the acknowledgement.
	NoRoom bool
}

// errNoControl is the answer of a guest that has no control queue.
var errNoControl = errors.New("vutest: the guest has no control queue; it takes Guest.Control, a front-end that forwards it and a back-end that offers it")

// Control gives the back-end a command by the guest's control queue and waits
// for its acknowledgement, as long as Options.Timeout. Without room for one the
// answer is 0.
func (f *FrontEnd) Control(c Command) (ack uint8, err error) {
	if f.ctrl == nil {
		return 0, errNoControl
	}
	r := f.ctrl
	r.lock()
	defer r.unlock()
	end := time.Now().Add(f.o.Timeout)
	err = sharedmem.Guard(func() error {
		defer r.drv.NoCalls()
		ack, err = r.control(c, end)
		return err
	})
	return ack, err
}

// control gives the device one command and waits until it comes back.
func (r *ring) control(cmd Command, end time.Time) (ack uint8, err error) {
	c, err := r.command(cmd)
	if err != nil {
		return 0, err
	}
	defer func() { r.forget(c) }()
	if err := r.add(c, false, 0); err != nil {
		return 0, err
	}
	r.publish()
	if err := r.await(end); err != nil {
		return 0, err
	}
	_, length, err := r.take()
	switch {
	case err != nil || cmd.NoRoom && length == 0:
		return 0, err
	case length != 1:
		return 0, fmt.Errorf("vutest: ring %d: %d bytes were written for a command, says its used entry; the acknowledgement has 1", r.index, length)
	}
	var b [1]byte
	err = r.mem.read(c.buffers[len(c.buffers)-1].GPA, b[:])
	return b[0], err
}

// unanswered is in the place of an acknowledgement until the device writes it.
const unanswered = 0xa5

// command lays a command out in the guest's memory.
func (r *ring) command(cmd Command) (c *chain, err error) {
	c = &chain{}
	put := func(b []byte, write bool) error {
		gpa, err := r.mem.take(len(b))
		if err != nil {
			return err
		}
		c.buffers = append(c.buffers, vqtest.Buffer{GPA: gpa, Len: uint32(len(b)), Write: write})
		return r.mem.write(gpa, b)
	}
	parts := max(cmd.Parts, 1)
	for i := range parts {
		if err = put(cmd.Data[len(cmd.Data)*i/parts:len(cmd.Data)*(i+1)/parts], false); err != nil {
			break
		}
	}
	if err == nil && !cmd.NoRoom {
		err = put([]byte{unanswered}, true)
	}
	if err != nil {
		r.forget(c)
		return nil, err
	}
	return c, nil
}

// controlIndex is the index of the control queue of a guest whose front-end
// forwards it: behind all pairs that there are if the guest knows of them,
// otherwise behind its only one (virtio 1.3, section 5.1.2).
func (f *FrontEnd) controlIndex() int {
	if f.accepted.Has(virtio.NetMQ) && f.queues > 0 {
		return int(f.queues-1) &^ 1
	}
	return 2
}

// commandPairs is the guest's command to use n queue pairs, by the queue.
func (f *FrontEnd) commandPairs(_ context.Context, n int) error {
	if f.ctrl == nil || !f.accepted.Has(virtio.NetMQ) {
		return nil
	}
	ack, err := f.Control(Command{Data: binary.LittleEndian.AppendUint16([]byte{virtio.CtrlMQ, virtio.CtrlMQPairsSet}, uint16(n))})
	if err != nil {
		return err
	}
	if ack != virtio.CtrlOK {
		return fmt.Errorf("vutest: the command to use %d queue pairs was answered with %d", n, ack)
	}
	return nil
}

// KickControl kicks the control queue without a command, for a guest that
// misbehaves. A guest without one kicks nothing.
func (f *FrontEnd) KickControl() {
	if f.ctrl != nil {
		f.ctrl.kick.Signal()
	}
}
