//go:build integration

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
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

// testForwards: curl of the host fetches a file whole from a server in a guest, by
// IPv4, IPv6 and a unix socket, and iperf3 sends datagrams to one.
func testForwards(t *testing.T, lab *Lab, w *ways) {
	g := lab.Guests[1]
	ctx := within(t, 2*time.Minute)
	out, err := g.Shell(ctx, "mkdir -p /srv && dd if=/dev/urandom of=/srv/file bs=1M count=10 2>/dev/null && /bin/ip addr replace "+fixed4+"/24 dev eth0 && /bin/ip addr replace "+fixed6+"/64 dev eth0 nodad && sha256sum < /srv/file")
	must(t, err)
	sum, _, _ := strings.Cut(out, " ")
	// iperf3 answers datagrams from whichever address it is not told to use.
	for _, server := range [][]string{{"httpd", "-f", "-p", "[::]:80", "-h", "/srv"}, {"iperf3", "-s", "-B", fixed4}} {
		job, err := g.StartJob(ctx, server...)
		must(t, err)
		defer func() { must(t, job.Stop(ctx)) }()
	}
	for name, argv := range map[string][]string{
		"IPv4": {fmt.Sprintf("http://127.0.0.1:%d/file", w.port4)},
		"IPv6": {fmt.Sprintf("http://[::1]:%d/file", w.port6)},
		"unix": {"--unix-socket", w.socket, "http://web/file"},
	} {
		must(t, pollEvery(ctx, 200*time.Millisecond, "the guest's file by "+name, func() (bool, error) {
			out, err := exec.CommandContext(ctx, "curl", append([]string{"-s", "-f", "-g", "-m", "60"}, argv...)...).Output()
			if err != nil {
				return false, nil // the server is not there yet: poll is what is bounded
			}
			if got := sha256.Sum256(out); hex.EncodeToString(got[:]) != sum {
				t.Errorf("%d bytes by %s are not those of the guest's file", len(out), name)
			}
			return true, nil
		}))
	}
	must(t, pollEvery(ctx, 200*time.Millisecond, "iperf3", func() (bool, error) {
		out, err := exec.CommandContext(ctx, "iperf3", "-c", "127.0.0.1", "-p", fmt.Sprint(w.iperf), "-J", "--connect-timeout", "5000", "-u", "-b", "4M", "-l", "1200", "-n", "1M").Output()
		if err != nil {
			return false, nil // likewise
		}
		got, err := parseIperf(string(out))
		t.Logf("iperf3: %+v, %v", got, err)
		return err == nil && got.Packets > 0 && got.Lost < got.Packets/2, nil
	}))
}
