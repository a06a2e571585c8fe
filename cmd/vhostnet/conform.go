package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vhostnet/vhostuser/conform"
)

const conformHelp = `Ask a vhost-user net back-end, vhostnet or any other, to behave as front-ends
need it to. conform plays them over the back-end's socket: each start sequence
of QEMU, DPDK, Cloud Hypervisor, crosvm and libkrun, and each trap that can be
seen from there. It prints a table of what passed, what failed and why, and what
the back-end does not offer. Progress goes to standard error.

The back-end has to listen at PATH and to have no other front-end there. With
--peer, the socket of another port of it, to which frames of the first one go
and the other way round, scenarios look at frames on their whole way; without,
at what one port shows.

Every wait is bounded: a back-end that hangs fails. Among the scenarios are
hostile ones, so do not ask a back-end that others use.

The exit code is 0 if no scenario failed, 1 if one did, 2 for wrong usage.`

const conformExamples = `  vhostnet conform --socket /tmp/a.sock --peer /tmp/b.sock
  vhostnet conform --socket /tmp/a.sock --only start-qemu-10.0 --only trap-7.9-memory-changes
  vhostnet conform --socket /tmp/a.sock -o json > report.json`

// conformOptions are the flags of conform, as they were given.
type conformOptions struct {
	socket, peer string
	timeout      time.Duration
	only         []string
	output       string

	out, log io.Writer
}

func newConformCommand(out, log io.Writer) *cobra.Command {
	o := &conformOptions{out: out, log: log}
	cmd := &cobra.Command{
		Use:               "conform --socket PATH",
		Short:             "Ask a back-end to behave as front-ends need it to",
		Long:              conformHelp,
		Example:           conformExamples,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.socket, "socket", "", "`PATH` of the back-end's socket")
	f.StringVar(&o.peer, "peer", "", "`PATH` of the socket of another port that the first one exchanges frames with")
	f.DurationVar(&o.timeout, "timeout", 3*time.Second, "longest `TIME` to wait for one answer")
	f.StringArrayVar(&o.only, "only", nil, "play this `SCENARIO` only; repeat for more")
	f.StringVarP(&o.output, "output", "o", "table", "`FORM` of the report: table or json")
	complete(cmd, "output", outputs)
	complete(cmd, "only", scenarioNames())
	complete(cmd, "timeout", nil)
	return cmd
}

func scenarioNames() (names []string) {
	for _, s := range conform.Scenarios() {
		names = append(names, s.Name)
	}
	return names
}

// check judges the flags.
func (o *conformOptions) check() error {
	switch {
	case o.socket == "":
		return errors.New("no back-end is given; say for instance --socket /tmp/a.sock, and see vhostnet conform --help")
	case o.socket == o.peer:
		return fmt.Errorf("--peer %s: want the socket of another port than --socket", o.peer)
	case o.timeout < 10*time.Millisecond:
		return fmt.Errorf("--timeout %s: want at least 10ms", o.timeout)
	case !slices.Contains(outputs, o.output):
		return fmt.Errorf("--output %s: want %s", o.output, listOf(outputs))
	}
	names := scenarioNames()
	for _, name := range o.only {
		if !slices.Contains(names, name) {
			hint := "a report lists them"
			if meant := similar(name, names); len(meant) > 0 {
				hint = "did you mean " + strings.Join(meant, " or ") + "?"
			}
			return fmt.Errorf("--only %s: no scenario has this name; %s", name, hint)
		}
	}
	return nil
}

func (o *conformOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return usageError{err}
	}
	list, err := conform.Run(ctx, conform.Options{Path: o.socket, Peer: o.peer, Timeout: o.timeout, Only: o.only},
		func(done, all int, out conform.Outcome) {
			fmt.Fprintf(o.log, "%*d/%d %s: %s\n", len(fmt.Sprint(all)), done, all, out.Name, out.Result)
		})
	if err != nil {
		return err
	}
	if err := writeOutcomes(o.out, list, o.output == "json"); err != nil {
		return err
	}
	if n := conform.Failed(list); n > 0 {
		return fmt.Errorf("%d of %d scenarios failed", n, len(list))
	}
	return nil
}

// writeOutcomes prints the report: a table, or an array of JSON.
func writeOutcomes(w io.Writer, list []conform.Outcome, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(list)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tRESULT\tDETAIL")
	count := map[conform.Result]int{}
	for _, out := range list {
		count[out.Result]++
		fmt.Fprintf(t, "%s\t%s\t%s\n", out.Name, out.Result, dash(out.Detail))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d passed, %d failed, %d not offered\n", count[conform.Pass], count[conform.Fail], count[conform.NotOffered])
	return err
}

// dash stands for nothing in a table, which has no empty fields; line breaks
// would break it, too.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return strings.ReplaceAll(s, "\n", "; ")
}
