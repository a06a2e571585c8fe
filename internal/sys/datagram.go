package sys

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Datagram is a non-blocking socket that is connected to one address: UDP, or
// ICMP echo without privileges. Send and Recv may be called concurrently; Close
// only when nobody is in them.
type Datagram struct {
	fd int
	v6 bool
}

// Outcome says in one word what came of a datagram.
type Outcome uint8

// Outcomes.
const (
	Sent        Outcome = iota // or received
	Again                      // not now: the socket's buffer is full, or empty
	Refused                    // nobody listens there
	Unreachable                // no way to the address
	TooBig                     // longer than the way takes; see PathMTU
	Forbidden                  // this process, or this host, may not
	Failed                     // anything else
)

// DialUDP makes a UDP socket that sends to to and receives from it only.
func DialUDP(to netip.AddrPort) (*Datagram, Outcome, error) {
	return dialDatagram(to, unix.IPPROTO_UDP, unix.IPPROTO_UDP)
}

// DialPing makes a socket for ICMP echo to to. Without privileges that is
// possible for the groups of net.ipv4.ping_group_range; Forbidden otherwise.
func DialPing(to netip.Addr) (*Datagram, Outcome, error) {
	return dialDatagram(netip.AddrPortFrom(to, 0), unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6)
}

func dialDatagram(to netip.AddrPort, proto4, proto6 int) (*Datagram, Outcome, error) {
	d := &Datagram{v6: to.Addr().Is6()}
	domain, proto := unix.AF_INET, proto4
	var address unix.Sockaddr
	if d.v6 {
		domain, proto = unix.AF_INET6, proto6
		address = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		address = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	var err error
	d.fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, outcome(err), fmt.Errorf("sys: a datagram socket to %v: %w", to, err)
	}
	if err := unix.Connect(d.fd, address); err != nil {
		_ = unix.Close(d.fd) // nothing was sent
		return nil, outcome(err), fmt.Errorf("sys: connect a datagram socket to %v: %w", to, err)
	}
	return d, Sent, nil
}

// outcome is what an error of a datagram socket means.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return Sent
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
		return Again
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EHOSTDOWN), errors.Is(err, unix.EADDRNOTAVAIL):
		return Unreachable
	case errors.Is(err, unix.EMSGSIZE):
		return TooBig
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return Forbidden
	}
	return Failed
}

// FD is the descriptor's number, for a Poller.
func (d *Datagram) FD() int { return d.fd }

// Send sends b. It never waits.
func (d *Datagram) Send(b []byte) Outcome {
	return outcome(unix.Send(d.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

// Recv receives a datagram into b, cut to what fits. It never waits.
func (d *Datagram) Recv(b []byte) (int, Outcome) {
	n, _, err := unix.Recvfrom(d.fd, b, unix.MSG_DONTWAIT)
	return max(n, 0), outcome(err)
}

// DontFragment says whether datagrams that are too long for the way are refused
// (TooBig) instead of cut on it.
func (d *Datagram) DontFragment(on bool) error {
	value := unix.IP_PMTUDISC_DONT
	if on {
		value = unix.IP_PMTUDISC_DO
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if d.v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if err := unix.SetsockoptInt(d.fd, level, option, value); err != nil {
		return fmt.Errorf("sys: set how long datagrams are treated: %w", err)
	}
	return nil
}

// PathMTU is how long an IP packet to the socket's address may be, as far as the
// host knows; 0 when it does not.
func (d *Datagram) PathMTU() int {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if d.v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	n, err := unix.GetsockoptInt(d.fd, level, option)
	if err != nil {
		return 0
	}
	return n
}

// Close closes the socket.
func (d *Datagram) Close() error {
	if err := unix.Close(d.fd); err != nil {
		return fmt.Errorf("sys: close a datagram socket: %w", err)
	}
	return nil
}

// SendTo sends b from a UDP socket of package net to an address. It never waits,
// as the socket's own Write does when its buffer is full.
func SendTo(c RawConn, v6 bool, b []byte, to netip.AddrPort) Outcome {
	var address unix.Sockaddr
	if v6 {
		inet6 := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()} // of IPv4: in IPv6
		if zone := to.Addr().Zone(); zone != "" {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return Unreachable
			}
			inet6.ZoneId = uint32(link.Index)
		}
		address = inet6
	} else {
		address = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	var sent error
	err := c.Control(func(fd uintptr) {
		sent = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, address)
	})
	return outcome(errors.Join(err, sent))
}

// IsIPv6 reports whether a socket is one of IPv6.
func IsIPv6(c RawConn) (v6 bool, err error) {
	var domain int
	if cerr := c.Control(func(fd uintptr) { domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) }); cerr != nil {
		return false, cerr
	}
	return domain == unix.AF_INET6, err
}

// RawConn is what SyscallConn of a net.Conn gives, for packages that have no
// other business with package syscall.
type RawConn = syscall.RawConn

// ReadNow reads from a non-blocking descriptor inside RawConn.Read. again: there
// is nothing now.
func ReadNow(fd int, b []byte) (n int, again bool, err error) {
	return now("read", unix.Read, fd, b)
}

// WriteNow writes to a non-blocking descriptor inside RawConn.Write; n may be less
// than there is. again: there is no room now.
func WriteNow(fd int, b []byte) (n int, again bool, err error) {
	return now("write", unix.Write, fd, b)
}

// now makes a call that does not wait, as often as signals interrupt it.
func now(name string, call func(fd int, b []byte) (int, error), fd int, b []byte) (n int, again bool, err error) {
	for {
		n, err = call(fd, b)
		switch {
		case err == nil:
			return n, false, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, true, nil
		default:
			return 0, false, fmt.Errorf("sys: %s: %w", name, err)
		}
	}
}

// Waiting is how many bytes a stream socket gives without waiting: none also
// where it has ended or failed.
func Waiting(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return 0, fmt.Errorf("sys: how much can be read: %w", err)
	}
	return n, nil
}
