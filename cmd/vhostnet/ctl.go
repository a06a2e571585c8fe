package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vhostnet/control"
)

// Where the commands look for the daemon, unless they are told.
const (
	controlVariable = "VHOSTNET_CONTROL"
	defaultControl  = "/run/vhostnet/control.sock"
)

// ctlTime bounds one request to the daemon, and completeTime what the shell
// waits for names.
const (
	ctlTime      = 30 * time.Second
	completeTime = time.Second
)

// ctl is what the commands have in common that speak to a running daemon.
type ctl struct {
	path   string
	output string
	out    io.Writer
}

// add gives a command the flags of all of them. Those of its subcommands are
// their own, so that each one's help shows them.
func (o *ctl) add(cmd *cobra.Command) {
	path := os.Getenv(controlVariable)
	if path == "" {
		path = defaultControl
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.path, "control", path, "daemon at `PATH`, or $"+controlVariable)
	f.StringVarP(&o.output, "output", "o", "table", "`FORM` of the answer: table or json")
	complete(cmd, "output", outputs)
}

// ctlCommand is one command to the daemon.
type ctlCommand struct {
	use, short, long, example string
	args                      func(args []string) error // nil: it takes none
	complete                  cobra.CompletionFunc
	flags                     func(cmd *cobra.Command)
	run                       func(ctx context.Context, c *control.Client, o *ctl, args []string) error
	stream                    bool // it goes on until it is ended
}

func newCtlCommand(out io.Writer, d ctlCommand) *cobra.Command {
	o := &ctl{out: out}
	cmd := &cobra.Command{
		Use: d.use, Short: d.short, Long: d.long, Example: d.example,
		Args: func(cmd *cobra.Command, args []string) error {
			if d.args == nil {
				return noArguments(cmd, args)
			}
			if err := d.args(args); err != nil {
				return usageError{fmt.Errorf("%s: %w; see %s --help", cmd.CommandPath(), err, cmd.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.output != "table" && o.output != "json" {
				return usageError{fmt.Errorf("--output %s: want %s", o.output, listOf(outputs))}
			}
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if !d.stream {
				ctx, cancel = context.WithTimeout(ctx, ctlTime)
			}
			defer cancel()
			return d.run(ctx, control.NewClient(o.path), o, args)
		},
	}
	if d.complete != nil {
		cmd.ValidArgsFunction = d.complete
	}
	if d.flags != nil {
		d.flags(cmd)
	}
	o.add(cmd)
	return cmd
}

// newCtlCommands are the commands to a running daemon.
func newCtlCommands(out io.Writer) []*cobra.Command {
	list := []*cobra.Command{newPortsCommand(out), newQueuesCommand(out), newFiltersCommand(out), newForwardsCommand(out)}
	list = append(list, newShowCommands(out)...)
	for _, c := range list {
		for _, sub := range c.Commands() {
			sub.DisableFlagsInUseLine = true
		}
	}
	return list
}

// answer prints a result: as JSON, or as a table of which write writes the
// lines.
func answer[T any](o *ctl, v T, header string, write func(line func(fields ...any))) error {
	if o.output == "json" {
		e := json.NewEncoder(o.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(o.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	write(func(fields ...any) {
		words := make([]string, len(fields))
		for i, f := range fields {
			if words[i] = fmt.Sprint(f); words[i] == "" {
				words[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(words, "\t"))
	})
	return t.Flush()
}

// exactly wants as many arguments as there are names.
func exactly(names ...string) func([]string) error {
	return func(args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s", strings.Join(names, " and "))
		}
		return nil
	}
}

// ids reads numbers of queues or filters.
func ids[T uint16 | uint32](args []string, what string) ([]T, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("want the number of a %s", what)
	}
	var list []T
	for _, s := range args {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || uint64(T(n)) != n {
			return nil, fmt.Errorf("%q: want the number of a %s", s, what)
		}
		list = append(list, T(n))
	}
	return list, nil
}

// wantIDs judges arguments that are numbers.
func wantIDs[T uint16 | uint32](what string) func([]string) error {
	return func(args []string) error {
		_, err := ids[T](args, what)
		return err
	}
}

// fromDaemon completes the first arguments of a command, as many as there are
// lists, by what the daemon knows; the last list goes on for more when more
// says so.
func fromDaemon(more bool, lists ...func(context.Context, *control.Client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		at := len(args)
		if more {
			at = min(at, len(lists)-1)
		}
		if at >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return ask(cmd, lists[at]), cobra.ShellCompDirectiveNoFileComp
	}
}

// ask asks the daemon that the command line names for words.
func ask(cmd *cobra.Command, list func(context.Context, *control.Client) []string) []string {
	path, err := cmd.Flags().GetString("control")
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	return list(ctx, control.NewClient(path))
}

// completeFlag completes a flag by what the daemon knows.
func completeFlag(cmd *cobra.Command, flag string, list func(context.Context, *control.Client) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return ask(cmd, list), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // cmd has no such flag, or it is registered twice
	}
}

// portNames are those of the daemon's ports. A shell is not told of errors.
func portNames(ctx context.Context, c *control.Client) (list []string) {
	ports, err := c.Ports(ctx)
	if err != nil {
		return nil
	}
	for _, p := range ports {
		list = append(list, p.Name)
	}
	return list
}

func queueIDs(ctx context.Context, c *control.Client) (list []string) {
	queues, err := c.Queues(ctx)
	if err != nil {
		return nil
	}
	for _, q := range queues {
		if q.ID != 0 {
			list = append(list, fmt.Sprintf("%d\t%s, %s", q.ID, q.Port, q.State))
		}
	}
	return list
}

func filterIDs(ctx context.Context, c *control.Client) (list []string) {
	filters, err := c.Filters(ctx)
	if err != nil {
		return nil
	}
	for _, f := range filters {
		if f.ID != 0 {
			list = append(list, fmt.Sprintf("%d\t%s of %s", f.ID, f.MAC, f.Port))
		}
	}
	return list
}

// intList writes numbers as the flag --affinity reads them.
func intList(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// parseAffinity reads numbers of workers; none is "any".
func parseAffinity(s string) ([]int, error) {
	list := []int{}
	if s == "any" {
		return list, nil
	}
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(field, 10, 6)
		if err != nil {
			return nil, usageError{fmt.Errorf("--affinity %s: want numbers of workers such as 0,2, or any", s)}
		}
		list = append(list, int(n))
	}
	return list, nil
}

// vlanColumn is a VLAN in a table.
func vlanColumn(a control.Address) string {
	switch {
	case a.AnyVLAN:
		return "any"
	case a.VLAN == 0:
		return "untagged"
	}
	return strconv.Itoa(int(a.VLAN))
}

// parseFilterVLAN reads --vlan.
func parseFilterVLAN(a *control.Address, s string) error {
	switch s {
	case "", "untagged":
		return nil
	case "any":
		a.AnyVLAN = true
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < 1 || n > maxVLAN {
		return usageError{fmt.Errorf("--vlan %s: want a VLAN, 1 to %d, any or untagged", s, maxVLAN)}
	}
	a.VLAN = uint16(n)
	return nil
}

// failedIn makes one error of a batch in which some have failed.
func failedIn(what string, failed int) error {
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d %s; the table says why", failed, what)
}

// isPending reports whether a verb goes on by itself.
func isPending(err error) bool {
	e, ok := errors.AsType[*control.Error](err)
	return ok && e.Status == control.StatusPending
}
