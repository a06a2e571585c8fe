// Instructions counts the instructions that a frame costs, function by
// function, by running BenchmarkPath of package netdev under callgrind. Unlike
// times, the counts are the same on a busy machine.
//
//	go run ./bench/instructions [-size 64B-packed]
//
// Valgrind has to be there (scripts/setup.sh bench installs it).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
)

// Frames are counted between two runs, so that what a run costs once falls out.
const (
	batch      = 128
	fewBatches = 100
	batches    = 600
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	size := flag.String("size", "64B-packed", "the `NAME` of the benchmark below BenchmarkPath")
	least := flag.Float64("least", 2, "leave out functions with fewer `INSTRUCTIONS` a frame")
	flag.Usage = func() {
		_, _ = fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./bench/instructions [flags]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(ctx, *size, *least, os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

// run counts and prints.
func run(ctx context.Context, size string, least float64, out io.Writer) error {
	dir, err := os.MkdirTemp("", "instructions")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "netdev.test")
	if text, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./netdev").CombinedOutput(); err != nil {
		return fmt.Errorf("the benchmarks are not built: %w\n%s", err, text)
	}
	few, err := count(ctx, binary, size, fewBatches)
	if err != nil {
		return err
	}
	many, err := count(ctx, binary, size, batches)
	if err != nil {
		return err
	}
	return report(out, perFrame(few, many), least)
}

// count is the instructions of each function in a run over so many batches.
func count(ctx context.Context, binary, size string, n int) (costs, error) {
	profile := fmt.Sprintf("%s.%d", binary, n)
	cmd := exec.CommandContext(ctx, "valgrind", "--tool=callgrind", "--callgrind-out-file="+profile, binary,
		"-test.run", "^$", "-test.bench", "^BenchmarkPath$/^"+size+"$", "-test.benchtime", fmt.Sprintf("%dx", batch*n))
	// With one thread and no collector the Go runtime does the same in each run.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("valgrind: %w\n%s", err, text)
	}
	if !strings.Contains(string(text), "BenchmarkPath/"+size) {
		return nil, fmt.Errorf("there is no benchmark BenchmarkPath/%s; see go test -list . -bench . ./netdev", size)
	}
	f, err := os.Open(profile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return parse(f)
}

// perFrame is what a frame costs in each function of the device: without the
// drivers on both sides, which the benchmark plays too.
func perFrame(few, many costs) costs {
	c := costs{}
	for name, n := range many {
		if strings.Contains(name, "vqtest") || strings.Contains(name, "path)") || strings.Contains(name, "testing.") {
			continue
		}
		c[name] = (n - few[name]) / (batch * (batches - fewBatches))
	}
	return c
}

// report prints the functions, the dearest first, and their sum.
func report(out io.Writer, c costs, least float64) error {
	names := make([]string, 0, len(c))
	sum := 0.0
	for name, n := range c {
		sum += n
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return c[names[i]] > c[names[j]] })
	var table strings.Builder
	_, _ = fmt.Fprintln(&table, "instructions  function")
	for _, name := range names {
		if c[name] >= least {
			_, _ = fmt.Fprintf(&table, "%12.1f  %s\n", c[name], strings.TrimPrefix(name, "vhostnet/"))
		}
	}
	_, _ = fmt.Fprintf(&table, "%12.0f  in all\n", sum)
	_, err := io.WriteString(out, table.String())
	return err
}
