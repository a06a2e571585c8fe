package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// formats are the values of -o.
var formats = map[string]func(io.Writer, []Result) error{
	"table":    writeTable,
	"json":     writeJSON,
	"markdown": writeMarkdown,
}

func writeTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "MUTANT\tTEST\tOUTCOME\tSECONDS")
	for _, r := range results {
		_, _ = fmt.Fprintf(t, "%s\t%s %s\t%s\t%.1f\n", r.Name, r.Package, r.Test, r.Outcome, r.Took.Seconds())
	}
	return t.Flush()
}

func writeJSON(w io.Writer, results []Result) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(results)
}

func writeMarkdown(w io.Writer, results []Result) error {
	var b strings.Builder
	b.WriteString("| mutant | without the safeguard | test | outcome |\n|---|---|---|---|\n")
	for _, r := range results {
		ci := ""
		if r.CI {
			ci = " (CI)"
		}
		fmt.Fprintf(&b, "| %s%s | %s | `%s` %s | %s |\n", r.Name, ci, strings.ReplaceAll(r.Why, "|", `\|`), r.Package, r.Test, r.Outcome)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary counts the outcomes and says whether the run is good.
func summary(results []Result, took time.Duration) (text string, good bool) {
	killed := 0
	for _, r := range results {
		if r.Outcome == Killed {
			killed++
		}
	}
	return fmt.Sprintf("%d of %d mutants were killed in %d s", killed, len(results), int(took.Seconds())), killed == len(results)
}
