package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vhostnet/metrics"
	"vhostnet/uplink/usernet"
	"vhostnet/vswitch"
)

// userSpec is an uplink of kind user.
type userSpec struct {
	host       bool
	mac        [6]byte
	ipv4, ipv6 netip.Prefix // invalid: the default
	unread     bool         // one of them could not be read
	mtu        int
	forwards   []usernet.Forward
	services   usernet.Services
}

// vmUplinks are the uplinks of --vm, where nothing else is said: for each switch that
// VMs name a user-mode network, which keeps leases beside the sockets.
func vmUplinks(vms []portSpec) ([]portSpec, error) {
	var networks []string
	for _, p := range vms {
		if p.network != "" && !slices.Contains(networks, p.network) {
			networks = append(networks, p.network)
		}
	}
	switch len(networks) {
	case 0:
		networks = []string{""}
		fallthrough
	case 1:
		p, err := vmUplink("user,host=on", networks[0], "leases")
		return []portSpec{p}, err
	}
	var list []portSpec
	var errs []error
	for _, network := range networks {
		p, err := vmUplink("user,host=on,name=internet-"+network, network, network+".leases")
		list, errs = append(list, p), append(errs, err)
	}
	return list, errors.Join(errs...)
}

func vmUplink(s, network, leases string) (portSpec, error) {
	said := origin{what: "the uplink that comes with --vm (want it otherwise? --uplink user,switch=NAME, or --uplink none)"}
	p, err := parseUplink(s)
	if err != nil {
		return p, said.wrong(err)
	}
	p.said, p.network = said, network
	dir, err := runtimeDir()
	p.uplink.user.services.Leases = filepath.Join(dir, leases)
	return p, said.wrong(err)
}

// noUplink says that there is none.
const noUplink = "none"

// placeUser takes what follows the kind: nothing.
func (u *uplinkSpec) placeUser(where string) error {
	if where != "" {
		return fmt.Errorf("a user-mode network is nowhere: want user, and options behind commas, instead of user:%s", where)
	}
	return nil
}

// userOption takes an option of a user-mode network.
func (u *uplinkSpec) userOption(key, value string) (known bool, err error) {
	n := &u.user
	switch key {
	case "host":
		n.host, err = parseSwitch(key, value)
	case "mac":
		n.mac, err = parseMAC(value)
	case "ipv4":
		n.ipv4, err = n.gateway(key, value, usernet.DefaultIPv4)
	case "ipv6":
		n.ipv6, err = n.gateway(key, value, usernet.DefaultIPv6)
	case "mtu":
		n.mtu, err = strconv.Atoi(value)
		if err != nil || n.mtu < 1280 || n.mtu > 65535 {
			err = fmt.Errorf("mtu=%s: want 1280 to 65535", value)
		}
	case "forward":
		var f usernet.Forward
		if f, err = parseForward(value); err == nil {
			n.forwards = append(n.forwards, f)
		}
	default:
		return n.serviceOption(key, value)
	}
	return true, err
}

// gateway reads the gateway's address with the length of its network's prefix, of
// the family of example.
func (n *userSpec) gateway(key, value string, example netip.Prefix) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Addr().Is4() != example.Addr().Is4() {
		n.unread = true
		return p, fmt.Errorf("%s=%s: want the gateway's address and the length of its network's prefix, such as %v", key, value, example)
	}
	if err := usernet.CheckGateway(p); err != nil {
		n.unread = true
		return p, fmt.Errorf("%s=%s: %w", key, value, err)
	}
	return p, nil
}

// optionError is what is wrong with an option of an uplink beside others.
type optionError struct {
	option string
	err    error
}

func (e optionError) Error() string { return e.err.Error() }
func (e optionError) Unwrap() error { return e.err }

// checkUser looks for what is not of the network.
func (u *uplinkSpec) checkUser() error {
	n := &u.user
	if n.unread {
		return nil // that is what is wrong
	}
	ipv4, ipv6 := n.ipv4, n.ipv6
	if !ipv4.IsValid() {
		ipv4 = usernet.DefaultIPv4
	}
	if !ipv6.IsValid() {
		ipv6 = usernet.DefaultIPv6
	}
	var errs []error
	add := func(option, value string, err error) {
		for _, err := range mistakesOf(err) {
			errs = append(errs, optionError{option, fmt.Errorf("%s=%s: %w", option, value, err)})
		}
	}
	for i, f := range n.forwards {
		err := usernet.CheckForward(f, ipv4, ipv6)
		if slices.Contains(n.forwards[:i], f) {
			err = errors.New("it is there twice; want it once") // with port 0 nobody could tell which of them is meant
		}
		add("forward", f.Network+"/"+f.Listen+"/"+f.To(), err)
	}
	for i, err := range usernet.CheckReservations(n.services.Reservations, ipv4, ipv6) {
		add("reserve", reservationText(n.services.Reservations[i]), err)
	}
	return errors.Join(errs...)
}

// mistyped is what stands for a guest and looks like an address, and is none.
type mistyped string

func (m mistyped) Error() string {
	return fmt.Sprintf("%s is no address; want one such as 10.0.2.15, or the name of a VM's port that is not of digits and dots only", string(m))
}

// parseGuest reads an address and a port, or the name of a VM's port and a port. A
// name of digits and dots only is taken for a mistyped address.
func parseGuest(s string) (guest netip.AddrPort, vm string, err error) {
	if guest, err = netip.ParseAddrPort(s); err == nil {
		return guest, "", nil
	}
	vm, number, _ := strings.Cut(s, ":")
	port, err := strconv.ParseUint(number, 10, 16)
	switch {
	case err != nil:
	case !portName.MatchString(vm):
		err = fmt.Errorf("%q is no name of a port", vm)
	case strings.Trim(vm, "0123456789.") == "":
		err = mistyped(vm)
	}
	return netip.AddrPortFrom(netip.Addr{}, uint16(port)), vm, err
}

// parseForward reads NETWORK/LISTEN/GUEST. Only LISTEN, which may be the path of
// a socket, can have more of '/'.
func parseForward(s string) (usernet.Forward, error) {
	network, rest, _ := strings.Cut(s, "/")
	at := strings.LastIndexByte(rest, '/')
	guest, vm, err := parseGuest(rest[at+1:])
	if _, ok := errors.AsType[mistyped](err); ok {
		return usernet.Forward{}, fmt.Errorf("forward=%s: %w", s, err)
	}
	if at < 1 || rest[:at] == unixPrefix || err != nil || network != "tcp" && network != "udp" {
		return usernet.Forward{}, fmt.Errorf("forward=%s: want NETWORK/LISTEN/GUEST, such as tcp/127.0.0.1:8080/10.0.2.15:80, tcp/127.0.0.1:8080/web:80 or tcp/unix:/tmp/web.sock/10.0.2.15:80", s)
	}
	listen, err := wholePath(rest[:at])
	return usernet.Forward{Network: network, Listen: listen, Guest: guest, VM: vm}, err
}

// openUser makes an uplink of kind user. Of its forwards those do not listen that were
// removed at run time of the network before.
func (d *daemon) openUser(spec portSpec, o vswitch.PortOptions, before *waysIn) (attachment, error) {
	sw, err := d.switchOf(spec.network)
	if err != nil {
		return nil, err
	}
	s := spec.uplink.user
	s.services.Moved = d.movedVM
	removed := before.removedOf(s.forwards)
	forwards := slices.DeleteFunc(slices.Clone(s.forwards), func(f usernet.Forward) bool { return slices.Contains(removed, f) })
	ways := &waysIn{port: spec.name, publish: d.hub.Publish, removed: removed}
	ways.n, err = usernet.New(usernet.Options{
		Name: spec.name, Switch: sw, Group: d.group, Log: d.log.With("port", spec.name), Mode: spec.mode, Switching: o,
		MAC: s.mac, IPv4: s.ipv4, IPv6: s.ipv6, MTU: s.mtu, Host: s.host, Services: s.services, Forwards: forwards,
	})
	if err != nil {
		ways.tellFailed(err, false)
		return nil, err
	}
	n := ways.n
	return &uplink{
		waysIn: ways,
		run: func(ctx context.Context) error {
			err := n.Run(ctx)
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil // it had not begun
			}
			return err
		},
		drain: n.Drain, close: n.Close,
		count: func() metrics.PortSnapshot { return n.Snapshot().Port },
	}, nil
}
