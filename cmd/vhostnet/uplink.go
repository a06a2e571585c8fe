package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/uplink/tap"
	"vhostnet/vswitch"
)

// uplinkSpec is what makes a port an uplink: a way to stations that are no VM.
type uplinkSpec struct {
	kind string
	tap  tapSpec
	user userSpec
}

// tapSpec is an uplink of kind tap.
type tapSpec struct {
	device string
	fds    []int // inherited queues, instead of device
	queues int   // 0: one
}

// uplinkKind is what an uplink can be.
type uplinkKind struct {
	name   string                                                         // of its port, where nothing else names it
	place  func(u *uplinkSpec, where string) error                        // what is behind KIND: on the command line
	option func(u *uplinkSpec, key, value string) (known bool, err error) // of its own
	keys   []key                                                          // in the file, of its own
	basis  []string                                                       // of those keys, by which check judges others
	check  func(u *uplinkSpec) error                                      // all options together
	open   func(d *daemon, spec portSpec, o vswitch.PortOptions, before *waysIn) (attachment, error)
}

// uplinkKinds are all of them, by their names.
var uplinkKinds = map[string]uplinkKind{
	"tap": {
		name: "tap", keys: tapKeys, basis: []string{"device"}, open: (*daemon).openTAP,
		place: (*uplinkSpec).placeTAP, option: (*uplinkSpec).tapOption, check: (*uplinkSpec).checkTAP,
	},
	"user": {
		name: "internet", keys: userKeys, basis: []string{"ipv4", "ipv6"}, open: (*daemon).openUser,
		place: (*uplinkSpec).placeUser, option: (*uplinkSpec).userOption, check: (*uplinkSpec).checkUser,
	},
}

func kindNames() []string { return slices.Sorted(maps.Keys(uplinkKinds)) }

// newUplinkSpec is an uplink without options.
func newUplinkSpec(kind, name string, said origin) (portSpec, error) {
	p := portSpec{name: name, fd: -1, said: said, uplink: &uplinkSpec{kind: kind}}
	switch _, ok := uplinkKinds[kind]; {
	case !ok:
		return p, said.errorf("an uplink of kind %q; want %s", kind, listOf(kindNames()))
	case !portName.MatchString(name):
		return p, said.errorf("a port called %q; want name= and at most 63 letters, digits, '.', '_' and '-'", name)
	}
	return p, nil
}

// parseUplink reads KIND:WHERE[,key=value...].
func parseUplink(s string) (portSpec, error) {
	fields := strings.Split(s, ",")
	kind, where, _ := strings.Cut(fields[0], ":")
	name := where
	if name == "" || strings.HasPrefix(where, "fd:") {
		name = cmp.Or(uplinkKinds[kind].name, kind)
	}
	options := slices.DeleteFunc(fields[1:], func(f string) bool {
		value, ok := strings.CutPrefix(f, "name=")
		if ok {
			name = value
		}
		return ok
	})
	said := origin{what: "--uplink " + fields[0]}
	p, err := newUplinkSpec(kind, name, said)
	if err != nil {
		return p, err
	}
	if err := uplinkKinds[kind].place(p.uplink, where); err != nil {
		return p, said.wrong(err)
	}
	for _, field := range options {
		key, value, _ := strings.Cut(field, "=")
		if err := p.uplinkOption(key, value); err != nil {
			return p, said.wrong(err)
		}
	}
	return p, said.wrong(p.consistentUplink())
}

// uplinkOption takes an option of an uplink.
func (p *portSpec) uplinkOption(name, value string) error {
	if name == "sink" {
		return errors.New("sink: want a VM's port; an uplink gets no copies")
	}
	known, err := p.switching.option(name, value)
	if known {
		return err
	}
	if name == "mode" {
		p.mode, err = parseMode(value)
		return err
	}
	kind := uplinkKinds[p.uplink.kind]
	if known, err := kind.option(p.uplink, name, value); known {
		return err
	}
	var names []string
	for _, k := range slices.Concat(kind.keys, uplinkKeys) {
		names = append(names, k.option)
	}
	return fmt.Errorf("unknown option %q; known are %s", name, listOf(names))
}

func (p *portSpec) consistentUplink() error {
	return errors.Join(uplinkKinds[p.uplink.kind].check(p.uplink), p.switching.consistent())
}

func (u *uplinkSpec) placeTAP(where string) error { return u.tap.place(where) }

func (u *uplinkSpec) checkTAP() error {
	t := &u.tap
	if len(t.fds) == 0 {
		if err := sys.CheckTAPName(t.device); err != nil {
			return fmt.Errorf("want the name of an interface, such as tap:tap0, or an inherited queue, tap:fd:3: %w", err)
		}
	}
	if len(t.fds) > 0 && t.queues > 0 {
		return errors.New("queues: an inherited device has the queues that are inherited; want it left out")
	}
	return nil
}

// tapOption takes an option of a TAP device.
func (u *uplinkSpec) tapOption(key, value string) (known bool, err error) {
	switch key {
	case "device":
		err = u.tap.place(value)
	case "queues":
		u.tap.queues, err = strconv.Atoi(value)
		if err != nil || u.tap.queues < 1 || u.tap.queues > sys.MaxTAPQueues {
			err = fmt.Errorf("queues=%s: want 1 to %d", value, sys.MaxTAPQueues)
		}
	default:
		return false, nil
	}
	return true, err
}

// place reads a device's name, or fd:N+M.
func (t *tapSpec) place(s string) error {
	list, ok := strings.CutPrefix(s, "fd:")
	if !ok {
		t.device = s
		return nil
	}
	t.device = ""
	for field := range strings.SplitSeq(list, "+") {
		n, err := strconv.ParseUint(field, 10, 31)
		if err != nil || slices.Contains(t.fds, int(n)) {
			return fmt.Errorf("%s: want numbers of inherited descriptors, such as fd:3 or fd:3+4", s)
		}
		t.fds = append(t.fds, int(n))
	}
	return nil
}

// where is what the uplink is joined to, for people.
func (u *uplinkSpec) where() string {
	if u.kind == "user" {
		return u.kind
	}
	if len(u.tap.fds) > 0 {
		return u.kind + ":fd:" + strings.Trim(strings.ReplaceAll(fmt.Sprint(u.tap.fds), " ", "+"), "[]")
	}
	return u.kind + ":" + u.tap.device
}

// uplink is the attachment of an uplink.
type uplink struct {
	run   func(ctx context.Context) error
	drain func(ctx context.Context) error
	close func(ctx context.Context) error
	count func() metrics.PortSnapshot

	waysIn *waysIn // nil: it has none
}

func (u *uplink) Serve(ctx context.Context) error { return u.run(ctx) }
func (u *uplink) Drain(ctx context.Context) error { return u.drain(ctx) }
func (u *uplink) Close(ctx context.Context) error { return u.close(ctx) }

// openTAP makes an uplink of kind tap.
func (d *daemon) openTAP(spec portSpec, o vswitch.PortOptions, _ *waysIn) (attachment, error) {
	sw, err := d.switchOf(spec.network)
	if err != nil {
		return nil, err
	}
	queues, err := spec.uplink.tap.open()
	if err != nil {
		return nil, err
	}
	u, err := tap.New(tap.Options{
		Name: spec.name, Switch: sw, Group: d.group, Log: d.log.With("port", spec.name), Mode: spec.mode, Queues: queues, Switching: o,
	})
	if err != nil {
		return nil, err
	}
	return &uplink{run: u.Run, drain: u.Drain, close: u.Close, count: u.Snapshot}, nil
}

func (t *tapSpec) open() (list []*sys.TAP, err error) {
	if len(t.fds) == 0 {
		return sys.OpenTAP(t.device, max(1, t.queues))
	}
	for _, fd := range t.fds {
		q, err := sys.TAPFrom(sys.OwnFD(fd))
		if err != nil {
			sys.CloseTAPs(list)
			return nil, err
		}
		list = append(list, q)
	}
	return list, nil
}
