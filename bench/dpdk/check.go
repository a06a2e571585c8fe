package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// In a check the front-end has four ports: 0 and 1 are its virtio ports, as in
// a measurement; 2 and 3 are capture files, each the partner of virtio port
// n-2. Known frames are read from the files into the virtio ports, circulate
// between these, and are at last written to other files, all by testpmd's io
// forwarding, which does not look at a frame and changes nothing.
//
// testpmd forwards between pairs of ports in both directions at once. While
// frames are let in at a port, those that wait in its receive ring must stay
// there: the file's transmit queues are stopped for so long, and testpmd leaves
// a pair of queues alone when one of them is stopped.
const capturePort = 2

// finding is the result of one combination.
type finding struct {
	Backend     string      `json:"backend"`
	Combination combination `json:"combination"`
	Seconds     float64     `json:"seconds"`
	Passed      uint64      `json:"passed"` // frames forwarded by the back-end between the samples
	Pairs       []int       `json:"pairs"`  // in which queue pair's receive rings the frames were at the end, both ports
	Verdict     verdict     `json:"verdict"`
	Failure     string      `json:"failure,omitempty"`
}

// checkAll checks every combination and writes the result to out.
func (b *bench) checkAll(ctx context.Context, out io.Writer) error {
	var all []finding
	failures := 0
	for _, l := range labels(b.options.backends) {
		for _, what := range b.options.combinations() {
			f, err := b.check(ctx, l.backend, what, b.circulation(len(all)))
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			f.Backend = l.label
			if err != nil {
				failures++
				f.Failure = err.Error()
				b.logTails(err)
			}
			all = append(all, f)
			if b.options.format == "table" {
				fmt.Fprintln(out, f)
			}
		}
	}
	if b.options.format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(all); err != nil {
			return err
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d combinations failed", failures, len(all))
	}
	return nil
}

// circulation is how long the frames of the nth combination go round.
func (b *bench) circulation(n int) time.Duration {
	if n == 0 && b.options.long > 0 {
		return b.options.long
	}
	return b.options.duration
}

func (f finding) String() string {
	if f.Failure != "" {
		return fmt.Sprintf("FAILED  %s, %s: %s", f.Combination, f.Backend, f.Failure)
	}
	return fmt.Sprintf("ok      %s, %s: %d frames back intact after %d passes in %.1f s, by pairs %v", f.Combination, f.Backend, f.Verdict.Intact, f.Passed, f.Seconds, f.Pairs)
}

// closedLoop is one combination under check.
type closedLoop struct {
	*rig
	sent [2][][]byte // by the port that they entered at
}

// check lets known frames go round for a while and compares what is left.
func (b *bench) check(ctx context.Context, backend string, what combination, d time.Duration) (finding, error) {
	f := finding{Combination: what}
	var c closedLoop
	for port := range c.sent {
		var err error
		if c.sent[port], err = loopFrames(port, what.loopFrames(b.options.frames), what.Size, what.Queues); err != nil {
			return f, err
		}
	}
	devices := func(dir string) ([]string, error) { return c.captureDevices(dir, what.Queues) }
	var err error
	if c.rig, err = b.newRig(ctx, backend, what, devices); err != nil {
		return f, err
	}
	return f, c.finish(c.run(ctx, d, &f))
}

// captureDevices writes the frames to files, shared out among the queues, and
// returns the devices that read them.
func (c *closedLoop) captureDevices(dir string, queues int) ([]string, error) {
	var devices []string
	for port, frames := range c.sent {
		device := []string{fmt.Sprintf("net_pcap%d", port)}
		for q := range queues {
			from, to := share(len(frames), queues, q)
			in := filepath.Join(dir, fmt.Sprintf("in-%d-%d.pcap", port, q))
			if err := writePcap(in, frames[from:to]); err != nil {
				return nil, err
			}
			device = append(device, "rx_pcap="+in, "tx_pcap="+outFile(dir, port, q))
		}
		devices = append(devices, strings.Join(device, ","))
	}
	return devices, nil
}

func outFile(dir string, port, queue int) string {
	return filepath.Join(dir, fmt.Sprintf("out-%d-%d.pcap", port, queue))
}

// run is the check proper: in, round, out, compare.
func (c *closedLoop) run(ctx context.Context, d time.Duration, f *finding) error {
	t := c.frontEnd
	// virtio-user does not wait until the back-end has enabled its rings; a
	// frame to a ring that is not enabled yet is dropped, and rightly.
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	if err := c.transmitQueues(ctx, "stop"); err != nil {
		return err
	}
	for port := range c.sent {
		if err := c.letIn(ctx, port); err != nil {
			return err
		}
	}
	if err := t.commands(ctx, "set portlist 0,1", "start"); err != nil {
		return err
	}
	p, err := c.observe(ctx, 0, d)
	if err != nil {
		return err
	}
	f.Seconds, f.Passed = p.seconds, p.frames
	if err := t.commands(ctx, "stop"); err != nil {
		return err
	}
	if err := c.transmitQueues(ctx, "start"); err != nil {
		return err
	}
	for port := range c.sent {
		if err := c.letOut(ctx, port); err != nil {
			return err
		}
	}
	if err := c.quitFrontEnd(); err != nil { // testpmd completes the files when it ends
		return err
	}
	if f.Verdict, err = c.compare(f); err != nil {
		return err
	}
	if p.errors > 0 {
		return fmt.Errorf("the front-end counted %d receive or transmit errors; %v", p.errors, f.Verdict)
	}
	if !f.Verdict.ok() {
		return errors.New(f.Verdict.String())
	}
	return nil
}

// transmitQueues stops or starts the transmit queues of both capture ports.
func (c *closedLoop) transmitQueues(ctx context.Context, verb string) error {
	for port := range c.sent {
		for q := range c.what.Queues {
			if err := c.frontEnd.commands(ctx, fmt.Sprintf("port %d txq %d %s", capturePort+port, q, verb)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bounds of the waits for frames that are few and have nowhere else to be.
const (
	letInLimit  = 10 * time.Second
	letOutLimit = 10 * time.Second
	look        = 100 * time.Millisecond
	stillLooks  = 5 // looks without change after which nothing more is expected
)

// letIn reads one port's file into it. The frames then wait in the other port's
// receive rings.
func (c *closedLoop) letIn(ctx context.Context, port int) error {
	t, want := c.frontEnd, uint64(len(c.sent[port]))
	if err := t.commands(ctx, fmt.Sprintf("set portlist %d,%d", capturePort+port, port), "start"); err != nil {
		return err
	}
	for deadline := time.Now().Add(letInLimit); ; {
		s, err := t.sample(ctx, capturePort+2)
		if err != nil {
			return err
		}
		if s.ports[port].txPackets == want {
			return t.commands(ctx, "stop")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("port %d sent %d of the %d frames within %v: its transmit ring does not empty", port, s.ports[port].txPackets, want, letInLimit)
		}
		if err := sleep(ctx, look); err != nil {
			return err
		}
	}
}

// letOut writes what waits in one port's receive rings to its file, until
// nothing more comes.
func (c *closedLoop) letOut(ctx context.Context, port int) error {
	t := c.frontEnd
	if err := t.commands(ctx, fmt.Sprintf("set portlist %d,%d", capturePort+port, port), "start"); err != nil {
		return err
	}
	var written uint64
	deadline := time.Now().Add(letOutLimit)
	for still := 0; still < stillLooks; still++ {
		if err := sleep(ctx, look); err != nil {
			return err
		}
		s, err := t.sample(ctx, capturePort+2)
		if err != nil {
			return err
		}
		if n := s.ports[capturePort+port].txPackets; n != written {
			written, still = n, -1
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("frames still come out of port %d after %v, %d so far of %d", port, letOutLimit, written, len(c.sent[1-port]))
		}
	}
	return t.commands(ctx, "stop")
}

// compare reads the files that were written. Several queue pairs have no common
// order, so order is only looked at with one.
func (c *closedLoop) compare(f *finding) (verdict, error) {
	var total verdict
	f.Pairs = make([]int, c.what.Queues)
	for port := range c.sent {
		var got [][]byte
		for q := range c.what.Queues {
			frames, err := readPcap(outFile(c.dir, port, q))
			if err != nil {
				return total, err
			}
			got = append(got, frames...)
			f.Pairs[q] += len(frames)
		}
		total = total.join(judge(c.sent[1-port], c.sent[port], got, c.what.Queues == 1))
	}
	return total, nil
}
