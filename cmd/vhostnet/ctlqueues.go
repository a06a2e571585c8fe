package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"vhostnet/control"
)

func newQueuesCommand(out io.Writer) *cobra.Command {
	var port string
	cmd := newCtlCommand(out, ctlCommand{
		use:   "queues",
		short: "List queues, and drive those of ports with queue=manual",
		long: `List the VM queues of a running daemon; number 0 is the switch's own. With a
subcommand, drive one by the verbs of NDIS: allocate it for a port with
queue=manual, complete the allocation, change it, free it. "vhostnet filters"
says which frames are its.`,
		example: `  vhostnet queues
  vhostnet queues --port web -o json
  vhostnet queues allocate web && vhostnet queues complete 1`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "queues of this `PORT` only")
			completeFlag(cmd, "port", portNames)
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			all, err := c.Queues(ctx)
			if err != nil {
				return err
			}
			some := []control.Queue{}
			for _, q := range all {
				if port == "" || q.Port == port {
					some = append(some, q)
				}
			}
			return printQueues(o, some, some)
		},
	})
	cmd.AddCommand(newQueuesAllocate(out), newQueuesComplete(out), newQueuesSet(out), newQueuesFree(out), newQueuesCapabilities(out))
	return cmd
}

func printQueues(o *ctl, v any, queues []control.Queue) error {
	return answer(o, v, "QUEUE PORT STATE FILTERS WORKER AFFINITY BUFFERS BYTES OWNER NAME", func(line func(...any)) {
		for _, q := range queues {
			worker, bytes := "", uint64(0)
			if q.Worker != nil {
				worker = fmt.Sprint(*q.Worker)
			}
			for _, m := range q.Memory {
				bytes += m.Bytes
			}
			line(q.ID, q.Port, strings.ToLower(q.State), q.Filters, worker, intList(q.Affinity), q.SuggestedBuffers, bytes, q.Owner, q.Name)
		}
	})
}

// queueFlags are what a queue is allocated with, or changed to.
type queueFlags struct {
	name     string
	affinity string
	buffers  uint32
}

func (q *queueFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.name, "name", "", "free `TEXT` that lists show")
	f.StringVar(&q.affinity, "affinity", "any", "`WORKERS` that may carry its rings, such as 0,2; the lowest does")
	f.Uint32Var(&q.buffers, "buffers", 0, "how many receive buffers would be good, a `NUMBER`: a hint")
	for _, flag := range []string{"name", "affinity", "buffers"} {
		complete(cmd, flag, nil)
	}
}

func newQueuesAllocate(out io.Writer) *cobra.Command {
	var q queueFlags
	return newCtlCommand(out, ctlCommand{
		use:   "allocate PORT",
		short: "Allocate a queue (ALLOCATE_QUEUE)",
		long: `Allocate a queue for a port with queue=manual. It has an id, and no memory and no
filters yet.`,
		example:  `  vhostnet queues allocate web --affinity 1`,
		args:     exactly("the name of a port"),
		complete: fromDaemon(false, portNames),
		flags:    q.add,
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			workers, err := parseAffinity(q.affinity)
			if err != nil {
				return err
			}
			made, err := c.AllocateQueue(ctx, control.QueueRequest{Port: args[0], Name: q.name, Affinity: workers, SuggestedBuffers: q.buffers})
			if err != nil {
				return err
			}
			return printQueues(o, made, []control.Queue{made})
		},
	})
}

func newQueuesComplete(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "complete QUEUE...",
		short: "End a batch of allocations (QUEUE_ALLOCATION_COMPLETE)",
		long: `End a batch of allocations: memory is allocated for each queue, which runs if it
has filters. Each has a status of its own; one that failed keeps its state and
can be tried again. The exit code is 1 if one failed.`,
		example:  `  vhostnet queues complete 1 2`,
		args:     wantIDs[uint16]("queue"),
		complete: fromDaemon(true, queueIDs),
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			list, err := ids[uint16](args, "queue")
			if err != nil {
				return err
			}
			done, err := c.CompleteQueues(ctx, list)
			if err != nil {
				return err
			}
			failed := 0
			err = answer(o, done, "QUEUE STATE STATUS ERROR", func(line func(...any)) {
				for _, d := range done {
					line(d.Queue, strings.ToLower(d.State), d.Status, d.Error)
				}
			})
			for _, d := range done {
				if d.Status != control.StatusSuccess {
					failed++
				}
			}
			return errors.Join(err, failedIn("of the queues could not be completed", failed))
		},
	})
}

func newQueuesSet(out io.Writer) *cobra.Command {
	var q queueFlags
	var cmd *cobra.Command
	cmd = newCtlCommand(out, ctlCommand{
		use:   "set QUEUE",
		short: "Change a queue (QUEUE_PARAMETERS)",
		long: `Change what can change while a queue lives. What no flag names stays. A new
affinity moves its rings to another worker before the command returns; no frame
is lost or overtaken.`,
		example:  `  vhostnet queues set 1 --affinity 0`,
		args:     exactly("the number of a queue"),
		complete: fromDaemon(false, queueIDs),
		flags:    q.add,
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			list, err := ids[uint16](args, "queue")
			if err != nil {
				return usageError{err}
			}
			change, err := q.change(cmd)
			if err != nil {
				return err
			}
			made, err := c.SetQueue(ctx, list[0], change)
			if err != nil {
				return err
			}
			return printQueues(o, made, []control.Queue{made})
		},
	})
	return cmd
}

// change is what the flags that were given change.
func (q *queueFlags) change(cmd *cobra.Command) (c control.QueueChange, err error) {
	f := cmd.Flags()
	if f.Changed("name") {
		c.Name = &q.name
	}
	if f.Changed("buffers") {
		c.SuggestedBuffers = &q.buffers
	}
	if f.Changed("affinity") {
		workers, err := parseAffinity(q.affinity)
		if err != nil {
			return c, err
		}
		c.Affinity = &workers
	}
	if c == (control.QueueChange{}) {
		return c, usageError{errors.New("nothing to change is given; want --name, --affinity or --buffers")}
	}
	return c, nil
}

func newQueuesFree(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "free QUEUE",
		short: "Free a queue (FREE_QUEUE)",
		long: `Free a queue whose filters have been cleared: nothing is written for it any more,
which the event dma-stopped says, its packets come back, its memory is freed. If
packets of it are held for long the command says that it is pending and returns;
the queue is freed when the last one is back.`,
		example:  `  vhostnet queues free 1`,
		args:     exactly("the number of a queue"),
		complete: fromDaemon(false, queueIDs),
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			list, err := ids[uint16](args, "queue")
			if err != nil {
				return usageError{err}
			}
			done := control.Completion{Queue: list[0], Status: control.StatusSuccess, State: "Undefined"}
			if err := c.FreeQueue(ctx, list[0]); isPending(err) {
				done.Status, done.State = control.StatusPending, "Freeing"
			} else if err != nil {
				return err
			}
			return answer(o, done, "QUEUE STATE STATUS", func(line func(...any)) {
				line(done.Queue, strings.ToLower(done.State), done.Status)
			})
		},
	})
}

func newQueuesCapabilities(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:     "capabilities",
		short:   "Show what can be filtered",
		long:    `Show how many queues and filters there can be, and which tests of a frame.`,
		example: `  vhostnet queues capabilities`,
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			all, err := c.Capabilities(ctx)
			if err != nil {
				return err
			}
			return answer(o, all, "SET QUEUES FILTERS PROPERTIES MAC-FIELDS", func(line func(...any)) {
				for i, s := range []control.CapabilitySet{all.Hardware, all.Current} {
					line([]string{"hardware", "current"}[i], s.NumQueues, s.MaxMACHeaderFilters, fmt.Sprintf("%#x", s.SupportedQueueProperties), fmt.Sprintf("%#x", s.SupportedMACHeaderFields))
				}
			})
		},
	})
}
