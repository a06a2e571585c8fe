package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"vhostnet/control"
)

func newPortsCommand(out io.Writer) *cobra.Command {
	cmd := newCtlCommand(out, ctlCommand{
		use:   "ports",
		short: "List, add and remove ports of a running daemon",
		long: `List the ports of a daemon that runs with --control. With a subcommand, add or
remove one or take its link down and up, while the others go on.`,
		example: `  vhostnet ports
  vhostnet ports -o json --control /tmp/control.sock
  vhostnet ports add db=/tmp/db.sock,vlan=10`,
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			ports, err := c.Ports(ctx)
			if err != nil {
				return err
			}
			return printPorts(o, ports, ports)
		},
	})
	cmd.AddCommand(newPortsAdd(out), newPortsRemove(out), newPortsLink(out))
	return cmd
}

// printPorts prints ports; v is what they are in JSON.
func printPorts(o *ctl, v any, ports []control.Port) error {
	return answer(o, v, "PORT KIND LINK STATE MAC QUEUE RINGS OPTIONS", func(line func(...any)) {
		for _, p := range ports {
			var rings []string
			for _, r := range p.Rings {
				word := fmt.Sprint(r.Index)
				if r.Broken {
					word += ":broken"
				} else if !r.Enabled {
					word += ":off"
				}
				rings = append(rings, word)
			}
			line(p.Name, p.Kind, p.Link, portState(p), p.MAC, queueColumn(p), column(rings), optionColumn(p.Options))
		}
	})
}

func portState(p control.Port) string {
	switch {
	case p.Kind != "vm":
		return ""
	case p.Stalled:
		return "stalled"
	case p.Driver:
		return "up"
	case p.Connected:
		return "connected"
	}
	return "waiting"
}

func queueColumn(p control.Port) string {
	if p.QueueMode == "manual" {
		return fmt.Sprintf("%d:manual", p.Queue)
	}
	return fmt.Sprint(p.Queue)
}

func optionColumn(options map[string]string) string {
	var words []string
	for k, v := range options {
		words = append(words, k+"="+v)
	}
	sort.Strings(words)
	return column(words)
}

func newPortsAdd(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "add NAME=PATH[,option...]",
		short: "Add a port",
		long: `Add a port and serve it. What it is made of is written as for the flag --port of
"vhostnet run", whose help lists the options.`,
		example: `  vhostnet ports add db=/tmp/db.sock
  vhostnet ports add db=/tmp/db.sock,mac=52:54:00:00:00:02,queue=manual`,
		args: func(args []string) error {
			if err := exactly("one port, NAME=PATH")(args); err != nil {
				return err
			}
			_, err := parsePort(args[0])
			return err
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			p, err := c.AddPort(ctx, portRequest(args[0]))
			if err != nil {
				return err
			}
			return printPorts(o, p, []control.Port{p})
		},
	})
}

// portRequest is NAME=PATH[,key=value...], which parsePort has judged, as the
// API takes it.
func portRequest(s string) control.PortRequest {
	name, rest, _ := strings.Cut(s, "=")
	fields := strings.Split(rest, ",")
	r := control.PortRequest{Name: name, Socket: fields[0], Options: map[string]string{}}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if before := r.Options[key]; before != "" && key == "mask" {
			value = before + "+" + value // the only one that adds up
		}
		r.Options[key] = value
	}
	return r
}

func newPortsRemove(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "remove PORT...",
		short: "Remove ports",
		long: `Remove ports. The VM of each is disconnected: what it has sent is delivered, and
nothing is written to its memory any more when the command returns.`,
		example:  `  vhostnet ports remove db`,
		args:     atLeastOne("the name of a port"),
		complete: fromDaemon(true, portNames),
		run: func(ctx context.Context, c *control.Client, _ *ctl, args []string) error {
			var errs []error
			for _, name := range args {
				errs = append(errs, c.RemovePort(ctx, name))
			}
			return errors.Join(errs...)
		},
	})
}

func atLeastOne(what string) func([]string) error {
	return func(args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("want %s", what)
		}
		return nil
	}
}

func newPortsLink(out io.Writer) *cobra.Command {
	words := []string{"up", "down"}
	return newCtlCommand(out, ctlCommand{
		use:   "link PORT up|down",
		short: "Take a port's link up or down",
		long: `Take a port's link up or down. While it is down no frame passes to or from the
VM, and each is counted as link-down. A VM whose front-end takes the device's
configuration from here sees it; of QEMU's guests none does.`,
		example: `  vhostnet ports link db down`,
		args: func(args []string) error {
			if len(args) != 2 || args[1] != "up" && args[1] != "down" {
				return fmt.Errorf("want the name of a port and %s", listOf(words))
			}
			return nil
		},
		complete: fromDaemon(false, portNames, func(context.Context, *control.Client) []string { return words }),
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			p, err := c.SetLink(ctx, args[0], args[1] == "up")
			if err != nil {
				return err
			}
			return printPorts(o, p, []control.Port{p})
		},
	})
}
