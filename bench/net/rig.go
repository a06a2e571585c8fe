package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vhostnet/integration"
)

// The guest's network, whoever is its gateway.
const (
	gateway      = "10.0.2.2"
	guestAddress = "10.0.2.15"
)

// rig is a guest on one of the networks, and the servers that it talks to.
type rig struct {
	dir     string
	guest   *integration.Guest
	carrier int      // the process that carries the packets; 0: QEMU or the kernel do
	host    string   // the address of the host that the gateway's is
	within  []string // what starts a program where that address is
	iperf   int      // ports of the servers
	ends    int
	undo    []func() error // in the reverse order
}

// start boots a guest on a network and starts the servers. Close the rig also
// when it comes with an error.
func (b *bench) start(ctx context.Context, network string) (*rig, error) {
	b.rigs++
	r := &rig{dir: filepath.Join(b.dir, fmt.Sprint(b.rigs)), host: "127.0.0.1"}
	if err := os.Mkdir(r.dir, 0o777); err != nil {
		return r, err
	}
	if err := os.Chmod(r.dir, 0o777); err != nil { // for passt, which is nobody
		return r, err
	}
	cfg := integration.GuestConfig{Name: "guest", Number: 1, QEMU: b.machine.QEMU, Image: b.image, Dir: r.dir}
	var err error
	switch network {
	case vhostnetNetwork:
		err = r.startVhostnet(ctx, &cfg, b.options.vhostnet)
	case slirpNetwork:
		cfg.Netdev = "user,id=net"
	case passtNetwork:
		err = r.startPasst(ctx, &cfg)
	case tapNetwork:
		err = r.makeTAP(ctx, &cfg)
	}
	if err != nil {
		return r, err
	}
	if r.guest, err = integration.Boot(ctx, cfg); r.guest != nil {
		r.undo = append(r.undo, r.guest.Close)
	}
	if err != nil {
		return r, err
	}
	if network == tapNetwork {
		err = r.joinTAP(ctx)
	} else {
		err = r.lease(ctx)
	}
	if err != nil {
		return r, err
	}
	return r, r.startServers(ctx, b.self)
}

func (r *rig) startVhostnet(ctx context.Context, cfg *integration.GuestConfig, binary string) error {
	cfg.Socket = filepath.Join(r.dir, "port.sock")
	backend := &integration.Backend{
		Binary: binary, Log: filepath.Join(r.dir, "vhostnet.log"),
		Ports: []integration.Port{{Name: "guest", Socket: cfg.Socket}}, Args: []string{"--uplink", "user,host=on"},
	}
	err := backend.Start(ctx)
	r.undo = append(r.undo, func() error { backend.Close(); return nil })
	if err == nil {
		r.carrier = backend.PID()
	}
	return err
}

// startPasst starts passt, which is told the guest's network: it would give it the
// addresses of this machine's interface otherwise, of which it wants one with a
// default route all the same.
func (r *rig) startPasst(ctx context.Context, cfg *integration.GuestConfig) error {
	socket := filepath.Join(r.dir, "passt.sock")
	cfg.Netdev = "stream,id=net,server=off,addr.type=unix,addr.path=" + socket
	p, err := r.program("passt", "passt", "--foreground", "--one-off", "--stderr", "--ipv4-only", "--socket", socket,
		"--address", guestAddress, "--netmask", "24", "--gateway", gateway)
	if err != nil {
		return err
	}
	r.carrier = p.PID()
	return wait(ctx, "passt's socket", func() (bool, error) {
		if err := p.Alive(); err != nil {
			return false, err
		}
		info, err := os.Stat(socket)
		return err == nil && info.Mode()&os.ModeSocket != 0, nil
	})
}

// makeTAP makes a TAP device and the namespace that it will go to.
func (r *rig) makeTAP(ctx context.Context, cfg *integration.GuestConfig) error {
	name := tapName()
	cfg.Netdev = "tap,id=net,script=no,downscript=no,vhost=off,ifname=" + name
	r.host, r.within = gateway, []string{"ip", "netns", "exec", name}
	if err := ip(ctx, "netns", "add", name); err != nil {
		return err
	}
	r.undo = append(r.undo, func() error { return ipAlways("netns", "del", name) })
	if err := ip(ctx, "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"); err != nil {
		return err
	}
	r.undo = append(r.undo, func() error {
		_ = ipAlways("link", "del", name) // it has gone with its namespace if it ever came there
		return nil
	})
	return nil
}

// tapName names the TAP and its namespace after this process.
func tapName() string { return fmt.Sprintf("vhb%d", os.Getpid()) }

// joinTAP gives the TAP that QEMU has opened to the namespace, and both ends
// addresses.
func (r *rig) joinTAP(ctx context.Context) error {
	name := tapName()
	for _, args := range [][]string{
		{"link", "set", name, "netns", name},
		{"-n", name, "addr", "add", gateway + "/24", "dev", name},
		{"-n", name, "link", "set", name, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	_, err := r.guest.Shell(ctx, "/bin/ip addr flush dev eth0 && /bin/ip addr add "+guestAddress+"/24 dev eth0")
	return err
}

// leaseScript takes what the network's DHCP server says, its MTU included.
const leaseScript = `cat > /run/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
/bin/ip addr add $ip/$mask dev $interface
[ -z "$mtu" ] || /bin/ip link set $interface mtu $mtu
/bin/ip route replace default via $router
END
chmod +x /run/lease
modprobe af_packet 2>/dev/null
/bin/ip addr flush dev eth0
udhcpc -i eth0 -n -q -f -O mtu -t 20 -T 1 -s /run/lease`

func (r *rig) lease(ctx context.Context) error {
	if out, err := r.guest.Shell(ctx, leaseScript); err != nil {
		return fmt.Errorf("no lease: %w: %s", err, out)
	}
	return nil
}

// startServers starts what the guest talks to.
func (r *rig) startServers(ctx context.Context, self string) error {
	var err error
	if r.iperf, r.ends, err = freePorts(); err != nil {
		return err
	}
	iperf := []string{"iperf3", "--server", "--forceflush", "--bind", r.host, "--port", fmt.Sprint(r.iperf)}
	if err := r.server(ctx, "iperf3", iperf); err != nil {
		return err
	}
	return r.server(ctx, "ends", []string{self, "-serve", net.JoinHostPort(r.host, fmt.Sprint(r.ends))})
}

// server starts a program where the guest's packets arrive, and waits until it
// says that it listens.
func (r *rig) server(ctx context.Context, name string, argv []string) error {
	p, err := r.program(name, append(slices.Clip(r.within), argv...)...)
	if err != nil {
		return err
	}
	return wait(ctx, name, func() (bool, error) {
		if err := p.Alive(); err != nil {
			return false, err
		}
		log, err := os.ReadFile(r.log(name))
		return strings.Contains(string(log), ready), err
	})
}

// program starts one that ends with the rig.
func (r *rig) program(name string, argv ...string) (*integration.Program, error) {
	p, err := integration.StartProgram(name, r.log(name), argv...)
	if err == nil {
		r.undo = append(r.undo, func() error { p.Kill(); return nil })
	}
	return p, err
}

func (r *rig) log(name string) string { return filepath.Join(r.dir, name+".log") }

// close ends what start began.
func (r *rig) close() error {
	var errs []error
	for _, undo := range slices.Backward(r.undo) {
		errs = append(errs, undo())
	}
	r.undo = nil
	return errors.Join(errs...)
}

// showLogs writes the ends of what the programs said.
func (r *rig) showLogs(w io.Writer) {
	const most = 2000
	logs, _ := filepath.Glob(r.log("*")) // the pattern is well-formed
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err == nil && len(text) > 0 {
			fmt.Fprintf(w, "--- the end of %s:\n%s\n", filepath.Base(log), text[max(0, len(text)-most):])
		}
	}
}

// freePorts are two that nobody listens on.
func freePorts() (a, b int, err error) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer first.Close()
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer second.Close()
	return first.Addr().(*net.TCPAddr).Port, second.Addr().(*net.TCPAddr).Port, nil //nolint:forcetypeassert // both are TCP
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// undoTime bounds what is undone when there is no time left.
const undoTime = 10 * time.Second

// ipAlways is ip for what has to be undone, whatever ended.
func ipAlways(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	return ip(ctx, args...)
}

// wait asks f every few milliseconds until it says yes, fails, or ctx ends.
func wait(ctx context.Context, what string, f func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}
