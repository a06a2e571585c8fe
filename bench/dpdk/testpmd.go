package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	prompt       = "testpmd> "
	startLimit   = 60 * time.Second // EAL clears its huge pages at the start
	commandLimit = 20 * time.Second
	quitLimit    = 20 * time.Second
)

// testpmd is a running dpdk-testpmd in interactive mode.
type testpmd struct{ *process }

// testpmdOptions are the parts of the command line that differ between uses.
type testpmdOptions struct {
	name     string   // in messages
	role     string   // in file names
	core     int      // of the forwarding thread
	queues   int      // queue pairs of every port
	vdevs    []string // one --vdev each
	logLevel string   // --log-level; empty: none
	flags    []string // testpmd's own, after the EAL's
}

// startTestpmd starts testpmd and returns at once: see ready.
func (r *rig) startTestpmd(o testpmdOptions) (*testpmd, error) {
	argv := []string{
		// Line-buffered, although its output is a pipe: answers must arrive when they are given.
		r.machine.stdbuf, "-oL", r.machine.testpmd,
		// Thread 0 reads commands and sleeps, beside the back-end; thread 1 forwards.
		"--lcores", fmt.Sprintf("0@%d,1@%d", r.options.backCore, o.core),
		"-m", fmt.Sprint(testpmdMegabytes),
		// By virtual addresses: the headers of a ring of 32768 take several pages,
		// which need not follow one another in physical memory.
		"--no-pci", "--iova-mode=va", "--no-telemetry", "--single-file-segments",
		"--huge-dir", r.machine.hugeDir,
		"--file-prefix", r.prefix + o.role,
	}
	if r.what.Vectorized {
		argv = append(argv, "--force-max-simd-bitwidth=512") // what the vector code of packed rings needs
	}
	if o.logLevel != "" {
		argv = append(argv, "--log-level="+o.logLevel)
	}
	for _, v := range o.vdevs {
		argv = append(argv, "--vdev", v)
	}
	argv = append(argv, "--", "-i", "--nb-cores=1", "--forward-mode=io",
		fmt.Sprintf("--rxq=%d", o.queues), fmt.Sprintf("--txq=%d", o.queues),
		fmt.Sprintf("--rxd=%d", r.what.posted()), fmt.Sprintf("--txd=%d", r.what.posted()))
	argv = append(argv, o.flags...)
	p, err := startProcess(o.name, []string{"RUNTIME_DIRECTORY=" + r.dir}, argv...)
	if err != nil {
		return nil, err
	}
	return &testpmd{p}, nil
}

// ready waits for the first prompt: all ports are configured then.
func (t *testpmd) ready(ctx context.Context) (string, error) {
	return t.waitFor(ctx, 0, prompt, startLimit)
}

// refusals are what testpmd prints, instead of doing it, about a command it does not take.
var refusals = []string{"Command not found", "Bad arguments", "Invalid port", "Packet forwarding not started", "Not all ports were started"}

// command has testpmd carry out one line and returns what it printed until the next prompt.
func (t *testpmd) command(ctx context.Context, line string) (string, error) {
	from := t.out.length()
	if _, err := io.WriteString(t.in, line+"\n"); err != nil {
		return "", fmt.Errorf("telling %s to %q: %w", t.name, line, err)
	}
	text, err := t.waitFor(ctx, from, prompt, commandLimit)
	if err != nil {
		return text, fmt.Errorf("after %q: %w", line, err)
	}
	for _, r := range refusals {
		if strings.Contains(text, r) {
			return text, fmt.Errorf("%s did not take %q: %s", t.name, line, strings.TrimSpace(text))
		}
	}
	return text, nil
}

// commands carries out several lines, up to the first failure.
func (t *testpmd) commands(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := t.command(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// quit ends testpmd.
func (t *testpmd) quit() error {
	return t.stop(func() {
		_, _ = io.WriteString(t.in, "quit\n") // a closed pipe is a process that ends by itself
	}, quitLimit)
}
