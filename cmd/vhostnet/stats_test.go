package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// snapshot is a port that has counted.
func snapshot(frames uint64) netdev.Snapshot {
	s := netdev.Snapshot{Features: virtio.Version1 | virtio.NetCsum}
	s.TxFrames, s.TxBytes, s.RxFrames, s.RxBytes = frames, 100*frames, 2*frames, 200*frames
	s.Drops[metrics.ReasonNoBuffer], s.Drops[metrics.ReasonStorm] = 3, 1
	s.Rings = []netdev.RingInfo{
		{Index: 0, Started: true, Enabled: true},
		{Index: 1, Started: true, Enabled: true, Broken: true},
		{Index: 2, Started: true},
		{Index: 3, Enabled: true},
	}
	return s
}

func TestReportHasRates(t *testing.T) {
	r := newReporter(nil, true)
	now := time.Now()
	first := r.report(now, "a", snapshot(1000), vhostuser.Stats{Sessions: 2, SecondFrontend: 1})
	if first.TxRate != nil || first.RxRate != nil || first.TxBits != nil || first.RxBits != nil {
		t.Errorf("the first report has rates: %+v", first)
	}
	if first.Sessions != 2 || first.SecondFrontEnds != 1 || first.TxFrames != 1000 || first.Drops["no-buffer"] != 3 || len(first.Drops) != 2 {
		t.Errorf("report %+v", first)
	}
	second := r.report(now.Add(2*time.Second), "a", snapshot(4000), vhostuser.Stats{})
	for name, c := range map[string]struct {
		got  *float64
		want float64
	}{
		"tx frames": {second.TxRate, 1500},
		"rx frames": {second.RxRate, 3000},
		"tx bits":   {second.TxBits, 1_200_000},
		"rx bits":   {second.RxBits, 2_400_000},
	} {
		if c.got == nil || *c.got != c.want {
			t.Errorf("%s per second: %v, want %v", name, c.got, c.want)
		}
	}
	if other := r.report(now, "b", snapshot(1), vhostuser.Stats{}); other.TxRate != nil {
		t.Error("the first report of another port has rates")
	}
	b, err := json.Marshal(second)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); !hasAll(s, `"tx_frames_per_second":1500`, `"rx_bits_per_second":2400000`, `"drops":{"no-buffer":3,"storm":1}`, `"features":"csum,version_1"`, `"up":true`) {
		t.Error(s)
	}
}

func TestTable(t *testing.T) {
	r := newReporter(nil, false)
	now := time.Now()
	r.report(now, "a", snapshot(0), vhostuser.Stats{})
	var b bytes.Buffer
	writeTable(&b, []portReport{
		r.report(now.Add(time.Second), "a", snapshot(1_234_567), vhostuser.Stats{}),
		r.report(now, "longer-name", netdev.Snapshot{}, vhostuser.Stats{}),
	})
	want := []string{
		"PORT STATE TX FRAMES TX/S TX BIT/S RX FRAMES RX/S RX BIT/S SOFT RINGS DROPS",
		"a up 1234567 1.235M 987.7M 2469134 2.469M 1.975G 0 0 1:broken 2:off no-buffer=3 storm=1",
		"longer-name waiting 0 - - 0 - - 0 - -",
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines:\n%s", len(lines), b.String())
	}
	column := strings.Index(lines[0], "RINGS")
	for i, line := range lines {
		if got := strings.Join(strings.Fields(line), " "); got != want[i] {
			t.Errorf("line %d is %q, want %q", i, got, want[i])
		}
		if line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("columns are not aligned:\n%s", b.String())
		}
	}
}

func TestHuman(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "0.5": 0.5, "999": 999, "1k": 1000, "14.88M": 14_880_952, "1.5G": 1.5e9, "1e+04G": 1e13} {
		if got := human(&v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	if got := human(nil); got != "-" {
		t.Errorf("no rate is %q", got)
	}
}
