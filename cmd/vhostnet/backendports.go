package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/vhostuser"
	"vhostnet/vswitch"
)

// Ports lists the ports that are open.
func (b *backend) Ports() []control.Port {
	at := map[string]vswitch.PortInfo{}
	for _, sw := range b.d.allSwitches() {
		for _, info := range sw.Ports() {
			at[info.Options.Name] = info
		}
	}
	var list []control.Port
	for _, p := range b.d.ports.all() {
		info := at[p.name]
		out := control.Port{Name: p.name, Kind: "vm", Link: linkWords[!info.Down], Stalled: info.Stalled, Options: p.spec().describe()}
		if p.vm != nil {
			b.describe(&out, p)
		} else {
			out.Kind, out.Options["device"] = p.spec().uplink.kind, p.spec().uplink.where()
		}
		list = append(list, out)
	}
	return list
}

// linkWords say whether a link is up.
var linkWords = map[bool]string{true: "up", false: "down"}

// describe adds what is known of a VM's port.
func (b *backend) describe(out *control.Port, p *port) {
	d := p.vm.device
	out.Socket = p.spec().path
	if p.spec().fd >= 0 {
		out.Socket = "fd:" + strconv.Itoa(p.spec().fd)
	}
	out.MAC = net.HardwareAddr(p.spec().mac[:]).String()
	s := d.Snapshot()
	out.Connected, out.Driver, out.Queue = p.vm.connected.Load(), s.Features != 0, uint16(d.QueueID())
	out.Memory = s.Memory
	out.QueueMode = queueModes[d.QueueMode()]
	for _, r := range s.Rings {
		if r.Started {
			out.Rings = append(out.Rings, control.Ring{Index: r.Index, Enabled: r.Enabled, Broken: r.Broken, Polling: (*control.Polling)(r.Polling)})
		}
	}
}

// describe are a port's options that are not those of every port.
func (p *portSpec) describe() map[string]string {
	o := map[string]string{}
	set := func(key, value string, is bool) {
		if is {
			o[key] = value
		}
	}
	set("switch", p.network, p.network != "")
	set("role", "connect", p.dial)
	set("mode", p.mode.String(), p.mode != 0)
	set("mtu", strconv.Itoa(int(p.mtu)), p.mtu != 0)
	set("pairs", strconv.Itoa(p.pairs), p.pairs != 0)
	set("mask", strings.ReplaceAll(p.mask.String(), ",", "+"), p.mask != 0)
	set("queue", queueModes[p.queue], p.queue != netdev.QueueAuto)
	set("static", joinStatics(p.statics), len(p.statics) > 0)
	set("vlan", strconv.Itoa(int(p.vlan.Access)), p.vlan.Access != 0)
	set("native", strconv.Itoa(int(p.vlan.Native)), p.vlan.Native != 0)
	set("trunk", joinVLANs(p.vlan.Trunk), len(p.vlan.Trunk) > 0)
	set("protected", "on", p.protected)
	set("transparent", "on", p.transparent)
	set("mirror", p.mirror, p.mirror != "")
	set("sink", "on", p.sink)
	p.guest.describe(set)
	return o
}

// joinVLANs writes VLANs as the option trunk reads them.
func joinVLANs(list []uint16) string {
	var words []string
	for i := 0; i < len(list); {
		end := i + 1
		for end < len(list) && list[end] == list[end-1]+1 {
			end++
		}
		word := strconv.Itoa(int(list[i]))
		if end > i+1 {
			word += "-" + strconv.Itoa(int(list[end-1]))
		}
		words = append(words, word)
		i = end
	}
	return strings.Join(words, "+")
}

// AddPort adds a port and serves it.
func (b *backend) AddPort(r control.PortRequest) (control.Port, error) {
	if !portName.MatchString(r.Name) {
		return control.Port{}, wrong("port %q: want a name of at most 63 letters, digits, '.', '_' and '-'", r.Name)
	}
	spec := portSpec{name: r.Name, said: origin{what: "port " + r.Name}, atRunTime: true}
	err := spec.putAt(r.Socket)
	if err == nil && spec.fd >= 0 {
		err = errors.New("an inherited socket can be taken at the start only; want a path")
	}
	for key, value := range r.Options {
		if err == nil {
			err = spec.option(key, value)
		}
	}
	if err == nil {
		err = errors.Join(spec.consistent(), spec.switching.consistent())
	}
	if err != nil {
		return control.Port{}, ndis(usageError{spec.said.wrong(err)})
	}
	if _, err := b.d.addPort(spec); err != nil {
		return control.Port{}, ndis(err)
	}
	all := b.Ports()
	if at := slices.IndexFunc(all, func(p control.Port) bool { return p.Name == r.Name }); at >= 0 {
		return all[at], nil
	}
	return control.Port{}, wrong("port %s was added, and removed by somebody else at once", r.Name)
}

// RemovePort removes a port with its VM's connection.
func (b *backend) RemovePort(name string) error { return ndis(b.d.removePort(name)) }

// SetLink takes a port's link down or up.
func (b *backend) SetLink(ctx context.Context, name string, up bool) error {
	p := b.d.ports.find(name)
	if p == nil {
		return wrong("there is no port %s", name)
	}
	return ndis(b.d.setLink(ctx, p, up))
}

// setLink takes a port's link down or up, and tells.
func (d *daemon) setLink(ctx context.Context, p *port, up bool) error {
	sw, at, err := d.place(p)
	if err != nil {
		return err
	}
	if p.vm != nil {
		err = p.vm.device.SetLink(ctx, up)
	} else {
		sw.SetLink(at.ID, up)
		err = d.group.Quiesce(ctx) // no worker delivers any more what it was about to
	}
	if at.Down == up {
		d.hub.Publish(control.Event{Kind: control.EventLink, Port: p.name, State: linkWords[up]})
		d.log.Info("link is "+linkWords[up], "port", p.name)
	}
	return err
}

// Counters are those of all ports; an uplink has no sessions.
func (b *backend) Counters() []control.Counters {
	var list []control.Counters
	for _, p := range b.d.ports.all() {
		var s netdev.Snapshot
		var served vhostuser.Stats
		if p.vm != nil {
			s, served = p.vm.device.Snapshot(), p.vm.server.Stats()
		} else {
			s.PortSnapshot = p.behind.(*uplink).count()
		}
		list = append(list, control.Counters{
			Port: p.name, TxFrames: s.TxFrames, TxBytes: s.TxBytes, RxFrames: s.RxFrames, RxBytes: s.RxBytes,
			SoftOffload: s.SoftOffload, Flooded: s.Flooded, Moved: s.Moved, ForeignSource: s.ForeignSource,
			TableFull: s.TableFull, Stalls: s.Stalls, Drops: s.DropsByReason(),
			Sessions: served.Sessions, Refused: served.Refused, Closed: served.Closed,
		})
	}
	return list
}
