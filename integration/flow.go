package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"vhostnet/integration/stream"
)

// Flow is a byte stream over TCP between two guests that lasts until it is
// stopped; the receiver compares each byte. Its ends are Jobs: it goes on
// whatever becomes of the host's connections to the guests.
type Flow struct {
	from, to       *Guest
	sender, sinker *Job
	progress       string
}

// StartFlow starts one.
func StartFlow(ctx context.Context, from, to *Guest) (*Flow, error) {
	id := transfers.Add(1)
	f := &Flow{from: from, to: to, progress: fmt.Sprintf("/run/received.%d", id)}
	args := []string{"-addr", net.JoinHostPort(to.Addr(), strconv.FormatInt(firstPort+id, 10)), "-seed", strconv.FormatInt(id, 10)}
	var err error
	if f.sinker, err = to.StartJob(ctx, append([]string{"/init", "receive", "-progress", f.progress}, args...)...); err != nil {
		return nil, err
	}
	f.sender, err = from.StartJob(ctx, append([]string{"/init", "send"}, args...)...)
	return f, err
}

// Received returns how many bytes the receiver has found right so far, by whole
// megabytes.
func (f *Flow) Received(ctx context.Context) (int64, error) {
	return receivedSoFar(ctx, f.to, f.progress)
}

// Await waits until the receiver has got n bytes more than at the call.
func (f *Flow) Await(ctx context.Context, n int64) error {
	begin, err := f.Received(ctx)
	if err != nil {
		return err
	}
	return poll(ctx, fmt.Sprintf("%d bytes more from %s to %s", n, f.from.cfg.Name, f.to.cfg.Name), func() (bool, error) {
		for _, end := range []*Job{f.sender, f.sinker} {
			if ended, err := end.Ended(ctx); err != nil {
				return false, err
			} else if ended {
				_, err := end.Wait(ctx)
				return false, errors.Join(err, errors.New("integration: an end of a flow has ended by itself"))
			}
		}
		got, err := f.Received(ctx)
		return got-begin >= n, err
	})
}

// Stop ends the sender, waits until the receiver has all that was sent, and
// returns how much that was.
func (f *Flow) Stop(ctx context.Context) (int64, error) {
	if err := f.sender.Stop(ctx); err != nil {
		return 0, err
	}
	var ends [2]stream.Summary
	for i, job := range []*Job{f.sender, f.sinker} {
		out, err := job.Wait(ctx)
		if err == nil {
			err = json.Unmarshal([]byte(out), &ends[i])
		}
		if err != nil {
			return 0, fmt.Errorf("integration: flow from %s to %s: %w", f.from.cfg.Name, f.to.cfg.Name, err)
		}
	}
	if ends[0] != ends[1] || ends[0].Bytes == 0 {
		return 0, fmt.Errorf("integration: flow from %s to %s: the ends disagree, or have nothing: %+v and %+v", f.from.cfg.Name, f.to.cfg.Name, ends[0], ends[1])
	}
	return ends[0].Bytes, nil
}

// StartProbe has a guest send a small datagram to the other one a thousand
// times a second.
func StartProbe(ctx context.Context, from, to *Guest) (*Job, error) {
	const discard = 9
	return from.StartJob(ctx, "/init", "probe", "-addr", net.JoinHostPort(to.Addr(), strconv.Itoa(discard)))
}

// receivedSoFar reads the progress file of a receiver in a guest.
func receivedSoFar(ctx context.Context, g *Guest, file string) (int64, error) {
	out, err := g.Shell(ctx, "cat "+file+" 2>/dev/null || echo 0")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("integration: progress of a transfer: %w", err)
	}
	return n, nil
}
