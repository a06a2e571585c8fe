package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// row is the rounds of one network, taken together: medians.
type row struct {
	Network           string  `json:"network"`
	Rounds            int     `json:"rounds"`
	Up                stream  `json:"up"`
	Down              stream  `json:"down"`
	PingMicroseconds  float64 `json:"ping_us"`
	ConnectsPerSecond float64 `json:"connects_sec"`
	// Of vhostnet's throughput to this network's: the median of the rounds' own
	// ratios; 0: vhostnet was not measured.
	RatioUp   float64 `json:"vhostnet_ratio_up,omitempty"`
	RatioDown float64 `json:"vhostnet_ratio_down,omitempty"`
}

// summarise makes one row per network, in the order of networks.
func summarise(all []measurement) []row {
	ours := map[int]measurement{} // by round
	for _, m := range all {
		if m.Network == vhostnetNetwork {
			ours[m.Round] = m
		}
	}
	var rows []row
	for _, network := range networks {
		var of []measurement
		for _, m := range all {
			if m.Network == network {
				of = append(of, m)
			}
		}
		if len(of) > 0 {
			rows = append(rows, summariseRounds(network, of, ours))
		}
	}
	return rows
}

func summariseRounds(network string, of []measurement, ours map[int]measurement) row {
	middle := func(value func(measurement) float64) float64 {
		values := make([]float64, len(of))
		for i, m := range of {
			values[i] = value(m)
		}
		return median(values)
	}
	middleStream := func(which func(measurement) stream) stream {
		return stream{
			Gbps:    middle(func(m measurement) float64 { return which(m).Gbps }),
			Guest:   middle(func(m measurement) float64 { return which(m).Guest }),
			QEMU:    middle(func(m measurement) float64 { return which(m).QEMU }),
			Carrier: middle(func(m measurement) float64 { return which(m).Carrier }),
		}
	}
	r := row{
		Network: network, Rounds: len(of),
		Up:                middleStream(func(m measurement) stream { return m.Up }),
		Down:              middleStream(func(m measurement) stream { return m.Down }),
		PingMicroseconds:  middle(func(m measurement) float64 { return m.PingMicroseconds }),
		ConnectsPerSecond: middle(func(m measurement) float64 { return m.ConnectsPerSecond }),
	}
	var up, down []float64
	for _, m := range of {
		if o, ok := ours[m.Round]; ok {
			up, down = append(up, o.Up.Gbps/m.Up.Gbps), append(down, o.Down.Gbps/m.Down.Gbps)
		}
	}
	r.RatioUp, r.RatioDown = median(up), median(down)
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
func writeReport(out io.Writer, format string, all []measurement) error {
	rows := summarise(all)
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"rows": rows, "measurements": all})
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "network\tway\tGbps\tvhostnet's to it\tguest's CPU\tQEMU's\tcarrier's\tping us\tconnections/s\trounds\t")
	for _, r := range rows {
		ping := "-"
		if r.PingMicroseconds > 0 {
			ping = fmt.Sprintf("%.0f", r.PingMicroseconds)
		}
		fmt.Fprintf(w, "%s\tup\t%s\t%s\t%.0f\t%d\t\n", r.Network, r.Up.columns(r.RatioUp), ping, r.ConnectsPerSecond, r.Rounds)
		fmt.Fprintf(w, "\tdown\t%s\t\t\t\t\n", r.Down.columns(r.RatioDown))
	}
	return w.Flush()
}

// columns are those of one way.
func (s stream) columns(ratio float64) string {
	to := "-"
	if ratio > 0 {
		to = fmt.Sprintf("%.2f", ratio)
	}
	return fmt.Sprintf("%.2f\t%s\t%.0f %%\t%.0f %%\t%.0f %%", s.Gbps, to, 100*s.Guest, 100*s.QEMU, 100*s.Carrier)
}
