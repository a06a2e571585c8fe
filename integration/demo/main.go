// Command demo shows vhostnet at work: it boots two guests on one switch with a
// user-mode network. They get their addresses by DHCP, resolve names, fetch a
// page of this machine by IPv4 and IPv6, ping each other, and are measured. With
// CONSOLE=1 it then hands over the console of one of them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"vhostnet/integration"
)

// demoTime bounds everything but the time that a person spends on a console.
const demoTime = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("CONSOLE") != "", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, console bool, out io.Writer) (err error) {
	bounded, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "vhostnet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{out: out, dir: dir}
	lab, err := d.boot(bounded, console)
	if lab != nil {
		defer func() { err = errors.Join(err, d.finish(lab, err)) }()
	}
	if err != nil {
		return err
	}
	if err := d.network(bounded, lab); err != nil {
		return err
	}
	if err := d.show(bounded, lab); err != nil {
		return err
	}
	if console {
		return d.console(ctx, lab.Guests[0])
	}
	return nil
}

type demo struct {
	out io.Writer
	dir string
}

// step says what is done while it is done, and how long it took.
func (d *demo) step(what string, f func() error) error {
	fmt.Fprintf(d.out, "* %s ... ", what)
	begin := time.Now()
	if err := f(); err != nil {
		fmt.Fprintln(d.out, "failed")
		return err
	}
	fmt.Fprintf(d.out, "%.1f s\n", time.Since(begin).Seconds())
	return nil
}

func (d *demo) boot(ctx context.Context, console bool) (lab *integration.Lab, err error) {
	machine, err := integration.Find(ctx)
	if err != nil {
		return nil, err
	}
	binary, err := integration.FindBackend(ctx, d.dir)
	if err != nil {
		return nil, err
	}
	var image *integration.Image
	err = d.step("making what the guests boot: Linux "+machine.Kernel.Release+", busybox, iperf3", func() error {
		image, err = integration.BuildImage(ctx, machine.Kernel, d.dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = d.step(fmt.Sprintf("starting vhostnet, and guests a and b in %v (software emulation)", machine.QEMU), func() error {
		lab, err = integration.StartLab(ctx, integration.LabConfig{
			Dir: d.dir, Binary: binary, Image: image, Backend: []string{"--uplink", "user,host=on"},
			Guests: []integration.GuestConfig{
				{Name: "a", QEMU: machine.QEMU, OwnQueue: true, Shell: console},
				{Name: "b", QEMU: machine.QEMU, OwnQueue: true},
			},
		})
		return err
	})
	return lab, err
}

func (d *demo) show(ctx context.Context, lab *integration.Lab) error {
	a, b := lab.Guests[0], lab.Guests[1]
	for _, pair := range [][2]*integration.Guest{{a, b}, {b, a}} {
		fmt.Fprintf(d.out, "\nguest %s$ iperf3 -c %s -n 100M\n", pair[0].Name(), pair[1].Addr())
		got, err := integration.Iperf(ctx, pair[0], pair[1], "-n", "100M")
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "    %.0f MB received, %.2f Gbit/s: what emulated CPUs can do\n", got.Received/1e6, got.Gbps)
	}
	return nil
}

// finish stops everything; after a failure that was not the person's wish it
// first shows what the guests and vhostnet said.
func (d *demo) finish(lab *integration.Lab, failed error) error {
	fmt.Fprintln(d.out)
	if failed != nil && !errors.Is(failed, context.Canceled) {
		lab.Report(d.out)
	}
	if err := d.step("stopping the guests and vhostnet", lab.Close); err != nil {
		return err
	}
	if failed == nil {
		fmt.Fprint(d.out, attach)
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

// escape is what ends a console session: Ctrl-].
const escape = 0x1d

// console joins the terminal and a guest's console until the person types
// escape, the guest ends or ctx is over.
func (d *demo) console(ctx context.Context, g *integration.Guest) (err error) {
	conn, err := g.DialConsole(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(d.out, "\nThe console of guest %s: Enter for a prompt, Ctrl-] to end.\n", g.Name())
	restore, err := rawTerminal()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	ended := make(chan error, 2)
	go func() { ended <- typed(conn, os.Stdin) }()
	go func() {
		_, err := io.Copy(d.out, conn)
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return err
}

// typed copies what is typed until the escape.
func typed(to io.Writer, from io.Reader) error {
	buf := make([]byte, 256)
	for {
		n, err := from.Read(buf)
		keys, _, found := strings.Cut(string(buf[:n]), string(rune(escape)))
		if _, err := io.WriteString(to, keys); err != nil {
			return err
		}
		if found || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rawTerminal makes the terminal pass every key on, and returns what undoes
// that. What is not a terminal needs nothing.
func rawTerminal() (restore func() error, err error) {
	stty := func(args ...string) (string, error) {
		cmd := exec.Command("stty", args...)
		cmd.Stdin = os.Stdin
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	before, err := stty("-g")
	if err != nil {
		return func() error { return nil }, nil
	}
	if _, err := stty("raw", "-echo"); err != nil {
		return nil, fmt.Errorf("stty: %w", err)
	}
	return func() error {
		_, err := stty(before)
		return err
	}, nil
}

const attach = `
Your own virtual machines: one socket for each,

    bin/vhostnet run --port one=/tmp/one.sock,mac=52:54:00:00:00:01 --port two=/tmp/two.sock

and, on each QEMU's command line (memory must be shared with vhostnet):

    -object memory-backend-memfd,id=mem,size=2G,share=on -machine q35,memory-backend=mem -m 2G \
    -chardev socket,id=c0,path=/tmp/one.sock,reconnect=1 \
    -netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01

QEMU 9.2 and later also take reconnect-ms=100 in place of reconnect=1. QEMU before 10
without KVM needs vectors=0 at the end of -device: it crashes otherwise. Give each VM a
mac of its own; a port that is told it gives its VM a queue of its own. "bin/vhostnet run
--help" tells the rest.
`
