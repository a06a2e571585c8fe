package integration

import (
	"context"
	"encoding/json"
	"fmt"
)

// Program is a program of this machine that runs beside guests until its owner
// ends it, or this process dies.
type Program struct{ proc *process }

// StartProgram starts argv, whose output is appended to the file log; name is
// what errors call it.
func StartProgram(name, log string, argv ...string) (*Program, error) {
	p, err := start(name, log, argv...)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// PID is the number of its process.
func (p *Program) PID() int { return p.proc.cmd.Process.Pid }

// Alive returns an error if it does not run.
func (p *Program) Alive() error { return p.proc.alive() }

// Kill ends it with SIGKILL and waits until it is gone.
func (p *Program) Kill() { p.proc.kill() }

// PID is the number of the back-end's process.
func (b *Backend) PID() int { return b.proc.cmd.Process.Pid }

// PID is the number of QEMU's process.
func (g *Guest) PID() int { return g.proc.cmd.Process.Pid }

// CPUThreads are the threads of QEMU that are the guest's CPUs.
func (g *Guest) CPUThreads(ctx context.Context) ([]int, error) {
	m, err := dialMonitor(ctx, g.path("qmp.sock"))
	if err != nil {
		return nil, err
	}
	defer m.close()
	answer, err := m.execute(ctx, "query-cpus-fast", nil)
	if err != nil {
		return nil, err
	}
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := json.Unmarshal(answer, &cpus); err != nil {
		return nil, fmt.Errorf("integration: monitor: query-cpus-fast: %w", err)
	}
	threads := make([]int, len(cpus))
	for i, cpu := range cpus {
		threads[i] = cpu.Thread
	}
	return threads, nil
}
