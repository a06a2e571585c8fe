package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Command runs a command of the vhostnet program against the daemon at a
// control socket. It answers what was printed, and the exit code; an error is
// about the run itself.
func (b *Backend) Command(ctx context.Context, socket string, args ...string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, b.Binary, append(args, "--control", socket)...)
	var printed, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &complaint
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil && exit.ExitCode() > 0 {
		return printed.String() + complaint.String(), exit.ExitCode(), nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("integration: vhostnet %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return printed.String(), 0, nil
}

// Control runs a command that has to succeed, and decodes what it prints in
// JSON into v, nil: it prints nothing.
func (b *Backend) Control(ctx context.Context, socket string, v any, args ...string) error {
	if v != nil {
		args = append(args, "-o", "json")
	}
	out, code, err := b.Command(ctx, socket, args...)
	switch {
	case err != nil:
		return err
	case code != 0:
		return fmt.Errorf("integration: vhostnet %s: exit code %d: %s", strings.Join(args, " "), code, out)
	case v == nil:
		return nil
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("integration: vhostnet %s prints %q: %w", strings.Join(args, " "), out, err)
	}
	return nil
}

// Events is "vhostnet events" of one port, with its output in a file.
type Events struct {
	proc *process
	log  string
}

// StartEvents starts the command and waits until it tells.
func (b *Backend) StartEvents(ctx context.Context, socket, port, log string) (*Events, error) {
	proc, err := start("events", log, b.Binary, "events", "--port", port, "--control", socket)
	if err != nil {
		return nil, err
	}
	e := &Events{proc, log}
	return e, poll(ctx, "events", func() (bool, error) {
		data, err := os.ReadFile(log)
		return strings.Contains(string(data), "\nTIME "), errors.Join(err, proc.alive())
	})
}

// Told is what was told so far: of each event its kind, and the state behind a
// colon if it has one.
func (e *Events) Told() (list []string, err error) {
	data, err := os.ReadFile(e.log)
	if err != nil {
		return nil, fmt.Errorf("integration: %w", err)
	}
	_, table, _ := strings.Cut(string(data), "\nTIME ")
	for line := range strings.Lines(table) {
		f := strings.Fields(line) // time, event, port, queue, state
		if len(f) < 5 || !strings.HasSuffix(line, "\n") || f[1] == "PORT" {
			continue
		}
		if f[4] == "-" {
			list = append(list, f[1])
		} else {
			list = append(list, f[1]+":"+f[4])
		}
	}
	return list, nil
}

// Close ends the command.
func (e *Events) Close() { e.proc.kill() }
