package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vhostnet/control"
)

// runOptions are the flags of run, as they were given.
type runOptions struct {
	ports       []string
	vms         []string
	uplinks     []string
	socketPath  string
	fd          string
	workers     int
	cpus        string
	placement   string
	socketMode  string
	socketOwner string
	socketGroup string
	stateDir    string
	passed      []passedSocket // by a supervisor, under the names of ports
	stats       time.Duration
	output      string
	logFormat   string
	logLevel    string
	control     string
	guestPort   uint32
	file        string // a configuration file; "": none

	flags     *pflag.FlagSet       // which settings were given, where there is a file
	places    map[string]hcl.Range // of settings that the file has
	filePorts []portSpec

	out, log io.Writer
}

// Values of flags that are words.
var (
	outputs    = []string{"table", "json"}
	placements = []string{"spread", "balance"}
	logFormats = []string{"text", "json"}
	logLevels  = []string{"trace", "debug", "info", "warn", "error"}
)

const runHelp = `Run a switch with one port per --port, or with what a configuration file
describes, and serve until SIGTERM.

FILE is HCL, or JSON of the same shape if its name ends in .json;
docs/configuration.md explains its keys, "vhostnet check FILE" reads it and
changes nothing. Flags go before what the file says; a --port is one more port.
SIGHUP reads FILE anew: ports that are in it and as they were are not touched.

With --vm NAME the socket is NAME.sock in $XDG_RUNTIME_DIR/vhostnet (of root, if
that is not set, /run/vhostnet), a directory that others cannot enter, and what
QEMU, Cloud Hypervisor and libvirt have to be told is printed.

A port is NAME=PATH and, behind commas, options:
  mac=ADDRESS    the VM's address, whose frames go to a queue of its own
                 (default: made from the host and the name; the log shows it)
  mode=MODE      adaptive (default: poll while its frames come soon after one
                 another, else sleep), poll (never sleep), interrupt (sleep at once)
  mtu=BYTES      longest packet without segmentation that is delivered
                 (default: what the front-end says, QEMU's host_mtu)
  pairs=N        queue pairs offered (default 8)
  mask=A+B       features not to offer, such as mrg_rxbuf+guest_tso4
  vlan=N         the VM is in VLAN N and sees no tags (default: in none; ports
                 in none see each other's frames only, whatever their tags)
  trunk=A+B-C    the VM is in these VLANs, by tags; native=N: and in N, untagged
  protected=on   no frames from and to other protected ports
  mirror=PORT    copies of all its frames go to PORT, which gets nothing else
                 (sink=on: it gets copies only, also before somebody mirrors)
  transparent=on passes on what no bridge does (LLDP, LACP, spanning tree)
  queue=manual   the VM's queue is driven by "vhostnet queues" and "vhostnet
                 filters", not by its connection (default: auto)
  static=A+B     addresses behind the VM that are not learned, MAC or MAC/VLAN
  guest-cid=N, guest-socket=PATH
                 the VM may call by AF_VSOCK, as CID N, or by hybrid vsock, at
                 PATH_8470 (Firecracker, Cloud Hypervisor): "vhostnet guest"
  guest=WHAT     see (default: it looks at its port) or filters (it also sets
                 guest-filters=N filters, default 32, for addresses of nobody)
  frontend=NAME  masks that a front-end needs: qemu, cloud-hypervisor, crosvm,
                 libkrun, dpdk
  inflight=on    offer inflight regions (Cloud Hypervisor)
  role=ROLE      listen (default: make the socket, replace a stale one) or
                 connect (the front-end makes it, QEMU's server=on; vhostnet
                 connects, and again when the front-end comes back)
  socket-mode=OCTAL, socket-owner=USER, socket-group=GROUP
                 as the flags of these names, for this port's socket only
  switch=NAME    the port is on the switch of this name; switches exchange nothing.
                 Without it a port is on the only one that there is

An uplink is a port that is no VM's. Its options are mode, switch, vlan, trunk, native,
protected, mirror and transparent, as above, name=PORT, and those of its kind:
  user           a network that needs no privilege: VMs reach what this program
                 reaches. host=on: its gateway's addresses are this host;
                 ipv4=ADDRESS/LENGTH, ipv6=ADDRESS/64, mac=ADDRESS of the gateway;
                 mtu=BYTES; forward=NETWORK/LISTEN/GUEST: a way in, such as
                 tcp/127.0.0.1:8080/10.0.2.15:80, or tcp/127.0.0.1:8080/web:80 to the
                 VM at port web; repeat for more. VMs get addresses by DHCP, and
                 names: domain=NAME, leases=FILE, reserve=WHO/WHAT,
                 resolver=ADDRESS, ntp=ADDRESS; boot=DIRECTORY and boot-file=FILE
                 are for firmware (see docs/configuration.md)
  tap:NAME       a TAP device, created, which takes CAP_NET_ADMIN, if it is not
                 there; tap:fd:N+M: queues of one that were inherited; queues=N
  none           none: where nothing is said --vm brings user,host=on for each switch
                 that one of them is on

PATH is a file, or @NAME for an abstract socket, of which the same permissions
are asked by the credentials of whoever connects, or fd:N for a socket that was
inherited. A socket that systemd passes (socket activation) belongs to the port
of its FileDescriptorName=, or of its unit's name, in place of that port's PATH;
a port that only the socket names has no options.

Each port has one VM at a time; a second one is refused while the first is
connected. The VM's memory must be shared: memfd or huge pages, share=on.

Counters go to standard output with --stats, or once at SIGUSR1; the log goes to
standard error.`

const runExamples = `  vhostnet run --vm web --vm db
  vhostnet run --port web=/tmp/web.sock --port db=/tmp/db.sock
  vhostnet run /etc/vhostnet/vhostnet.hcl
  vhostnet run --port a=/tmp/a.sock,mac=52:54:00:00:00:01 --port b=/tmp/b.sock --stats 1s
  vhostnet run --port a=/tmp/a.sock,role=connect --port b=@b,socket-group=kvm
  vhostnet run --port a=/tmp/a.sock,mode=poll --port b=/tmp/b.sock,mode=poll --workers 1 --cpus 0

` + qemuExample

func newRunCommand(opts *runOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "run [FILE | --vm NAME ... | --port NAME=PATH ...]",
		Short:             "Run a switch between VMs",
		Long:              runHelp,
		Example:           runExamples,
		Args:              opts.takeFile,
		ValidArgsFunction: completeFile,
		RunE:              func(cmd *cobra.Command, _ []string) error { return opts.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&opts.file, "config", "", "a configuration `FILE`, as the argument")
	if err := cmd.MarkFlagFilename("config", fileExtensions...); err != nil {
		panic(err) // there is no such flag
	}
	cmd.Flags().StringArrayVarP(&opts.ports, "port", "p", nil, "a VM's port, `NAME=PATH[,option...]`; repeat for each VM")
	cmd.Flags().StringArrayVar(&opts.vms, "vm", nil, "`NAME[,option...]` of a VM whose port is made in the runtime directory")
	complete(cmd, "vm", nil)
	cmd.Flags().StringArrayVar(&opts.uplinks, "uplink", nil, "a way out of the switch, `KIND:WHERE[,option...]`, such as tap:tap0")
	complete(cmd, "uplink", append(kindNames(), noUplink))
	opts.addSettings(cmd)
	opts.addConventions(cmd)
	opts.flags = cmd.Flags()
	return cmd
}

// takeFile takes the configuration file that is run's only argument.
func (o *runOptions) takeFile(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case len(args) > 1:
		return usageError{fmt.Errorf("%s takes one configuration file, and %q is a second argument; see %s --help", cmd.CommandPath(), args[1], cmd.CommandPath())}
	case o.file != "":
		return usageError{fmt.Errorf("%s and --config %s: want one configuration file", args[0], o.file)}
	}
	o.file = args[0]
	return nil
}

// fileExtensions are the endings of configuration files.
var fileExtensions = []string{"hcl", "json"}

func completeFile(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return fileExtensions, cobra.ShellCompDirectiveFilterFileExt
}

// addConventions adds the flags by which management software serves one VM.
func (o *runOptions) addConventions(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.socketPath, "socket-path", "", "port \"vm\" on the socket at `PATH`")
	f.StringVar(&o.fd, "fd", "", "port \"vm\" on the inherited socket `N`, listening or connected")
}

// addSettings adds the flags that are for all ports.
func (o *runOptions) addSettings(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.socketMode, "socket-mode", "0660", "permissions of the sockets, `OCTAL`")
	f.StringVar(&o.socketOwner, "socket-owner", "", "`USER` that owns the sockets, such as libvirt-qemu")
	f.StringVar(&o.socketGroup, "socket-group", "", "`GROUP` that owns the sockets, such as libvirt-qemu or kvm")
	f.StringVar(&o.stateDir, "state-dir", "", "keep packed rings' positions over kills, in `DIR`")
	f.IntVar(&o.workers, "workers", 0, "`N` threads move frames (default: half of the cores)")
	f.StringVar(&o.cpus, "cpus", "", "pin the workers to these CPUs, a `LIST` such as 0,2")
	f.StringVar(&o.placement, "placement", "spread", "`WAY` of ports to workers: spread, or balance by load")
	f.StringVar(&o.control, "control", "", "serve the control API on a socket at `PATH`")
	f.Uint32Var(&o.guestPort, "guest-port", control.GuestPort, "guests call at the vsock port `N`")
	f.DurationVar(&o.stats, "stats", 0, "print counters every `INTERVAL`, such as 1s")
	f.StringVarP(&o.output, "output", "o", "table", "`FORM` of the counters: table or json")
	f.StringVar(&o.logFormat, "log-format", "text", "`FORM` of the log: text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "`LEVEL` of the log: trace, debug, info, warn or error")
	complete(cmd, "output", outputs)
	complete(cmd, "placement", placements)
	complete(cmd, "log-format", logFormats)
	complete(cmd, "log-level", logLevels)
	for _, flag := range []string{"socket-mode", "workers", "cpus", "stats", "guest-port"} {
		complete(cmd, flag, nil)
	}
}

// hideSettings leaves the settings out of a command's help, not out of the
// command.
func hideSettings(cmd *cobra.Command) {
	settings := &cobra.Command{}
	new(runOptions).addSettings(settings)
	settings.Flags().VisitAll(func(f *pflag.Flag) { cmd.Flags().Lookup(f.Name).Hidden = true })
}

// run runs a switch as the flags say until ctx ends.
func (o *runOptions) run(ctx context.Context) error {
	passed, err := passedSockets()
	if err != nil {
		return err
	}
	o.passed = passed
	c, err := o.parse()
	if err != nil {
		return usageError{err}
	}
	if o.file != "" {
		asked := make(chan os.Signal, 1) // one more reads it as it is then
		signal.Notify(asked, syscall.SIGHUP)
		defer signal.Stop(asked)
		c.reload = &reload{o.file, o.parse, asked}
	}
	var log hclog.Logger
	lines := newOutlet(o.log, logQueue, func(lost uint64, err error) {
		if err == nil { // otherwise there is no one to tell
			log.Warn("lines of the log were left out, as standard error was not read", "count", lost)
		}
	})
	log = newLogger(lines, c)
	go lines.run()
	defer lines.end()
	if len(c.vms) > 0 {
		if err := makeRuntimeDir(); err != nil {
			return usageError{err}
		}
	}
	return serve(ctx, c, o.out, log)
}
