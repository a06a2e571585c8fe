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
// none may be lost or altered, whatever two of the front-end's options meet.
// VHOSTNET_SOAK=1 gives each combination five seconds, and then takes all sizes,
// and a minute for the first.
func TestClosedLoop(t *testing.T) {
	binary := buildVhostnet(t)
	if os.Getenv("VHOSTNET_SOAK") == "" {
		checkLoop(t, binary, "-pairwise", "-seconds", "1")
		return
	}
	checkLoop(t, binary, "-pairwise", "-seconds", "5")
	checkLoop(t, binary, "-seconds", "3", "-long", "60")
}

func buildVhostnet(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "vhostnet")
	build(t, binary, "vhostnet/cmd/vhostnet")
	return binary
}

// build makes the binary of a package.
func build(t *testing.T, binary, pkg string) {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
}

func checkLoop(t *testing.T, binary string, args ...string) {
	t.Helper()
	var out, progress strings.Builder
	err := run(t.Context(), append([]string{"-check", "-vhostnet", binary}, args...), &out, &progress)
	t.Logf("%s", out.String())
	if err != nil {
		t.Errorf("%v\n%s", err, progress.String())
	}
}
