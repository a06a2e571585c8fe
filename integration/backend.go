package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Port is a port of a back-end. What is empty is left to the back-end.
type Port struct {
	Name   string
	Socket string
	MAC    string
	Mode   string
	Role   string // "connect": the front-end listens
	Queue  string // "manual": commands drive it

	Inflight bool // inflight regions are offered
}

// String returns the port as "vhostnet run --port" takes it.
func (p Port) String() string {
	s := p.Name + "=" + p.Socket
	if p.MAC != "" {
		s += ",mac=" + p.MAC
	}
	if p.Mode != "" {
		s += ",mode=" + p.Mode
	}
	if p.Queue != "" {
		s += ",queue=" + p.Queue
	}
	if p.Role != "" {
		s += ",role=" + p.Role
	}
	if p.Inflight {
		s += ",inflight=on"
	}
	return s
}

// Backend is a vhostnet process that can be stopped, killed and started again
// with the same ports.
type Backend struct {
	Binary string
	Ports  []Port
	Log    string   // its output, over all its starts
	Args   []string // further arguments of "vhostnet run"

	proc *process
}

// Start starts the process and waits until it listens on each of its sockets.
func (b *Backend) Start(ctx context.Context) error {
	argv := []string{b.Binary, "run"}
	for _, port := range b.Ports {
		argv = append(argv, "--port", port.String())
	}
	proc, err := start("vhostnet", b.Log, append(argv, b.Args...)...)
	if err != nil {
		return err
	}
	b.proc = proc
	return pollEvery(ctx, time.Millisecond, "vhostnet to listen", func() (bool, error) {
		if err := proc.alive(); err != nil {
			return false, err
		}
		return b.listening()
	})
}

// listening reads the kernel's list, of the process's network namespace: a
// connection would be a front-end.
func (b *Backend) listening() (bool, error) {
	list := "/proc/net/unix"
	if b.proc != nil {
		list = fmt.Sprintf("/proc/%d/net/unix", b.proc.cmd.Process.Pid)
	}
	file, err := os.Open(list)
	if err != nil {
		return false, fmt.Errorf("integration: %w", err)
	}
	defer file.Close()
	const accepting = "00010000" // __SO_ACCEPTCON, in the fourth field
	listening := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if field := strings.Fields(lines.Text()); len(field) == 8 && field[3] == accepting {
			listening[field[7]] = true
		}
	}
	for _, port := range b.Ports {
		if port.Role == "" && !listening[port.Socket] {
			return false, lines.Err()
		}
	}
	return true, lines.Err()
}

// Alive returns an error if the process does not run.
func (b *Backend) Alive() error { return b.proc.alive() }

// Kill ends the process with SIGKILL: its sockets stay behind as files.
func (b *Backend) Kill() { b.proc.kill() }

// Stop asks the process to end, as an init system would; an exit code other
// than 0 is an error, and so is ctx being over first.
func (b *Backend) Stop(ctx context.Context) error { return b.proc.stop(ctx) }

// Close kills the process if it runs.
func (b *Backend) Close() {
	if b.proc != nil {
		b.proc.kill()
	}
}

// FindBackend returns the vhostnet program to use: the one that the variable
// VHOSTNET names, or one built in dir.
func FindBackend(ctx context.Context, dir string) (string, error) {
	if binary := os.Getenv("VHOSTNET"); binary != "" {
		return filepath.Abs(binary)
	}
	binary := filepath.Join(dir, "vhostnet")
	return binary, Build(ctx, "cmd/vhostnet", binary)
}
