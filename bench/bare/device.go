package main

import (
	"context"
	"errors"
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// The rings of a port.
const (
	rx = iota
	tx
	ringsOfPort
)

// device is one port of the wire. It implements vhostuser.Device; the session's
// goroutine calls its methods, one at a time.
type device struct {
	wire   *wire
	port   int
	worker *worker.Worker
	lane   *lane // the worker has it while the transmit ring runs
}

func (d *device) Features() virtio.Features {
	return virtio.Version1 | virtio.NetMrgRxBuf | virtio.RingPacked | virtio.InOrder
}

func (d *device) Rings() int                  { return ringsOfPort }
func (d *device) Negotiated(virtio.Features)  {}
func (d *device) Memory(*sharedmem.Map) error { return nil } // the Queue brings what it needs
func (d *device) EnableRing(int, bool)        {}             // the front-end enables what it has started
func (d *device) Reset()                      {}
func (d *device) Disconnected()               {}

func (d *device) StartRing(i int, q *virtqueue.Queue) error {
	r, err := newRing(q)
	if err != nil {
		return err
	}
	d.wire.set(d.port, i, r)
	if i != tx {
		return nil
	}
	d.lane = &lane{wire: d.wire, from: d.port, to: ports - 1 - d.port}
	if err := d.worker.Add(context.Background(), d.lane, worker.Poll); err != nil {
		d.wire.set(d.port, i, nil)
		return fmt.Errorf("bare: %w", err)
	}
	return nil
}

func (d *device) ReplaceRing(int, func(virtqueue.State) (*virtqueue.Queue, error)) error {
	return errors.New("bare: a ring that runs cannot be changed; stop it first")
}

func (d *device) StopRing(i int) virtqueue.State {
	if i == tx {
		_ = d.worker.Remove(context.Background(), d.lane) // fails when the worker has ended
	}
	return d.wire.set(d.port, i, nil).stop()
}
