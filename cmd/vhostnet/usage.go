package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noArguments refuses whatever is not a flag.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usageError{fmt.Errorf("%s takes no argument %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return unknownCommand(cmd, args[0])
}

// unknownCommand says what name may have been meant to be.
func unknownCommand(root *cobra.Command, name string) error {
	var known []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	return usageError{fmt.Errorf("unknown command %q; %s", name, hint(similar(name, known), "", root))}
}

// flagError turns what the flag parser found into a sentence that says what to
// write instead.
func flagError(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		err = unknownFlag(cmd, e)
	} else if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		name, _ := pflag.UnquoteUsage(e.GetFlag())
		err = fmt.Errorf("--%s needs a value: %s", e.GetFlag().Name, name)
	} else if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		err = fmt.Errorf("--%s %s: want %s", e.GetFlag().Name, e.GetValue(), kindOf(e.GetFlag()))
	} else if e, ok := errors.AsType[*pflag.InvalidSyntaxError](err); ok {
		err = fmt.Errorf("%s is not a flag; see %s --help", e.GetSpecifiedFlag(), cmd.CommandPath())
	}
	return usageError{err}
}

func unknownFlag(cmd *cobra.Command, e *pflag.NotExistError) error {
	name := e.GetSpecifiedName()
	if e.GetSpecifiedShortnames() != "" {
		return fmt.Errorf("unknown flag -%s; see %s --help", name, cmd.CommandPath())
	}
	var has []string
	for _, c := range cmd.Root().Commands() {
		if c != cmd && c.Flags().Lookup(name) != nil {
			has = append(has, c.CommandPath())
		}
	}
	if run := cmd.Root().Name() + " run"; slices.Contains(has, run) {
		has = []string{run} // which is what most flags are for
	}
	if len(has) > 0 {
		return fmt.Errorf("unknown flag --%s; %s has it", name, has[0])
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	return fmt.Errorf("unknown flag --%s; %s", name, hint(similar(name, known), "--", cmd))
}

// kindOf says what values a flag takes whose type is not a string.
func kindOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int", "uint32":
		return "a number"
	case "duration":
		return "a time with its unit, such as 500ms, 1s or 1m"
	case "bool":
		return "true or false"
	}
	return "another value"
}

// hint names what was meant, or where to look it up.
func hint(names []string, prefix string, cmd *cobra.Command) string {
	if len(names) == 0 {
		return "see " + cmd.CommandPath() + " --help"
	}
	return "did you mean " + prefix + strings.Join(names, " or "+prefix) + "?"
}

// similar are the names that word may have been meant to be: those that begin
// with it, and those that a slip or two make of it.
func similar(word string, names []string) (list []string) {
	word = strings.ToLower(word)
	for _, name := range names {
		if strings.HasPrefix(name, word) || slips(word, name) <= min(2, len(word)-1, len(name)-1) {
			list = append(list, name)
		}
	}
	return list
}

// slips counts the letters to add, leave out, change or swap with their
// neighbour to make b of a (the optimal string alignment distance).
func slips(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1) // for the prefixes of a two and one letters shorter
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
