package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Mutant is one defect to plant.
type Mutant struct {
	Name    string   `json:"name"` // TOPIC/NAME
	Package string   `json:"package"`
	Test    string   `json:"test"`
	Flags   []string `json:"flags,omitempty"`
	CI      bool     `json:"ci"`
	Why     string   `json:"why"`

	// Timeout is how long the test may take, for a mutant that makes it hang; 0:
	// what the run says.
	Timeout time.Duration `json:"timeout,omitempty"`

	hunks []hunk
}

// hunk is one change of a file.
type hunk struct{ file, old, new string }

const suffix = ".diff"

// load reads every diff below dir, ordered by name. Malformed ones are in the
// error; the others are returned.
func load(tree fs.FS, dir string) (mutants []Mutant, err error) {
	var errs []error
	walked := fs.WalkDir(tree, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != suffix {
			return err
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		m := Mutant{Name: strings.TrimSuffix(strings.TrimPrefix(name, dir+"/"), suffix)}
		if err := m.parse(string(text)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			return nil
		}
		mutants = append(mutants, m)
		return nil
	})
	return mutants, errors.Join(append(errs, walked)...)
}

// parse reads the head and the hunks of a diff.
func (m *Mutant) parse(text string) error {
	head, body, found := strings.Cut(text, "\n--- ")
	if !found {
		return errors.New(`has no line "--- a/FILE"`)
	}
	for line := range strings.Lines(head) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := m.field(line); err != nil {
			return err
		}
	}
	if m.Test == "" || m.Why == "" {
		return errors.New(`its head needs "Test: PACKAGE TEST" and "Why: REASON"`)
	}
	for part := range strings.SplitSeq(body, "\n--- ") {
		if err := m.parseFile(part); err != nil {
			return err
		}
	}
	return nil
}

// field reads one line of the head.
func (m *Mutant) field(line string) error {
	key, value, _ := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	switch key {
	case "Test":
		pkg, test, ok := strings.Cut(value, " ")
		if !ok || strings.Contains(test, " ") {
			return fmt.Errorf(`%q is not "Test: PACKAGE TEST"`, line)
		}
		m.Package, m.Test = pkg, test
	case "Flags":
		m.Flags = strings.Fields(value)
	case "Timeout":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is no time", line)
		}
		m.Timeout = d
	case "CI":
		if value != "yes" && value != "no" {
			return fmt.Errorf(`%q is not "CI: yes" or "CI: no"`, line)
		}
		m.CI = value == "yes"
	case "Why":
		m.Why = value
	default:
		return fmt.Errorf(`%q is not a line of the head: those are Test, Flags, Timeout, CI and Why`, line)
	}
	return nil
}

// parseFile reads what follows "--- " up to the next file.
func (m *Mutant) parseFile(part string) error {
	lines := strings.Split(strings.TrimSuffix(part, "\n"), "\n")
	file, ok := strings.CutPrefix(lines[0], "a/")
	if !ok || len(lines) < 3 || lines[1] != "+++ b/"+file {
		return fmt.Errorf(`the file is not named by "--- a/FILE" and "+++ b/FILE": %q`, lines[0])
	}
	var h *hunk
	for _, line := range lines[2:] {
		kind := byte(' ') // an editor may have stripped an empty line of context
		if line != "" {
			kind = line[0]
		}
		switch {
		case kind == '@':
			m.hunks = append(m.hunks, hunk{file: file})
			h = &m.hunks[len(m.hunks)-1]
			continue
		case h == nil:
			return fmt.Errorf("%q stands before the first @@", line)
		case kind != ' ' && kind != '-' && kind != '+':
			return fmt.Errorf("%q is no line of a diff", line)
		}
		line = strings.TrimPrefix(line, string(kind)) + "\n"
		if kind != '+' {
			h.old += line
		}
		if kind != '-' {
			h.new += line
		}
	}
	if h == nil {
		return fmt.Errorf("%s has no hunk", file)
	}
	return nil
}

// apply is the mutant's version of the files that it changes.
func (m *Mutant) apply(tree fs.FS) (changed map[string]string, err error) {
	changed = map[string]string{}
	for _, h := range m.hunks {
		text, ok := changed[h.file]
		if !ok {
			b, err := fs.ReadFile(tree, h.file)
			if err != nil {
				return nil, err
			}
			text = "\n" + string(b) // so that a hunk starts with a line
		}
		switch old := "\n" + h.old; {
		case h.old == "" || h.old == h.new:
			return nil, fmt.Errorf("%s: a hunk changes nothing", h.file)
		case strings.Count(text, old) != 1:
			return nil, fmt.Errorf("%s: these lines stand there %d times, want once:\n%s", h.file, strings.Count(text, old), h.old)
		default:
			changed[h.file] = strings.Replace(text, old, "\n"+h.new, 1)
		}
	}
	for name, text := range changed {
		changed[name] = text[1:]
	}
	return changed, nil
}
