package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"vhostnet/netdev"
)

// reporter prints what the ports counted, with rates since its last print.
type reporter struct {
	out  io.Writer
	json bool
	last map[string]sample
}

type sample struct {
	at   time.Time
	port netdev.Snapshot
}

func newReporter(out io.Writer, asJSON bool) *reporter {
	return &reporter{out: out, json: asJSON, last: map[string]sample{}}
}

// portReport is one port in the JSON form. Rates are per second since the
// report before; they are absent in the first one.
type portReport struct {
	Port      string            `json:"port"`
	Connected bool              `json:"connected"`
	Features  string            `json:"features"`
	Rings     []netdev.RingInfo `json:"rings"`
	TxFrames  uint64            `json:"tx_frames"`
	TxBytes   uint64            `json:"tx_bytes"`
	RxFrames  uint64            `json:"rx_frames"`
	RxBytes   uint64            `json:"rx_bytes"`
	Soft      uint64            `json:"soft_offload"`
	Flooded   uint64            `json:"flooded"`
	Drops     map[string]uint64 `json:"drops"`
	TxRate    *float64          `json:"tx_frames_per_second,omitempty"`
	RxRate    *float64          `json:"rx_frames_per_second,omitempty"`
	TxBits    *float64          `json:"tx_bits_per_second,omitempty"`
	RxBits    *float64          `json:"rx_bits_per_second,omitempty"`
}

// print writes one report of all ports: a table, or a line of JSON.
func (r *reporter) print(now time.Time, ports []*port) error {
	reports := make([]portReport, len(ports))
	for i, p := range ports {
		reports[i] = r.report(now, p)
	}
	if r.json {
		return json.NewEncoder(r.out).Encode(map[string]any{"time": now.UTC().Format(time.RFC3339Nano), "ports": reports})
	}
	return printTable(r.out, reports)
}

func (r *reporter) report(now time.Time, p *port) portReport {
	s := p.device.Snapshot()
	out := portReport{
		Port: p.name, Connected: s.Features != 0, Features: s.Features.String(), Rings: s.Rings,
		TxFrames: s.TxFrames, TxBytes: s.TxBytes, RxFrames: s.RxFrames, RxBytes: s.RxBytes,
		Soft: s.SoftOffload, Flooded: s.Flooded, Drops: s.DropsByReason(),
	}
	if before, ok := r.last[p.name]; ok {
		seconds := now.Sub(before.at).Seconds()
		rate := func(n, was uint64, scale float64) *float64 {
			v := float64(n-was) * scale / seconds
			return &v
		}
		out.TxRate, out.RxRate = rate(s.TxFrames, before.port.TxFrames, 1), rate(s.RxFrames, before.port.RxFrames, 1)
		out.TxBits, out.RxBits = rate(s.TxBytes, before.port.TxBytes, 8), rate(s.RxBytes, before.port.RxBytes, 8)
	}
	r.last[p.name] = sample{now, s}
	return out
}

func printTable(out io.Writer, reports []portReport) error {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PORT\tSTATE\tTX FRAMES\tTX/S\tTX BIT/S\tRX FRAMES\tRX/S\tRX BIT/S\tSOFT\tRINGS\tDROPS")
	for _, p := range reports {
		state := "waiting"
		if p.Connected {
			state = "connected"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\n", p.Port, state,
			p.TxFrames, human(p.TxRate), human(p.TxBits), p.RxFrames, human(p.RxRate), human(p.RxBits),
			p.Soft, ringColumn(p.Rings), dropColumn(p.Drops))
	}
	return t.Flush()
}

// ringColumn lists the started rings: index, then the state unless it is up.
func ringColumn(rings []netdev.RingInfo) string {
	text := ""
	for _, r := range rings {
		if !r.Started {
			continue
		}
		if text != "" {
			text += " "
		}
		text += fmt.Sprint(r.Index)
		if r.Broken {
			text += ":broken"
		} else if !r.Enabled {
			text += ":off"
		}
	}
	if text == "" {
		return "-"
	}
	return text
}

func dropColumn(drops map[string]uint64) string {
	text := ""
	for _, name := range netdev.DropNames() {
		if n := drops[name]; n > 0 {
			text += fmt.Sprintf("%s=%d ", name, n)
		}
	}
	if text == "" {
		return "-"
	}
	return text[:len(text)-1]
}

// human writes a rate with a unit prefix; nil, before there is one, is a dash.
func human(v *float64) string {
	if v == nil {
		return "-"
	}
	n, unit := *v, ""
	for _, u := range []string{"k", "M", "G"} {
		if n < 1000 {
			break
		}
		n, unit = n/1000, u
	}
	return fmt.Sprintf("%.4g%s", n, unit)
}
