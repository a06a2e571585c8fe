package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// entries is how many ways to break docs/security.md has to answer for.
const entries = 92

// TestSecurityCatalogue: docs/security.md has each entry once, in order, with
// tests that exist or a reason why there are none; and the mutants in it exist.
func TestSecurityCatalogue(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range catalogue(string(text), os.DirFS("../..")) {
		t.Error(complaint)
	}
	mutants := 0
	for _, m := range mutantRow.FindAllStringSubmatch(string(text), -1) {
		mutants++
		if _, err := os.Stat(filepath.Join("../../testdata/mutants", m[1]+".diff")); err != nil {
			t.Errorf("docs/security.md: there is no mutant %s: make mutants-table writes the table anew", m[1])
		}
	}
	if mutants == 0 {
		t.Error("docs/security.md names no mutants")
	}
}

var (
	entryRow  = regexp.MustCompile(`(?m)^\| V(\d+) \|.*\| (.*) \|$`)
	mutantRow = regexp.MustCompile(`(?m)^\| ([a-z0-9-]+/[a-z0-9-]+)(?: \(CI\))? \|`)
	testName  = regexp.MustCompile(`^(Test|Fuzz)[A-Z]`)
)

// catalogue says what is wrong with the rows of the entries in text.
func catalogue(text string, tree fs.FS) (complaints []string) {
	rows := entryRow.FindAllStringSubmatch(text, -1)
	for i, row := range rows {
		if row[1] != fmt.Sprint(i+1) {
			return append(complaints, fmt.Sprintf("docs/security.md: V%s stands where V%d should", row[1], i+1))
		}
		tests := namedTests(row[2])
		if len(tests) == 0 && !strings.HasPrefix(row[2], "none: ") {
			complaints = append(complaints, fmt.Sprintf(`docs/security.md: V%s has no test and no "none: reason"`, row[1]))
		}
		for _, test := range tests {
			if !exists(tree, test[0], test[1]) {
				complaints = append(complaints, fmt.Sprintf("docs/security.md: V%s: package %s has no test %s", row[1], test[0], test[1]))
			}
		}
	}
	if len(rows) != entries {
		complaints = append(complaints, fmt.Sprintf("docs/security.md: %d entries, want %d", len(rows), entries))
	}
	return complaints
}

// namedTests are the pairs of package and test in "`pkg` TestA, TestB/case;
// `other` TestC. A note".
func namedTests(cell string) (tests [][2]string) {
	for _, group := range strings.Split(cell, "`")[1:] {
		if !strings.HasPrefix(group, " ") { // the package of the next group
			tests = append(tests, [2]string{group, ""})
			continue
		}
		group, _, _ = strings.Cut(group, ". ")
		pkg := tests[len(tests)-1][0]
		tests = tests[:len(tests)-1]
		for part := range strings.SplitSeq(strings.TrimRight(strings.TrimSpace(group), ";"), ", ") {
			if testName.MatchString(part) {
				tests = append(tests, [2]string{pkg, part})
			} else if n := len(tests); n > 0 { // a comma in the name of a case
				tests[n-1][1] += ", " + part
			}
		}
	}
	return tests
}

// exists reports whether a package has a test, and the name of the case if the
// test names one.
func exists(tree fs.FS, pkg, test string) bool {
	files, err := fs.ReadDir(tree, pkg)
	if err != nil {
		return false
	}
	test, subtest, _ := strings.Cut(test, "/")
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		text, err := fs.ReadFile(tree, pkg+"/"+file.Name())
		if err == nil && strings.Contains(string(text), "\nfunc "+test+"(") && strings.Contains(string(text), subtest) {
			return true
		}
	}
	return false
}

// TestCatalogueComplains plants one mistake each.
func TestCatalogueComplains(t *testing.T) {
	tree := os.DirFS("../..")
	var good strings.Builder
	for i := range entries {
		fmt.Fprintf(&good, "| V%d | x | `virtqueue` TestNewRefuses/size 65536, packed, TestPassed; `nbl` TestWrapLengths. A note; of two, parts |\n", i+1)
	}
	if complaints := catalogue(good.String(), tree); len(complaints) > 0 {
		t.Fatal(complaints)
	}
	for _, c := range [][3]string{
		{"| V7 |", "| V8 |", "V8 stands where V7 should"},
		{"TestPassed", "TestFailed", "has no test TestFailed"},
		{"size 65536, packed", "no such case", "has no test TestNewRefuses/no such case"},
		{"`nbl`", "`virtio`", "package virtio has no test TestWrapLengths"},
		{"| V92 |", "| W92 |", "91 entries, want 92"},
		{"| x | `virtqueue` TestNewRefuses/size 65536, packed, TestPassed; `nbl` TestWrapLengths. A note; of two, parts |", "| x | later |", "has no test and no"},
	} {
		text := strings.Replace(good.String(), c[0], c[1], 1)
		if got := strings.Join(catalogue(text, tree), "\n"); !strings.Contains(got, c[2]) {
			t.Errorf("%q for %q: %q, want %q", c[1], c[0], got, c[2])
		}
	}
}
