package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// runOptions are the flags of run.
type runOptions struct {
	ports       []string
	socketPath  string
	fd          int
	workers     int
	cpus        string
	socketMode  string
	socketGroup string
	stats       time.Duration
	output      string
	logFormat   string
	logLevel    string

	out, log io.Writer
}

const runHelp = `Run a switch with one port per --port and serve until SIGTERM.

A port is NAME=PATH and, behind commas, options:
  mac=ADDRESS    whose frames go to this VM's own queue (default: made from the
                 host and the name; give the VM the same, see the log)
  mode=MODE      adaptive (default: poll while busy, sleep when idle), poll
                 (never sleep), interrupt (sleep at once)
  mtu=BYTES      longest packet without segmentation that is delivered
                 (default: what the front-end says, QEMU's host_mtu)
  pairs=N        queue pairs offered (default 8)
  mask=A+B       features not to offer, such as mrg_rxbuf+guest_tso4
  frontend=NAME  masks that a front-end needs: qemu, cloud-hypervisor, crosvm,
                 libkrun, dpdk

Counters go to standard output with --stats, or once at SIGUSR1.

Examples:
  vhostnet run --port web=/run/vhostnet/web.sock --port db=/run/vhostnet/db.sock
  vhostnet run --port a=/tmp/a.sock,mac=52:54:00:00:00:01 --port b=/tmp/b.sock --stats 1s
  vhostnet run --port a=/tmp/a.sock,mode=poll --port b=/tmp/b.sock,mode=poll --workers 1 --cpus 0`

func newRunCommand(out, log io.Writer) *cobra.Command {
	opts := &runOptions{out: out, log: log}
	cmd := &cobra.Command{
		Use:   "run --port NAME=PATH ...",
		Short: "Run a switch between VMs",
		Long:  runHelp,
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return opts.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opts.ports, "port", "p", nil, "a VM's port, `NAME=PATH[,option...]`; repeat for each VM")
	opts.addConventions(f)
	return cmd
}

// addConventions adds the flags that the bare program shares with run.
func (o *runOptions) addConventions(f *pflag.FlagSet) {
	f.StringVar(&o.socketPath, "socket-path", "", "serve one VM on the socket at `PATH`")
	f.IntVar(&o.fd, "fd", -1, "serve one VM on the inherited socket `N`, listening or connected")
	f.IntVar(&o.workers, "workers", 0, "threads that move frames (default: half of the cores)")
	f.StringVar(&o.cpus, "cpus", "", "pin workers to these CPUs, such as 0,2")
	f.StringVar(&o.socketMode, "socket-mode", "0660", "permissions of sockets, octal")
	f.StringVar(&o.socketGroup, "socket-group", "", "group that owns the sockets, such as libvirt-qemu or kvm")
	f.DurationVar(&o.stats, "stats", 0, "print counters every `INTERVAL`, such as 1s")
	f.StringVarP(&o.output, "output", "o", "table", "form of the counters: table or json")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info, warn or error")
}

// config is what the flags mean.
type config struct {
	ports   []portSpec
	cpus    []int
	workers int
	mode    os.FileMode
	json    bool
}

// parse judges the flags; every error is the user's.
func (o *runOptions) parse() (c config, err error) {
	host := hostID()
	if c.ports, err = parsePorts(o.ports, host); err != nil {
		return c, err
	}
	if c.ports, err = o.conventionPorts(c.ports, host); err != nil {
		return c, err
	}
	if len(c.ports) == 0 {
		return c, errors.New("no port is given; say for instance --port web=/run/vhostnet/web.sock")
	}
	if c.cpus, err = parseCPUs(o.cpus); err != nil {
		return c, err
	}
	c.workers = o.workers
	if c.workers < 0 || c.workers > 1024 {
		return c, fmt.Errorf("--workers %d: want 1 to 1024, or 0 for half of the cores", c.workers)
	}
	if c.workers == 0 {
		c.workers = max(len(c.cpus), 1)
		if len(c.cpus) == 0 {
			c.workers = max(1, runtime.NumCPU()/2)
		}
	}
	if len(c.cpus) != 0 && len(c.cpus) != c.workers {
		return c, fmt.Errorf("--cpus names %d CPUs for %d workers; name one for each", len(c.cpus), c.workers)
	}
	mode, err := strconv.ParseUint(o.socketMode, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 {
		return c, fmt.Errorf("--socket-mode %s: want octal permissions such as 0660", o.socketMode)
	}
	c.mode = os.FileMode(mode)
	if o.stats < 0 || o.stats > 0 && o.stats < 10*time.Millisecond {
		return c, fmt.Errorf("--stats %s: want at least 10ms", o.stats)
	}
	if o.output != "table" && o.output != "json" {
		return c, fmt.Errorf("--output %s: want table or json", o.output)
	}
	c.json = o.output == "json"
	return c, nil
}

// conventionPorts adds the port of --socket-path or --fd.
func (o *runOptions) conventionPorts(ports []portSpec, host string) ([]portSpec, error) {
	if o.socketPath != "" && o.fd >= 0 {
		return nil, errors.New("--socket-path and --fd exclude each other: both say where the one VM connects")
	}
	switch {
	case o.socketPath != "":
		more, err := parsePorts([]string{"vm=" + o.socketPath}, host)
		if err != nil {
			return nil, err
		}
		return append(ports, more...), nil
	case o.fd >= 0:
		more, err := parsePorts([]string{"vm=-"}, host)
		if err != nil {
			return nil, err
		}
		more[0].path, more[0].fd = "", o.fd
		return append(ports, more...), nil
	}
	return ports, nil
}

func parseCPUs(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var cpus []int
	for _, field := range strings.Split(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("--cpus %s: want numbers of CPUs such as 0,2", s)
		}
		cpus = append(cpus, n)
	}
	return cpus, nil
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

func (o *runOptions) run(ctx context.Context) error {
	c, err := o.parse()
	if err != nil {
		return usageError{err}
	}
	logger, err := newLogger(o.log, o.logFormat, o.logLevel)
	if err != nil {
		return usageError{err}
	}
	return serve(ctx, c, o, logger)
}
