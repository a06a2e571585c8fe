//go:build integration

package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// TestWindows: back-ends that take turns while they are all there each get as many
// windows as the others, and all of them end.
func TestWindows(t *testing.T) {
	dir := t.TempDir()
	vhostnet, bare := filepath.Join(dir, "vhostnet"), filepath.Join(dir, "bare")
	build(t, vhostnet, "vhostnet/cmd/vhostnet")
	build(t, bare, "vhostnet/bench/bare")
	var out, progress strings.Builder
	err := run(t.Context(), []string{
		"-vhostnet", vhostnet, "-bare", bare, "-backend", "vhostnet,bare,rings",
		"-sizes", "512", "-windows", "3", "-seconds", "0.2", "-o", "json",
	}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var result struct{ Measurements []measurement }
	if err := json.Unmarshal([]byte(out.String()), &result); err != nil {
		t.Fatal(err)
	}
	windows := map[string]int{}
	for _, m := range result.Measurements {
		if windows[m.Backend]++; m.Mpps <= 0 && !m.LeftOut {
			t.Errorf("%s carried nothing in window %d", m.Backend, m.Round)
		}
	}
	for _, name := range []string{"vhostnet", "bare", "rings"} {
		if windows[name] != 3 {
			t.Errorf("%s had %d windows, want 3", name, windows[name])
		}
	}
}
