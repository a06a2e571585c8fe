package vutest

import (
	"errors"
	"fmt"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// Frame is what a guest transmits: an Ethernet frame, and how it lies in the
// ring. The zero value of every field but Data is the plain way, one
// descriptor with header and frame.
type Frame struct {
	Header virtio.NetHeader // checksum and segmentation offload
	Data   []byte           // from the Ethernet header, without checksum

	// HeaderAlone puts the header into a descriptor of its own.
	HeaderAlone bool
	// HeaderCut puts the first so many bytes of the header into a descriptor
	// of their own, and the others where they would be.
	HeaderCut int
	// Parts spreads the frame evenly over so many descriptors. More parts than
	// bytes make empty descriptors.
	Parts int
	// Indirect puts the descriptors into an indirect table, except for the
	// first Direct ones. The driver must have accepted INDIRECT_DESC.
	Indirect bool
	Direct   int
	// Straddle puts the last descriptor's bytes, at most 8192, across the
	// border of two memory regions. Only some layouts have one.
	Straddle bool
}

// lengths are those of the descriptors of a frame with a header of h bytes,
// which old drivers always put into a descriptor of its own (virtio 1.3,
// section 5.1.6.6).
func (fr *Frame) lengths(h int, alone bool) ([]int, error) {
	if fr.HeaderCut < 0 || fr.HeaderCut >= h || fr.Parts < 0 || fr.Direct < 0 {
		return nil, fmt.Errorf("vutest: frame with its header cut at %d of %d bytes, %d parts, %d direct descriptors", fr.HeaderCut, h, fr.Parts, fr.Direct)
	}
	var list []int
	rest := h
	if fr.HeaderCut > 0 && !alone {
		list, rest = append(list, fr.HeaderCut), h-fr.HeaderCut
	}
	if fr.HeaderAlone || alone {
		list, rest = append(list, rest), 0
	}
	parts := max(fr.Parts, 1)
	for i := range parts {
		n := len(fr.Data)*(i+1)/parts - len(fr.Data)*i/parts
		if i == 0 {
			n += rest
		}
		list = append(list, n)
	}
	return list, nil
}

// Send puts frames into the transmit ring of a pair, publishes them with one
// store of the avail index, and kicks if the device asks for it. It waits for
// room as long as Options.Timeout; frames before the one that found none are
// published then.
func (f *FrontEnd) Send(pair int, frames ...Frame) error {
	r, err := f.ring(2*pair + 1)
	if err != nil {
		return err
	}
	r.lock()
	defer r.unlock()
	end := time.Now().Add(f.o.Timeout)
	return sharedmem.Guard(func() error {
		defer r.drv.NoCalls()
		for i := range frames {
			if err := r.send(&frames[i], end); err != nil {
				return fmt.Errorf("frame %d: %w", i, err)
			}
		}
		r.publish()
		return r.collectSent()
	})
}

// send makes one frame available. When there is no room it publishes what is
// available and waits for the device.
func (r *ring) send(fr *Frame, end time.Time) error {
	c, err := r.build(fr)
	if err != nil {
		return err
	}
	for {
		err := r.add(c, fr.Indirect, fr.Direct)
		if err == nil {
			return nil
		}
		if !errors.Is(err, vqtest.ErrFull) {
			r.forget(c)
			return err
		}
		r.publish()
		if err = r.await(end); err == nil {
			err = r.collectSent()
		}
		if err != nil {
			r.forget(c)
			return err
		}
	}
}

// build lays a frame out in the guest's memory.
func (r *ring) build(fr *Frame) (*chain, error) {
	h := virtio.NetHeaderLen(r.features)
	lengths, err := fr.lengths(h, r.features&(virtio.Version1|virtio.AnyLayout) == 0)
	if err != nil {
		return nil, fmt.Errorf("vutest: ring %d: %w", r.index, err)
	}
	bytes := make([]byte, h, h+len(fr.Data))
	fr.Header.Encode(bytes)
	bytes = append(bytes, fr.Data...)
	c := &chain{}
	for i, n := range lengths {
		take := r.mem.take
		if fr.Straddle && i == len(lengths)-1 {
			take = r.mem.straddle
		}
		gpa, err := take(n)
		if err == nil {
			c.buffers = append(c.buffers, vqtest.Buffer{GPA: gpa, Len: uint32(n)})
			err = r.mem.write(gpa, bytes[:n])
		}
		if err != nil {
			r.forget(c)
			return nil, err
		}
		bytes = bytes[n:]
	}
	return c, nil
}

// collectSent takes back the frames that the device is done with. A length is
// an error: nothing is written to a chain without writable buffers.
func (r *ring) collectSent() error {
	n, err := r.ready()
	for ; n > 0 && err == nil; n-- {
		var c *chain
		var length int
		if c, length, err = r.take(); err != nil {
			break
		}
		r.forget(c)
		if length != 0 {
			err = fmt.Errorf("vutest: ring %d: %d bytes were written to a transmitted frame, says its used entry", r.index, length)
		}
	}
	return err
}

// WaitSent waits until the back-end has given every transmitted frame of a
// pair back, as long as Options.Timeout.
func (f *FrontEnd) WaitSent(pair int) error {
	r, err := f.ring(2*pair + 1)
	if err != nil {
		return err
	}
	r.lock()
	defer r.unlock()
	end := time.Now().Add(f.o.Timeout)
	return sharedmem.Guard(func() error {
		defer r.drv.NoCalls()
		for {
			if err := r.collectSent(); err != nil || len(r.out) == 0 {
				return err
			}
			if err := r.await(end); err != nil {
				return err
			}
		}
	})
}
