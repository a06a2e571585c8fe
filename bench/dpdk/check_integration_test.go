//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClosedLoop lets DPDK's front-end send known frames round through vhostnet:
// none may be lost or altered. VHOSTNET_SOAK=1 takes all sizes and, for the
// first combination, a minute.
func TestClosedLoop(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "vhostnet")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "vhostnet/cmd/vhostnet")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building vhostnet: %v\n%s", err, text)
	}
	args := []string{"-check", "-vhostnet", binary, "-sizes", "64,1518", "-seconds", "1"}
	if os.Getenv("VHOSTNET_SOAK") != "" {
		args = []string{"-check", "-vhostnet", binary, "-seconds", "3", "-long", "60"}
	}
	var out, progress strings.Builder
	err := run(t.Context(), args, &out, &progress)
	t.Logf("%s", out.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
}
