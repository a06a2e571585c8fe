//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestTAP: a guest and a host on a TAP device, which is the other end of a
// network namespace's only interface, ping each other and send each other
// streams; no checksum is found wrong on either side.
func TestTAP(t *testing.T) {
	ns := fmt.Sprintf("vhostnet-it-%d", os.Getpid())
	device := fmt.Sprintf("vni%d", os.Getpid())
	command(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { command(t, "ip", "netns", "del", ns) })
	lab := startLabWith(t, []string{"--uplink", "tap:" + device + ",queues=2"}, GuestConfig{Name: "a", QEMU: machine.QEMU})
	command(t, "ip", "link", "set", device, "netns", ns)
	command(t, "ip", "-n", ns, "addr", "add", "10.0.0.254/24", "dev", device)
	command(t, "ip", "-n", ns, "addr", "add", "fd00::fe/64", "dev", device, "nodad")
	command(t, "ip", "-n", ns, "link", "set", device, "up")
	a := lab.Guests[0]
	run(t, "Ping", func(t *testing.T) {
		for _, size := range []int{56, 1473, 20000} {
			must(t, Ping(within(t, 30*time.Second), a, "10.0.0.254", 3, size))
		}
		must(t, Ping(within(t, 30*time.Second), a, "fd00::fe", 3, 1000))
		command(t, "ip", "netns", "exec", ns, "busybox", "ping", "-c", "3", "-W", "5", a.Addr())
	})
	for _, way := range [][]string{nil, {"-R"}, {"-6"}, {"-6", "-R"}} {
		run(t, "TCP"+strings.Join(way, ""), func(t *testing.T) { tcpWithHost(t, a, ns, way) })
	}
	noChecksumErrors(t, lab)
	for line := range strings.SplitSeq(command(t, "ip", "netns", "exec", ns, "nstat", "-asz"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.Contains(f[0], "CsumErrors") && f[1] != "0" {
			t.Errorf("the host counts %s", line)
		}
	}
}

// command runs a program of the host's to its end.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tcpWithHost sends 20 MB between a guest and an iperf3 in a namespace.
func tcpWithHost(t *testing.T, g *Guest, ns string, way []string) {
	ctx := within(t, time.Minute)
	server := exec.CommandContext(ctx, "ip", "netns", "exec", ns, "iperf3", "-s", "-1", "-p", "5301")
	must(t, server.Start())
	must(t, pollEvery(ctx, 10*time.Millisecond, "iperf3 to listen", func() (bool, error) {
		return strings.Contains(command(t, "ip", "netns", "exec", ns, "ss", "-Hltn"), ":5301"), nil
	}))
	to := "10.0.0.254"
	for _, word := range way {
		if word == "-6" {
			to = "fd00::fe"
		}
	}
	out, err := g.Run(ctx, append([]string{"iperf3", "-J", "-c", to, "-p", "5301", "-n", "20M"}, way...)...)
	must(t, err)
	must(t, server.Wait())
	var result struct {
		End struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Speed float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	must(t, json.Unmarshal([]byte(out), &result))
	t.Logf("iperf3 %s: %.0f bytes, %.2f Gbps", strings.Join(way, " "), result.End.Received.Bytes, result.End.Received.Speed/1e9)
	if result.End.Received.Bytes < 15*megabyte {
		t.Errorf("%.0f bytes arrived", result.End.Received.Bytes)
	}
}
