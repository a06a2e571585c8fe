package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// portStats are the counters of one port since its start.
type portStats struct {
	rxPackets, rxBytes, rxErrors, rxMissed, rxNoBuffer uint64
	txPackets, txBytes, txErrors                       uint64
}

// sample is the counters of all ports at one moment.
type sample struct {
	at    time.Time     // half way between the question and the answer
	took  time.Duration // from the question to the answer
	front time.Duration // waited by the front-end's threads; set by rig.sample
	back  time.Duration // waited by the back-end's threads; set by rig.sample
	ports []portStats
}

// sample asks for the counters of the given number of ports. Two samples are
// subtracted; "clear" is never used: it races with the forwarding thread.
func (t *testpmd) sample(ctx context.Context, ports int) (sample, error) {
	before := time.Now()
	text, err := t.command(ctx, "show port stats all")
	if err != nil {
		return sample{}, err
	}
	took := time.Since(before)
	s := sample{at: before.Add(took / 2), took: took}
	s.ports, err = parsePortStats(text)
	if err == nil && len(s.ports) < ports {
		err = fmt.Errorf("%s showed %d ports, not %d", t.name, len(s.ports), ports)
	}
	return s, err
}

var (
	portHeading = regexp.MustCompile(`NIC statistics for port (\d+)`)
	counterPair = regexp.MustCompile(`([RT]X-[a-z]+): +(\d+)`)
)

// parsePortStats reads the answer to "show port stats all".
func parsePortStats(text string) ([]portStats, error) {
	var ports []portStats
	headings := portHeading.FindAllStringSubmatchIndex(text, -1)
	for i, h := range headings {
		if n := text[h[2]:h[3]]; n != strconv.Itoa(i) {
			return nil, fmt.Errorf("statistics of port %s stand where port %d's were expected", n, i)
		}
		end := len(text)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		p, err := parseCounters(text[h[1]:end])
		if err != nil {
			return nil, fmt.Errorf("statistics of port %d: %w", i, err)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// parseCounters reads one port's part of the answer; all eight must be there.
func parseCounters(text string) (portStats, error) {
	values := map[string]uint64{}
	for _, m := range counterPair.FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil {
			return portStats{}, fmt.Errorf("%s: %w", m[1], err)
		}
		values[m[1]] = v
	}
	for _, name := range []string{"RX-packets", "RX-bytes", "RX-errors", "RX-missed", "RX-nombuf", "TX-packets", "TX-bytes", "TX-errors"} {
		if _, ok := values[name]; !ok {
			return portStats{}, fmt.Errorf("%s is missing", name)
		}
	}
	return portStats{
		rxPackets: values["RX-packets"], rxBytes: values["RX-bytes"],
		rxErrors: values["RX-errors"], rxMissed: values["RX-missed"], rxNoBuffer: values["RX-nombuf"],
		txPackets: values["TX-packets"], txBytes: values["TX-bytes"], txErrors: values["TX-errors"],
	}, nil
}

// passage is what the front-end's two virtio ports did between two samples.
type passage struct {
	seconds float64
	doubt   float64 // how far seconds may be off, as a part of it
	frames  uint64  // received on both ports: each one was forwarded once by the back-end
	bytes   uint64
	front   float64 // how long the front-end waited for its core, as a part of seconds
	back    float64 // how long the back-end did
	errors  uint64  // receive and transmit errors, missed frames, no buffers
}

// between subtracts two samples over the first two ports.
func between(a, b sample) (passage, error) {
	p := passage{seconds: b.at.Sub(a.at).Seconds()}
	p.doubt = (a.took + b.took).Seconds() / 2 / p.seconds
	p.front = (b.front - a.front).Seconds() / p.seconds
	p.back = (b.back - a.back).Seconds() / p.seconds
	for i := range 2 {
		x, y := a.ports[i], b.ports[i]
		if y.rxPackets <= x.rxPackets {
			return p, fmt.Errorf("port %d received nothing for %.1f s (%d frames before): the loop stands still", i, p.seconds, x.rxPackets)
		}
		p.frames += y.rxPackets - x.rxPackets
		p.bytes += y.rxBytes - x.rxBytes
		p.errors += y.faults() - x.faults()
	}
	return p, nil
}

func (s portStats) faults() uint64 { return s.rxErrors + s.rxMissed + s.rxNoBuffer + s.txErrors }

// checkSize tells whether the frames that passed had the size that was sent, on
// average: testpmd counts frames by the burst and bytes by the frame, so that a
// sample may fall between the two.
func (p passage) checkSize(size int) error {
	mean := float64(p.bytes) / float64(p.frames)
	if math.Abs(mean-float64(size)) > 0.5 && p.frames > 10_000 {
		return fmt.Errorf("%d frames of %d bytes came back with %.2f bytes each", p.frames, size, mean)
	}
	return nil
}

var forwardDrops = regexp.MustCompile(`(?s)Accumulated forward statistics.*TX-dropped: +(\d+)`)

// forwardDropped counts the frames that the front-end's own loop dropped since
// "start", because a transmit ring was full.
func (t *testpmd) forwardDropped(ctx context.Context) (uint64, error) {
	text, err := t.command(ctx, "show fwd stats all")
	if err != nil {
		return 0, err
	}
	m := forwardDrops.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s showed no forwarding statistics", t.name)
	}
	return strconv.ParseUint(m[1], 10, 64)
}
