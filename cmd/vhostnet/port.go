package main

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"vhostnet/netdev"
	"vhostnet/virtio"
	"vhostnet/worker"
)

// portSpec is one --port: NAME=PATH and options behind commas.
type portSpec struct {
	name  string
	path  string
	fd    int // a socket that was handed over, instead of path; -1: none
	mac   [6]byte
	mtu   uint16
	pairs int
	mode  worker.Mode
	mask  virtio.Features
}

var portName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// frontends are masks for front-ends that take a feature and cannot use it:
// crosvm and libkrun hand the control queue to the back-end, which does not
// serve it.
var frontends = map[string]virtio.Features{
	"qemu":             0,
	"cloud-hypervisor": 0,
	"dpdk":             0,
	"crosvm":           virtio.NetCtrlVQ | virtio.NetMQ,
	"libkrun":          virtio.NetCtrlVQ | virtio.NetMQ,
}

// parsePort reads NAME=PATH[,key=value...].
func parsePort(s string) (portSpec, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || !portName.MatchString(name) {
		return portSpec{}, fmt.Errorf("--port %q: want NAME=PATH, with a name of letters, digits, '.', '_' and '-', such as web=/run/vhostnet/web.sock", s)
	}
	fields := strings.Split(rest, ",")
	p := portSpec{name: name, path: fields[0], fd: -1}
	if p.path == "" {
		return portSpec{}, fmt.Errorf("--port %q: the path of the socket is missing", s)
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if err := p.option(key, value); err != nil {
			return portSpec{}, fmt.Errorf("--port %s: %w", name, err)
		}
	}
	return p, nil
}

func (p *portSpec) option(key, value string) (err error) {
	switch key {
	case "mac":
		p.mac, err = parseMAC(value)
	case "mode":
		p.mode, err = parseMode(value)
	case "mtu":
		p.mtu, err = parseMTU(value)
	case "pairs":
		p.pairs, err = strconv.Atoi(value)
		if err != nil || p.pairs < 1 || p.pairs > 128 {
			err = fmt.Errorf("pairs=%s: want 1 to 128", value)
		}
	case "mask":
		var mask virtio.Features
		mask, err = virtio.ParseFeatures(strings.ReplaceAll(value, "+", ","))
		p.mask |= mask
	case "frontend":
		mask, ok := frontends[value]
		if !ok {
			return fmt.Errorf("frontend=%s: want qemu, cloud-hypervisor, crosvm, libkrun or dpdk", value)
		}
		p.mask |= mask
	default:
		return fmt.Errorf("unknown option %q; known are mac, mode, mtu, pairs, mask and frontend", key)
	}
	return err
}

func parseMAC(s string) (mac [6]byte, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(mac) || hw[0]&1 != 0 {
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

// parsePorts reads all --port flags and gives each port an address of its own
// when it has none.
func parsePorts(list []string, host string) ([]portSpec, error) {
	var ports []portSpec
	names, paths, macs := map[string]bool{}, map[string]string{}, map[[6]byte]string{}
	for _, s := range list {
		p, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		if names[p.name] {
			return nil, fmt.Errorf("--port %s is given twice; names must differ", p.name)
		}
		if other := paths[p.path]; other != "" {
			return nil, fmt.Errorf("--port %s: %s is already the socket of port %s; each VM needs its own", p.name, p.path, other)
		}
		if p.mac == [6]byte{} {
			p.mac = netdev.DeriveMAC(host, p.name)
		}
		if other := macs[p.mac]; other != "" {
			return nil, fmt.Errorf("--port %s: mac %s is already that of port %s", p.name, net.HardwareAddr(p.mac[:]), other)
		}
		names[p.name], paths[p.path], macs[p.mac] = true, p.name, p.name
		ports = append(ports, p)
	}
	return ports, nil
}
