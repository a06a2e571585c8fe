package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// contended is the part of a measurement's time from which on a thread's
// waiting for its core is worth a warning.
const contended = 0.02

// waited is how long the threads of a process were ready to run and did not
// get a core, summed since their start. Two polling programs share nothing:
// whatever this grows by, somebody else used their cores. It is 0 where the
// kernel does not keep the count.
func (p *process) waited() time.Duration {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil {
		return 0 // only a malformed pattern fails
	}
	var sum time.Duration
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread is gone
		}
		sum += parseWaited(string(text))
	}
	return sum
}

// parseWaited reads a thread's schedstat: nanoseconds run, nanoseconds waited
// for a core, and how often it was given one.
func parseWaited(schedstat string) time.Duration {
	var running, waiting, times int64
	if _, err := fmt.Sscan(schedstat, &running, &waiting, &times); err != nil {
		return 0
	}
	return time.Duration(waiting)
}
