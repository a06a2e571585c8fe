package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vhostnet/vswitch"
)

const checkHelp = `Read a configuration file as "vhostnet run FILE" would, and change nothing: no
socket is made, none is looked for.

A right file gives a table of what would run. A wrong one gives its mistakes,
all of them, on standard error, a line with place and reason for each.
docs/configuration.md explains the keys. What is possible and may be a mistake is a
note on standard error: a forward to a VM of which the file has no port.

The exit code is 0 for a right file, 2 for a wrong one.`

const checkExamples = `  vhostnet check /etc/vhostnet/vhostnet.hcl
  vhostnet check vhostnet.hcl.json -o json`

func newCheckCommand(out, log io.Writer) *cobra.Command {
	form := ""
	cmd := &cobra.Command{
		Use:     "check FILE",
		Short:   "Say what a configuration file means, or what is wrong with it",
		Long:    checkHelp,
		Example: checkExamples,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("check takes one configuration file, and %d are given; see %s --help", len(args), cmd.CommandPath())}
			}
			if !slices.Contains(outputs, form) {
				return usageError{fmt.Errorf("--output %s: want %s", form, listOf(outputs))}
			}
			return nil
		},
		ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error {
			return check(args[0], form == "json", out, log)
		},
	}
	cmd.Flags().StringVarP(&form, "output", "o", "table", "`FORM` of the answer: table or json")
	complete(cmd, "output", outputs)
	return cmd
}

// check reads a file and reports.
func check(path string, asJSON bool, out, log io.Writer) error {
	o := &runOptions{file: path, flags: pflag.NewFlagSet("", pflag.ContinueOnError)}
	c, err := o.parse()
	if _, ok := errors.AsType[unreadable](err); ok {
		return usageError{err}
	}
	report := newFileReport(path, c, err)
	if asJSON {
		if err := json.NewEncoder(out).Encode(report); err != nil {
			return err
		}
	}
	if report.Valid {
		if asJSON {
			return nil
		}
		for _, n := range report.Notes {
			n.Text = "note: " + n.Text
			fmt.Fprintln(log, n.line(path))
		}
		return report.writeTable(out)
	}
	if !asJSON {
		for _, m := range report.Mistakes {
			fmt.Fprintln(log, m.line(path))
		}
	}
	return usageError{fmt.Errorf("%s: mistakes: %d", path, len(report.Mistakes))}
}

// fileReport is what check says of a file, in the JSON form.
type fileReport struct {
	File     string          `json:"file"`
	Valid    bool            `json:"valid"`
	Mistakes []mistakeReport `json:"mistakes"`

	Workers int              `json:"workers,omitempty"`
	Ports   []filePortReport `json:"ports,omitempty"`
	Notes   []mistakeReport  `json:"notes,omitempty"` // what may be meant so
}

type mistakeReport struct {
	Line   int    `json:"line,omitempty"` // absent: of the whole file
	Column int    `json:"column,omitempty"`
	Text   string `json:"text"`
}

type filePortReport struct {
	Port   string `json:"port"`
	Socket string `json:"socket"`        // or, of an uplink, its kind and where
	Role   string `json:"role"`          // listen, connect or uplink
	MAC    string `json:"mac,omitempty"` // of a VM
	Mode   string `json:"mode"`
	Switch string `json:"switch,omitempty"`
	VLAN   string `json:"vlan,omitempty"` // as "10", "10+20-29", "10+20,native 10"
}

// reportOf is a mistake, with its place apart.
func reportOf(err error) mistakeReport {
	m, ok := errors.AsType[mistake](err)
	if !ok || m.at == nil {
		return mistakeReport{Text: err.Error()}
	}
	place := origin{at: m.at}.String() + ": "
	return mistakeReport{m.at.Start.Line, m.at.Start.Column, strings.TrimPrefix(m.Error(), place)}
}

func newFileReport(path string, c config, err error) fileReport {
	r := fileReport{File: path, Valid: err == nil, Mistakes: []mistakeReport{}, Workers: c.workers}
	for _, e := range mistakesOf(err) {
		r.Mistakes = append(r.Mistakes, reportOf(e))
	}
	slices.SortStableFunc(r.Mistakes, func(a, b mistakeReport) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	for _, s := range strangers(c.ports) {
		r.Notes = append(r.Notes, reportOf(s.note()))
	}
	for _, p := range c.ports {
		report := filePortReport{Port: p.name, Socket: p.place(), Role: p.role(), MAC: net.HardwareAddr(p.mac[:]).String(), Mode: p.mode.String(), Switch: p.network, VLAN: vlanText(p.vlan)}
		if p.uplink != nil {
			report.Socket, report.Role, report.MAC = p.uplink.where(), "uplink", ""
		}
		r.Ports = append(r.Ports, report)
	}
	return r
}

// line is the mistake as a line, as compilers write them.
func (m mistakeReport) line(file string) string {
	if m.Line == 0 {
		return m.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", file, m.Line, m.Column, m.Text)
}

func (r fileReport) writeTable(out io.Writer) error {
	fmt.Fprintf(out, "%s: ports: %d, workers: %d\n", r.File, len(r.Ports), r.Workers)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PORT\tSOCKET\tROLE\tMAC\tMODE\tVLAN\tSWITCH")
	for _, p := range r.Ports {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Port, p.Socket, p.Role, cmp.Or(p.MAC, "-"), p.Mode, cmp.Or(p.VLAN, "-"), cmp.Or(p.Switch, "-"))
	}
	return t.Flush()
}

// place is where the socket is, as --port has it.
func (p *portSpec) place() string {
	if p.fd >= 0 {
		return fmt.Sprintf("fd:%d", p.fd)
	}
	return p.path
}

func (p *portSpec) role() string {
	if p.dial {
		return "connect"
	}
	return "listen"
}

// vlanText writes VLANs as --port has them, with ranges.
func vlanText(o vswitch.VLANOptions) string {
	if o.Access != 0 {
		return strconv.Itoa(int(o.Access))
	}
	var parts []string
	list := slices.Compact(slices.Sorted(slices.Values(o.Trunk)))
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n] == list[n-1]+1 {
			n++
		}
		part := strconv.Itoa(int(list[0]))
		if n > 1 {
			part += "-" + strconv.Itoa(int(list[n-1]))
		}
		parts, list = append(parts, part), list[n:]
	}
	text := strings.Join(parts, "+")
	if o.Native != 0 {
		text += ",native " + strconv.Itoa(int(o.Native))
	}
	return text
}
