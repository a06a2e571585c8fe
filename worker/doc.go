// Package worker runs what moves packets. A [Worker] is a goroutine locked to
// its OS thread, optionally pinned to a CPU, that visits its [Task]s in turn; a
// [Group] owns the workers and the watchdog. Tasks are transmit rings and the
// receive sides of uplinks; the package knows nothing of either.
//
// # The loop
//
// A round is: publish the epoch, read the clock, run the commands that have
// come, visit each active task once with a budget. Then, by what the round
// found:
//
//	something        the next round follows at once
//	nothing          sched_yield, then the next round
//	nothing active   sleep in epoll until a kick or a command
//
// Each task is in one of two states:
//
//	           Poll found nothing for long enough, Arm said no more
//	active  ---------------------------------------------------------->  asleep
//	        <----------------------------------------------------------
//	           its descriptor became readable
//
// Long enough is learned of each task, see [Arrivals]: at most Options.Spin.
//
// A task that sleeps costs the loop nothing. While others are active, kicks of
// the sleeping are looked for in a round that found nothing, and otherwise
// every 20 us (one epoll_wait that does not wait).
//
// # Why no wake-up is lost
//
// Descriptors are registered once, when a task is added, edge-triggered, and
// the worker does not read them. Each write is an edge, so one that comes
// between Arm and epoll_wait is found by that epoll_wait; what came before
// Arm's last look at the ring makes Arm say "more". Because edges and not
// levels count, a descriptor that is readable for ever (a semaphore with a
// huge count, a pipe whose other end is closed) wakes its task once. Arm
// empties the kick before it looks: a full pipe takes no write, and what is not
// written is not an edge.
//
// A kick for a task that is not asleep, or that then finds nothing, is harmless:
// it costs one visit.
//
// A command is pushed on the worker's mailbox before its sender looks whether
// the worker sleeps, and the worker says that it sleeps before it looks at the
// mailbox a last time: one of the two sees the other.
//
// # Who waits for whom
//
// Others wait for a worker; a worker waits for nobody. Commands come over a
// stack that the worker empties with one exchange, and are answered by closing
// a channel. The one thing that can hold a worker is a system call on a
// descriptor that a front-end also holds; it is made by [Context.Call], where
// the watchdog sees it.
//
// No function that waits for a worker (Add, Remove, Do, Quiesce) may be called
// on one: it would wait for itself until its context ends.
//
// # Faults and panics
//
// A worker turns memory faults of its goroutine into panics
// ([sharedmem.GuardThread]); a task that touches guest memory recovers them
// with [sharedmem.AsFault], as a function passed to Do does. Whatever else
// panics on a worker is a defect of this program and ends the process.
package worker
