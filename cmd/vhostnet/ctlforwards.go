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

func newForwardsCommand(out io.Writer) *cobra.Command {
	var port string
	cmd := newCtlCommand(out, ctlCommand{
		use:   "forwards",
		short: "List, add and remove ways into a user-mode network",
		long: `List the ways into the user-mode networks of a running daemon: who connects to one
on the host reaches a guest. Those of the origin control were added by a
subcommand, and stay when the configuration is read anew.`,
		example: `  vhostnet forwards
  vhostnet forwards add tcp/127.0.0.1:8080/10.0.2.15:80
  vhostnet forwards remove tcp/127.0.0.1:8080`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "ways into the network at this `PORT` only")
			completeFlag(cmd, "port", networkNames)
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, _ []string) error {
			all, err := c.Forwards(ctx)
			if err != nil {
				return err
			}
			some := []control.Forward{}
			for _, f := range all {
				if port == "" || f.Port == port {
					some = append(some, f)
				}
			}
			return printForwards(o, some, some)
		},
	})
	cmd.AddCommand(newForwardsAdd(out), newForwardsRemove(out))
	return cmd
}

// printForwards prints ways in; v is what they are in JSON.
func printForwards(o *ctl, v any, forwards []control.Forward) error {
	return answer(o, v, "FORWARD GUEST PORT ORIGIN", func(line func(...any)) {
		for _, f := range forwards {
			line(f.Network+"/"+f.Listen, f.Guest, f.Port, f.Origin)
		}
	})
}

func newForwardsAdd(out io.Writer) *cobra.Command {
	var port string
	return newCtlCommand(out, ctlCommand{
		use:   "add NETWORK/LISTEN/GUEST",
		short: "Add a way in",
		long: `Add a way in, written as for the option forward of an uplink of kind user. It
listens when the command returns, until it is removed or the daemon ends; port 0
is one that the host chooses. The socket of a path is made by the daemon. The guest
is an address and a port, or the name of a VM's port and a port: then its address is
looked for when somebody calls, and a call before it has one is refused.`,
		example: `  vhostnet forwards add tcp/127.0.0.1:8080/10.0.2.15:80
  vhostnet forwards add udp/[::1]:5353/[fd76:686f:7374::15]:53 --port internet
  vhostnet forwards add tcp/unix:/tmp/web.sock/10.0.2.15:80
  vhostnet forwards add tcp/127.0.0.1:8080/web:80`,
		args: func(args []string) error {
			if err := exactly("one way in, NETWORK/LISTEN/GUEST")(args); err != nil {
				return err
			}
			_, err := parseForward(args[0])
			return err
		},
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&port, "port", "", "the `PORT` of the network, where there are several")
			completeFlag(cmd, "port", networkNames)
		},
		run: func(ctx context.Context, c *control.Client, o *ctl, args []string) error {
			f, err := parseForward(args[0])
			if err != nil {
				return usageError{err}
			}
			added, err := c.AddForward(ctx, control.ForwardRequest{Network: f.Network, Listen: f.Listen, Guest: f.To(), Port: port})
			if err != nil {
				return err
			}
			return printForwards(o, added, []control.Forward{added})
		},
	})
}

func newForwardsRemove(out io.Writer) *cobra.Command {
	return newCtlCommand(out, ctlCommand{
		use:   "remove NETWORK/LISTEN...",
		short: "Remove ways in",
		long: `Remove ways in, as the list tells them: nobody comes by them any more. Connections
of TCP that did go on; what came by UDP ends. One of the configuration comes back
when the program is started again.`,
		example: `  vhostnet forwards remove tcp/127.0.0.1:8080
  vhostnet forwards remove udp/[::1]:5353 tcp/unix:/tmp/web.sock`,
		args: func(args []string) error {
			for _, a := range args {
				if _, listen, _ := strings.Cut(a, "/"); listen == "" {
					return fmt.Errorf("%s: want NETWORK/LISTEN, such as tcp/127.0.0.1:8080", a)
				}
			}
			return atLeastOne("a way in, NETWORK/LISTEN")(args)
		},
		complete: fromDaemon(true, forwardNames),
		run: func(ctx context.Context, c *control.Client, _ *ctl, args []string) error {
			var errs []error
			for _, a := range args {
				network, listen, _ := strings.Cut(a, "/")
				listen, err := wholePath(listen)
				if err == nil {
					err = c.RemoveForward(ctx, network, listen)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	})
}

// networkNames are the ports of user-mode networks. A shell is not told of errors.
func networkNames(ctx context.Context, c *control.Client) (list []string) {
	ports, err := c.Ports(ctx)
	if err != nil {
		return nil
	}
	for _, p := range ports {
		if p.Kind == "user" {
			list = append(list, p.Name)
		}
	}
	return list
}

func forwardNames(ctx context.Context, c *control.Client) (list []string) {
	forwards, err := c.Forwards(ctx)
	if err != nil {
		return nil
	}
	for _, f := range forwards {
		list = append(list, fmt.Sprintf("%s/%s\tto %s", f.Network, f.Listen, f.Guest))
	}
	return list
}
