package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestClosure: what the packages of the frame's way reach through others is as
// small as what they import themselves.
func TestClosure(t *testing.T) {
	var ours []string
	for name, r := range rules {
		if r.level < 5 && !slices.Contains(r.external, hclog) && !slices.Contains(helpers, name) && !strings.HasPrefix(name, "uplink/") {
			ours = append(ours, "./"+name)
		}
	}
	slices.Sort(ours)
	seen := 0
	for _, p := range closure(t, ours) {
		if slices.Contains(ours, "./"+ownName(p.ImportPath)) {
			seen++
		}
		switch {
		case p.Standard && slices.Contains(unlinkable, p.ImportPath),
			!p.Standard && ownName(p.ImportPath) == "" && !slices.Contains(linkable, p.ImportPath):
			t.Errorf("the frame's way reaches %s; see go list -deps", p.ImportPath)
		}
	}
	if seen != len(ours) {
		t.Errorf("the closure holds %d of the %d packages it was asked for", seen, len(ours))
	}
}

// listed is what go list says of one package.
type listed struct {
	ImportPath string
	Standard   bool
}

// ownName is a package's name in rules, empty when it is not of this module.
func ownName(importPath string) string {
	name, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return name
}

func closure(t *testing.T, packages []string) (all []listed) {
	t.Helper()
	args := append([]string{"list", "-deps", "-json=ImportPath,Standard"}, packages...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.Bytes())
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
