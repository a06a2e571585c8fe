package main

import (
	"context"
	"fmt"
	"net/http"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vhostuser"
	"vhostnet/worker"
)

// controlSocket is where the control API is served; nil: nowhere.
type controlSocket struct {
	server *control.Server
	remove func() // the file
}

// openControl binds the control socket.
func (d *daemon) openControl(path string, said origin) error {
	if path == "" {
		return nil
	}
	l, remove, err := vhostuser.ListenOwner(path)
	if err != nil {
		return usageError{said.wrong(err)}
	}
	b := &backend{d: d, origin: netdev.OriginControl}
	h := control.NewHandler(b, control.HandlerOptions{Extra: map[string]http.Handler{"GET /metrics": control.NewMetrics(b)}})
	server, err := control.NewServer(control.ServerOptions{Listener: l, Handler: h, Log: d.log})
	if err != nil {
		return err
	}
	d.control = &controlSocket{server, remove}
	d.log.Info("control socket is open", "path", path)
	return nil
}

// serve answers until ctx ends.
func (c *controlSocket) serve(ctx context.Context) error {
	defer c.remove()
	return c.server.Serve(ctx)
}

// close is for a socket that is never served.
func (c *controlSocket) close() {
	if c != nil {
		c.server.Close()
		c.remove()
	}
}

// endFreeing gives up what the control API frees in the background; what is
// left is freed with the adapter's other queues.
func (d *daemon) endFreeing() {
	d.endFree()
	d.freeing.Wait()
}

// endVerbs takes back what the control API has on the adapter.
func (d *daemon) endVerbs() error {
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	if err := d.verbs.Close(ctx); err != nil {
		return fmt.Errorf("what the control API owned: %w", err)
	}
	return nil
}

// tell publishes what the queues indicate. It is called on workers, too.
func (d *daemon) tell(e queues.Event) {
	d.events.queueEvent(e)
	out := control.Event{Port: e.VM, Queue: uint16(e.Queue)}
	switch e.Kind {
	case queues.EventDMAStopped:
		out.Kind, out.State = control.EventDMAStopped, e.State.String()
	case queues.EventBroken:
		d.tellBroken(e.VM, 2*e.Ring, e.Err)
		return
	case queues.EventAdapter:
		out.Kind, out.State = control.EventAdapterState, e.Adapter.String()
	default:
		out.Kind, out.State = control.EventQueueState, e.State.String()
	}
	d.hub.Publish(out)
}

// tellBroken publishes that a ring was found broken.
func (d *daemon) tellBroken(port string, ring int, err error) {
	d.hub.Publish(control.Event{Kind: control.EventRingBroken, Port: port, Ring: &ring, Error: oneLine(err)})
}

// tellFrontEnd notes and publishes that a port's front-end came or went.
func (d *daemon) tellFrontEnd(port string, v *vm, connected bool) {
	if !connected {
		v.away.Store(worker.Now()) // before it is seen to have left
	}
	v.connected.Store(connected)
	kind := control.EventDisconnected
	if connected {
		kind = control.EventConnected
	}
	d.hub.Publish(control.Event{Kind: kind, Port: port})
}
