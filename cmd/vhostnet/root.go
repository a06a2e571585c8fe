package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

const rootHelp = `vhostnet gives virtual machines a network: QEMU, Cloud Hypervisor, libvirt and
DPDK's virtio-user connect over unix sockets (vhost-user), and frames pass
between them with one copy, without root, kernel modules or huge pages.

Each VM has a port: a name and a socket. All ports are on one learning switch.

  vhostnet run --port web=/tmp/web.sock --port db=/tmp/db.sock

  qemu-system-x86_64 -machine q35,memory-backend=m0 \
    -object memory-backend-memfd,id=m0,size=1G,share=on \
    -chardev socket,id=c0,path=/tmp/web.sock,reconnect-ms=100 \
    -netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0 ...

Without a command it follows QEMU's conventions for back-end programs:
--socket-path or --fd serve one VM, --print-capabilities describes the program.`

// newRootCommand is the command line. Results go to out, logs to log.
func newRootCommand(out, log io.Writer) *cobra.Command {
	opts := &runOptions{out: out, log: log}
	capabilities := false
	root := &cobra.Command{
		Use:           "vhostnet",
		Short:         "A vhost-user network for virtual machines",
		Long:          rootHelp,
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if capabilities {
				return printCapabilities(out)
			}
			if opts.socketPath == "" && opts.fd < 0 {
				return cmd.Help()
			}
			return opts.run(cmd.Context())
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.Flags().BoolVar(&capabilities, "print-capabilities", false, "describe the program as JSON, for management software, and exit")
	opts.addConventions(root.Flags())
	root.AddCommand(newRunCommand(out, log), newVersionCommand(out))
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("unknown command or argument %q; see vhostnet --help", args[0])}
}

// printCapabilities answers --print-capabilities: the "type" of QEMU's
// vhost-user.json and no optional features.
func printCapabilities(out io.Writer) error {
	return json.NewEncoder(out).Encode(map[string]any{"type": "net", "features": []string{}})
}

func newVersionCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version, the commit it was built from and the Go release.\n\n  vhostnet version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(out, "vhostnet %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, dirty := info.Main.Version, ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return v + dirty
}
