package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// PinThread binds the calling OS thread to one CPU. The goroutine must have
// called runtime.LockOSThread, or it will run elsewhere.
func PinThread(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if cpu < 0 || set.Count() == 0 {
		return fmt.Errorf("sys: CPU %d cannot be named, the first is 0", cpu)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("sys: bind a thread to CPU %d, which must be one that this process may use: %w", cpu, err)
	}
	return nil
}

// Yield lets another thread of this CPU run, if one waits. Other goroutines
// may use the processor meanwhile: it is a system call that can take long.
func Yield() {
	_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails on Linux
}
