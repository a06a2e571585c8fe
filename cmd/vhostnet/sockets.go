package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"vhostnet/internal/sys"
)

// socketAccess says who may connect to a socket.
type socketAccess struct {
	mode         os.FileMode // 0: not said
	owner, group string      // numbers; "": not said
}

// or takes what a does not say from b.
func (a socketAccess) or(b socketAccess) socketAccess {
	if a.mode == 0 {
		a.mode = b.mode
	}
	if a.owner == "" {
		a.owner = b.owner
	}
	if a.group == "" {
		a.group = b.group
	}
	return a
}

// set takes one setting; its errors say what is wanted.
func (a *socketAccess) set(key, value string) (err error) {
	switch key {
	case "socket-mode":
		a.mode, err = parseSocketMode(value)
	case "socket-owner":
		a.owner, err = parseIdentity(value, "user", "libvirt-qemu", func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
	case "socket-group":
		a.group, err = parseIdentity(value, "group", "kvm", func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	}
	return err
}

func parseSocketMode(s string) (os.FileMode, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 {
		return 0, errors.New("want octal permissions such as 0660")
	}
	return os.FileMode(mode), nil
}

// parseIdentity gives the number of a user or group that is named or numbered.
func parseIdentity(s, kind, example string, lookup func(string) (string, error)) (string, error) {
	if _, err := strconv.ParseUint(s, 10, 31); err == nil {
		return s, nil
	}
	id, err := lookup(s)
	if err != nil {
		return "", fmt.Errorf("want the name or number of a %s of this system, such as %s", kind, example)
	}
	return id, nil
}

// parseSockets reads what holds for the sockets of all ports.
func (o *runOptions) parseSockets(c *config) error {
	var errs []error
	for _, s := range []struct{ setting, value string }{
		{"socket-mode", o.socketMode}, {"socket-owner", o.socketOwner}, {"socket-group", o.socketGroup},
	} {
		if s.value == "" && s.setting != "socket-mode" {
			continue
		}
		errs = append(errs, o.said(s.setting, s.value).wrong(c.access.set(s.setting, s.value)))
	}
	return errors.Join(errs...)
}

// passedSocket is one that a supervisor opened before the program began.
type passedSocket struct {
	name string
	fd   int
}

// passedSockets are those of systemd's socket activation (LISTEN_FDS and
// LISTEN_FDNAMES), which are taken out of the environment.
func passedSockets() (list []passedSocket, err error) {
	for _, f := range activation.Files(true) {
		fd, derr := sys.OwnFD(int(f.Fd())).Dup() // f closes its own number when it is collected
		err = errors.Join(err, derr, f.Close())
		if derr == nil {
			list = append(list, passedSocket{strings.TrimSuffix(f.Name(), ".socket"), fd.Take()})
		}
	}
	return list, err
}

// takePassed gives each passed socket to the port of its name, in place of the
// path that the port has, or to a new port.
func takePassed(ports []portSpec, passed []passedSocket) ([]portSpec, error) {
	taken := map[string]bool{}
	for _, s := range passed {
		switch {
		case !portName.MatchString(s.name):
			return nil, fmt.Errorf("passed socket %q: its name is to be a port's; set FileDescriptorName= in the socket unit", s.name)
		case taken[s.name]:
			return nil, fmt.Errorf("passed socket %s: there are two of the name; give each its own socket unit, or FileDescriptorName=", s.name)
		}
		taken[s.name] = true
		i := indexOfPort(ports, s.name)
		if i < 0 {
			i = len(ports)
			ports = append(ports, portSpec{name: s.name, fd: -1, said: origin{what: "passed socket " + s.name}})
		}
		p := &ports[i]
		if p.fd >= 0 || p.dial || p.uplink != nil {
			return nil, p.said.errorf("a socket is passed under this name, and the port says another one; leave one of them out")
		}
		p.path, p.fd, p.from = "", s.fd, "passed socket "+s.name
	}
	return ports, nil
}

func indexOfPort(ports []portSpec, name string) int {
	for i := range ports {
		if ports[i].name == name {
			return i
		}
	}
	return -1
}
