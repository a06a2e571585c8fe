package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vhostnet/control"
)

// guestCall are the flags of the commands of a guest.
type guestCall struct {
	cid, port uint32
	socket    string
	output    string
	vlan      string
	buffers   uint32
	out       io.Writer
}

// hostCID is the CID of the host of the VM that a program runs in.
const hostCID = 2

// callTime bounds a call.
const callTime = 15 * time.Second

const guestHelp = `Ask the vhostnet of the host, from inside a VM, about the VM's own port, and set
filters: addresses besides the VM's own whose frames are to go to its queue, as
macvlan and nested guests have them.

It calls the host over vsock (--cid, --port). The host says who may, by the
options guest-cid, guest-socket and guest of a port; see "vhostnet run --help".
A guest sees its own port and no other one.`

func newGuestCommand(out io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "guest COMMAND",
		Short:   "Inside a VM: look at its port, set filters",
		Long:    guestHelp,
		Example: "  vhostnet guest queue\n  vhostnet guest filters set 02:00:00:00:00:05\n  vhostnet guest events -o json",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newGuestQueueCommand(out), newGuestFiltersCommand(out), newGuestEventsCommand(out))
	return cmd
}

// addTo adds the flags that say whom to call, and how to print.
func (g *guestCall) addTo(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.SortFlags = false
	f.Uint32Var(&g.cid, "cid", hostCID, "call the vsock address `N`; 2 is the host")
	f.Uint32Var(&g.port, "port", control.GuestPort, "at the vsock port `N`")
	f.StringVar(&g.socket, "socket", "", "call the unix socket at `PATH` instead, such as a hybrid one on the host")
	f.StringVarP(&g.output, "output", "o", "table", "`FORM` of the output: table or json")
	complete(cmd, "output", outputs)
	for _, flag := range []string{"cid", "port"} {
		complete(cmd, flag, nil)
	}
	return cmd
}

func newGuestQueueCommand(out io.Writer) *cobra.Command {
	g := &guestCall{out: out}
	cmd := g.addTo(&cobra.Command{
		Use:   "queue",
		Short: "Show the VM's port and its queue",
		Long: `Show the VM's port, and its queue if it has one of its own. With --buffers say how
many receive buffers are good for it first.`,
		Example: "  vhostnet guest queue\n  vhostnet guest queue --buffers 1024 -o json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.call(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				return g.queue(ctx, c, cmd.Flags().Changed("buffers"))
			})
		},
	})
	cmd.Flags().Uint32Var(&g.buffers, "buffers", 0, "say that `N` receive buffers are good")
	complete(cmd, "buffers", nil)
	return cmd
}

func newGuestFiltersCommand(out io.Writer) *cobra.Command {
	g := &guestCall{out: out}
	cmd := g.addTo(&cobra.Command{
		Use:   "filters",
		Short: "List the filters of the VM's port; set and clear the VM's own",
		Long: `List the filters of the VM's port. Those of the origin guest are the VM's own: it
sets and clears them, and they go when it disconnects.`,
		Example: "  vhostnet guest filters\n  vhostnet guest filters set 02:00:00:00:00:05 --vlan 20\n  vhostnet guest filters clear 02:00:00:00:00:05 --vlan 20",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.call(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				list, err := c.Filters(ctx)
				return g.print(list, err, func() { g.filterTable(list) })
			})
		},
	})
	cmd.AddCommand(
		newGuestFilterCommand(out, "set", "Set a filter", "Set a filter: frames to this address go to the VM's queue. It must be nobody else's.",
			func(ctx context.Context, c *control.Client, g *guestCall, a control.Address) error {
				f, err := c.SetFilter(ctx, control.FilterRequest{Address: a})
				return g.print(f, err, func() { g.filterTable([]control.Filter{f}) })
			}),
		newGuestFilterCommand(out, "clear", "Clear a filter", "Clear a filter that the VM has set.",
			func(ctx context.Context, c *control.Client, _ *guestCall, a control.Address) error {
				p, err := ownPort(ctx, c)
				if err != nil {
					return err
				}
				return c.DropFilter(ctx, p.Name, a)
			}),
	)
	for _, sub := range cmd.Commands() {
		sub.DisableFlagsInUseLine = true
	}
	return cmd
}

func newGuestFilterCommand(out io.Writer, name, short, long string, do func(context.Context, *control.Client, *guestCall, control.Address) error) *cobra.Command {
	g := &guestCall{out: out}
	cmd := g.addTo(&cobra.Command{
		Use:     name + " MAC",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  vhostnet guest filters %[1]s 02:00:00:00:00:05\n  vhostnet guest filters %[1]s 02:00:00:00:00:05 --vlan 20", name),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("%s takes one address, such as 02:00:00:00:00:05; see %s --help", cmd.CommandPath(), cmd.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.address(args[0])
			if err != nil {
				return usageError{err}
			}
			return g.call(cmd.Context(), func(ctx context.Context, c *control.Client) error { return do(ctx, c, g, a) })
		},
	})
	cmd.Flags().StringVar(&g.vlan, "vlan", "", "of frames with a tag of VLAN `N`, or any (default: of frames without)")
	complete(cmd, "vlan", nil)
	return cmd
}

func newGuestEventsCommand(out io.Writer) *cobra.Command {
	g := &guestCall{out: out}
	return g.addTo(&cobra.Command{
		Use:     "events",
		Short:   "Print the events of the VM's port as they happen",
		Long:    "Print the events of the VM's port as they happen, a line each, until it is ended.",
		Example: "  vhostnet guest events\n  vhostnet guest events -o json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.check(); err != nil {
				return usageError{err}
			}
			return g.events(cmd.Context())
		},
	})
}

// check judges the flags.
func (g *guestCall) check() error {
	if !slices.Contains(outputs, g.output) {
		return fmt.Errorf("--output %s: want %s", g.output, listOf(outputs))
	}
	return nil
}

func (g *guestCall) client() *control.Client {
	if g.socket != "" {
		return control.NewClient(g.socket)
	}
	return control.NewGuestClient(g.cid, g.port)
}

// call does something that ends by itself.
func (g *guestCall) call(ctx context.Context, do func(context.Context, *control.Client) error) error {
	if err := g.check(); err != nil {
		return usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return do(ctx, g.client())
}

// address reads an address and --vlan.
func (g *guestCall) address(mac string) (control.Address, error) {
	hw, err := parseMAC(mac)
	if err != nil {
		return control.Address{}, fmt.Errorf("address %w", err)
	}
	a := addressOf(hw, 0)
	switch g.vlan {
	case "":
	case "any":
		a.AnyVLAN = true
	default:
		if a.VLAN, err = parseVLAN("--vlan", g.vlan); err != nil {
			return a, fmt.Errorf("%w, or any", err)
		}
	}
	return a, nil
}

// print writes a result as JSON or by table, unless it is an error.
func (g *guestCall) print(result any, err error, table func()) error {
	if err != nil {
		return err
	}
	if g.output == "json" {
		return json.NewEncoder(g.out).Encode(result)
	}
	table()
	return nil
}

// ownPort is the port of whoever asks.
func ownPort(ctx context.Context, c *control.Client) (control.Port, error) {
	list, err := c.Ports(ctx)
	if err == nil && len(list) != 1 {
		err = errors.New("the port of this VM is being removed")
	}
	if err != nil {
		return control.Port{}, err
	}
	return list[0], nil
}

// guestReport is a VM's port and queue.
type guestReport struct {
	Port  control.Port   `json:"port"`
	Queue *control.Queue `json:"queue,omitempty"` // nil: it has none of its own
}

func (g *guestCall) queue(ctx context.Context, c *control.Client, suggest bool) error {
	r := guestReport{}
	var err error
	if r.Port, err = ownPort(ctx, c); err != nil {
		return err
	}
	if suggest {
		if r.Port.Queue == 0 {
			return errors.New("the port has no queue of its own that buffers could be for")
		}
		if _, err := c.SetQueue(ctx, r.Port.Queue, control.QueueChange{SuggestedBuffers: &g.buffers}); err != nil {
			return err
		}
	}
	list, err := c.Queues(ctx)
	if len(list) > 0 {
		r.Queue = &list[0]
	}
	return g.print(r, err, func() { g.queueTable(r) })
}

func (g *guestCall) queueTable(r guestReport) {
	t := g.table("PORT", "MAC", "LINK", "QUEUE", "STATE", "FILTERS", "BUFFERS")
	queue, state, filters, buffers := "0 (shared)", "-", "-", "-"
	if q := r.Queue; q != nil {
		queue, state, filters, buffers = strconv.Itoa(int(q.ID)), q.State, strconv.Itoa(q.Filters), strconv.Itoa(int(q.SuggestedBuffers))
	}
	fmt.Fprintln(t, strings.Join([]string{r.Port.Name, r.Port.MAC, r.Port.Link, queue, state, filters, buffers}, "\t"))
	_ = t.Flush() // as all that goes to standard output
}

func (g *guestCall) filterTable(list []control.Filter) {
	t := g.table("FILTER", "QUEUE", "MAC", "VLAN", "ORIGIN")
	for _, f := range list {
		id, vlan := "-", "-"
		if f.ID != 0 {
			id = strconv.Itoa(int(f.ID))
		}
		switch {
		case f.AnyVLAN:
			vlan = "any"
		case f.VLAN != 0:
			vlan = strconv.Itoa(int(f.VLAN))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", id, f.Queue, f.MAC, vlan, f.Origin)
	}
	_ = t.Flush() // as all that goes to standard output
}

func (g *guestCall) table(columns ...string) *tabwriter.Writer {
	t := tabwriter.NewWriter(g.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	return t
}

// events prints events until ctx ends.
func (g *guestCall) events(ctx context.Context) error {
	s, err := g.client().Events(ctx, "")
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		e, err := s.Next()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("the host has ended the stream of events")
		case err != nil:
			return err
		}
		line := strings.Join(strings.Fields(fmt.Sprint(e.Time.Format(time.RFC3339), " ", e.Kind, " ", e.State, " ", e.Error)), " ")
		if err := g.print(e, nil, func() { fmt.Fprintln(g.out, line) }); err != nil {
			return err
		}
	}
}
