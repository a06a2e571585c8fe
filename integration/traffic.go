package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"

	"vhostnet/integration/stream"
)

// Ping sends count echo requests with this many bytes of payload and fails
// unless each is answered.
func Ping(ctx context.Context, from *Guest, addr string, count, size int) error {
	out, err := from.Run(ctx, "ping", "-c", strconv.Itoa(count), "-i", "0.2", "-W", "5", "-s", strconv.Itoa(size), addr)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d packets transmitted, %d packets received", count, count); !strings.Contains(out, want) {
		return fmt.Errorf("integration: %d pings of %d bytes from %s to %s: not all are answered: %s", count, size, from.cfg.Name, addr, out)
	}
	return nil
}

// Reach waits until to answers a ping of from, whatever was lost before.
func Reach(ctx context.Context, from, to *Guest) error {
	_, err := from.Shell(ctx, "until ping -c 1 -W 1 "+to.Addr()+"; do :; done")
	return err
}

// Transfer is a byte stream over TCP between two guests, in which the receiver
// compares each byte.
type Transfer struct {
	from, to *Guest
	bytes    int64
	progress string // file in the receiving guest
	result   chan error
}

// transfers gives each transfer a port, after firstPort, a file and a seed of
// its own.
var transfers atomic.Int64

const firstPort = 20000

// StartTransfer starts to send n bytes to an address of the guest to. It ends,
// with an error, when ctx does.
func StartTransfer(ctx context.Context, from, to *Guest, addr string, n int64) *Transfer {
	id := transfers.Add(1)
	addr = net.JoinHostPort(addr, strconv.FormatInt(firstPort+id, 10))
	t := &Transfer{from: from, to: to, bytes: n, progress: fmt.Sprintf("/run/received.%d", id), result: make(chan error, 1)}
	stream := []string{"-addr", addr, "-bytes", strconv.FormatInt(n, 10), "-seed", strconv.FormatInt(id, 10)}
	// Whichever end fails first stops the other.
	ctx, stop := context.WithCancel(ctx)
	ends := make(chan end, 2)
	go func() {
		ends <- finish(to.Run(ctx, append([]string{"/init", "receive", "-progress", t.progress}, stream...)...))
	}()
	go func() {
		ends <- finish(from.Run(ctx, append([]string{"/init", "send"}, stream...)...))
	}()
	go func() {
		defer stop()
		first := <-ends
		if first.err != nil {
			stop()
		}
		t.result <- t.check(first, <-ends)
	}()
	return t
}

// end is what one end of a transfer says when it is over.
type end struct {
	sum stream.Summary
	err error
}

func finish(out string, err error) end {
	var e end
	if e.err = err; err == nil {
		e.err = json.Unmarshal([]byte(out), &e.sum)
	}
	return e
}

func (t *Transfer) check(a, b end) error {
	err := errors.Join(a.err, b.err)
	if err == nil && (a.sum != b.sum || a.sum.Bytes != t.bytes) {
		err = fmt.Errorf("the ends disagree: %+v and %+v", a.sum, b.sum)
	}
	if err != nil {
		return fmt.Errorf("integration: transfer of %d bytes from %s to %s: %w", t.bytes, t.from.cfg.Name, t.to.cfg.Name, err)
	}
	return nil
}

// Received returns how many bytes the receiver has seen and found right so far.
func (t *Transfer) Received(ctx context.Context) (int64, error) {
	return receivedSoFar(ctx, t.to, t.progress)
}

// Await waits until the receiver has seen at least n bytes.
func (t *Transfer) Await(ctx context.Context, n int64) error {
	return poll(ctx, fmt.Sprintf("%d of %d bytes to arrive", n, t.bytes), func() (bool, error) {
		select {
		case err := <-t.result:
			t.result <- err
			return true, err
		default:
		}
		got, err := t.Received(ctx)
		return got >= n, err
	})
}

// Wait waits until both ends are done and have seen the same n bytes.
func (t *Transfer) Wait() error {
	err := <-t.result
	t.result <- err
	return err
}

// Traffic is what an iperf3 client reports of one run.
type Traffic struct {
	Sent, Received float64 // bytes
	Gbps           float64 // as the receiver saw it
	Packets, Lost  int     // UDP only
}

// Iperf runs an iperf3 client with these arguments against a server in the
// other guest, which is started for it.
func Iperf(ctx context.Context, client, server *Guest, args ...string) (Traffic, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() {
		_, err := server.Run(ctx, "iperf3", "--server", "--one-off")
		served <- err
	}()
	// 1451 is the server's port, 5201, in the kernel's list; 0A is listening.
	if _, err := server.Shell(ctx, "until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1451 .* 0A '; do sleep 0.1; done"); err != nil {
		return Traffic{}, err
	}
	out, err := client.Run(ctx, append([]string{"iperf3", "--json", "--client", server.Addr()}, args...)...)
	if err == nil {
		err = <-served
	}
	if err != nil {
		return Traffic{}, err
	}
	return parseIperf(out)
}

func parseIperf(out string) (Traffic, error) {
	type sum struct {
		Bytes       float64 `json:"bytes"`
		BitsPerSec  float64 `json:"bits_per_second"`
		Packets     int     `json:"packets"`
		LostPackets int     `json:"lost_packets"`
	}
	var report struct {
		End struct {
			UDP      sum `json:"sum"`
			Sent     sum `json:"sum_sent"`
			Received sum `json:"sum_received"`
		} `json:"end"`
		Error string `json:"error"`
	}
	// Warnings may come before it.
	if err := json.Unmarshal([]byte(out[max(strings.Index(out, "{"), 0):]), &report); err != nil {
		return Traffic{}, fmt.Errorf("integration: iperf3's report: %w: %s", err, out)
	}
	if report.Error != "" {
		return Traffic{}, fmt.Errorf("integration: iperf3: %s", report.Error)
	}
	t := Traffic{
		Sent: report.End.Sent.Bytes, Received: report.End.Received.Bytes, Gbps: report.End.Received.BitsPerSec / 1e9,
		Packets: report.End.UDP.Packets, Lost: report.End.UDP.LostPackets,
	}
	return t, nil
}

// ChecksumErrors returns how many packets a guest has found to have a wrong
// checksum, in any protocol, since it booted.
func ChecksumErrors(ctx context.Context, g *Guest) (int, error) {
	out, err := g.Run(ctx, "cat", "/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	total, seen := 0, false
	lines := strings.Split(strings.TrimSpace(out), "\n")
	// Pairs of lines: the names, then the values.
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j, name := range names {
			if name != "InCsumErrors" || j >= len(values) {
				continue
			}
			n, err := strconv.Atoi(values[j])
			if err != nil {
				return 0, fmt.Errorf("integration: /proc/net/snmp: %w", err)
			}
			total, seen = total+n, true
		}
	}
	if !seen {
		return 0, fmt.Errorf("integration: /proc/net/snmp counts no checksum errors: %s", out)
	}
	return total, nil
}
