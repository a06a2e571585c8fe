package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	root, dir string
	ci        bool
	format    string
	jobs      int
	timeout   time.Duration
	prefixes  []string
}

func parseFlags(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.root, "root", ".", "the root of the module")
	f.StringVar(&o.dir, "dir", "testdata/mutants", "where the diffs are, below the root")
	f.BoolVar(&o.ci, "short", false, `run only the mutants that say "CI: yes"`)
	f.StringVar(&o.format, "o", "table", "table, json or markdown")
	f.IntVar(&o.jobs, "j", runtime.NumCPU(), "mutants at the same time")
	f.DurationVar(&o.timeout, "timeout", 90*time.Second, "for the test of one mutant that does not say")
	f.Usage = func() {
		_, _ = fmt.Fprintln(stderr, "usage: mutants [flags] [NAME-PREFIX...]")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.prefixes = f.Args()
	if formats[o.format] == nil {
		return o, fmt.Errorf("-o %s is not table, json or markdown", o.format)
	}
	if o.jobs < 1 {
		return o, fmt.Errorf("-j %d is less than one", o.jobs)
	}
	return o, nil
}

// run is the program. Progress goes to stderr, the report to stdout.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	start := time.Now()
	mutants, err := choose(os.DirFS(o.root), o)
	if err != nil {
		return err
	}
	r, err := newRunner(o)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.scratch) }()
	_, _ = fmt.Fprintf(stderr, "%d mutants; first their tests without any\n", len(mutants))
	if err := r.baseline(ctx, mutants); err != nil {
		return err
	}
	results := r.runAll(ctx, mutants, o.jobs, stderr)
	if err := formats[o.format](stdout, results); err != nil {
		return err
	}
	text, good := summary(results, time.Since(start))
	if !good {
		return errors.New(text)
	}
	_, _ = fmt.Fprintln(stderr, text)
	return nil
}

// choose loads the mutants that o asks for. One that is malformed fails the
// run even if it is not asked for.
func choose(tree fs.FS, o options) (chosen []Mutant, err error) {
	mutants, err := load(tree, o.dir)
	if err != nil {
		return nil, err
	}
	for _, m := range mutants {
		if o.ci && !m.CI || !named(m.Name, o.prefixes) {
			continue
		}
		chosen = append(chosen, m)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("none of the %d mutants in %s is asked for", len(mutants), o.dir)
	}
	return chosen, nil
}

func named(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(prefixes) == 0
}

func newRunner(o options) (*runner, error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	return &runner{root: root, tree: os.DirFS(root), scratch: scratch, timeout: o.timeout, env: os.Environ()}, nil
}

// runAll runs the mutants, jobs at a time, and answers in their order.
func (r *runner) runAll(ctx context.Context, mutants []Mutant, jobs int, stderr io.Writer) []Result {
	results := make([]Result, len(mutants))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex // of stderr and done
	done := 0
	for range jobs {
		wg.Go(func() {
			for i := range next {
				results[i] = r.run(ctx, mutants[i])
				mu.Lock()
				done++
				_, _ = fmt.Fprintf(stderr, "%3d/%d %-9s %5.1f s  %s\n", done, len(mutants), results[i].Outcome, results[i].Took.Seconds(), mutants[i].Name)
				if reason := results[i].Reason; reason != "" {
					_, _ = fmt.Fprintf(stderr, "    %s\n", strings.ReplaceAll(reason, "\n", "\n    "))
				}
				mu.Unlock()
			}
		})
	}
	for i := range mutants {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}
