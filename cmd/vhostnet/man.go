//go:build man

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// buildCommands are what only the build needs, and what nobody who runs the
// program should carry: this program with the tag man writes its manual.
func buildCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIRECTORY",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil || !info.IsDir() {
				return errors.Join(usageError{fmt.Errorf("man %s: want a directory", args[0])}, err)
			}
			never := time.Unix(0, 0) // so that two builds are the same
			root := cmd.Root()
			root.DisableAutoGenTag = true
			asWritten(root)
			return doc.GenManTree(root, &doc.GenManHeader{Title: "VHOSTNET", Section: "1", Source: "vhostnet", Manual: "vhostnet", Date: &never}, args[0])
		},
	}}
}

// asWritten keeps the indented lines of all explanations as they are: as code,
// in the language that the library reads them in.
func asWritten(cmd *cobra.Command) {
	var lines []string
	before := false
	for line := range strings.SplitSeq(cmd.Long, "\n") {
		indented := strings.HasPrefix(line, "  ")
		if indented != before {
			lines = append(lines, "")
		}
		if before = indented; indented {
			line = "    " + line
		}
		lines = append(lines, line)
	}
	cmd.Long = strings.Join(lines, "\n")
	for _, c := range cmd.Commands() {
		asWritten(c)
	}
}
