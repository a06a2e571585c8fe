package vutest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// Received is a frame that a guest got.
type Received struct {
	Header  virtio.NetHeader // NumBuffers is 0 when the header has no such field
	Data    []byte           // from the Ethernet header
	Buffers int              // receive buffers that it took
}

const (
	mergeBuffer  = 1536       // bytes: what Linux posts when buffers are merged
	plainFrame   = 1518       // bytes: the longest frame with a VLAN tag
	longFrame    = 65535 + 18 // bytes: the longest frame with segmentation offload
	longBuffers  = 32         // how many buffers for those are posted by default
	canary       = 0xa5       // what a receive buffer holds before the device writes to it
	guestOffload = virtio.NetGuestTSO4 | virtio.NetGuestTSO6 | virtio.NetGuestUFO | virtio.NetGuestUSO4 | virtio.NetGuestUSO6
)

// rxShape is how a guest lays out its receive buffers: the lengths of the
// descriptors of one, and how many it posts at most.
func (g Guest) rxShape(f virtio.Features) (lengths []int, count int) {
	h := virtio.NetHeaderLen(f)
	count = g.RxBuffers
	if count == 0 {
		count = g.RingSize
	}
	switch {
	case g.RxBuffer > 0:
		return []int{g.RxBuffer}, count
	case f.Has(virtio.NetMrgRxBuf):
		return []int{mergeBuffer}, count
	case f&guestOffload == 0:
		return []int{h + plainFrame}, count
	}
	// Linux: the header in a descriptor of its own, then pages.
	lengths = []int{h}
	for rest := longFrame; rest > 0; rest -= pageSize {
		lengths = append(lengths, min(rest, pageSize))
	}
	if g.RxBuffers == 0 {
		count = min(count, longBuffers)
	}
	return lengths, count
}

// postReceive fills a receive ring with empty buffers. The first one of the
// first ring lies across a border of two regions where there is one.
func (r *ring) postReceive(g Guest) error {
	lengths, count := g.rxShape(r.features)
	r.indirectRx = len(lengths) > 1 && r.features.Has(virtio.IndirectDesc)
	for i := range count {
		c := &chain{}
		for _, n := range lengths {
			gpa, err := r.takeReceive(n, i == 0 && r.index == 0 && len(lengths) == 1)
			if err != nil {
				r.forget(c)
				return err
			}
			c.buffers = append(c.buffers, vqtest.Buffer{GPA: gpa, Len: uint32(n), Write: true})
		}
		if err := r.post(c); errors.Is(err, vqtest.ErrFull) && i > 0 {
			r.forget(c)
			break
		} else if err != nil {
			r.forget(c)
			return err
		}
	}
	r.publish()
	return nil
}

func (r *ring) takeReceive(n int, straddle bool) (uint64, error) {
	if straddle {
		if gpa, err := r.mem.straddle(n); err == nil {
			return gpa, nil
		}
	}
	return r.mem.take(n)
}

// post makes an empty receive buffer available.
func (r *ring) post(c *chain) error {
	for _, b := range c.buffers {
		if err := r.mem.write(b.GPA, bytes.Repeat([]byte{canary}, int(b.Len))); err != nil {
			return err
		}
	}
	return r.add(c, r.indirectRx, 0)
}

// Recv takes the oldest frame from the receive ring of a pair, waiting for it
// at most timeout; then the error is [ErrTimeout]. Its buffers are posted
// again, and the device is kicked if it asks for that.
//
// What the device may not do is an error: to spread a frame that cannot be
// merged, to leave a buffer that is not the last one unfilled, to publish a
// part of a frame, to write behind the length that it tells.
func (f *FrontEnd) Recv(pair int, timeout time.Duration) (Received, error) {
	got, ok, err := f.receive(pair, time.Now().Add(timeout))
	if err == nil && !ok {
		err = fmt.Errorf("%w: no frame for pair %d within %v", ErrTimeout, pair, timeout)
	}
	return got, err
}

// TryRecv is Recv without waiting: ok says whether there was a frame.
func (f *FrontEnd) TryRecv(pair int) (got Received, ok bool, err error) {
	return f.receive(pair, time.Time{})
}

// receive waits until end; the zero time is not to wait.
func (f *FrontEnd) receive(pair int, end time.Time) (got Received, ok bool, err error) {
	r, err := f.ring(2 * pair)
	if err != nil {
		return got, false, err
	}
	r.lock()
	defer r.unlock()
	err = sharedmem.Guard(func() error {
		if !end.IsZero() {
			defer r.drv.NoCalls()
			if err := r.await(end); errors.Is(err, ErrTimeout) {
				return nil
			} else if err != nil {
				return err
			}
		}
		got, ok, err = r.receive()
		return err
	})
	return got, ok && err == nil, err
}

// receive takes one frame, if there is one, and posts its buffers again.
func (r *ring) receive() (got Received, ok bool, err error) {
	ready, err := r.ready()
	if ready == 0 || err != nil {
		return got, false, err
	}
	h := virtio.NetHeaderLen(r.features)
	var frame []byte
	var taken []*chain // posted when all are: until then the device has none of them
	for i, n := 0, 1; i < n; i++ {
		c, length, err := r.take()
		if err != nil {
			return got, false, err
		}
		part, err := r.written(c, length)
		if err != nil {
			return got, false, err
		}
		if i == 0 {
			if n, err = r.header(&got, part, ready); err != nil {
				return got, false, err
			}
		}
		if i < n-1 && length != c.length() {
			return got, false, fmt.Errorf("vutest: ring %d: buffer %d of %d of a frame has %d bytes where %d fit; only the last one may", r.index, i, n, length, c.length())
		}
		frame, taken = append(frame, part...), append(taken, c)
	}
	for _, c := range taken {
		if err := r.post(c); err != nil {
			return got, false, err
		}
	}
	r.publish()
	got.Data = frame[h:]
	return got, true, nil
}

// header reads the header of a frame from its first buffer and answers how
// many buffers it has, of which ready are published (virtio 1.3, section
// 5.1.6.4).
func (r *ring) header(got *Received, first []byte, ready int) (n int, err error) {
	h := virtio.NetHeaderLen(r.features)
	if len(first) < h {
		return 0, fmt.Errorf("vutest: ring %d: a frame of %d bytes, and its header alone has %d", r.index, len(first), h)
	}
	got.Header, got.Buffers = virtio.DecodeNetHeader(first), 1
	if h < virtio.MaxNetHeaderLen {
		return 1, nil
	}
	got.Header.NumBuffers = binary.LittleEndian.Uint16(first[10:])
	got.Buffers = int(got.Header.NumBuffers)
	switch {
	case got.Buffers == 0, got.Buffers > 1 && !r.features.Has(virtio.NetMrgRxBuf):
		return 0, fmt.Errorf("vutest: ring %d: num_buffers is %d, and merging buffers was accepted: %t", r.index, got.Buffers, r.features.Has(virtio.NetMrgRxBuf))
	case got.Buffers > ready:
		return 0, fmt.Errorf("vutest: ring %d: %d buffers of a frame were published, it has %d", r.index, ready, got.Buffers)
	}
	return got.Buffers, nil
}

// written reads the bytes that the device says it wrote to c, and checks that
// it wrote no more.
func (r *ring) written(c *chain, length int) ([]byte, error) {
	var all []byte
	for _, b := range c.buffers {
		part := make([]byte, b.Len)
		if err := r.mem.read(b.GPA, part); err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	if length > len(all) {
		return nil, fmt.Errorf("vutest: ring %d: a used entry says %d bytes of a buffer that has %d", r.index, length, len(all))
	}
	for i, b := range all[length:] {
		if b != canary {
			return nil, fmt.Errorf("vutest: ring %d: byte %d of a buffer was written, its used entry says %d bytes", r.index, length+i, length)
		}
	}
	return all[:length], nil
}
