package netdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// neighbourTask is the neighbour's transmit ring. Before each visit it plays
// both drivers, so that there are chains to pop and buffers to fill.
type neighbourTask struct {
	a        *arena
	ring     *txRing
	from, to *vqtest.Pair
	frames   [256]sharedmem.Block // by head: what is sent
	buffers  [256]sharedmem.Block // by head: where it arrives
	used     [256]virtqueue.Used
	sent     uint32
	next     uint32 // the number of the frame that is to arrive next
	visits   int
	least    int // chains that a visit popped since the last look

	arrived atomic.Uint64
	wrong   atomic.Pointer[string]
}

const neighbourBuffer = 2048

// post adds the neighbour's frames and the receiver's buffers.
func (n *neighbourTask) post() {
	for i := range 8 {
		frame := make([]byte, 12+60+i*200)
		copy(frame[12:], neighbourMAC[:])
		copy(frame[18:], senderMAC[:])
		binary.BigEndian.PutUint16(frame[24:], marked)
		for j := 30; j < len(frame); j++ {
			frame[j] = byte(i + j)
		}
		at, head := n.put(n.from, uint32(len(frame)), false)
		at.CopyFrom(frame, 0)
		n.frames[head] = at
		n.number(head)
	}
	for range 256 {
		at, head := n.put(n.to, neighbourBuffer, true)
		n.buffers[head] = at
	}
	for _, p := range []*vqtest.Pair{n.from, n.to} {
		p.Driver.NoCalls()
		p.Driver.Publish()
	}
}

// put adds a chain of one buffer.
func (n *neighbourTask) put(p *vqtest.Pair, length uint32, write bool) (at sharedmem.Block, head uint16) {
	gpa, err := p.Driver.Alloc(int(length))
	n.a.must(err)
	head, err = p.Driver.Put(vqtest.Layout{Buffers: []vqtest.Buffer{{GPA: gpa, Len: length, Write: write}}})
	n.a.must(err)
	return p.Driver.At(gpa, uint64(length)), head
}

// number writes the next number into a frame that is about to be sent.
func (n *neighbourTask) number(head uint16) {
	n.frames[head].Store32(26, n.sent)
	n.sent++
}

func (n *neighbourTask) Poll(c *worker.Context, budget int) bool {
	n.drivers()
	serial := *n.ring.serial
	n.ring.Poll(c, budget)
	n.visits++
	popped := int(*n.ring.serial - serial)
	n.least = min(n.least, popped)
	return true
}

// drivers takes back what the device is done with and posts it again.
func (n *neighbourTask) drivers() {
	k, err := n.from.Driver.Reap(n.used[:])
	if err != nil {
		n.fail("the sender's ring: %v", err)
	}
	for _, u := range n.used[:k] {
		n.number(u.Head)
		n.from.Driver.Post(u.Head)
	}
	n.from.Driver.Publish()
	if k, err = n.to.Driver.Reap(n.used[:]); err != nil {
		n.fail("the receiver's ring: %v", err)
	}
	for _, u := range n.used[:k] {
		n.check(u)
		n.to.Driver.Post(u.Head)
	}
	n.to.Driver.Publish()
}

func (n *neighbourTask) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.wrong.CompareAndSwap(nil, &text)
}

// check wants the neighbour's frames complete, in order and unaltered, and
// what lies behind any frame as it was.
func (n *neighbourTask) check(u virtqueue.Used) {
	at := n.buffers[u.Head]
	var frame [neighbourBuffer]byte
	at.CopyTo(frame[:], 0)
	for _, behind := range frame[u.Len:] {
		if behind != 0 {
			n.fail("a frame of %d bytes was written over", u.Len)
			break
		}
	}
	at.Zero()
	if binary.BigEndian.Uint16(frame[24:]) != marked || !bytes.Equal(frame[18:24], senderMAC[:]) {
		return // the hostile guest's
	}
	n.arrived.Add(1)
	number := binary.NativeEndian.Uint32(frame[26:])
	i := (int(u.Len) - 12 - 60) / 200
	if number != n.next || int(u.Len) != 12+60+i*200 {
		n.fail("frame %d of %d bytes arrived, want frame %d", number, u.Len, n.next)
	}
	n.next = number + 1
	for j := 30; j < int(u.Len); j++ {
		if frame[j] != byte(i+j) {
			n.fail("frame %d was changed at byte %d", number, j)
			return
		}
	}
}

func (n *neighbourTask) Arm() bool { return true }
func (n *neighbourTask) FD() int   { return -1 }

// floodTask sends to the hostile guest.
type floodTask struct {
	ring *txRing
	from *vqtest.Pair
	used [256]virtqueue.Used
}

func (f *floodTask) post(t *testing.T) {
	t.Helper()
	for i := range 16 {
		frame := make([]byte, 12+60+i*400)
		copy(frame[12:], hostileMAC[:])
		copy(frame[18:], []byte{2, 0, 0, 0, 0, 9, 0x88, 0xb5})
		if _, err := f.from.Driver.Add(vqtest.Request{Out: [][]byte{frame}}); err != nil {
			t.Fatal(err)
		}
	}
	f.from.Driver.NoCalls()
	f.from.Driver.Publish()
}

func (f *floodTask) Poll(c *worker.Context, budget int) bool {
	n, err := f.from.Driver.Reap(f.used[:])
	if err != nil {
		panic(errors.Join(errors.New("the driver that sends to the hostile guest"), err))
	}
	for _, u := range f.used[:n] {
		f.from.Driver.Post(u.Head)
	}
	f.from.Driver.Publish()
	f.ring.Poll(c, budget)
	return true
}

func (f *floodTask) Arm() bool { return true }
func (f *floodTask) FD() int   { return -1 }
