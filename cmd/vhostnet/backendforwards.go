package main

import (
	"errors"
	"path/filepath"
	"strings"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/uplink/usernet"
)

// Forwards lists the ways into user-mode networks.
func (b *backend) Forwards() []control.Forward {
	var list []control.Forward
	for _, p := range b.d.ports.all() {
		w := b.d.waysIn(p.name)
		if w == nil {
			continue
		}
		for _, i := range w.all() {
			list = append(list, i.describe(p.name))
		}
	}
	return list
}

// describe is the way in as the API tells it.
func (w wayIn) describe(port string) control.Forward {
	origin := netdev.OriginConfiguration
	if w.added {
		origin = netdev.OriginControl
	}
	return control.Forward{Network: w.Network, Listen: w.Address, Guest: w.To(), Port: port, Origin: origin.String()}
}

// AddForward adds a way in.
func (b *backend) AddForward(r control.ForwardRequest) (control.Forward, error) {
	f, err := forwardOf(r)
	if err != nil {
		return control.Forward{}, err
	}
	port, w, err := b.networkOf(r.Port)
	if err != nil {
		return control.Forward{}, err
	}
	for _, have := range b.Forwards() {
		if have.Network == f.Network && have.Listen == f.Listen {
			return control.Forward{}, wrong("%s/%s goes to %s by port %s already; remove that one first", f.Network, f.Listen, have.Guest, have.Port)
		}
	}
	added, err := w.add(f)
	if err != nil {
		return control.Forward{}, forwardError(err)
	}
	b.d.log.Info("forward is open", "port", port, "network", f.Network, "listen", added.Address, "guest", f.To())
	return added.describe(port), nil
}

// maxForward bounds what is repeated in answers and the log; addresses and paths of
// sockets are shorter.
const maxForward = 256

// forwardOf reads a request. A path that is not whole would be one of this
// program's directory, which nobody sees.
func forwardOf(r control.ForwardRequest) (usernet.Forward, error) {
	f := usernet.Forward{Network: r.Network, Listen: r.Listen}
	if n := max(len(r.Network), len(r.Listen), len(r.Guest)); n > maxForward {
		return f, wrong("a forward with a word of %d characters; want at most %d, such as tcp, 127.0.0.1:8080, 10.0.2.15:80", n, maxForward)
	}
	var err error
	f.Guest, f.VM, err = parseGuest(r.Guest)
	if m, ok := errors.AsType[mistyped](err); ok {
		return f, wrong("guest %q: %v", r.Guest, m)
	}
	if err != nil {
		return f, wrong("guest %q: want an address of the network, or the name of a VM's port, and a port, such as 10.0.2.15:80 or web:80", r.Guest)
	}
	if path, ok := socketPath(r.Listen); ok && !filepath.IsAbs(path) {
		return f, wrong("listen %q: want a whole path, such as %s/run/web.sock", r.Listen, unixPrefix)
	}
	f.Listen, err = wholePath(r.Listen)
	return f, err
}

// unixPrefix is before the path of a socket.
const unixPrefix = "unix:"

// socketPath is the path of a socket at which a way in listens; abstract ones have
// none.
func socketPath(listen string) (path string, ok bool) {
	path, ok = strings.CutPrefix(listen, unixPrefix)
	return path, ok && !strings.HasPrefix(path, "@")
}

// wholePath gives the path of a socket its one spelling, by which a way in is found;
// whoever asks may be in another directory than the daemon.
func wholePath(listen string) (string, error) {
	path, ok := socketPath(listen)
	if !ok {
		return listen, nil
	}
	path, err := filepath.Abs(path)
	return unixPrefix + path, err
}

// networkOf is the user-mode network of a port; without a name the only one.
func (b *backend) networkOf(name string) (string, *waysIn, error) {
	var networks []string
	for _, p := range b.d.ports.all() {
		if b.d.waysIn(p.name) != nil {
			networks = append(networks, p.name)
		}
	}
	switch {
	case name == "" && len(networks) == 1:
		name = networks[0]
	case len(networks) == 0:
		return "", nil, wrong("there is no user-mode network here whose guests it could reach; one begins with --uplink user")
	case name == "":
		return "", nil, wrong("there are several user-mode networks; want the port of one: %s", listOf(networks))
	}
	if b.d.ports.find(name) == nil {
		return "", nil, wrong("there is no port %s", name)
	}
	w := b.d.waysIn(name)
	if w == nil {
		return "", nil, wrong("port %s is no user-mode network; want %s", name, listOf(networks))
	}
	return name, w, nil
}

// RemoveForward ends a way in, by the address at which it listens.
func (b *backend) RemoveForward(network, listen string) error {
	if path, ok := socketPath(listen); ok {
		listen = unixPrefix + filepath.Clean(path)
	}
	for _, have := range b.Forwards() {
		if have.Network != network || have.Listen != listen {
			continue
		}
		if w := b.d.waysIn(have.Port); w != nil {
			if err := w.remove(network, listen); err != nil {
				return forwardError(err)
			}
			b.d.log.Info("forward is removed", "port", have.Port, "network", network, "listen", listen)
			return nil
		}
	}
	return control.Errorf(control.StatusFileNotFound, "there is no forward %s/%s", network, listen)
}

// forwardError is an error of a network for whoever asked.
func forwardError(err error) error {
	switch {
	case errors.Is(err, errEnding), errors.Is(err, usernet.ErrEnded):
		return ndis(errEnding)
	case errors.Is(err, usernet.ErrForwards):
		return control.Errorf(control.StatusResources, "%s", sentence(err))
	}
	return ndis(usageError{err})
}
