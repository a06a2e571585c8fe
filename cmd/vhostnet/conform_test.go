package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"vhostnet/vhostuser/conform"
)

// vhostnet does all that conform asks, by one port and by two; the report is a
// table or JSON, progress is told, and nothing is left.
func TestConformance(t *testing.T) {
	p := serveHere(t, "a,inflight=on b")
	code, out, log := runHere(context.Background(), "conform", "--socket", p.path("a"), "--peer", p.path("b"), "-o", "json")
	var list []conform.Outcome
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitDone {
		t.Fatalf("exit code %d, %v, log:\n%s", code, err, log)
	}
	all := conform.Scenarios()
	if len(list) != len(all) || strings.Count(log, "\n") != len(all) {
		t.Errorf("%d outcomes and %d lines of progress of %d scenarios", len(list), strings.Count(log, "\n"), len(all))
	}
	for i, out := range list {
		if out.Name != all[i].Name || out.Result != conform.Pass {
			t.Errorf("%s: %s: %s", out.Name, out.Result, out.Detail)
		}
	}
	code, out, log = runHere(context.Background(), "conform", "--socket", p.path("a"),
		"--only", "trap-7.35-buffers-before-enable", "--only", "trap-7.1-enable-early")
	if code != exitDone || !hasAll(out, "SCENARIO", "trap-7.1-enable-early", "pass", "not offered", "--peer", "1 passed, 0 failed, 1 not offered") {
		t.Errorf("exit code %d, log %q, output:\n%s", code, log, out)
	}
	code, out, log = runHere(context.Background(), "conform", "--socket", p.path("b"), "--only", "inflight-nonsense")
	if code != exitDone || !hasAll(out, "not offered", "inflight_shmfd") {
		t.Errorf("exit code %d, log %q, output:\n%s", code, log, out)
	}
	p.cancel(nil)
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d of the back-end", code)
	}
}

// A back-end that hangs is a failure with a sentence and exit code 1; so is
// nobody at the socket.
func TestConformFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "silent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	code, out, log := runHere(context.Background(), "conform", "--socket", path, "--timeout", "20ms", "--only", "start-qemu-10.0")
	if code != exitFailed || !hasAll(out, "start-qemu-10.0", "fail", "GET_FEATURES", "timeout") || !strings.Contains(log, "1 of 1 scenarios failed") {
		t.Errorf("exit code %d, log %q, output:\n%s", code, log, out)
	}
	nobody := filepath.Join(t.TempDir(), "nobody")
	code, out, log = runHere(context.Background(), "conform", "--socket", nobody)
	if code != exitFailed || out != "" || !hasAll(log, "nobody to ask", nobody) || strings.Count(log, "\n") != 1 {
		t.Errorf("nobody: exit code %d, log %q, output:\n%s", code, log, out)
	}
}
