package disasm

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// build is one way to compile the packages.
type build struct {
	arch  string
	kind  string // optimised, -N or -race
	flags []string
	env   []string
}

var (
	amd64     = build{arch: "amd64", kind: "optimised"}
	arm64     = build{arch: "arm64", kind: "optimised"}
	amd64N    = build{arch: "amd64", kind: "-N", flags: []string{"-gcflags=vhostnet/...=-N -l"}}
	arm64N    = build{arch: "arm64", kind: "-N", flags: []string{"-gcflags=vhostnet/...=-N -l"}}
	amd64Race = build{arch: "amd64", kind: "-race", flags: []string{"-race", "-gcflags=vhostnet/...=-l"}, env: []string{"CGO_ENABLED=1"}}
)

func (b build) String() string { return b.arch + " " + b.kind }

// instruction is one line of go tool objdump.
type instruction struct {
	at   string // FILE:LINE, without the directory
	text string // in the assembler syntax of GNU
	call string // the Go name of what it calls
}

// code is the machine code of functions by their name, which is that of the
// linker without the module's.
type code map[string][]instruction

// compile builds the tests of package virtqueue, and with them all that it is
// made of, and disassembles the functions whose names match.
func compile(t *testing.T, b build, names string) code {
	t.Helper()
	program := filepath.Join(t.TempDir(), "virtqueue.test")
	args := append([]string{"test", "-c", "-vet=off", "-o", program}, b.flags...)
	run(t, append([]string{"GOARCH=" + b.arch, "CGO_ENABLED=0"}, b.env...), append(args, "../../virtqueue")...)
	text := run(t, nil, "tool", "objdump", "-gnu", "-s", names, program)
	found := code{}
	name := ""
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line := s.Text()
		if rest, ok := strings.CutPrefix(line, "TEXT vhostnet/"); ok {
			name, _, _ = strings.Cut(rest, "(SB)")
			continue
		}
		if i, ok := parseLine(line); ok {
			found[name] = append(found[name], i)
		}
	}
	return found
}

// run runs the go command.
func run(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.Bytes()
}

var callTo = regexp.MustCompile(`^(?:CALL|JMP|BL) ([^ (]\S*)\(SB\)`)

// parseLine reads "  file.go:1  0xADDRESS  BYTES  GO SYNTAX // gnu syntax".
func parseLine(line string) (i instruction, ok bool) {
	f := strings.FieldsFunc(line, func(r rune) bool { return r == '\t' })
	if len(f) < 4 {
		return i, false
	}
	plan9, gnu, ok := strings.Cut(f[3], " // ")
	if !ok {
		plan9, gnu = f[3], f[3]
	}
	i = instruction{at: strings.TrimSpace(f[0]), text: strings.TrimSpace(gnu)}
	if m := callTo.FindStringSubmatch(plan9); m != nil {
		i.call = m[1]
	}
	return i, true
}

// accessors are the lines on which the functions of block_unsafe.go touch
// memory: the last statement of each.
type accessors map[string]string // FILE:LINE to the function's name

func readAccessors(t *testing.T) accessors {
	t.Helper()
	lines := accessors{}
	for _, file := range []string{"block_unsafe.go", "pairs_unsafe.go"} {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, "../../sharedmem/"+file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && slices.Contains(guarded, f.Name.Name) {
				last := f.Body.List[len(f.Body.List)-1]
				lines[fmt.Sprintf("%s:%d", file, set.Position(last.Pos()).Line)] = f.Name.Name
			}
		}
	}
	if len(lines) != len(guarded) {
		t.Fatalf("found %d accessors of %v: %v", len(lines), guarded, lines)
	}
	return lines
}
