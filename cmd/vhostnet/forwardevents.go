package main

import (
	"errors"
	"slices"

	"vhostnet/control"
	"vhostnet/uplink/usernet"
)

// begin tells of the ways in that listen already, as their port was told now; w may be
// nil.
func (w *waysIn) begin() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = true
	for _, i := range w.n.Forwards() {
		w.tellAdded(wayIn{i, w.find(i.Network, i.Address) >= 0})
	}
}

// end tells that all have ended with their network; w may be nil.
func (w *waysIn) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.told {
		w.publish(control.Event{Kind: control.EventForwardRemoved, Port: w.port, Forward: &f})
	}
	w.begun, w.told = false, nil
}

// tellAdded tells of one that listens. The caller holds mu.
func (w *waysIn) tellAdded(is wayIn) {
	if !w.begun {
		return // begin does
	}
	f := is.describe(w.port)
	w.told = append(w.told, f)
	w.publish(control.Event{Kind: control.EventForwardAdded, Port: w.port, Forward: &f})
}

// tellRemoved tells of one that listens no more. The caller holds mu.
func (w *waysIn) tellRemoved(network, address string) {
	at := slices.IndexFunc(w.told, func(f control.Forward) bool { return f.Network == network && f.Listen == address })
	if at < 0 {
		return // nobody was told that it was there
	}
	f := w.told[at]
	w.told = slices.Delete(w.told, at, at+1)
	w.publish(control.Event{Kind: control.EventForwardRemoved, Port: w.port, Forward: &f})
}

// tellFailed tells of one that cannot listen, if that is what err is.
func (w *waysIn) tellFailed(err error, added bool) {
	failed, ok := errors.AsType[*usernet.ListenError](err)
	if !ok {
		return
	}
	f := wayIn{usernet.ForwardInfo{Forward: failed.Forward, Address: failed.Forward.Listen}, added}.describe(w.port)
	w.publish(control.Event{Kind: control.EventForwardFailed, Port: w.port, Forward: &f, Error: oneLine(failed.Err)})
}
