package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const statsAnswer = `show port stats all

  ######################## NIC statistics for port 0  ########################
  RX-packets: 3578048    RX-missed: 1          RX-bytes:  228995072
  RX-errors: 2
  RX-nombuf:  3         
  TX-packets: 3579008    TX-errors: 4          TX-bytes:  229056512

  Throughput (since last show)
  Rx-pps:            5          Rx-bps:            6
  Tx-pps:            7          Tx-bps:            8
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  RX-packets: 10         RX-missed: 0          RX-bytes:  640
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 11         TX-errors: 0          TX-bytes:  704
  ############################################################################
`

func TestParsePortStats(t *testing.T) {
	got, err := parsePortStats(statsAnswer)
	if err != nil {
		t.Fatal(err)
	}
	want := []portStats{
		{rxPackets: 3578048, rxMissed: 1, rxBytes: 228995072, rxErrors: 2, rxNoBuffer: 3, txPackets: 3579008, txErrors: 4, txBytes: 229056512},
		{rxPackets: 10, rxBytes: 640, txPackets: 11, txBytes: 704},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(portStats{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParsePortStatsRefusesWhatIsIncomplete(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"a counter is missing", strings.Replace(statsAnswer, "TX-errors: 4", "", 1)},
		{"a port is missing", strings.Replace(statsAnswer, "for port 0", "for port 1", 1)},
		{"a counter is no number", strings.Replace(statsAnswer, "RX-packets: 10 ", "RX-packets: -10", 1)},
	} {
		if got, err := parsePortStats(c.text); err == nil {
			t.Errorf("%s: taken as %+v", c.name, got)
		}
	}
}

func TestBetween(t *testing.T) {
	at := time.Unix(100, 0)
	a := sample{at: at, took: 10 * time.Millisecond, front: time.Second, ports: []portStats{{rxPackets: 10, rxBytes: 640}, {rxPackets: 20, rxBytes: 1280, txErrors: 5}}}
	b := sample{at: at.Add(2 * time.Second), took: 30 * time.Millisecond, front: 2 * time.Second, back: time.Second, ports: []portStats{{rxPackets: 110, rxBytes: 7040}, {rxPackets: 220, rxBytes: 14080, txErrors: 5, rxMissed: 1}}}
	got, err := between(a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := passage{seconds: 2, doubt: 0.01, frames: 300, bytes: 19200, front: 0.5, back: 0.5, errors: 1}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(passage{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.ports[1].rxPackets = 20
	if _, err := between(a, b); err == nil {
		t.Error("a port that received nothing was not reported")
	}
}

func TestCheckSize(t *testing.T) {
	p := passage{frames: 1_000_000, bytes: 64_000_000 - 64}
	if err := p.checkSize(64); err != nil {
		t.Errorf("a sample taken within a burst: %v", err)
	}
	if p.checkSize(65) == nil {
		t.Error("frames of 64 bytes passed for frames of 65")
	}
}
