package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Outcome is what became of a mutant.
type Outcome string

// The outcomes. All but Killed fail the run.
const (
	Killed   Outcome = "killed"
	Survived Outcome = "SURVIVED"
	Unfit    Outcome = "UNFIT" // no verdict: it does not apply, does not compile, or has no such test
)

// Result is a mutant's outcome.
type Result struct {
	Mutant

	Outcome Outcome       `json:"outcome"`
	Reason  string        `json:"reason,omitempty"` // of an outcome that fails the run
	Took    time.Duration `json:"took"`
}

// runner runs mutants of the module at root.
type runner struct {
	root    string
	tree    fs.FS
	scratch string        // a directory of the run
	timeout time.Duration // for the tests of one mutant, once they are built
	env     []string
}

// buildTime is allowed for compiling and linking, besides the timeout.
const buildTime = 3 * time.Minute

// run plants m and runs its test.
func (r *runner) run(ctx context.Context, m Mutant) Result {
	start := time.Now()
	outcome, reason := r.try(ctx, m)
	return Result{Mutant: m, Outcome: outcome, Reason: reason, Took: time.Since(start)}
}

func (r *runner) try(ctx context.Context, m Mutant) (Outcome, string) {
	changed, err := m.apply(r.tree)
	if err != nil {
		return Unfit, err.Error()
	}
	overlay, err := r.overlay(m, changed)
	if err != nil {
		return Unfit, err.Error()
	}
	output, err := r.test(ctx, m, overlay, m.Test)
	switch {
	case ctx.Err() != nil:
		return Unfit, "the run was ended"
	case bytes.Contains(output, []byte("[build failed]")) || bytes.Contains(output, []byte("[setup failed]")):
		return Unfit, "does not compile:\n" + tail(output)
	case bytes.Contains(output, []byte("no tests to run")):
		return Unfit, fmt.Sprintf("package %s has no test %s", m.Package, m.Test)
	case err == nil:
		return Survived, tail(output)
	case !diedInTest(output, m.Test):
		return Unfit, "the run failed, and not in the named test:\n" + tail(output)
	}
	return Killed, ""
}

// diedInTest reports whether the output of go test -v says that the named test
// failed, or that the process ended while it ran.
func diedInTest(output []byte, test string) bool {
	top, _, _ := strings.Cut(test, "/")
	if bytes.Contains(output, []byte("--- FAIL: "+top)) {
		return true
	}
	ran := bytes.Contains(output, []byte("=== RUN   "+top+"\n"))
	passed := bytes.Contains(output, []byte("--- PASS: "+top+" "))
	return ran && !passed
}

// overlay writes the changed files and the list of them for the go command.
func (r *runner) overlay(m Mutant, changed map[string]string) (list string, err error) {
	dir := filepath.Join(r.scratch, strings.ReplaceAll(m.Name, "/", "-"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range changed {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(r.root, filepath.FromSlash(name))] = file
	}
	b, err := json.Marshal(struct{ Replace map[string]string }{replace})
	if err != nil {
		return "", err
	}
	list = filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o600)
}

// test runs the named tests of m's package. The overlay is in the environment,
// for tests that build programs.
func (r *runner) test(ctx context.Context, m Mutant, overlay string, tests ...string) (output []byte, err error) {
	timeout := r.timeout
	if overlay != "" && m.Timeout != 0 {
		timeout = m.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, buildTime+timeout)
	defer cancel()
	// A test that compiles the tree itself would be answered from the cache, as
	// its own program is the same with and without the mutant.
	args := append([]string{"test", "-count=1", "-v", "-vet=off", "-timeout", timeout.String(), "-run", pattern(tests)}, m.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+m.Package)...)
	cmd.Dir = r.root
	cmd.Env = r.env
	if overlay != "" {
		cmd.Env = append(slices.Clone(r.env), strings.TrimSpace("GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	// A test that hangs is killed with all that it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}

// pattern matches exactly the named tests, each with its subtest if it names
// one; of several tests none may.
func pattern(tests []string) string {
	if len(tests) > 1 {
		return "^(" + strings.Join(tests, "|") + ")$"
	}
	levels := strings.Split(tests[0], "/")
	for i, level := range levels {
		levels[i] = "^" + regexp.QuoteMeta(level) + "$"
	}
	return strings.Join(levels, "/")
}

// baseline runs the tests that the mutants name without any mutant, per
// package and flags, and answers what is wrong with them.
func (r *runner) baseline(ctx context.Context, mutants []Mutant) error {
	type group struct{ pkg, flags string }
	groups := map[group][]Mutant{}
	for _, m := range mutants {
		g := group{m.Package, strings.Join(m.Flags, " ")}
		groups[g] = append(groups[g], m)
	}
	var errs []error
	for _, of := range groups {
		var tests []string
		for _, m := range of {
			top, _, _ := strings.Cut(m.Test, "/")
			tests = append(tests, top)
		}
		slices.Sort(tests)
		tests = slices.Compact(tests)
		output, err := r.test(ctx, of[0], "", tests...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: the tests fail without any mutant:\n%s", of[0].Package, tail(output)))
			continue
		}
		for _, test := range tests {
			if !bytes.Contains(output, []byte("--- PASS: "+test+" ")) {
				errs = append(errs, fmt.Errorf("%s: there is no test %s, or it was skipped", of[0].Package, test))
			}
		}
	}
	return errors.Join(errs...)
}

// tail is the end of a test's output.
func tail(output []byte) string {
	const most = 3000
	if len(output) > most {
		output = output[len(output)-most:]
	}
	return string(bytes.TrimSpace(output))
}
