package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"vhostnet/control"
)

func newFiltersCommand(out io.Writer) *cobra.Command {
	var port string
	cmd := newCtlCommand(out, ctlCommand{
		use:   "filters",
		short: "List, set, clear and move filters of queues",
		long: `List the filters of a running daemon: addresses whose frames are a VM's, and go
its queue's way. A port whose connection drives its queue (queue=auto) keeps the
filters that it is to have, and sets them whenever its VM starts; those that wait
for that have no id.`,
		example: `  vhostnet filters
  vhostnet filters set --port web 52:54:00:00:00:99
  vhostnet filters move 3 2`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "filters of this `PORT` only")
			completeFlag(cmd, "port", portNames)
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			all, err := c.Filters(ctx)
			if err != nil {
				return err
			}
			some := []control.Filter{}
			for _, f := range all {
				if port == "" || f.Port == port {
					some = append(some, f)
				}
			}
			return printFilters(o, some, some)
		},
	})
	cmd.AddCommand(newFiltersSet(out), newFiltersClear(out), newFiltersMove(out))
	return cmd
}

func printFilters(o *ctl, v any, filters []control.Filter) error {
	return answer(o, v, "FILTER MAC VLAN PORT QUEUE ORIGIN", func(line func(...any)) {
		for _, f := range filters {
			id := "waits"
			if f.ID != 0 {
				id = fmt.Sprint(f.ID)
			}
			line(id, f.MAC, vlanColumn(f.Address), f.Port, f.Queue, f.Origin)
		}
	})
}

func newFiltersSet(out io.Writer) *cobra.Command {
	var r control.FilterRequest
	var vlan string
	return newCtlCommand(out, ctlCommand{
		use:   "set MAC",
		short: "Set a filter (SET_FILTER)",
		long: `Set a filter on a queue, or on that of a port: frames to the address, untagged or
in a VLAN, go to the VM by its queue. Without memory yet the queue gets them when
it is completed. With its first filter a queue that was paused runs again.`,
		example: `  vhostnet filters set --queue 1 52:54:00:00:00:01
  vhostnet filters set --port web 52:54:00:00:00:99 --vlan any`,
		args: exactly("one address, such as 52:54:00:12:34:56"),
		flags: func(cmd *cobra.Command) {
			f := cmd.Flags()
			f.StringVar(&r.Port, "port", "", "the `PORT` whose VM gets the frames")
			f.Uint16Var(&r.Queue, "queue", 0, "the `NUMBER` of the queue that gets the frames")
			f.StringVar(&vlan, "vlan", "untagged", "frames in this `VLAN`: 1 to 4094, any or untagged")
			completeFlag(cmd, "port", portNames)
			completeFlag(cmd, "queue", queueIDs)
			complete(cmd, "vlan", []string{"untagged", "any"})
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			if (r.Port == "") == (r.Queue == 0) {
				return usageError{errors.New("want --port or --queue, one of the two")}
			}
			if _, err := parseMAC(args[0]); err != nil {
				return usageError{err}
			}
			r.MAC = args[0]
			if err := parseFilterVLAN(&r.Address, vlan); err != nil {
				return err
			}
			f, err := c.SetFilter(ctx, r)
			if err != nil {
				return err
			}
			return printFilters(o, f, []control.Filter{f})
		},
	})
}

func newFiltersClear(out io.Writer) *cobra.Command {
	var port, vlan string
	return newCtlCommand(out, ctlCommand{
		use:   "clear FILTER... | --port PORT MAC",
		short: "Clear filters (CLEAR_FILTER)",
		long: `Clear filters by their numbers, or one of a port by its address, which may be one
that waits. With its last filter a queue pauses: when the command returns no
frame of it is being copied any more. What the configuration says stays.`,
		example: `  vhostnet filters clear 3
  vhostnet filters clear --port web 52:54:00:00:00:99`,
		args:     atLeastOne("the number of a filter, or --port and an address"),
		complete: fromDaemon(true, filterIDs),
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "the `PORT` that is to have the filter no more")
			cmd.Flags().StringVar(&vlan, "vlan", "untagged", "the `VLAN` of that filter: 1 to 4094, any or untagged")
			completeFlag(cmd, "port", portNames)
			complete(cmd, "vlan", []string{"untagged", "any"})
		},
		run: func(ctx context.Context, c *control.Client, _ *ctl, args []string) error {
			if port != "" {
				return dropFilter(ctx, c, port, vlan, args)
			}
			list, err := ids[uint32](args, "filter")
			if err != nil {
				return usageError{err}
			}
			var errs []error
			for _, id := range list {
				errs = append(errs, c.ClearFilter(ctx, id))
			}
			return errors.Join(errs...)
		},
	})
}

func dropFilter(ctx context.Context, c *control.Client, port, vlan string, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("want one address behind --port")}
	}
	if _, err := parseMAC(args[0]); err != nil {
		return usageError{err}
	}
	a := control.Address{MAC: args[0]}
	if err := parseFilterVLAN(&a, vlan); err != nil {
		return err
	}
	return c.DropFilter(ctx, port, a)
}

func newFiltersMove(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "move FILTER QUEUE",
		short: "Move a filter to another queue (MOVE_FILTER)",
		long: `Move a filter to another queue in one step: each frame finds the one or the other.
Both queues have memory. The filter keeps its number.`,
		example:  `  vhostnet filters move 3 2`,
		args:     exactly("the number of a filter", "that of a queue"),
		complete: fromDaemon(false, filterIDs, queueIDs),
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			filter, err := ids[uint32](args[:1], "filter")
			if err != nil {
				return usageError{err}
			}
			queue, err := ids[uint16](args[1:], "queue")
			if err != nil {
				return usageError{err}
			}
			f, err := c.MoveFilter(ctx, filter[0], queue[0])
			if err != nil {
				return err
			}
			return printFilters(o, f, []control.Filter{f})
		},
	})
}
