//go:build integration

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// ways are the ways in of TestUserNetwork.
type ways struct {
	port4, port6, iperf int
	socket              string
}

// fixed6 is a guest's address beside fixed4.
const fixed6 = "fd76:686f:7374::9"

func newWays(t *testing.T) *ways {
	t.Helper()
	return &ways{freePort(t), freePort(t), freePort(t), filepath.Join(sharedDir(t), "web")}
}

// options are those of --uplink.
func (w *ways) options() string {
	return fmt.Sprintf(",forward=tcp/127.0.0.1:%d/%s:80,forward=tcp/[::1]:%d/[%s]:80,forward=tcp/unix:%s/%s:80,forward=tcp/127.0.0.1:%d/%s:5201,forward=udp/127.0.0.1:%d/%s:5201",
		w.port4, fixed4, w.port6, fixed6, w.socket, fixed4, w.iperf, fixed4, w.iperf, fixed4)
}

// testForwards: curl and iperf3 of the host reach servers in a guest, by TCP over
// IPv4, IPv6 and a unix socket, and by UDP.
func testForwards(t *testing.T, lab *Lab, w *ways) {
	g := lab.Guests[1]
	ctx := within(t, 2*time.Minute)
	_, err := g.Shell(ctx, "mkdir -p /srv && echo 'a page of the guest' > /srv/index.html && /bin/ip addr replace "+fixed4+"/24 dev eth0 && /bin/ip addr replace "+fixed6+"/64 dev eth0 nodad")
	must(t, err)
	for _, server := range [][]string{{"httpd", "-f", "-p", "[::]:80", "-h", "/srv"}, {"iperf3", "-s"}} {
		job, err := g.StartJob(ctx, server...)
		must(t, err)
		defer func() { must(t, job.Stop(ctx)) }()
	}
	for name, argv := range map[string][]string{
		"IPv4": {fmt.Sprintf("http://127.0.0.1:%d/", w.port4)},
		"IPv6": {fmt.Sprintf("http://[::1]:%d/", w.port6)},
		"unix": {"--unix-socket", w.socket, "http://web/"},
	} {
		must(t, poll(ctx, "the guest's page by "+name, func() (bool, error) {
			out, err := exec.CommandContext(ctx, "curl", append([]string{"-s", "-g", "-m", "10"}, argv...)...).Output()
			return err == nil && string(out) == "a page of the guest\n", nil
		}))
	}
	for name, argv := range map[string][]string{"TCP": {"-n", "5M"}, "TCP out": {"-n", "5M", "-R"}, "UDP": {"-u", "-b", "4M", "-l", "1200", "-n", "1M"}} {
		var got Traffic
		must(t, poll(ctx, "iperf3 by "+name, func() (bool, error) {
			argv := append([]string{"-c", "127.0.0.1", "-p", fmt.Sprint(w.iperf), "-J", "--connect-timeout", "5000"}, argv...)
			out, err := exec.CommandContext(ctx, "iperf3", argv...).Output()
			if err != nil {
				return false, nil // the server is busy, or not there yet: poll is what is bounded
			}
			got, err = parseIperf(string(out))
			return true, err
		}))
		t.Logf("iperf3 by %s: %+v", name, got)
		if got.Sent == 0 || name != "UDP" && got.Received < 4*megabyte || name == "UDP" && (got.Packets == 0 || got.Lost > got.Packets/2) {
			t.Errorf("iperf3 by %s: %+v", name, got)
		}
	}
}
