//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What all tests share, made once.
var (
	machine *Machine
	image   *Image
	binary  string
)

// setupTime bounds the making of it.
const setupTime = 5 * time.Minute

// logsVariable names a directory in which the logs of all labs stay.
const logsVariable = "VHOSTNET_LOGS"

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), setupTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "vhostnet-integration-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = prepare(ctx, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func prepare(ctx context.Context, dir string) error {
	var err error
	if machine, err = Find(ctx); err != nil {
		return err
	}
	if machine.OldQEMU == nil {
		return fmt.Errorf("integration: QEMU 7.2 is not there: %w", errSetup)
	}
	if !machine.QEMU.atLeast(10, 0) {
		return fmt.Errorf("integration: %v is the one in PATH, want 10.0 or later: %w", machine.QEMU, errSetup)
	}
	if image, err = BuildImage(ctx, machine.Kernel, dir); err != nil {
		return err
	}
	binary, err = FindBackend(ctx, dir)
	return err
}

// startLab starts a lab for t. It is stopped at the end of t, which fails if
// anything in it does not end well; a failure of t prints every log's end.
func startLab(t *testing.T, guests ...GuestConfig) *Lab {
	t.Helper()
	return startLabWith(t, nil, guests...)
}

// startLabWith is startLab with further arguments of vhostnet.
func startLabWith(t *testing.T, args []string, guests ...GuestConfig) *Lab {
	t.Helper()
	dir := t.TempDir()
	if keep := os.Getenv(logsVariable); keep != "" {
		dir = filepath.Join(keep, t.Name())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lab, err := StartLab(within(t, 3*time.Minute), LabConfig{
		Dir: dir, Binary: binary, Image: image, Guests: guests, Backend: append([]string{"--stats", "1s"}, args...),
	})
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lab.Report(t.Output())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// run is a subtest after which the lab must still be whole: if one fails, those
// after it would only fail for its reason, so the test ends.
func run(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}
