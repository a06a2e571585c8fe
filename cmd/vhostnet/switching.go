package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"vhostnet/vswitch"
)

// switching is what the switch is told about a port.
type switching struct {
	network     string // name of the switch; "": that without one
	vlan        vswitch.VLANOptions
	protected   bool
	transparent bool
	mirror      string // name of the port that watches; "": none
	sink        bool   // it watches others
}

// options is s in the switch's terms; sink is the port that watches.
func (s *switching) options(sink vswitch.PortID) vswitch.PortOptions {
	return vswitch.PortOptions{VLAN: s.vlan, Protected: s.protected, Transparent: s.transparent, Mirror: sink, Sink: s.sink}
}

const maxVLAN = 4094

// option takes one of the options that the switch is concerned with; known says
// whether key is one.
func (s *switching) option(key, value string) (known bool, err error) {
	switch key {
	case "switch":
		s.network = value
		if !portName.MatchString(value) {
			err = fmt.Errorf("switch=%s: want a name of at most 63 letters, digits, '.', '_' and '-'", value)
		}
	case "vlan":
		s.vlan.Access, err = parseVLAN(key, value)
	case "native":
		s.vlan.Native, err = parseVLAN(key, value)
	case "trunk":
		s.vlan.Trunk, err = parseTrunk(value)
	case "protected":
		s.protected, err = parseSwitch(key, value)
	case "transparent":
		s.transparent, err = parseSwitch(key, value)
	case "sink":
		s.sink, err = parseSwitch(key, value)
	case "mirror":
		s.mirror = value
		if !portName.MatchString(value) {
			err = fmt.Errorf("mirror=%s: want the name of the port that is to get copies", value)
		}
	default:
		return false, nil
	}
	return true, err
}

// consistent refuses VLANs that contradict each other.
func (s *switching) consistent() error {
	switch {
	case s.vlan.Access != 0 && (len(s.vlan.Trunk) > 0 || s.vlan.Native != 0):
		return fmt.Errorf("vlan=%d: the VM is in one VLAN (vlan) or in several (trunk, native); want one of the two", s.vlan.Access)
	case s.vlan.Native != 0 && len(s.vlan.Trunk) == 0:
		return fmt.Errorf("native=%d: it is the untagged VLAN of a trunk; want trunk too, or vlan=%d", s.vlan.Native, s.vlan.Native)
	}
	return nil
}

func parseVLAN(key, value string) (uint16, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n < 1 || n > maxVLAN {
		return 0, fmt.Errorf("%s=%s: want a VLAN, 1 to %d", key, value, maxVLAN)
	}
	return uint16(n), nil
}

// parseTrunk reads VLANs and ranges of them, joined by '+': commas part options.
func parseTrunk(value string) (list []uint16, err error) {
	for field := range strings.SplitSeq(value, "+") {
		first, last, isRange := strings.Cut(field, "-")
		from, err := parseVLAN("trunk", first)
		to := from
		if err == nil && isRange {
			to, err = parseVLAN("trunk", last)
		}
		if err != nil || to < from {
			return nil, fmt.Errorf("trunk=%s: want VLANs of 1 to %d, such as 10+20 or 100-199", value, maxVLAN)
		}
		for id := from; id <= to; id++ {
			list = append(list, id)
		}
	}
	return list, nil
}

func parseSwitch(key, value string) (bool, error) {
	if value == "on" || value == "off" {
		return value == "on", nil
	}
	return false, fmt.Errorf("%s=%s: want on or off", key, value)
}

// joinMirrors marks the ports that watch others.
func joinMirrors(ports []portSpec) error {
	var errs []error
	for i := range ports {
		p := &ports[i]
		if p.mirror == "" {
			continue
		}
		at := indexOfPort(ports, p.mirror)
		if at < 0 || at == i || ports[at].uplink != nil || ports[at].network != p.network {
			errs = append(errs, p.said.errorf("mirror=%s: want the name of another port, of a VM on the same switch", p.mirror))
			continue
		}
		ports[at].sink = true
	}
	for _, p := range ports {
		if p.sink && (p.mirror != "" || p.protected || p.vlan.Access != 0 || len(p.vlan.Trunk) > 0) {
			errs = append(errs, p.said.errorf("it gets copies of another port's frames and nothing else; want no vlan, trunk, protected and mirror for it"))
		}
	}
	return errors.Join(errs...)
}
