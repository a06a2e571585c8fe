package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const calcTest = `package calc

import "testing"

func TestAdd(t *testing.T) {
	if Add(2, 1) != 3 {
		t.Error("wrong")
	}
}

func TestHang(t *testing.T) {
	for Add(2, 1) != 3 {
	}
}

func TestNothing(t *testing.T) {}

func TestSkipped(t *testing.T) { t.Skip("here") }
`

// module writes a module with these diffs and answers its root.
func module(t *testing.T, diffs map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	files := map[string]string{"go.mod": "module calc\n\ngo 1.26\n", "calc/calc.go": calc, "calc/calc_test.go": calcTest}
	for name, text := range diffs {
		files["testdata/mutants/"+name+".diff"] = text
	}
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// mutants runs the program.
func mutants(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, progress bytes.Buffer
	err = run(ctx, args, &out, &progress)
	return out.String(), progress.String(), err
}

func TestRun(t *testing.T) {
	plain := strings.Replace(goodDiff, "Flags: -tags=slow\nTimeout: 20s\n", "", 1)
	root := module(t, map[string]string{
		"calc/killed":   plain,
		"calc/hangs":    strings.Replace(plain, "TestAdd", "TestHang", 1),
		"calc/survives": strings.Replace(plain, "TestAdd", "TestNothing", 1),
		"calc/compile":  strings.Replace(plain, "+\treturn a - b", "+\treturn a -", 1),
		"calc/moved":    strings.Replace(plain, "-\treturn a + b", "-\treturn b + a", 1),
		"calc/all":      strings.Replace(strings.Replace(plain, "CI: yes", "CI: no", 1), "TestAdd", "TestNothing", 1),
	})
	stdout, stderr, err := mutants(t, "-root", root, "-short", "-timeout", "5s", "-o", "json")
	if err == nil || !strings.Contains(err.Error(), "2 of 5 mutants were killed") {
		t.Errorf("the run ended with %v\n%s", err, stderr)
	}
	var results []Result
	if err := json.Unmarshal([]byte(stdout), &results); err != nil {
		t.Fatalf("%v\n%s", err, stdout)
	}
	want := map[string]Outcome{
		"calc/killed": Killed, "calc/hangs": Killed, "calc/survives": Survived, "calc/compile": Unfit, "calc/moved": Unfit,
	}
	for _, r := range results {
		if r.Outcome != want[r.Name] {
			t.Errorf("%s: %s (%s), want %s", r.Name, r.Outcome, r.Reason, want[r.Name])
		}
	}
	stdout, stderr, err = mutants(t, "-root", root, "-o", "markdown", "calc/killed")
	if err != nil || !strings.Contains(stdout, "calc/killed (CI) | a sum is no difference | `calc` TestAdd | killed |") {
		t.Errorf("%v\n%s\n%s", err, stdout, stderr)
	}
}

func TestRunRefuses(t *testing.T) {
	plain := strings.Replace(goodDiff, "Flags: -tags=slow\nTimeout: 20s\n", "", 1)
	for _, c := range []struct{ name, diff, want string }{
		{"no such test", strings.Replace(plain, "TestAdd", "TestNone", 1), "there is no test TestNone"},
		{"skipped", strings.Replace(plain, "TestAdd", "TestSkipped", 1), "there is no test TestSkipped, or it was skipped"},
		{"no such package", strings.Replace(plain, "Test: calc", "Test: none", 1), "fail without any mutant"},
		{"malformed", strings.Replace(plain, "Why:", "Because:", 1), "is not a line of the head"},
	} {
		_, _, err := mutants(t, "-root", module(t, map[string]string{"calc/it": c.diff}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, _, err := mutants(t, "-root", module(t, nil)); err == nil {
		t.Error("a run without mutants was good")
	}
	if _, _, err := mutants(t, "-o", "xml"); err == nil {
		t.Error("an unknown format was accepted")
	}
}
