package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vhostnet/integration/agent"
)

// GuestConfig is a guest to boot. What has no default is required.
type GuestConfig struct {
	Name   string
	Number int // its addresses end in it: 1 to 254; a guest in a Lab has its place there by default
	QEMU   *QEMU
	Image  *Image
	Dir    string // sockets and logs
	Socket string // the vhost-user port
	Netdev string // another network than that of a port: QEMU's -netdev, with the id "net"

	OwnQueue    bool // the port knows the NIC's address: its frames go to a queue of its own
	ManualQueue bool // its queue is driven by commands, not by its connection

	PortMode  string // how the port is polled: adaptive (the default), poll or interrupt
	Pairs     int    // queue pairs, and CPUs; 0 is 1
	MemoryMiB int    // 0 is 256
	DIMMs     int    // how many modules of memory can be put in while it runs
	Device    string // further properties of the NIC, as QEMU takes them: "csum=off,gso=off"
	Shell     bool   // a shell on the console

	Firmware Firmware // what it starts with; the zero value is Linux at once
	Later    bool     // not with its Lab, but by Lab.Boot, Lab.PowerOn or Guest.Migrate

	Arguments []string // more of QEMU's, such as further devices
	incoming  bool     // it comes from another QEMU
}

// Guest is one QEMU process and the agent in its guest.
type Guest struct {
	cfg    GuestConfig
	proc   *process
	agent  *agent.Client
	hellos int // how many starts of the guest have been seen

	consoleBefore int64 // bytes of the console's log that guests of this name left
}

// nicBus is a PCI Express port, so that a NIC can be taken out and put in while
// the guest runs.
const nicBus = "nicbus"

// closeTime bounds how long a closed guest may take to end.
const closeTime = 5 * time.Second

// Boot starts a guest and waits until its agent answers and its NIC is up.
func Boot(ctx context.Context, cfg GuestConfig) (*Guest, error) {
	g, err := PowerOn(ctx, cfg)
	if err != nil {
		return g, err
	}
	return g, g.awaitBoot(ctx)
}

// PowerOn starts a guest's QEMU and waits for nothing that happens in it.
func PowerOn(ctx context.Context, cfg GuestConfig) (*Guest, error) {
	cfg.Pairs = max(cfg.Pairs, 1)
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = 256
	}
	g := &Guest{cfg: cfg}
	argv, err := g.command()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(g.path("console.log")); err == nil {
		g.consoleBefore = info.Size()
	}
	if g.proc, err = start(cfg.Name, g.path("qemu.log"), argv...); err != nil {
		return nil, err
	}
	return g, g.connect(ctx)
}

func (g *Guest) path(suffix string) string { return filepath.Join(g.cfg.Dir, g.cfg.Name+"."+suffix) }

// DialConsole connects to the guest's console, for a person to talk to. Only
// one connection is served at a time.
func (g *Guest) DialConsole(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", g.path("console.sock"))
	if err != nil {
		return nil, fmt.Errorf("integration: %s's console: %w", g.cfg.Name, err)
	}
	return conn, nil
}

// Name returns the guest's name, which is its port's too.
func (g *Guest) Name() string { return g.cfg.Name }

// Addr returns the IPv4 address of eth0.
func (g *Guest) Addr() string { return fmt.Sprintf("10.0.0.%d", g.cfg.Number) }

// Addr6 returns the IPv6 address of eth0.
func (g *Guest) Addr6() string { return fmt.Sprintf("fd00::%x", g.cfg.Number) }

// mac returns the address of the NIC.
func (c GuestConfig) mac() string { return fmt.Sprintf("52:54:00:00:00:%02x", c.Number) }

// memory is the option that says how much there is and how much there can be.
func (c GuestConfig) memory() string {
	if c.DIMMs == 0 {
		return fmt.Sprint(c.MemoryMiB)
	}
	return fmt.Sprintf("%dM,slots=%d,maxmem=%dM", c.MemoryMiB, c.DIMMs, c.MemoryMiB+c.DIMMs*dimmMiB)
}

// kernelLine is the command line of the guest's Linux.
func (c GuestConfig) kernelLine() string {
	// Not the TSC: the kernel finds out its rate at boot, and under emulation on a
	// busy machine it can be wrong by a factor of eight, and all timers with it.
	line := []string{
		"console=ttyS0", "quiet", "loglevel=5", "panic=1", "clocksource=hpet",
		"mitigations=off", "init_on_alloc=0", "nokaslr", "vhostnet.modules=" + bootModules,
	}
	if c.Shell {
		line = append(line, "vhostnet.shell")
	}
	return strings.Join(line, " ")
}

func (g *Guest) command() ([]string, error) {
	c := g.cfg
	boot, err := g.bootOptions()
	if err != nil {
		return nil, err
	}
	argv := []string{
		c.QEMU.Path, "-name", c.Name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,memory-backend=m0" + c.Firmware.machine(), "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", fmt.Sprint(c.Pairs), "-m", c.memory(),
		"-object", fmt.Sprintf("memory-backend-memfd,id=m0,size=%dM,share=on", c.MemoryMiB),
		"-chardev", "socket,id=console,server=on,wait=off,path=" + g.path("console.sock") + ",logappend=on,logfile=" + g.path("console.log"),
		"-serial", "chardev:console",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + g.path("agent.sock"),
		"-serial", "chardev:agent",
		"-qmp", "unix:" + g.path("qmp.sock") + ",server=on,wait=off",
		"-device", "pcie-root-port,id=" + nicBus + ",chassis=1,io-reserve=4096",
		"-device", g.nic(c.Device),
	}
	argv = append(argv, c.network()...)
	for _, dir := range c.QEMU.Firmware {
		argv = append(argv, "-L", dir)
	}
	if c.incoming {
		argv = append(argv, "-incoming", "defer")
	}
	return append(append(argv, boot...), c.Arguments...), nil
}

// network describes what the NIC is connected to.
func (c GuestConfig) network() []string {
	if c.Netdev != "" {
		return []string{"-netdev", c.Netdev}
	}
	return []string{
		"-chardev", "socket,id=port,path=" + c.Socket + "," + c.QEMU.reconnect(),
		"-netdev", fmt.Sprintf("vhost-user,id=net,chardev=port,queues=%d", c.Pairs),
	}
}

// nic describes the NIC, with further properties.
func (g *Guest) nic(properties string) string {
	nic := fmt.Sprintf("virtio-net-pci,id=nic,netdev=net,%s,mac=%s,vectors=%d", g.cfg.Firmware.nic(), g.cfg.mac(), g.cfg.QEMU.vectors(g.cfg.Pairs))
	if g.cfg.Pairs > 1 {
		nic += ",mq=on"
	}
	if properties != "" {
		nic += "," + properties
	}
	return nic
}

// connect dials the agent's port as soon as QEMU has made it.
func (g *Guest) connect(ctx context.Context) error {
	return poll(ctx, g.cfg.Name+"'s agent port", func() (bool, error) {
		if err := g.proc.alive(); err != nil {
			return false, err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", g.path("agent.sock"))
		if err != nil {
			return false, nil // not there yet: poll is what is bounded
		}
		g.agent = agent.NewClient(conn)
		return true, nil
	})
}

// awaitBoot waits for the next hello and sets up the network.
func (g *Guest) awaitBoot(ctx context.Context) error {
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-g.proc.done:
			stop(g.proc.alive())
		case <-waiting.Done():
		}
	}()
	_, n, err := g.agent.Hello(waiting, g.hellos+1)
	if err != nil {
		return fmt.Errorf("integration: %s does not boot: %w", g.cfg.Name, errors.Join(err, context.Cause(waiting)))
	}
	g.hellos = n
	return g.configure(ctx)
}

// configure gives eth0 its addresses once it is there. The path to ip is whole:
// busybox's shell takes its own otherwise.
func (g *Guest) configure(ctx context.Context) error {
	_, err := g.Shell(ctx, fmt.Sprintf(`set -e
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
/bin/ip link set eth0 up
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.1; done
/bin/ip addr replace %s/24 dev eth0
/bin/ip addr replace %s/64 dev eth0 nodad`, g.Addr(), g.Addr6()))
	return err
}

// Run runs a program in the guest and returns what it printed. ctx must have a
// deadline; the program is killed when it passes.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	if _, n, err := g.agent.Hello(ctx, g.hellos); err == nil && n != g.hellos {
		return "", fmt.Errorf("integration: %s has restarted by itself", g.cfg.Name)
	}
	out, err := g.agent.Run(ctx, argv...)
	if err != nil {
		return out, fmt.Errorf("integration: %s: %w", g.cfg.Name, errors.Join(err, g.proc.alive()))
	}
	return out, nil
}

// Shell runs a script in the guest.
func (g *Guest) Shell(ctx context.Context, script string) (string, error) {
	return g.Run(ctx, "sh", "-c", script)
}

// Features returns the virtio feature bits that the guest's driver has
// accepted, lowest first, as characters 0 and 1.
func (g *Guest) Features(ctx context.Context) (string, error) {
	out, err := g.Run(ctx, "cat", "/sys/class/net/eth0/device/features")
	return strings.TrimSpace(out), err
}

// Reboot restarts the guest's kernel and waits until the guest is up again. The
// QEMU process, and with it the connection to the port, stays.
func (g *Guest) Reboot(ctx context.Context) error {
	before, _, err := g.agent.Hello(ctx, g.hellos)
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, "reboot", "-f"); err != nil && !errors.Is(err, agent.ErrRestarted) {
		return err
	}
	if err := g.awaitBoot(ctx); err != nil {
		return err
	}
	after, _, err := g.agent.Hello(ctx, g.hellos)
	if err == nil && after.BootID == before.BootID {
		err = fmt.Errorf("integration: %s says hello again, but its kernel has not restarted", g.cfg.Name)
	}
	return err
}

// Connections returns the QEMU process's sockets by inode: a connection that is
// made anew is another one.
func (g *Guest) Connections() ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", g.proc.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("integration: %w", err)
	}
	var sockets []string
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err == nil && strings.HasPrefix(target, "socket:") {
			sockets = append(sockets, target)
		}
	}
	slices.Sort(sockets)
	return sockets, nil
}

// Kill ends QEMU with SIGKILL, as a crash would, and waits until it is gone.
func (g *Guest) Kill() {
	g.proc.kill()
	if g.agent != nil {
		// The other end is gone: there is nothing that closing could lose.
		_ = g.agent.Close()
	}
}

// Close ends QEMU, with SIGKILL if it does not end when asked.
func (g *Guest) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := g.proc.stop(ctx)
	g.Kill()
	return err
}
