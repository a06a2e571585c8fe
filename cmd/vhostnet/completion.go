package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

// shells are those that completion is made for.
var shells = []string{"bash", "zsh", "fish"}

func newCompletionCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes command lines",
		Long: `Print a script for bash, zsh or fish that lets the shell complete commands, flags
and their values.`,
		Example: `  source <(vhostnet completion bash)
  vhostnet completion bash > /etc/bash_completion.d/vhostnet
  vhostnet completion fish > ~/.config/fish/completions/vhostnet.fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usageError{fmt.Errorf("completion needs the name of a shell: %s", listOf(shells))}
			case len(args) > 1 || !slices.Contains(shells, args[0]):
				return usageError{fmt.Errorf("completion %s: want %s", args[len(args)-1], listOf(shells))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			default:
				return root.GenBashCompletionV2(out, true)
			}
		},
	}
}

// complete offers a flag's values to the shell.
func complete(cmd *cobra.Command, flag string, values []string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // cmd has no such flag, or it is registered twice
	}
}
