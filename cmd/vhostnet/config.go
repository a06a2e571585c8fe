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
)

// config is what the flags mean.
type config struct {
	ports    []portSpec
	workers  int
	cpus     []int        // none, or one for each worker
	balance  bool         // ports between workers by their load
	access   socketAccess // to sockets whose port does not say otherwise
	interval time.Duration
	json     bool // form of the counters
	logJSON  bool
	logLevel hclog.Level
}

const (
	maxWorkers  = 1024
	minInterval = 10 * time.Millisecond
)

// vmPort names the port of --socket-path and --fd.
const vmPort = "vm"

// parse judges the flags; every error is the user's.
func (o *runOptions) parse() (c config, err error) {
	steps := []func(*config) error{o.parsePorts, o.parseWorkers, o.parseSockets, o.parseOutput}
	for _, step := range steps {
		if err := step(&c); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

func (o *runOptions) parsePorts(c *config) error {
	for _, s := range o.ports {
		p, err := parsePort(s)
		if err != nil {
			return err
		}
		c.ports = append(c.ports, p)
	}
	switch {
	case o.socketPath != "" && o.fd != "":
		return errors.New("--socket-path and --fd exclude each other: both say where the one VM connects")
	case o.socketPath != "":
		if err := checkPath(o.socketPath); err != nil {
			return fmt.Errorf("--socket-path: %w", err)
		}
		c.ports = append(c.ports, portSpec{name: vmPort, path: o.socketPath, fd: -1})
	case o.fd != "":
		n, err := strconv.ParseUint(o.fd, 10, 31)
		if err != nil {
			return fmt.Errorf("--fd %s: want the number of an inherited socket, such as 3", o.fd)
		}
		c.ports = append(c.ports, portSpec{name: vmPort, fd: int(n), from: "--fd " + o.fd})
	}
	ports, err := takePassed(c.ports, o.passed)
	if err != nil {
		return err
	}
	c.ports = ports
	if len(c.ports) == 0 {
		return errors.New("no port is given; say for instance --port web=/run/vhostnet/web.sock, and see vhostnet run --help")
	}
	return joinPorts(c.ports, hostID())
}

func (o *runOptions) parseWorkers(c *config) (err error) {
	if c.cpus, err = parseCPUs(o.cpus); err != nil {
		return err
	}
	if !slices.Contains(placements, o.placement) {
		return fmt.Errorf("--placement %s: want %s", o.placement, listOf(placements))
	}
	c.balance = o.placement == "balance"
	switch {
	case o.workers < 0 || o.workers > maxWorkers:
		return fmt.Errorf("--workers %d: want 1 to %d, or 0 for half of the cores", o.workers, maxWorkers)
	case o.workers > 0:
		c.workers = o.workers
	case len(c.cpus) > 0:
		c.workers = len(c.cpus)
	default:
		c.workers = max(1, runtime.NumCPU()/2)
	}
	if len(c.cpus) != 0 && len(c.cpus) != c.workers {
		return fmt.Errorf("--cpus %s: want one CPU for each of %d workers", o.cpus, c.workers)
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
			return nil, fmt.Errorf("--cpus %s: want numbers of CPUs such as 0,2", s)
		}
		if slices.Contains(cpus, int(n)) {
			return nil, fmt.Errorf("--cpus %s: want each CPU once; two workers on CPU %d would wait for each other", s, n)
		}
		cpus = append(cpus, int(n))
	}
	return cpus, nil
}

func (o *runOptions) parseOutput(c *config) error {
	if o.stats < 0 || o.stats > 0 && o.stats < minInterval {
		return fmt.Errorf("--stats %s: want at least %s, or 0 for none", o.stats, minInterval)
	}
	if !slices.Contains(outputs, o.output) {
		return fmt.Errorf("--output %s: want %s", o.output, listOf(outputs))
	}
	if !slices.Contains(logFormats, o.logFormat) {
		return fmt.Errorf("--log-format %s: want %s", o.logFormat, listOf(logFormats))
	}
	if !slices.Contains(logLevels, o.logLevel) {
		return fmt.Errorf("--log-level %s: want %s", o.logLevel, listOf(logLevels))
	}
	c.interval, c.json = o.stats, o.output == "json"
	c.logJSON, c.logLevel = o.logFormat == "json", hclog.LevelFromString(o.logLevel)
	return nil
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
