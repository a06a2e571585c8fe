package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

const rootHelp = `vhostnet gives virtual machines a network: QEMU, Cloud Hypervisor, libvirt and
DPDK's virtio-user connect over unix sockets (vhost-user), and frames pass
between them with one copy, without root, kernel modules or huge pages.

Each VM has a port: a name and a socket. All ports are on one learning switch,
or on several that exchange nothing.

Without a command it follows QEMU's conventions for back-end programs:
--socket-path or --fd serve one VM, --print-capabilities describes the program.
The other flags of "vhostnet run" may be given with them, except --port.`

const rootExamples = `  vhostnet run --port web=/tmp/web.sock --port db=/tmp/db.sock

` + qemuExample

// qemuExample attaches a VM to the port "web" of the examples.
const qemuExample = `  qemu-system-x86_64 -m 1G -machine q35,memory-backend=m0 \
    -object memory-backend-memfd,id=m0,size=1G,share=on \
    -chardev socket,id=c0,path=/tmp/web.sock,reconnect-ms=100 \
    -netdev vhost-user,id=n0,chardev=c0 \
    -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01 ...`

// newRootCommand is the command line. Results go to out, logs to log.
func newRootCommand(out, log io.Writer) *cobra.Command {
	opts := &runOptions{out: out, log: log}
	capabilities := false
	root := &cobra.Command{
		Use:           "vhostnet",
		Short:         "A vhost-user network for virtual machines",
		Long:          rootHelp,
		Example:       rootExamples,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if capabilities {
				return nil // the conventions: everything else is ignored then
			}
			return noArguments(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case capabilities:
				return printCapabilities(out)
			case cmd.Flags().NFlag() == 0:
				return cmd.Help()
			case opts.socketPath == "" && opts.fd == "":
				return usageError{errors.New("no socket is given; say --socket-path PATH or --fd N for one VM, or \"vhostnet run\" with a --port for each VM")}
			}
			return opts.run(cmd.Context())
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("vhostnet {{.Version}}\n")
	opts.addConventions(root)
	root.Flags().BoolVar(&capabilities, "print-capabilities", false, "describe the program as JSON, for management software, and exit")
	opts.addSettings(root)
	hideSettings(root)
	root.AddCommand(newRunCommand(&runOptions{out: out, log: log}), newCheckCommand(out, log), newConformCommand(out, log), newGuestCommand(out), newVersionCommand(out), newCompletionCommand(out))
	root.AddCommand(newCtlCommands(out)...)
	root.AddCommand(buildCommands()...)
	root.SetHelpCommand(newHelpCommand())
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
	}
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// printCapabilities answers --print-capabilities: the "type" of QEMU's
// vhost-user.json and no optional features.
func printCapabilities(out io.Writer) error {
	return json.NewEncoder(out).Encode(map[string]any{"type": "net", "features": []string{}})
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Long:    "Explain a command, as its flag --help does.",
		Example: "  vhostnet help run",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usageError{err}
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			found.InitDefaultVersionFlag()
			return found.Help()
		},
		ValidArgs: []string{"run", "check", "ports", "queues", "filters", "memory", "table", "counters", "events", "conform", "guest", "version", "completion"},
	}
}

func newVersionCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Long:              "Print the version or the commit it was built from, the Go release and the platform.",
		Example:           "  vhostnet version",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(out, "vhostnet %s\n", version())
			return err
		},
	}
}

// version is what the build knows of itself.
func version() string {
	v, changes := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				v = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				changes = "+changes"
			}
		}
	}
	return fmt.Sprintf("%s%s %s %s/%s", v, changes, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
