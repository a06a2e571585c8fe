package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// label is a back-end's name in the report: the same one asked for twice is two
// columns, which shows how much the machine itself varies.
type label struct{ label, backend string }

// labels numbers repeated back-ends.
func labels(backends []string) []label {
	seen := map[string]int{}
	var list []label
	for _, b := range backends {
		seen[b]++
		l := label{b, b}
		if n := seen[b]; n > 1 {
			l.label = fmt.Sprintf("%s#%d", b, n)
		}
		list = append(list, l)
	}
	return list
}

// row is the rounds of one back-end under one combination, taken together.
type row struct {
	Combination combination `json:"combination"`
	Backend     string      `json:"backend"`
	Rounds      int         `json:"rounds"` // that did not fail
	Mpps        float64     `json:"mpps"`   // median
	Least       float64     `json:"mpps_min"`
	Most        float64     `json:"mpps_max"`
	Gbps        float64     `json:"gbps"`              // median
	ToDPDK      float64     `json:"to_dpdk,omitempty"` // ratio to DPDK's back-end: the median of the rounds' own ratios; 0: none
	ToOVS       float64     `json:"to_ovs,omitempty"`  // the same to Open vSwitch
	ToBare      float64     `json:"to_bare,omitempty"` // the same to what the machine allows
}

// summarise makes one row per combination and back-end, in the order of measurement.
func summarise(names []label, all []measurement) []row {
	var whats []combination
	rates := map[combination]map[string]map[int]measurement{} // by back-end and round
	for _, m := range all {
		if rates[m.Combination] == nil {
			rates[m.Combination] = map[string]map[int]measurement{}
			whats = append(whats, m.Combination)
		}
		if rates[m.Combination][m.Backend] == nil {
			rates[m.Combination][m.Backend] = map[int]measurement{}
		}
		if m.Failure == "" && !m.LeftOut {
			rates[m.Combination][m.Backend][m.Round] = m
		}
	}
	var rows []row
	for _, what := range whats {
		for _, l := range names {
			r := summariseRounds(rates[what][l.label])
			r.ToDPDK = ratio(rates[what][l.label], rates[what][reference(names, dpdkBackend)])
			r.ToOVS = ratio(rates[what][l.label], rates[what][reference(names, ovsBackend)])
			r.ToBare = ratio(rates[what][l.label], rates[what][reference(names, bareBackend)])
			r.Combination, r.Backend = what, l.label
			rows = append(rows, r)
		}
	}
	return rows
}

// reference is the label of the first column of a back-end, "" when there is none.
func reference(names []label, backend string) string {
	if i := slices.IndexFunc(names, func(l label) bool { return l.backend == backend }); i >= 0 {
		return names[i].label
	}
	return ""
}

// ratio is the median of the ratios of rounds to the reference's rounds of the
// same number; 0 when there are none.
func ratio(rounds, reference map[int]measurement) float64 {
	var ratios []float64
	for n, m := range rounds {
		if d, ok := reference[n]; ok {
			ratios = append(ratios, m.Mpps/d.Mpps)
		}
	}
	return median(ratios)
}

// summariseRounds takes one back-end's rounds together.
func summariseRounds(rounds map[int]measurement) row {
	var mpps, gbps []float64
	for _, m := range rounds {
		mpps = append(mpps, m.Mpps)
		gbps = append(gbps, m.Gbps)
	}
	r := row{Rounds: len(mpps), Mpps: median(mpps), Gbps: median(gbps)}
	if len(mpps) > 0 {
		r.Least, r.Most = slices.Min(mpps), slices.Max(mpps)
	}
	return r
}

// median of values, which it sorts; 0 of none.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// writeReport writes the rows as a table, or rows and measurements as JSON.
func writeReport(out io.Writer, format string, names []label, all []measurement) error {
	rows := summarise(names, all)
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"rows": rows, "measurements": all})
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "bytes\tqueues\tmrg\tin order\trings\tway\tback-end\tMpps\tmin\tmax\tGbps\tto dpdk\tto ovs\tto bare\trounds\t")
	for _, r := range rows {
		c := r.Combination
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.1f\t%s\t%s\t%s\t%d\t\n",
			c.Size, c.Queues, onOff(c.Mergeable), onOff(c.InOrder), c.rings(), c.way(), r.Backend,
			r.Mpps, r.Least, r.Most, r.Gbps, ratioText(r.ToDPDK), ratioText(r.ToOVS), ratioText(r.ToBare), r.Rounds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := countContended(all); n > 0 {
		fmt.Fprintf(out, "In %d of %d measurements other programs used the two cores: do not quote these figures.\n", n, len(all))
	}
	return nil
}

// ratioText is a ratio, or a dash when there is none.
func ratioText(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// countContended counts the measurements that did not have their cores to themselves.
func countContended(all []measurement) int {
	n := 0
	for _, m := range all {
		if m.contended() {
			n++
		}
	}
	return n
}
