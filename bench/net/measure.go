package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// measurement is one network in one round.
type measurement struct {
	Network           string  `json:"network"`
	Round             int     `json:"round"`
	Up                stream  `json:"up"`           // from the guest
	Down              stream  `json:"down"`         // to the guest
	PingMicroseconds  float64 `json:"ping_us"`      // median of the answers; 0: none came
	ConnectsPerSecond float64 `json:"connects_sec"` // opened and closed, one after the other
}

// stream is a TCP stream, and who worked for it. The shares are of the time that
// it took, 1 is one CPU.
type stream struct {
	Gbps    float64 `json:"gbps"`
	Guest   float64 `json:"guest_cpu"`   // of the guest's emulated CPU
	QEMU    float64 `json:"qemu_cpu"`    // of QEMU's other threads
	Carrier float64 `json:"carrier_cpu"` // of vhostnet or passt
}

// How many echo requests are sent, each when the one before is answered, and
// how long answers are waited for.
const (
	pings       = 50
	pingSeconds = 3
)

// measure takes everything of one network.
func (r *rig) measure(ctx context.Context, duration time.Duration) (m measurement, err error) {
	meter, err := r.newMeter(ctx)
	if err != nil {
		return m, err
	}
	if m.Up, err = r.stream(ctx, meter, duration); err != nil {
		return m, fmt.Errorf("guest to host: %w", err)
	}
	if m.Down, err = r.stream(ctx, meter, duration, "--reverse"); err != nil {
		return m, fmt.Errorf("host to guest: %w", err)
	}
	// Not every gateway answers, and ping fails without an answer.
	out, err := r.guest.Shell(ctx, fmt.Sprintf("ping -A -c %d -w %d %s || true", pings, pingSeconds, gateway))
	if err == nil {
		m.PingMicroseconds, err = parsePing(out)
	}
	if err != nil {
		return m, fmt.Errorf("ping: %w", err)
	}
	out, err = r.guest.Run(ctx, "/init", "connect", "-addr", net.JoinHostPort(gateway, strconv.Itoa(r.ends)), "-for", duration.String())
	if err == nil {
		m.ConnectsPerSecond, err = parseConnects(out)
	}
	if err != nil {
		return m, fmt.Errorf("connections: %w", err)
	}
	return m, nil
}

// stream sends for a time and reads what it took of the CPUs.
func (r *rig) stream(ctx context.Context, meter *meter, duration time.Duration, args ...string) (stream, error) {
	before, err := meter.read()
	if err != nil {
		return stream{}, err
	}
	argv := append([]string{
		"iperf3", "--json", "--client", gateway, "--port", strconv.Itoa(r.iperf),
		"--time", strconv.FormatFloat(duration.Seconds(), 'f', 1, 64),
	}, args...)
	out, err := r.guest.Run(ctx, argv...)
	if err != nil {
		return stream{}, fmt.Errorf("%w: %s", err, out)
	}
	after, err := meter.read()
	if err != nil {
		return stream{}, err
	}
	s := after.since(before)
	s.Gbps, err = parseIperf(out)
	return s, err
}

var errFigures = errors.New("no figures in what was printed")

// parseIperf reads how much arrived.
func parseIperf(out string) (gbps float64, err error) {
	var report struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return 0, fmt.Errorf("iperf3: %w: %s", err, out)
	}
	if report.Error != "" || report.End.Received.BitsPerSecond <= 0 {
		return 0, fmt.Errorf("iperf3: %w: %s", errFigures, report.Error)
	}
	return report.End.Received.BitsPerSecond / 1e9, nil
}

var answerTime = regexp.MustCompile(`time=([0-9.]+) ms`)

// parsePing is the median of the round trips, microseconds; 0 if there were none.
func parsePing(out string) (float64, error) {
	var times []float64
	for _, found := range answerTime.FindAllStringSubmatch(out, -1) {
		ms, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			return 0, fmt.Errorf("ping: %w", err)
		}
		times = append(times, ms*1000)
	}
	if !strings.Contains(out, "packets transmitted") || len(times) > 0 && len(times) < pings*9/10 {
		return 0, fmt.Errorf("%d answers: %w: %s", len(times), errFigures, out)
	}
	return median(times), nil
}

// parseConnects reads what "guest connect" prints.
func parseConnects(out string) (float64, error) {
	var report struct{ Connections, Seconds float64 }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	if report.Connections <= 0 || report.Seconds <= 0 {
		return 0, fmt.Errorf("%w: %s", errFigures, out)
	}
	return report.Connections / report.Seconds, nil
}
