package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/control"
)

// config is what the flags and the configuration file mean.
type config struct {
	ports    []portSpec
	workers  int
	cpus     []int        // none, or one for each worker
	saidCPUs origin       // of cpus, for errors
	balance  bool         // ports between workers by their load
	access   socketAccess // to sockets whose port does not say otherwise
	control  string       // where the control API is served; "": nowhere
	saidCtl  origin       // of control, for errors
	stateDir string       // "": nothing is kept
	guest    uint32       // port of vsock at which guests call
	interval time.Duration
	json     bool // form of the counters
	logJSON  bool
	logLevel hclog.Level
	vms      []string // as --vm names them
	reload   *reload  // nil: nobody asks for that
}

const (
	maxWorkers  = 1024
	minInterval = 10 * time.Millisecond
)

// vmPort names the port of --socket-path and --fd.
const vmPort = "vm"

// parse judges the flags and the configuration file that they name; every
// error is the user's. It finds all mistakes, not only the first one.
func (o *runOptions) parse() (config, error) {
	o, errs := o.withFile()
	if o == nil {
		return config{}, errs
	}
	c := config{vms: o.vms}
	for _, step := range []func(*config) error{o.parsePorts, o.parseWorkers, o.parseSockets, o.parseState, o.parseOutput} {
		errs = errors.Join(errs, step(&c))
	}
	if errs == nil {
		errs = o.checkAny(c)
	}
	if errs != nil {
		return config{}, errs
	}
	for i := range c.ports {
		if p := &c.ports[i]; p.fd < 0 && !p.dial && p.uplink == nil {
			p.access = p.access.or(c.access)
		}
	}
	return c, nil
}

// checkAny refuses a program without ports.
func (o *runOptions) checkAny(c config) error {
	switch {
	case len(c.ports) > 0 || c.control != "":
		return nil
	case o.file != "":
		return startOf(o.file).errorf("no port is described; say for instance port \"web\" { socket = \"/run/vhostnet/web.sock\" }")
	}
	return errors.New("no port is given; say for instance --port web=/run/vhostnet/web.sock, and see vhostnet run --help")
}

// said is where a setting has its value from: a flag, or a line of the file.
func (o *runOptions) said(setting, value string) origin {
	if at, ok := o.places[setting]; ok {
		return origin{setting + "=" + value, &at}
	}
	return origin{what: "--" + setting + " " + value}
}

func (o *runOptions) parsePorts(c *config) error {
	var errs []error
	for _, s := range o.ports {
		p, err := parsePort(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.ports = append(c.ports, p)
	}
	var vms []portSpec
	for _, s := range o.vms {
		p, err := parseVM(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		vms = append(vms, p)
	}
	c.ports = append(c.ports, vms...)
	uplinks, err := o.parseUplinks(vms)
	c.ports, errs = append(c.ports, uplinks...), append(errs, err)
	p, err := o.conventionalPort()
	if p != nil {
		c.ports = append(c.ports, *p)
	}
	errs = append(errs, err)
	ports, err := takePassed(append(c.ports, o.filePorts...), o.passed)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	c.ports = ports
	return errors.Join(append(errs, joinPorts(c.ports, hostID(), 0))...)
}

// parseUplinks reads those of --uplink; VMs without any have the user-mode
// network of their switch.
func (o *runOptions) parseUplinks(vms []portSpec) (list []portSpec, err error) {
	isUplink := func(p portSpec) bool { return p.uplink != nil }
	if len(o.uplinks) == 0 && len(o.vms) > 0 && !slices.ContainsFunc(o.filePorts, isUplink) {
		return vmUplinks(vms)
	}
	var errs []error
	for _, s := range o.uplinks {
		if s == noUplink {
			continue
		}
		p, err := parseUplink(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, p)
	}
	return list, errors.Join(errs...)
}

// conventionalPort is that of --socket-path and --fd, if they are given.
func (o *runOptions) conventionalPort() (*portSpec, error) {
	said := origin{what: "--port " + vmPort}
	switch {
	case o.socketPath != "" && o.fd != "":
		return nil, errors.New("--socket-path and --fd exclude each other: both say where the one VM connects")
	case o.socketPath != "":
		if err := checkPath(o.socketPath); err != nil {
			return nil, fmt.Errorf("--socket-path: %w", err)
		}
		return &portSpec{name: vmPort, path: o.socketPath, fd: -1, said: said}, nil
	case o.fd != "":
		n, err := strconv.ParseUint(o.fd, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("--fd %s: want the number of an inherited socket, such as 3", o.fd)
		}
		return &portSpec{name: vmPort, fd: int(n), from: "--fd " + o.fd, said: said}, nil
	}
	return nil, nil
}

func (o *runOptions) parseWorkers(c *config) (err error) {
	c.saidCPUs = o.said("cpus", o.cpus)
	if c.cpus, err = parseCPUs(o.cpus); err != nil {
		return c.saidCPUs.wrong(err)
	}
	if !slices.Contains(placements, o.placement) {
		return o.said("placement", o.placement).errorf("want %s", listOf(placements))
	}
	c.balance = o.placement == "balance"
	switch {
	case o.workers < 0 || o.workers > maxWorkers:
		return o.said("workers", strconv.Itoa(o.workers)).errorf("want 1 to %d, or 0 for half of the cores", maxWorkers)
	case o.workers > 0:
		c.workers = o.workers
	case len(c.cpus) > 0:
		c.workers = len(c.cpus)
	default:
		c.workers = max(1, runtime.NumCPU()/2)
	}
	if len(c.cpus) != 0 && len(c.cpus) != c.workers {
		return c.saidCPUs.errorf("want one CPU for each of %d workers", c.workers)
	}
	return nil
}

// parseState reads where the program keeps what outlives it.
func (o *runOptions) parseState(c *config) error {
	c.stateDir = o.stateDir
	if o.stateDir == "" {
		return nil
	}
	if info, err := os.Stat(o.stateDir); err != nil || !info.IsDir() {
		return o.said("state-dir", o.stateDir).errorf("want a directory that exists, on a tmpfs, such as /run/vhostnet")
	}
	return nil
}

func parseCPUs(s string) (cpus []int, err error) {
	if s == "" {
		return nil, nil
	}
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(field, 10, 31)
		if err != nil {
			return nil, errors.New("want numbers of CPUs such as 0,2")
		}
		if slices.Contains(cpus, int(n)) {
			return nil, fmt.Errorf("want each CPU once; two workers on CPU %d would wait for each other", n)
		}
		cpus = append(cpus, int(n))
	}
	return cpus, nil
}

func (o *runOptions) parseOutput(c *config) error {
	var errs []error
	if o.stats < 0 || o.stats > 0 && o.stats < minInterval {
		errs = append(errs, o.said("stats", o.stats.String()).errorf("want at least %s, or 0 for none", minInterval))
	}
	for _, s := range []struct {
		setting, value string
		words          []string
	}{{"output", o.output, outputs}, {"log-format", o.logFormat, logFormats}, {"log-level", o.logLevel, logLevels}} {
		if !slices.Contains(s.words, s.value) {
			errs = append(errs, o.said(s.setting, s.value).errorf("want %s", listOf(s.words)))
		}
	}
	if c.guest = o.guestPort; c.guest > maxGuestPort {
		errs = append(errs, o.said("guest-port", strconv.FormatUint(uint64(c.guest), 10)).errorf("want 1 to %d, or 0 for %d", uint32(maxGuestPort), control.GuestPort))
	} else if c.guest == 0 {
		c.guest = control.GuestPort
	}
	if c.control = o.control; c.control != "" {
		c.saidCtl = o.said("control", o.control)
	}
	c.interval, c.json = o.stats, o.output == "json"
	c.logJSON, c.logLevel = o.logFormat == "json", hclog.LevelFromString(o.logLevel)
	return errors.Join(errs...)
}

// hostID is what makes addresses of ports differ from host to host: the
// machine's id, or its name where there is none.
func hostID() string {
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(id) > 1 {
		return strings.TrimSpace(string(id))
	}
	name, err := os.Hostname()
	if err != nil {
		return "vhostnet"
	}
	return name
}
