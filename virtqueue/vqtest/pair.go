package vqtest

import (
	"errors"
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Where the guest memory of a Pair lies.
const (
	PairGPA  = 0x1_0000_0000
	PairUser = 0x7f00_0000_0000
)

// Options of a Pair. The zero Options are a ring of 256 entries without
// features over 4 MiB of guest memory.
type Options struct {
	Index    int             // of the ring, for errors
	Size     int             // ring entries; 0 is 256
	Features virtio.Features // accepted by the driver
	MaxChain int             // of the Queue's Config
	Memory   uint64          // bytes of guest memory; 0 is 4 MiB
	Regions  int             // the device's Map is cut into so many neighbours; 0 is 1
	Hole     uint64          // bytes at the end of each region that are the driver's only

	ShiftAvail bool   // see Config
	Start      uint16 // see Config

	// File is the guest's memory, at least Memory bytes, borrowed. nil: a file
	// is made that cannot shrink.
	File *sharedmem.File
}

// Pair is a Driver and a Queue on one ring, in guest memory of their own. Each
// sees the memory through its own mapping, the driver's in one piece.
type Pair struct {
	Driver *Driver
	Queue  *virtqueue.Queue
	Mem    *sharedmem.Map // the device's

	Kick, Call, Err *virtqueue.Event

	opts      Options
	driverMem *sharedmem.Map
	cleanup   []func()
}

// NewPair makes a Pair; Close ends it.
func NewPair(o Options) (*Pair, error) {
	if o.Size == 0 {
		o.Size = 256
	}
	if o.Memory == 0 {
		o.Memory = 4 << 20
	}
	p := &Pair{opts: o}
	if err := p.open(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Pair) open() error {
	if err := p.openMemory(); err != nil {
		return err
	}
	for _, e := range []**virtqueue.Event{&p.Kick, &p.Call, &p.Err} {
		event, err := sys.NewEvent()
		if err != nil {
			return err
		}
		*e = event
		p.cleanup = append(p.cleanup, event.Close)
	}
	mem, err := p.driverMem.Block(PairGPA, p.opts.Memory)
	if err != nil {
		return err
	}
	p.Driver, err = NewDriver(Config{
		Mem: mem, GPA: PairGPA, Size: p.opts.Size, Features: p.opts.Features,
		ShiftAvail: p.opts.ShiftAvail, Start: p.opts.Start,
	})
	if err != nil {
		return err
	}
	return p.Restart(nil)
}

// openMemory makes the file and its two Maps.
func (p *Pair) openMemory() error {
	file := p.opts.File
	if file == nil {
		var err error
		if file, err = sharedmem.NewMemoryFile(p.opts.Memory); err != nil {
			return err
		}
		defer file.Unref() // the Maps keep it
	}
	n := uint64(max(p.opts.Regions, 1))
	if p.opts.Memory%(n*pageSize) != 0 {
		return fmt.Errorf("vqtest: %d bytes of memory cannot be cut into %d regions of whole pages", p.opts.Memory, n)
	}
	for _, m := range []struct {
		into    **sharedmem.Map
		regions uint64
		hole    uint64
	}{{&p.driverMem, 1, 0}, {&p.Mem, n, p.opts.Hole}} {
		var table []sharedmem.Region
		size := p.opts.Memory / m.regions
		for i := range m.regions {
			table = append(table, sharedmem.Region{
				GPA: PairGPA + i*size, User: PairUser + i*size, Size: size - m.hole, Offset: i * size, File: file,
			})
		}
		mapped, err := sharedmem.NewMap(table, sharedmem.MapOptions{Owner: "vqtest"})
		if err != nil {
			return err
		}
		*m.into = mapped
		p.cleanup = append(p.cleanup, mapped.Unref)
	}
	return nil
}

// Config is the ring as the device is told of it.
func (p *Pair) Config() (virtqueue.Config, error) {
	at, n := p.Driver.Rings(), p.Driver.cfg.Lens()
	c := virtqueue.Config{
		Index: p.opts.Index, Size: p.opts.Size, Features: p.opts.Features, MaxChain: p.opts.MaxChain,
		Kick: p.Kick, Call: p.Call, Err: p.Err,
	}
	var errs [3]error
	c.Desc, errs[0] = p.Mem.UserBlock(PairUser+at.Desc, n.Desc)
	c.Avail, errs[1] = p.Mem.UserBlock(PairUser+at.Avail, n.Avail)
	c.Used, errs[2] = p.Mem.UserBlock(PairUser+at.Used, n.Used)
	return c, errors.Join(errs[:]...)
}

// Restart replaces the Queue by a new one on the same ring: one that goes on
// from resume, or, when that is nil, one that finds its place in memory. In a
// packed ring nothing there tells it, so that it is told where the driver finds
// that the last one stood.
func (p *Pair) Restart(resume *virtqueue.State) error {
	if p.Queue != nil {
		p.Queue.Close()
	}
	c, err := p.Config()
	if err != nil {
		return err
	}
	if resume == nil && p.opts.Features.Has(virtio.RingPacked) {
		pos := p.Driver.UsedIdx()
		resume = &virtqueue.State{Avail: pos, Used: pos, Packed: true}
	}
	c.Resume = resume
	return sharedmem.Guard(func() error {
		p.Queue, err = virtqueue.New(c, p.Mem)
		return err
	})
}

// Close gives everything back. Closing again does nothing.
func (p *Pair) Close() {
	if p.Queue != nil {
		p.Queue.Close()
	}
	for _, f := range p.cleanup {
		f()
	}
	p.cleanup = nil
}
