package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	o, err := parseOptions(nil, io.Discard)
	if err != nil || !slices.Equal(o.networks, networks) || o.rounds != 3 || o.duration != 2*time.Second || o.format != "table" {
		t.Errorf("the defaults are %+v, %v", o, err)
	}
	o, err = parseOptions([]string{"-networks", "passt,vhostnet", "-rounds", "1", "-seconds", "0.5", "-o", "json"}, io.Discard)
	if err != nil || !slices.Equal(o.networks, []string{"passt", "vhostnet"}) || o.rounds != 1 || o.duration != 500*time.Millisecond || o.format != "json" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{
		"-networks=", "-networks=slirp,slirp", "-networks=vde", "-rounds=0", "-seconds=0.1", "-seconds=NaN", "-seconds=61", "-o=xml", "-rounds=x", "more",
	} {
		_, err := parseOptions([]string{bad}, io.Discard)
		if _, ok := errors.AsType[*usageError](err); !ok {
			t.Errorf("%s: %v, want a usageError", bad, err)
		}
	}
	if _, err := parseOptions([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := missing([]string{slirpNetwork}); err == nil || !strings.Contains(err.Error(), "scripts/setup.sh bench") {
		t.Errorf("%v: it does not say what to do", err)
	}
}

func TestParseIperf(t *testing.T) {
	got, err := parseIperf(`{"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 2.5e9}}}`)
	if err != nil || got != 2.5 {
		t.Errorf("%v, %v, want 2.5", got, err)
	}
	for _, bad := range []string{"", "no route", `{"error": "no route", "end": {"sum_received": {"bits_per_second": 1}}}`, `{"end": {}}`} {
		if got, err := parseIperf(bad); err == nil {
			t.Errorf("%q is a report of %v", bad, got)
		}
	}
}

func TestParsePing(t *testing.T) {
	const end = "50 packets transmitted, 50 packets received, 0% packet loss\n"
	var out strings.Builder
	for range pings / 2 {
		out.WriteString("64 bytes from 10.0.2.2: seq=0 ttl=64 time=0.500 ms\n64 bytes from 10.0.2.2: seq=1 ttl=64 time=9.9 ms\n")
	}
	out.WriteString("64 bytes from 10.0.2.2: seq=2 ttl=64 time=0.5 ms\n")
	if got, err := parsePing(out.String() + end); err != nil || got != 500 {
		t.Errorf("%v, %v, want 500", got, err)
	}
	if got, err := parsePing("50 packets transmitted, 0 packets received"); err != nil || got != 0 {
		t.Errorf("no answers: %v, %v, want 0", got, err)
	}
	for _, bad := range []string{"", "time=1 ms\n" + end, out.String()} {
		if got, err := parsePing(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestParseConnects(t *testing.T) {
	if got, err := parseConnects(`{"connections": 500, "seconds": 2.5}`); err != nil || got != 200 {
		t.Errorf("%v, %v, want 200", got, err)
	}
	for _, bad := range []string{"", `{"connections": 0, "seconds": 1}`, `{"connections": 1}`} {
		if got, err := parseConnects(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (CPU 0) K) R 1 2 3 4 5 6 7 8 9 10 150 50 11 12 20 0 4"
	if got, err := parseStat([]byte(line)); err != nil || got != 2*time.Second {
		t.Errorf("%v, %v, want 2 s", got, err)
	}
	for _, bad := range []string{"", "42 (x) R 1 2 3", strings.Replace(line, "150", "x", 1)} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// What a process has used of the CPUs only grows, and is that of the process.
func TestMeter(t *testing.T) {
	m := &meter{qemu: os.Getpid(), carrier: os.Getpid(), cpus: []int{os.Getpid()}}
	before, err := m.read()
	if err != nil {
		t.Fatal(err)
	}
	for sum := 0; ; sum++ {
		after, err := m.read()
		if err != nil {
			t.Fatal(err)
		}
		if after.guest < before.guest || after.qemu < before.qemu {
			t.Fatalf("%+v, before that %+v", after, before)
		}
		if after.carrier > before.carrier {
			break // the work that this loop is
		}
	}
	m.carrier = -1
	if _, err := m.read(); err == nil {
		t.Error("a process that is not there has used something")
	}
}

func TestSince(t *testing.T) {
	at := time.Unix(0, 0)
	a := reading{at, time.Second, 2 * time.Second, 3 * time.Second}
	b := reading{at.Add(2 * time.Second), 3 * time.Second, 5 * time.Second, 3500 * time.Millisecond}
	if got, want := b.since(a), (stream{Guest: 1, QEMU: 0.5, Carrier: 0.25}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

var some = []measurement{
	{Network: "slirp", Round: 1, Up: stream{Gbps: 1}, Down: stream{Gbps: 2}, ConnectsPerSecond: 10},
	{Network: "vhostnet", Round: 1, Up: stream{Gbps: 4, Guest: 0.9}, Down: stream{Gbps: 4}, PingMicroseconds: 100, ConnectsPerSecond: 20},
	{Network: "vhostnet", Round: 2, Up: stream{Gbps: 9, Guest: 0.8}, Down: stream{Gbps: 3}, PingMicroseconds: 300, ConnectsPerSecond: 40},
	{Network: "slirp", Round: 2, Up: stream{Gbps: 3}, Down: stream{Gbps: 1}, ConnectsPerSecond: 30},
}

// Ratios are those of the same round, and the order is that of networks.
func TestSummarise(t *testing.T) {
	rows := summarise(some)
	if len(rows) != 2 || rows[0].Network != "vhostnet" || rows[1].Network != "slirp" {
		t.Fatalf("%+v", rows)
	}
	ours, slirp := rows[0], rows[1]
	if ours.Up.Gbps != 6.5 || math.Abs(ours.Up.Guest-0.85) > 1e-9 || ours.PingMicroseconds != 200 || ours.ConnectsPerSecond != 30 || ours.RatioUp != 1 || ours.Rounds != 2 {
		t.Errorf("%+v", ours)
	}
	if slirp.Up.Gbps != 2 || slirp.RatioUp != 3.5 || slirp.RatioDown != 2.5 || slirp.PingMicroseconds != 0 {
		t.Errorf("%+v", slirp)
	}
	if rows := summarise(some[:1]); rows[0].RatioUp != 0 {
		t.Errorf("a ratio to nothing: %+v", rows)
	}
	if rows := summarise([]measurement{some[0], some[1], some[3]}); rows[1].RatioUp != 4 {
		t.Errorf("%+v: a ratio in a round that has no figure of vhostnet's", rows)
	}
}

func TestReport(t *testing.T) {
	var table, text bytes.Buffer
	if err := writeReport(&table, "table", some); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(table.String()), "\n"); len(lines) != 5 || !strings.Contains(lines[3], "3.50") || !strings.Contains(lines[3], "  -  ") {
		t.Errorf("the table is\n%s", table.String())
	}
	if err := writeReport(&text, "json", some); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Rows         []row
		Measurements []measurement
	}
	if err := json.Unmarshal(text.Bytes(), &back); err != nil || len(back.Rows) != 2 || !slices.Equal(back.Measurements, some) {
		t.Errorf("%v: %+v", err, back)
	}
}

// announced hands on what a server says.
type announced chan string

func (a announced) Write(p []byte) (int, error) {
	a <- string(p)
	return len(p), nil
}

// The server says where it listens, closes what comes, and ends when it is to.
func TestServeEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	said, done := make(announced, 1), make(chan error, 1)
	go func() { done <- serveEnds(ctx, "127.0.0.1:0", said) }()
	address := strings.Fields(<-said)
	if address[0] != ready {
		t.Fatalf("it says %q", address)
	}
	for range 3 {
		conn, err := net.Dial("tcp", address[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || len(got) != 0 {
			t.Errorf("%q, %v, want nothing", got, err)
		}
		conn.Close()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := serveEnds(t.Context(), "127.0.0.1:x", said); err == nil {
		t.Error("it listens at no port")
	}
}
