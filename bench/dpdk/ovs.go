package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Open vSwitch with DPDK is two programs and a database, all in the rig's
// directory: nothing of the system's own Open vSwitch is read or touched.

// ovsMegabytes is the memory that it takes in huge pages.
const ovsMegabytes = 512

// Bounds of single commands, and of the end of each program.
const (
	ovsCommandLimit = 30 * time.Second
	ovsQuitLimit    = 20 * time.Second
)

// ovsPrograms is where the programs of Open vSwitch are.
type ovsPrograms struct {
	vswitchd string // linked with DPDK
	dbServer string
	dbTool   string
	vsctl    string
	ofctl    string
	appctl   string
	schema   string
}

// findOVS looks below a root: "/" when the packages are installed, or where
// scripts/setup.sh has unpacked them.
func findOVS(root string) (ovsPrograms, error) {
	p := ovsPrograms{
		vswitchd: filepath.Join(root, "usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"),
		dbServer: filepath.Join(root, "usr/sbin/ovsdb-server"),
		dbTool:   filepath.Join(root, "usr/bin/ovsdb-tool"),
		vsctl:    filepath.Join(root, "usr/bin/ovs-vsctl"),
		ofctl:    filepath.Join(root, "usr/bin/ovs-ofctl"),
		appctl:   filepath.Join(root, "usr/bin/ovs-appctl"),
		schema:   filepath.Join(root, "usr/share/openvswitch/vswitch.ovsschema"),
	}
	for _, name := range []string{p.vswitchd, p.dbServer, p.dbTool, p.vsctl, p.ofctl, p.appctl, p.schema} {
		if _, err := os.Stat(name); err != nil {
			return p, fmt.Errorf("%s was not found: run scripts/setup.sh bench, or name with -ovs where openvswitch-switch-dpdk is", name)
		}
	}
	return p, nil
}

// ovsRoot is where scripts/setup.sh unpacks Open vSwitch.
func ovsRoot() string {
	cache := os.Getenv("VHOSTNET_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "/"
		}
		cache = filepath.Join(dir, "vhostnet")
	}
	return filepath.Join(cache, "ovs-dpdk")
}

// ovs is a running Open vSwitch.
type ovs struct {
	ovsPrograms
	dir       string
	db        *process // ovsdb-server
	switching *process // ovs-vswitchd
}

// startOVS starts Open vSwitch with one polling thread on the back-end's core, a
// bridge of two vhost-user ports and two flows, one for each direction.
func (r *rig) startOVS(ctx context.Context) (*back, error) {
	o := &ovs{ovsPrograms: r.machine.ovs, dir: r.dir}
	b := &back{end: o.end, report: func() {}, settled: func(ctx context.Context) error { return o.settled(ctx, r.sockets) }}
	if err := o.startDatabase(ctx, r.options.backCore); err != nil {
		return nil, errors.Join(err, o.end())
	}
	var err error
	o.switching, err = startProcess("Open vSwitch", o.env(), o.vswitchd, "unix:"+o.file("db.sock"), "--unixctl="+o.file("vs.ctl"))
	if err != nil {
		return nil, errors.Join(err, o.end())
	}
	b.process = o.switching
	if err := o.configure(ctx, r.sockets, r.options.server); err != nil || r.options.server {
		return b, err
	}
	return b, r.waitForSockets(ctx, o.switching)
}

// ovsSettle is how long Open vSwitch may take to give its polling thread the
// queues of a port whose front-end has come; until then it drops what is for it.
const ovsSettle = 2 * time.Second

// settled waits until both ports have their front-ends and their queues.
func (o *ovs) settled(ctx context.Context, sockets [2]string) error {
	for _, path := range sockets {
		enabled := fmt.Sprintf("( tx_qid 0 ) of vhost device '%s' changed to 'enabled'", path)
		if _, err := o.switching.waitFor(ctx, 0, enabled, startLimit); err != nil {
			return err
		}
	}
	return sleep(ctx, ovsSettle)
}

func (o *ovs) file(name string) string { return filepath.Join(o.dir, name) }

// env keeps the programs out of the system's directories.
func (o *ovs) env() []string {
	return []string{
		"OVS_RUNDIR=" + o.dir, "OVS_LOGDIR=" + o.dir, "OVS_DBDIR=" + o.dir, "OVS_SYSCONFDIR=" + o.dir,
		"OVS_PKGDATADIR=" + filepath.Dir(o.schema), "RUNTIME_DIRECTORY=" + o.dir,
	}
}

// command runs one of its tools to the end.
func (o *ovs) command(ctx context.Context, argv ...string) error {
	ctx, cancel := context.WithTimeout(ctx, ovsCommandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(cmd.Environ(), o.env()...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}

// vsctlCommand is what every command to the database begins with: it waits for
// the database's socket.
func (o *ovs) vsctlCommand(more ...string) []string {
	return append([]string{o.vsctl, "--db=unix:" + o.file("db.sock"), "--retry", "--timeout=25"}, more...)
}

// startDatabase makes the database, and writes into it what the switch has to
// know before it starts.
func (o *ovs) startDatabase(ctx context.Context, core int) error {
	if err := o.command(ctx, o.dbTool, "create", o.file("conf.db"), o.schema); err != nil {
		return err
	}
	var err error
	o.db, err = startProcess("the database of Open vSwitch", o.env(), o.dbServer, o.file("conf.db"),
		"--remote=punix:"+o.file("db.sock"), "--unixctl="+o.file("db.ctl"))
	if err != nil {
		return err
	}
	mask := fmt.Sprintf("%#x", uint64(1)<<core)
	if err := o.command(ctx, o.vsctlCommand("--no-wait", "init")...); err != nil {
		return err
	}
	return o.command(ctx, o.vsctlCommand("--no-wait", "set", "Open_vSwitch", ".",
		"other_config:dpdk-init=true", "other_config:dpdk-lcore-mask="+mask, "other_config:pmd-cpu-mask="+mask,
		fmt.Sprintf("other_config:dpdk-socket-mem=%d", ovsMegabytes),
		"other_config:dpdk-extra=--no-pci --in-memory --no-telemetry")...)
}

// configure makes the bridge, the ports and the flows. A port that listens does
// so on the file of its name in the run directory.
func (o *ovs) configure(ctx context.Context, sockets [2]string, connects bool) error {
	if err := o.command(ctx, o.vsctlCommand("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")...); err != nil {
		return err
	}
	for i, path := range sockets {
		name := filepath.Base(path)
		add := o.vsctlCommand("add-port", "br0", name, "--", "set", "Interface", name, fmt.Sprintf("ofport_request=%d", i+1))
		if connects {
			add = append(add, "type=dpdkvhostuserclient", "options:vhost-server-path="+path)
		} else {
			add = append(add, "type=dpdkvhostuser")
		}
		if err := o.command(ctx, add...); err != nil {
			return err
		}
	}
	bridge := o.file("br0.mgmt")
	for _, rule := range [][]string{
		{"del-flows", bridge},
		{"add-flow", bridge, "in_port=1,actions=output:2"},
		{"add-flow", bridge, "in_port=2,actions=output:1"},
	} {
		if err := o.command(ctx, append([]string{o.ofctl, "--timeout=20"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// end ends both programs, as far as they run.
func (o *ovs) end() error {
	stop := func(p *process, control string) error {
		if p == nil {
			return nil
		}
		return p.stop(func() {
			_ = o.command(context.Background(), o.appctl, "--timeout=10", "-t", o.file(control), "exit") // else it is killed
		}, ovsQuitLimit)
	}
	err := stop(o.switching, "vs.ctl")
	return errors.Join(err, stop(o.db, "db.ctl"))
}
