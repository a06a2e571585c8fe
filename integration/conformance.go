package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Outcome is one line of a report of "vhostnet conform".
type Outcome struct {
	Name   string `json:"name"`
	About  string `json:"about"`
	Result string `json:"result"` // "pass", "fail" or "not offered"
	Detail string `json:"detail"`
}

// Conform has the program at binary ask the back-end at two sockets, which
// exchange frames, to behave. Scenarios that fail are no error.
func Conform(ctx context.Context, binary, socket, peer string) ([]Outcome, error) {
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "conform", "--socket", socket, "--peer", peer, "-o", "json")
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.WaitDelay = time.Second
	const someFailed = 1
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != someFailed || out.Len() == 0 {
			return nil, fmt.Errorf("integration: vhostnet conform: %w\n%s", err, log.Bytes())
		}
	}
	var list []Outcome
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("integration: the report of vhostnet conform: %w", err)
	}
	return list, nil
}

// NetVhost is DPDK's own back-end (net_vhost) in dpdk-testpmd, which carries
// every frame from one socket to the other, from pair to pair.
type NetVhost struct {
	Sockets [2]string
	Dir     string // for its own files and its log

	proc *process
}

// Start starts it and waits until it has made both sockets.
func (n *NetVhost) Start(ctx context.Context) error {
	testpmd, err := exec.LookPath("dpdk-testpmd")
	if err != nil {
		return fmt.Errorf("integration: %w: %w", err, errSetup)
	}
	argv := []string{
		"env", "RUNTIME_DIRECTORY=" + n.Dir, testpmd,
		// Ordinary memory is enough: nothing of its own is shared with a guest.
		"--no-huge", "-m", "512", "--lcores", "0@0,1@1", "--no-pci", "--iova-mode=va", "--no-telemetry",
		"--file-prefix", fmt.Sprintf("vhostnet-conform-%d", os.Getpid()),
	}
	for i, path := range n.Sockets {
		argv = append(argv, "--vdev", fmt.Sprintf("net_vhost%d,iface=%s,queues=2", i, path))
	}
	argv = append(argv, "--", "--nb-cores=1", "--forward-mode=io", "--rxq=2", "--txq=2",
		"--total-num-mbufs=16384", "--stats-period=3600", "--auto-start")
	if n.proc, err = start("dpdk-testpmd", filepath.Join(n.Dir, "testpmd.log"), argv...); err != nil {
		return err
	}
	return poll(ctx, "dpdk-testpmd to make its sockets", func() (bool, error) {
		if err := n.proc.alive(); err != nil {
			return false, err
		}
		for _, path := range n.Sockets {
			if info, err := os.Stat(path); err != nil || info.Mode().Type() != os.ModeSocket {
				return false, nil
			}
		}
		return true, nil
	})
}

// Version is that of the program.
func (n *NetVhost) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "dpdk-testpmd", "-v", "--no-huge", "--no-pci", "--in-memory", "--no-telemetry", "-m", "16", "--lcores", "0").CombinedOutput()
	const key = "DPDK "
	if at := bytes.Index(out, []byte(key)); at >= 0 {
		line, _, _ := bytes.Cut(out[at:], []byte{'\n'})
		return string(bytes.Trim(line, "' ")), nil
	}
	return "", fmt.Errorf("integration: dpdk-testpmd -v tells no version: %w", err)
}

// Close kills the process if it runs.
func (n *NetVhost) Close() {
	if n.proc != nil {
		n.proc.kill()
	}
}
