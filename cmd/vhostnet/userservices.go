package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"vhostnet/netdev"
	"vhostnet/uplink/usernet"
	"vhostnet/worker"
)

// serviceOption takes an option of what a user-mode network tells its VMs:
// addresses, names, files to boot.
func (n *userSpec) serviceOption(key, value string) (known bool, err error) {
	s := &n.services
	switch key {
	case "domain":
		s.Domain = value
	case "leases":
		s.Leases = value
	case "boot":
		s.Boot = value
	case "boot-file":
		err = n.bootFile(value)
	case "resolver":
		var a netip.AddrPort
		a, err = parseResolver(value)
		s.Resolvers = append(s.Resolvers, a)
	case "ntp":
		var a netip.Addr
		if a, err = netip.ParseAddr(value); err != nil {
			err = fmt.Errorf("ntp=%s: want the address of a time server", value)
		}
		s.NTP = append(s.NTP, a)
	case "reserve":
		var r usernet.Reservation
		if r, err = parseReservation(value); err == nil {
			s.Reservations = append(s.Reservations, r)
		}
	default:
		return false, nil
	}
	if err == nil && value == "" {
		err = fmt.Errorf("%s: want a value", key)
	}
	return true, err
}

// bootFile reads FILE, or FIRMWARE=FILE.
func (n *userSpec) bootFile(value string) error {
	firmware, file, ok := strings.Cut(value, "=")
	if !ok || strings.ContainsAny(firmware, ":/.") { // a file or a URL, with "=" in its name
		firmware, file = "", value
	}
	if file == "" {
		return fmt.Errorf("boot-file=%s: want FILE, or FIRMWARE=FILE such as ipxe=menu.ipxe", value)
	}
	if n.services.BootFiles == nil {
		n.services.BootFiles = map[usernet.Firmware]string{}
	}
	n.services.BootFiles[usernet.Firmware(firmware)] = file
	return nil
}

// parseResolver reads an address, of port 53 unless it says another one.
func parseResolver(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("resolver=%s: want the address of a name server, such as 192.0.2.53 or [2001:db8::53]:5353", s)
	}
	return a, nil
}

// parseReservation reads WHO/WHAT/...: a port or a MAC address, and the
// addresses and the name that it is to get.
func parseReservation(s string) (r usernet.Reservation, err error) {
	fields := strings.Split(s, "/")
	wrong := fmt.Errorf("reserve=%s: want WHO/WHAT/..., a port or a MAC address and its addresses and name, such as web/10.0.2.20 or 52:54:00:00:00:01/10.0.2.20/mail", s)
	if hw, err := net.ParseMAC(fields[0]); err == nil && len(hw) == len(r.MAC) {
		r.MAC = [6]byte(hw)
	} else if r.Port = fields[0]; !portName.MatchString(r.Port) {
		return r, wrong
	}
	for _, field := range fields[1:] {
		a, err := netip.ParseAddr(field)
		var twice bool
		switch {
		case err == nil && a.Is4():
			twice, r.IPv4 = r.IPv4.IsValid(), a
		case err == nil:
			twice, r.IPv6 = r.IPv6.IsValid(), a
		case portName.MatchString(field):
			twice, r.Hostname = r.Hostname != "", field
		default:
			return r, wrong
		}
		if twice {
			return r, fmt.Errorf("reserve=%s: %s is a second one of its kind; want one address of IPv4, one of IPv6 and one name at most, and another reserve for more", s, field)
		}
	}
	if len(fields) < 2 {
		return r, wrong
	}
	return r, nil
}

// reservationText is a reservation as parseReservation reads it.
func reservationText(r usernet.Reservation) string {
	words := []string{r.Port}
	if r.Port == "" {
		words[0] = net.HardwareAddr(r.MAC[:]).String()
	}
	for _, a := range []netip.Addr{r.IPv4, r.IPv6} {
		if a.IsValid() {
			words = append(words, a.String())
		}
	}
	if r.Hostname != "" {
		words = append(words, r.Hostname)
	}
	return strings.Join(words, "/")
}

// absence is how long a VM may be away from its port, as while its VMM is started
// again, before another one may be taken for it; ns. It is what an address has to
// rest for another guest to take it (docs/usernet.md).
const absence = 30e9

// movedVM reports whether a VM has left a port for another one, as one that
// migrates does. A MAC address is what every guest can borrow, so it is believed
// where both ports were told it: as soon as nothing runs at the first one. A port
// that was told none keeps its VM's for a while; one that was told its VM's, or
// another, for as long as there is the port.
func (d *daemon) movedVM(mac [6]byte, from, to string) bool {
	was, is := d.ports.find(from), d.ports.find(to)
	switch {
	case was == nil:
		return true
	case was.vm == nil:
		return false // an uplink, which is never gone
	case was.spec().mac == mac && is != nil && is.vm != nil && is.spec().mac == mac:
		return !was.vm.connected.Load() || !was.vm.device.Runs()
	case was.spec().mac != netdev.DeriveMAC(d.ports.host, from):
		return false
	}
	return !was.vm.connected.Load() && worker.Now()-was.vm.away.Load() >= absence
}
