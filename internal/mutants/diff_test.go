package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const goodDiff = `Test: calc TestAdd
Flags: -tags=slow
Timeout: 20s
CI: yes
Why: a sum is no difference

--- a/calc/calc.go
+++ b/calc/calc.go
@@ -900,3 +900,3 @@ func Add
 func Add(a, b int) int {
-	return a + b
+	return a - b
 }
`

const calc = `package calc

func Add(a, b int) int {
	return a + b
}

func Sub(a, b int) int {
	return a - b
}
`

func TestParseAndApply(t *testing.T) {
	m := Mutant{Name: "calc/minus"}
	if err := m.parse(goodDiff); err != nil {
		t.Fatal(err)
	}
	if m.Package != "calc" || m.Test != "TestAdd" || !m.CI || m.Timeout != 20*time.Second || len(m.Flags) != 1 || m.Why != "a sum is no difference" {
		t.Errorf("the head was read as %+v", m)
	}
	changed, err := m.apply(fstest.MapFS{"calc/calc.go": {Data: []byte(calc)}})
	if want := strings.Replace(calc, "a + b", "a - b", 1); err != nil || changed["calc/calc.go"] != want {
		t.Errorf("applied: %v\n%s\nwant\n%s", err, changed["calc/calc.go"], want)
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"moved", strings.ReplaceAll(calc, "a + b", "b + a"), "0 times"},
		{"twice", calc + calc, "2 times"},
		{"part of a line", strings.Replace(calc, "\treturn a + b", "\t\treturn a + b", 1), "0 times"},
	} {
		m := Mutant{}
		if err := m.parse(goodDiff); err != nil {
			t.Fatal(err)
		}
		_, err := m.apply(fstest.MapFS{"calc/calc.go": {Data: []byte(c.source)}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	m := Mutant{}
	if err := m.parse(strings.Replace(goodDiff, "a - b", "a + b", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.apply(fstest.MapFS{"calc/calc.go": {Data: []byte(calc)}}); err == nil {
		t.Error("a diff that changes nothing was applied")
	}
	if _, err := m.apply(fstest.MapFS{}); err == nil {
		t.Error("a file that is not there was changed")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, edit := range [][2]string{
		{"Test: calc TestAdd\n", ""},
		{"calc TestAdd", "TestAdd"},
		{"Why: a sum is no difference\n", ""},
		{"CI: yes", "CI: perhaps"},
		{"CI: yes", "Timeout: soon"},
		{"Why:", "Because:"},
		{"--- a/", "--- "},
		{"+++ b/calc", "+++ b/other"},
		{"@@ -900,3 +900,3 @@ func Add\n", ""},
		{" func Add(", "func Add("},
	} {
		m := Mutant{}
		text := strings.Replace(goodDiff, edit[0], edit[1], 1)
		if err := m.parse(text); err == nil {
			t.Errorf("with %q for %q a diff was accepted:\n%s", edit[1], edit[0], text)
		}
	}
}

// TestEveryDiffApplies to the tree as it is, and the test that it names is in
// the package that it names.
func TestEveryDiffApplies(t *testing.T) {
	root := os.DirFS("../..")
	mutants, err := load(root, "testdata/mutants")
	if err != nil {
		t.Error(err)
	}
	ci := map[string]int{}
	for _, m := range mutants {
		if _, err := m.apply(root); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		if !hasTest(t, filepath.Join("../..", m.Package), m.Test) {
			t.Errorf("%s: package %s has no test %s", m.Name, m.Package, m.Test)
		}
		if topic, _, _ := strings.Cut(m.Name, "/"); m.CI {
			ci[topic]++
		}
	}
	t.Logf("%d mutants; in CI, by topic: %v", len(mutants), ci)
}

func hasTest(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	top, _, _ := strings.Cut(test, "/")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), fmt.Sprintf("\nfunc %s(", top)) {
			return true
		}
	}
	return false
}
