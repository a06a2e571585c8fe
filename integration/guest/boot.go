package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vhostnet/integration/agent"
)

// Names on the kernel's command line that boot obeys.
const (
	modulesOption = "vhostnet.modules=" // comma-separated, loaded in this order
	shellOption   = "vhostnet.shell"    // a shell on the console
)

// agentPort carries nothing but the agent's lines: the kernel's messages go to
// the first serial port.
const agentPort = "/dev/ttyS1"

// boot brings the machine up and serves the agent for ever. It never returns:
// process 1 must not.
func boot() {
	err := prepare()
	for ; ; time.Sleep(time.Second) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "guest: init:", err)
		}
		err = serve()
	}
}

func prepare() error {
	if err := os.Setenv("PATH", "/sbin:/usr/sbin:/bin:/usr/bin"); err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := command("stty", "-F", agentPort, "raw", "-echo"); err != nil {
		return err
	}
	if err := command("ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for option := range strings.FieldsSeq(string(line)) {
		if modules, ok := strings.CutPrefix(option, modulesOption); ok {
			if err := command("modprobe", append([]string{"-a"}, strings.Split(modules, ",")...)...); err != nil {
				return err
			}
		}
		if option == shellOption {
			go shell()
		}
	}
	return nil
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// serve says hello and answers until the port fails.
func serve() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	port, err := os.OpenFile(agentPort, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	return agent.Serve(port, agent.Hello{
		BootID: strings.TrimSpace(string(id)),
		Kernel: strings.TrimSpace(string(kernel)),
	})
}

// shell keeps a shell on the console.
func shell() {
	for ; ; time.Sleep(time.Second) {
		sh := exec.Command("setsid", "cttyhack", "sh", "-l")
		sh.Stdin, sh.Stdout, sh.Stderr = os.Stdin, os.Stdout, os.Stderr
		// A shell that ends, however it ends, is followed by another.
		_ = sh.Run()
	}
}
