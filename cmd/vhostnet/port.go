package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"vhostnet/netdev"
	"vhostnet/virtio"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// portSpec is one --port: NAME=PATH and options behind commas.
type portSpec struct {
	name   string
	path   string
	fd     int    // a socket that was handed over, instead of path; -1: none
	from   string // who handed it over, for errors
	said   origin // where the port is described
	dial   bool   // the front-end listens at path
	access socketAccess
	mac    [6]byte
	mtu    uint16
	pairs  int
	mode   worker.Mode
	mask   virtio.Features

	inflight bool // offer inflight regions

	queue   netdev.QueueMode
	statics []vswitch.Address // of stations behind the port
	guest   guestOptions
	switching
	uplink *uplinkSpec // nil: a VM's port

	atRunTime bool // added by the control API, not by flags or a file
}

var portName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// maxPairs is how many queue pairs the 8-bit index of a ring's descriptors can
// name.
const maxPairs = 128

// frontends are masks for front-ends that take a feature and cannot use it:
// libkrun starts packed rings at a position that is none.
var frontends = map[string]virtio.Features{
	"qemu":             0,
	"cloud-hypervisor": 0,
	"dpdk":             0,
	"crosvm":           0,
	"libkrun":          virtio.RingPacked,
}

// parsePort reads NAME=PATH[,key=value...].
func parsePort(s string) (portSpec, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || !portName.MatchString(name) {
		return portSpec{}, fmt.Errorf("--port %q: want NAME=PATH, with a name of at most 63 letters, digits, '.', '_' and '-', such as web=/run/vhostnet/web.sock", s)
	}
	fields := strings.Split(rest, ",")
	p := portSpec{name: name, said: origin{what: "--port " + name}}
	if err := p.putAt(fields[0]); err != nil {
		return portSpec{}, p.said.wrong(err)
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if err := p.option(key, value); err != nil {
			return portSpec{}, p.said.wrong(err)
		}
	}
	if err := errors.Join(p.consistent(), p.switching.consistent()); err != nil {
		return portSpec{}, p.said.wrong(err)
	}
	return p, nil
}

// checkPath refuses what is no path. What is wrong with its directory shows
// when the socket is made.
func checkPath(path string) error {
	if path == "" {
		return errors.New("the path of the socket is missing; want one such as /run/vhostnet/web.sock")
	}
	return nil
}

// putAt reads where a port's socket is: a path, or fd:N.
func (p *portSpec) putAt(s string) error {
	p.path, p.fd = s, -1
	number, ok := strings.CutPrefix(s, "fd:")
	if !ok {
		return checkPath(s)
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return fmt.Errorf("%s: want the number of an inherited socket, such as fd:3, or ./%s for a path", s, s)
	}
	p.path, p.fd, p.from = "", int(n), fmt.Sprintf("--port %s=%s", p.name, s)
	return nil
}

// consistent refuses settings of a socket that is not this program's to make.
func (p *portSpec) consistent() error {
	switch {
	case p.dial && p.fd >= 0:
		return errors.New("role=connect: an inherited socket is connected already or listens; want a path")
	case p.dial && p.access != socketAccess{}:
		return errors.New("role=connect: the socket's mode, owner and group are its front-end's affair; want them left out")
	case p.fd >= 0 && p.access != socketAccess{}:
		return errors.New("fd: the mode, owner and group of an inherited socket are those that it has; want them left out")
	}
	return p.guest.consistent(p.queue)
}

func (p *portSpec) option(key, value string) (err error) {
	if known, err := p.switching.option(key, value); known {
		return err
	}
	if known, err := p.guest.option(key, value); known {
		return err
	}
	switch key {
	case "mac":
		p.mac, err = parseMAC(value)
	case "mode":
		p.mode, err = parseMode(value)
	case "mtu":
		p.mtu, err = parseMTU(value)
	case "queue":
		p.queue, err = parseQueueMode(value)
	case "static":
		p.statics, err = parseStatics(value)
	case "pairs":
		p.pairs, err = strconv.Atoi(value)
		if err != nil || p.pairs < 1 || p.pairs > maxPairs {
			err = fmt.Errorf("pairs=%s: want 1 to %d", value, maxPairs)
		}
	case "mask":
		var mask virtio.Features
		mask, err = parseMask(value)
		p.mask |= mask
	case "frontend":
		mask, ok := frontends[value]
		if !ok {
			return fmt.Errorf("frontend=%s: want qemu, cloud-hypervisor, crosvm, libkrun or dpdk", value)
		}
		p.mask |= mask
	case "inflight":
		p.inflight = value == "on"
		if !p.inflight && value != "off" {
			return fmt.Errorf("inflight=%s: want on or off", value)
		}
	case "role":
		p.dial = value == "connect"
		if !p.dial && value != "listen" {
			return fmt.Errorf("role=%s: want listen (the front-end connects) or connect (the front-end listens)", value)
		}
	case "socket-mode", "socket-owner", "socket-group":
		if err := p.access.set(key, value); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
	default:
		return fmt.Errorf("unknown option %q; known are mac, mode, mtu, pairs, mask, frontend, queue, static, switch, vlan, trunk, native, protected, mirror, sink, transparent, guest, guest-cid, guest-socket, guest-filters, role, inflight, socket-mode, socket-owner and socket-group", key)
	}
	return err
}

// parseMAC takes a unicast address. All zeros is none: no VM can have it.
func parseMAC(s string) (mac [6]byte, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(mac) || hw[0]&1 != 0 || [6]byte(hw) == mac {
		return mac, fmt.Errorf("mac=%s: want a unicast address such as 52:54:00:12:34:56", s)
	}
	return [6]byte(hw), nil
}

func parseMode(s string) (worker.Mode, error) {
	for _, m := range []worker.Mode{worker.Adaptive, worker.Poll, worker.Interrupt} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode=%s: want adaptive, poll or interrupt", s)
}

func parseMTU(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < 68 {
		return 0, fmt.Errorf("mtu=%s: want 68 to 65535", s)
	}
	return uint16(n), nil
}

// parseMask reads names of features, joined by '+': commas part options. It
// knows all features, but suggests only those that it has an effect on.
func parseMask(s string) (mask virtio.Features, err error) {
	for name := range strings.SplitSeq(s, "+") {
		f, err := virtio.ParseFeatures(name)
		if err != nil || f == 0 {
			offered := strings.Split(netdev.Offered.String(), ",")
			return 0, fmt.Errorf("mask=%s: unknown feature %q; want names joined by '+', of %s", s, name, listOf(offered))
		}
		mask |= f
	}
	return mask, nil
}

// joinPorts checks that no two ports are in each other's way, and gives each
// one an address of its own when it has none. Two may be told one address: a VM
// moves from one to the other, and has it where it runs. The first so many ports are
// there already.
func joinPorts(ports []portSpec, host string, there int) error {
	errs := joinSwitches(ports, there)
	names, paths, fds := map[string]bool{}, map[string]string{}, map[int]string{}
	guests := guestsSeen{}
	for i := range ports {
		p := &ports[i]
		if names[p.name] {
			errs = append(errs, p.said.errorf("another port has the name; want one that differs"))
			continue // all else would follow from that
		}
		names[p.name] = true
		if p.path != "" {
			path := filepath.Clean(p.path)
			if other := paths[path]; other != "" {
				errs = append(errs, p.said.errorf("%s is already the socket of port %s; each VM needs its own", p.path, other))
			}
			paths[path] = p.name
		}
		errs = append(errs, guests.add(p))
		if p.fd >= 0 {
			if other := fds[p.fd]; other != "" {
				errs = append(errs, p.said.errorf("descriptor %d is already the socket of port %s; each VM needs its own", p.fd, other))
			}
			fds[p.fd] = p.name
		}
		if p.mac == [6]byte{} && p.uplink == nil {
			p.mac = netdev.DeriveMAC(host, p.name)
		}
	}
	errs = append(errs, joinMirrors(ports))
	if there == 0 {
		errs = append(errs, joinForwards(ports))
	}
	return errors.Join(errs...)
}

// listOf is "a, b or c".
func listOf(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
