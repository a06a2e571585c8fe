package main

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every command explains itself, with an example that it would take, whichever
// way its help is asked for.
func TestHelp(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		code, out, log := runHere(context.Background(), append(path, "--help")...)
		if code != exitDone || log != "" {
			t.Errorf("help of %q: exit code %d, log %q", c.CommandPath(), code, log)
		}
		_, examples, _ := strings.Cut(out, "Examples:\n")
		examples, _, _ = strings.Cut(examples, "\n\nFlags:")
		if !strings.Contains(examples, c.CommandPath()) && c.HasParent() {
			t.Errorf("help of %q has no example of it:\n%s", c.CommandPath(), out)
		}
		if c.Long == "" || !strings.Contains(out, c.Long) || c.Short == "" {
			t.Errorf("help of %q does not say what it is for", c.CommandPath())
		}
		for line := range strings.SplitSeq(out, "\n") {
			if len(line) > 110 {
				t.Errorf("help of %q: a line of %d columns: %s", c.CommandPath(), len(line), line)
			}
		}
		if _, other, _ := runHere(context.Background(), append([]string{"help"}, path...)...); other != out {
			t.Errorf("vhostnet help %s differs from its --help:\n%s", strings.Join(path, " "), other)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand(nil, nil))
}

func TestBareProgramHelps(t *testing.T) {
	code, out, log := runHere(context.Background())
	if code != exitDone || log != "" || !hasAll(out, "vhostnet run --port", "qemu-system-x86_64", "memory-backend-memfd", "Commands:") {
		t.Errorf("exit code %d, log %q, output:\n%s", code, log, out)
	}
}

// The examples of run are command lines that it takes.
func TestExamplesParse(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	n := 0
	for line := range strings.SplitSeq(runExamples, "\n") {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "vhostnet run ")
		if !ok || !strings.HasPrefix(args, "--") { // a file, see TestExampleFile
			continue
		}
		n++
		opts := &runOptions{}
		cmd := newRunCommand(opts)
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		c, err := opts.parse()
		vms := slices.DeleteFunc(c.ports, func(p portSpec) bool { return p.uplink != nil })
		if err != nil || len(vms) != 2 {
			t.Errorf("%s: %d ports of VMs, %v", line, len(vms), err)
		}
	}
	if n < 3 {
		t.Errorf("%d examples were found", n)
	}
}

// What flags take as words, the help lists and the shell is offered.
func TestCompletion(t *testing.T) {
	for flag, words := range map[string][]string{"output": outputs, "log-format": logFormats, "log-level": logLevels} {
		for _, prefix := range [][]string{{"run"}, nil} {
			code, out, _ := runHere(context.Background(), append(append([]string{cobra.ShellCompRequestCmd}, prefix...), "--"+flag, "")...)
			if code != exitDone || !strings.HasPrefix(out, strings.Join(words, "\n")+"\n:4") {
				t.Errorf("completion of %v --%s: exit code %d, %q", prefix, flag, code, out)
			}
		}
		newRunCommand(&runOptions{}).Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name == flag && !strings.Contains(f.Usage, listOf(words)) {
				t.Errorf("the help of --%s is %q, it takes %s", flag, f.Usage, listOf(words))
			}
		})
	}
	if _, out, _ := runHere(context.Background(), cobra.ShellCompRequestCmd, "run", "--p"); !strings.HasPrefix(out, "--port\t") {
		t.Errorf("completion of --p: %q", out)
	}
	for _, shell := range shells {
		code, out, log := runHere(context.Background(), "completion", shell)
		if code != exitDone || log != "" || !strings.Contains(out, cobra.ShellCompRequestCmd) {
			t.Errorf("completion %s: exit code %d, log %q, %d bytes", shell, code, log, len(out))
		}
		if path, err := exec.LookPath(shell); err == nil && shell == "bash" {
			check := exec.Command(path, "-n")
			check.Stdin = strings.NewReader(out)
			if said, err := check.CombinedOutput(); err != nil {
				t.Errorf("bash does not take its script: %v: %s", err, said)
			}
		}
	}
}

func TestSlips(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "run", 3},
		{"run", "", 3},
		{"run", "run", 0},
		{"rnu", "run", 1},
		{"ran", "run", 1},
		{"rn", "run", 1},
		{"runn", "run", 1},
		{"socket-paht", "socket-path", 1},
		{"stats", "fd", 5},
		{"nur", "run", 2},
	} {
		if got := slips(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d slips, want %d", c.a, c.b, got, c.want)
		}
	}
}
