package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// rounds makes the measurements of one back-end; a rate of 0 is a failed one.
func rounds(backend string, what combination, mpps ...float64) []measurement {
	var all []measurement
	for i, v := range mpps {
		m := measurement{Backend: backend, Combination: what, Round: i + 1, Mpps: v, Gbps: v * float64(what.Size) * 8 / 1000}
		if v == 0 {
			m.Failure = "it failed"
		}
		all = append(all, m)
	}
	return all
}

func TestSummarise(t *testing.T) {
	small, big := combination{Size: 64}, combination{Size: 1000}
	all := rounds("vhostnet", small, 10, 30, 20)
	all = append(all, rounds("dpdk", small, 20, 20, 40)...) // ratios 0.5, 1.5, 0.5
	all = append(all, rounds("vhostnet", big, 4, 0, 8)...)
	all = append(all, rounds("dpdk", big, 2, 2, 0)...) // only round 1 has both: ratio 2
	disturbed := rounds("vhostnet", big, 100)[0]
	disturbed.Round, disturbed.LeftOut = 4, true
	all = append(all, disturbed)
	want := []row{
		{Combination: small, Backend: "vhostnet", Rounds: 3, Mpps: 20, Least: 10, Most: 30, Gbps: 10.24, ToDPDK: 0.5},
		{Combination: small, Backend: "dpdk", Rounds: 3, Mpps: 20, Least: 20, Most: 40, Gbps: 10.24, ToDPDK: 1},
		{Combination: big, Backend: "vhostnet", Rounds: 2, Mpps: 6, Least: 4, Most: 8, Gbps: 48, ToDPDK: 2},
		{Combination: big, Backend: "dpdk", Rounds: 2, Mpps: 2, Least: 2, Most: 2, Gbps: 16, ToDPDK: 1},
	}
	got := summarise(labels([]string{"vhostnet", "dpdk"}), all)
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// With three back-ends there are two references, and each round counts for
// those that it has.
func TestSummarisePeers(t *testing.T) {
	what := combination{Size: 64}
	all := rounds("vhostnet", what, 12, 10, 20)
	all = append(all, rounds("dpdk", what, 6, 0, 5)...) // ratios 2 and 4
	all = append(all, rounds("ovs", what, 4, 5, 4)...)  // ratios 3, 2 and 5
	got := summarise(labels([]string{"vhostnet", "dpdk", "ovs"}), all)
	if len(got) != 3 || got[0].ToDPDK != 3 || got[0].ToOVS != 3 || got[1].ToOVS != 1.375 || got[2].ToOVS != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestSummariseWithoutReference(t *testing.T) {
	got := summarise(labels([]string{"vhostnet"}), rounds("vhostnet", combination{Size: 64}, 10, 30, 20))
	if len(got) != 1 || got[0].ToDPDK != 0 || got[0].Mpps != 20 {
		t.Errorf("got %+v, want a median of 20 and no ratio", got)
	}
}

func TestLabelsNumberARepeatedBackEnd(t *testing.T) {
	want := []label{{"dpdk", "dpdk"}, {"vhostnet", "vhostnet"}, {"dpdk#2", "dpdk"}}
	if diff := cmp.Diff(want, labels([]string{"dpdk", "vhostnet", "dpdk"}), cmp.AllowUnexported(label{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{8, 2, 4, 6}, 5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestReportSaysThatTheCoresWereShared(t *testing.T) {
	all := rounds("dpdk", combination{Size: 64}, 10, 10)
	for _, waited := range []float64{0.001, 0.3} {
		all[1].BackWaited = waited
		var out strings.Builder
		if err := writeReport(&out, "table", labels([]string{"dpdk"}), all); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "In 1 of 2 measurements"); got != (waited > contended) {
			t.Errorf("waited %v of the time: the report is\n%s", waited, out.String())
		}
	}
}
