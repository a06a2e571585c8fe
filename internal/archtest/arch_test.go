package archtest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

func TestImports(t *testing.T) {
	for _, complaint := range check(t, os.DirFS("../..")) {
		t.Error(complaint)
	}
}

// TestRules: the table itself has no upward and no sideward import and names
// no package twice.
func TestRules(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		r := rules[name]
		if !slices.IsSorted(r.imports) {
			t.Errorf("%s: imports are not sorted: %v", name, r.imports)
		}
		for _, imported := range r.imports {
			below, ok := rules[imported]
			switch {
			case !ok:
				t.Errorf("%s may import %s, which has no rule", name, imported)
			case below.level >= r.level:
				t.Errorf("%s of level %d may import %s of level %d; imports point down only", name, r.level, imported, below.level)
			}
		}
	}
}

// TestCheckComplains plants one violation per file.
func TestCheckComplains(t *testing.T) {
	cases := []struct {
		file, imported, want string // want: part of the complaint; empty: fine
	}{
		{"virtqueue/split.go", "vhostnet/sharedmem", ""},
		{"virtqueue/split.go", "vhostnet/worker", "may not import vhostnet/worker"},
		{"virtqueue/split.go", "vhostnet/virtqueue/vqtest", "may not import vhostnet/virtqueue/vqtest"},
		{"virtqueue/split_test.go", "vhostnet/virtqueue/vqtest", ""},
		{"virtqueue/split_test.go", "vhostnet/virtqueue", ""},
		{"virtqueue/split_test.go", "vhostnet/vswitch", "may not import vhostnet/vswitch"},
		{"queues/nic.go", "vhostnet/vswitch", "may not import vhostnet/vswitch"},
		{"vswitch/switch.go", "vhostnet/virtqueue", "may not import vhostnet/virtqueue"},
		{"nbl/list.go", "github.com/hashicorp/go-hclog", "may not import github.com/hashicorp/go-hclog"},
		{"nbl/list_test.go", "github.com/google/go-cmp/cmp", ""},
		{"nbl/sum.go", "gvisor.dev/gvisor/pkg/tcpip/checksum", ""},
		{"nbl/sum.go", "gvisor.dev/gvisor/pkg/tcpip", "may not import gvisor"},
		{"nbl/sum.go", "syscall", "may not import syscall"},
		{"nbl/sum.go", "log/slog", "may not import log/slog"},
		{"netdev/log.go", "log", "may not import log"},
		{"nbl/sum.go", "C", "may not import C"},
		{"nbl/sum_test.go", "syscall", ""},
		{"nbl/sum_unsafe.go", "unsafe", "may not import unsafe"},
		{"nbl/sum_test.go", "unsafe", "may not import unsafe"},
		{"sharedmem/map.go", "unsafe", "may not import unsafe"},
		{"sharedmem/map_unsafe.go", "unsafe", ""},
		{"internal/sys/fd.go", "golang.org/x/sys/unix", ""},
		{"sharedmem/map.go", "golang.org/x/sys/unix", "may not import golang.org/x/sys/unix"},
		{"worker/loop_test.go", "golang.org/x/sys/unix", "may not import golang.org/x/sys/unix"},
		{"cmd/vhostnet/run.go", "vhostnet/netdev", ""},
		{"cmd/vhostnet/run.go", "vhostnet/vhostuser/vutest", "may not import vhostnet/vhostuser/vutest"},
		{"misc/misc.go", "fmt", "has no rule"},
		{"virtio/testdata/x.go", "unsafe", ""},
		{"tools/tools.go", "unsafe", ""}, // a module of its own
	}
	for _, c := range cases {
		tree := fstest.MapFS{
			c.file:         {Data: []byte("//go:build never\n\npackage p\n\nimport _ " + strconv.Quote(c.imported) + "\n")},
			"go.mod":       {Data: []byte("module vhostnet\n")},
			"tools/go.mod": {Data: []byte("module vhostnet/tools\n")},
		}
		got := strings.Join(check(t, tree), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s importing %s: %q, want %q", c.file, c.imported, got, c.want)
		}
	}
}

// check reads the imports of every Go file of the module in tree, whatever its
// build tags, and says what rules does not allow.
func check(t *testing.T, tree fs.FS) (complaints []string) {
	t.Helper()
	files := 0
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(tree, name)
		case path.Ext(name) != ".go":
			return nil
		}
		files++
		c, err := checkFile(tree, name)
		complaints = append(complaints, c...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, planted := tree.(fstest.MapFS); !planted && files < len(rules) {
		t.Fatalf("found only %d Go files: is this the root of the module?", files)
	}
	return complaints
}

// enter keeps out of directories that hold no package of this module.
func enter(tree fs.FS, dir string) error {
	base := path.Base(dir)
	if dir == "." {
		return nil
	}
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, path.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func checkFile(tree fs.FS, name string) (complaints []string, err error) {
	src, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	pkg := path.Dir(name)
	r, ok := rules[pkg]
	if !ok {
		return []string{fmt.Sprintf("%s: package %s has no rule; give it a level and imports in internal/archtest", name, pkg)}, nil
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if !r.allows(pkg, name, imported) {
			complaints = append(complaints, fmt.Sprintf("%s may not import %s (rule of %s in internal/archtest)", name, imported, pkg))
		}
	}
	return complaints, nil
}

// allows reports whether the file name of package pkg may import imported.
func (r rule) allows(pkg, name, imported string) bool {
	test := strings.HasSuffix(name, "_test.go")
	if own, ok := strings.CutPrefix(imported, module+"/"); ok {
		return slices.Contains(r.imports, own) || test && (own == pkg || slices.Contains(helpers, own))
	}
	switch imported {
	case "C": // no cgo
		return false
	case "log", "log/slog": // one logger; examples end with log.Fatal
		return test
	case "unsafe":
		return slices.Contains(unsafeDirs, pkg) && strings.HasSuffix(name, "_unsafe.go")
	case "syscall":
		return r.syscall || test
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	return matches(r.external, imported) || test && matches(testExternal, imported)
}

func matches(patterns []string, imported string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return imported == p || strings.HasSuffix(p, "/") && strings.HasPrefix(imported, p)
	})
}
