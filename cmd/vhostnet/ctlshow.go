package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vhostnet/control"
	"vhostnet/netdev"
)

// newShowCommands are those that only tell.
func newShowCommands(out io.Writer) []*cobra.Command {
	return []*cobra.Command{newMemoryCommand(out), newTableCommand(out), newCountersCommand(out), newEventsCommand(out)}
}

func newMemoryCommand(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "memory",
		short: "Show what queues have allocated, and what ports take",
		long: `Show the memory that a running daemon has allocated, by queue and usage. A guest's
memory is its own: receive and transmit allocations are views of the whole of it,
and views of the same bytes are each counted. Queue 0 has the host's memory. Below
the sum is what each VM's port takes of the daemon's own memory.`,
		example: `  vhostnet memory`,
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			m, err := c.Memory(ctx)
			if err != nil {
				return err
			}
			err = answer(o, m, "QUEUE PORT USAGE ALLOCATIONS BYTES", func(line func(...any)) {
				for _, a := range m.Allocations {
					line(a.Queue, a.Port, a.Usage, a.Allocations, a.Bytes)
				}
				line("all", "", "", "", m.Total)
				for _, p := range m.Ports {
					line("", p.Port, "own", "", p.Bytes)
				}
			})
			if err == nil && o.output != "json" {
				_, err = fmt.Fprintln(o.out, m.Note)
			}
			return err
		},
	})
}

func newTableCommand(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "table",
		short: "List the addresses that the switch knows",
		long: `List the forwarding table of a running daemon: which address is at which port, and
why. A filter's frames go a queue's way; static and learned ones go queue 0's.`,
		example: `  vhostnet table`,
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			entries, err := c.Table(ctx)
			if err != nil {
				return err
			}
			return answer(o, entries, "MAC VLAN KIND PORT QUEUE UNSEEN", func(line func(...any)) {
				for _, e := range entries {
					unseen, vlan := "", vlanColumn(e.Address)
					if e.Kind == "learned" {
						unseen = time.Duration(e.Seconds * float64(time.Second)).Round(time.Second).String()
					}
					if e.Tagged {
						vlan += ":tag"
					}
					line(e.MAC, vlan, e.Kind, e.Port, e.Queue, unseen)
				}
			})
		},
	})
}

func newCountersCommand(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:     "counters",
		short:   "Show what ports have counted",
		long:    `Show what the ports of a running daemon have counted. Tx is from the VM, Rx to it.`,
		example: `  vhostnet counters -o json`,
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			counters, err := c.Counters(ctx)
			if err != nil {
				return err
			}
			return answer(o, counters, "PORT TX-FRAMES TX-BYTES RX-FRAMES RX-BYTES SOFT DROPS", func(line func(...any)) {
				for _, p := range counters {
					var drops []string
					for _, name := range netdev.DropNames() {
						if n := p.Drops[name]; n > 0 {
							drops = append(drops, fmt.Sprintf("%s=%d", name, n))
						}
					}
					line(p.Port, p.TxFrames, p.TxBytes, p.RxFrames, p.RxBytes, p.SoftOffload, column(drops))
				}
			})
		},
	})
}

func newEventsCommand(out io.Writer) *cobra.Command {
	var port string
	var count int
	return newCtlCommand(out, ctlCommand{
		use:   "events",
		short: "Tell events as they happen",
		long: `Tell what happens in a running daemon, as it happens, until SIGINT: ports that are
added and removed, front-ends that come and go, links, states of queues, the end
of writing for a queue that is freed (dma-stopped), broken rings, ways into a
user-mode network that are added and removed, or that the host does not let
listen (forward-failed). Whoever reads too slowly is told how many events it has
missed. What happens after the heading has come is told.`,
		example: `  vhostnet events
  vhostnet events --port web -o json`,
		stream: true,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "events of this `PORT` only")
			cmd.Flags().IntVar(&count, "count", 0, "end after `N` events (default: never)")
			completeFlag(cmd, "port", portNames)
			complete(cmd, "count", nil)
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			stream, err := c.Events(ctx, port)
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			return o.tell(ctx, stream, count)
		},
	})
}

// eventLine is a line of the table of events, which has no end to align by.
const eventLine = "%-12s %-15s %-16s %-6s %-12s %s\n"

// tell prints events until ctx ends, or count of them.
func (o *ctl) tell(ctx context.Context, stream *control.EventStream, count int) error {
	if o.output != "json" {
		if _, err := fmt.Fprintf(o.out, eventLine, "TIME", "EVENT", "PORT", "QUEUE", "STATE", "NOTE"); err != nil {
			return err
		}
	}
	for n := 0; count == 0 || n < count; n++ {
		e, err := stream.Next()
		switch {
		case ctx.Err() != nil:
			return nil // that is how it ends
		case errors.Is(err, io.EOF):
			return errors.New("the daemon has ended")
		case err != nil:
			return err
		}
		if err := o.tellOne(e); err != nil {
			return err
		}
	}
	return nil
}

func (o *ctl) tellOne(e control.Event) error {
	if o.output == "json" {
		return json.NewEncoder(o.out).Encode(e)
	}
	queue, note := "-", e.Error
	if e.Queue != 0 {
		queue = fmt.Sprint(e.Queue)
	}
	if e.Ring != nil {
		note = fmt.Sprintf("ring %d: %s", *e.Ring, e.Error)
	}
	if f := e.Forward; f != nil {
		note = strings.TrimSuffix(fmt.Sprintf("%s/%s/%s: %s", f.Network, f.Listen, f.Guest, e.Error), ": ")
	}
	if e.Count != 0 {
		note = fmt.Sprintf("%d events were missed", e.Count)
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	line := fmt.Sprintf(eventLine, e.Time.Local().Format("15:04:05.000"), e.Kind, dash(e.Port), queue, strings.ToLower(dash(e.State)), note)
	_, err := io.WriteString(o.out, strings.TrimRight(line, " \n")+"\n")
	return err
}
