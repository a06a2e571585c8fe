package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestArchive(t *testing.T) {
	var out bytes.Buffer
	a := archive{w: &out}
	a.directory("etc")
	a.file("etc/x", 0o640, []byte("hello"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := "070701" + "00000001" + "000041ed" + strings.Repeat("00000000", 2) + "00000001" + // a directory, 0755
		strings.Repeat("00000000", 6) + "00000004" + "00000000" + "etc\x00" + "\x00\x00" +
		"070701" + "00000002" + "000081a0" + strings.Repeat("00000000", 2) + "00000001" + // a file, 0640
		"00000000" + "00000005" + strings.Repeat("00000000", 4) + "00000006" + "00000000" + "etc/x\x00" +
		"hello\x00\x00\x00" +
		"070701" + "00000003" + "00000000" + strings.Repeat("00000000", 2) + "00000001" +
		strings.Repeat("00000000", 6) + "0000000b" + "00000000" + "TRAILER!!!\x00" + "\x00\x00\x00"
	if out.String() != want {
		t.Errorf("archive:\n%q\nwant:\n%q", out.String(), want)
	}
}

func TestArchiveKeepsTheFirstError(t *testing.T) {
	a := archive{w: failingWriter{}}
	a.directory("etc")
	a.file("etc/x", 0o640, []byte("hello"))
	if err := a.close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("close = %v, want %v", err, os.ErrClosed)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestDependencies(t *testing.T) {
	const index = "kernel/a/virtio_net.ko: kernel/b/failover.ko kernel/c/virtio-ring.ko\n" +
		"kernel/c/virtio-ring.ko.xz:\nkernel/d/net.ko: kernel/c/virtio-ring.ko\n"
	for _, test := range []struct {
		module string
		want   []string
	}{
		{"virtio_net", []string{"kernel/a/virtio_net.ko", "kernel/b/failover.ko", "kernel/c/virtio-ring.ko"}},
		{"virtio_ring", []string{"kernel/c/virtio-ring.ko.xz"}},
		{"net", []string{"kernel/d/net.ko", "kernel/c/virtio-ring.ko"}},
		{"virtio", nil},
	} {
		if got := dependencies(index, test.module); fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v, want %v", test.module, got, test.want)
		}
	}
}

func TestQEMUVersions(t *testing.T) {
	for _, test := range []struct {
		major, minor int
		reconnect    string
		vectors      int
	}{
		{7, 2, "reconnect=1", 0},
		{9, 1, "reconnect=1", 0},
		{9, 2, "reconnect-ms=100", 0},
		{10, 0, "reconnect-ms=100", 6},
		{11, 1, "reconnect-ms=100", 6},
	} {
		q := QEMU{Major: test.major, Minor: test.minor}
		if q.reconnect() != test.reconnect || q.vectors(2) != test.vectors {
			t.Errorf("%v: %s, %d vectors, want %s, %d", &q, q.reconnect(), q.vectors(2), test.reconnect, test.vectors)
		}
	}
}

func TestParseIperf(t *testing.T) {
	const report = `warning: large blocks
{"end": {"sum": {"packets": 200, "lost_packets": 3}, "sum_sent": {"bytes": 1000},
 "sum_received": {"bytes": 900, "bits_per_second": 2.5e9}}}`
	got, err := parseIperf(report)
	if want := (Traffic{Sent: 1000, Received: 900, Gbps: 2.5, Packets: 200, Lost: 3}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "no route", `{"error": "no route"}`} {
		if _, err := parseIperf(bad); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("first line\n", tailBytes) + "the \x1b[2Jlast\r\n"
	if err := os.WriteFile(path, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	tail(&out, path)
	lines := strings.Split(out.String(), "\n")
	if out.Len() > tailBytes+100 || lines[1] != "first line" || lines[len(lines)-3] != "the [2Jlast" {
		t.Errorf("%d bytes: %.60q ... %q", out.Len(), lines[1], lines[len(lines)-3:])
	}
}

func TestProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	p := startScript(t, log, "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	awaitText(ctx, t, log, "ready")
	if err := p.alive(); err != nil {
		t.Error(err)
	}
	if err := p.stop(ctx); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("stop of a program that ends with 3: %v", err)
	}
	if p.alive() == nil {
		t.Error("a stopped program is alive")
	}
	awaitText(ctx, t, log, "asked")

	p = startScript(t, log, "trap 'echo dump; exit' QUIT; trap '' TERM; echo deaf; while :; do sleep 0.01; done")
	awaitText(ctx, t, log, "deaf")
	short, done := context.WithTimeout(ctx, 10*time.Millisecond)
	defer done()
	if err := p.stop(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop of a program that does not listen: %v", err)
	}
	awaitText(ctx, t, log, "dump")

	p = startScript(t, log, "exec sleep 1000") // in the place of the shell, so that nothing is left of it
	p.kill()
	if err := p.alive(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("alive after kill: %v", err)
	}
	if _, err := start("nothing", log, "/no/such/program"); err == nil {
		t.Error("a program that does not exist was started")
	}
}

func startScript(t *testing.T, log, script string) *process {
	t.Helper()
	p, err := start("script", log, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// awaitText waits for a line of a log: the program's own, not the one that
// tells how it was started.
func awaitText(ctx context.Context, t *testing.T, log, text string) {
	t.Helper()
	err := poll(ctx, text, func() (bool, error) {
		data, err := os.ReadFile(log)
		return strings.Contains("\n"+string(data), "\n"+text+"\n"), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestListening(t *testing.T) {
	dir := t.TempDir()
	b := Backend{Ports: []Port{{Name: "a", Socket: filepath.Join(dir, "a")}}}
	if yes, err := b.listening(); yes || err != nil {
		t.Errorf("before: %v, %v", yes, err)
	}
	if err := os.WriteFile(b.Ports[0].Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if yes, err := b.listening(); yes || err != nil {
		t.Errorf("with a file in its place: %v, %v", yes, err)
	}
	if err := os.Remove(b.Ports[0].Socket); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", b.Ports[0].Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if yes, err := b.listening(); !yes || err != nil {
		t.Errorf("with a listener: %v, %v", yes, err)
	}
}

func TestPortString(t *testing.T) {
	if got := (Port{Name: "a", Socket: "/s"}).String(); got != "a=/s" {
		t.Error(got)
	}
	if got := (Port{Name: "a", Socket: "/s", MAC: "m", Mode: "poll"}).String(); got != "a=/s,mac=m,mode=poll" {
		t.Error(got)
	}
}
