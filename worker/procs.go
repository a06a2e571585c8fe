package worker

import "runtime"

// RaiseProcs adds workers to GOMAXPROCS, so that workers which never leave
// their thread keep no processor from other goroutines: sessions, timers, the
// garbage collector, the watchdog. It counts from what the Go runtime has
// found (the cores, or a cgroup's limit, or the user's GOMAXPROCS), and returns
// a function that sets the old value again.
//
// It is for main, which alone knows all workers of the process; a Group does
// not do it, since a library does not change the process behind its user's
// back. From the first call on the runtime no longer follows changes of the
// cgroup's limit.
func RaiseProcs(workers int) (restore func()) {
	old := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(old + max(0, workers))
	return func() { runtime.GOMAXPROCS(old) }
}
