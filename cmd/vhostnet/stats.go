package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser"
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
	of   *port
}

func newReporter(out io.Writer, asJSON bool) *reporter {
	return &reporter{out: out, json: asJSON, last: map[string]sample{}}
}

// portReport is one port in the JSON form. Tx is from the VM, Rx to the VM.
// Rates are per second since the report before; they are absent in the first
// one.
type portReport struct {
	Port     string            `json:"port"`
	Up       bool              `json:"up"`       // a driver has negotiated its features
	Features string            `json:"features"` // those, joined by commas
	Rings    []netdev.RingInfo `json:"rings"`    // those that are started

	Memory uint64 `json:"memory_bytes"` // of this program's own, without the guest's; 0 of an uplink

	TxFrames      uint64            `json:"tx_frames"`
	TxBytes       uint64            `json:"tx_bytes"`
	RxFrames      uint64            `json:"rx_frames"`
	RxBytes       uint64            `json:"rx_bytes"`
	Soft          uint64            `json:"soft_offload"`
	Flooded       uint64            `json:"flooded"`
	Moved         uint64            `json:"moved"`
	ForeignSource uint64            `json:"foreign_source"`
	TableFull     uint64            `json:"table_full"`
	Stalls        uint64            `json:"stalls"`
	Drops         map[string]uint64 `json:"drops"` // by reason, without zeros

	Commands        uint64 `json:"control_commands"`
	CommandsRefused uint64 `json:"control_commands_refused"`

	TxRate *float64 `json:"tx_frames_per_second,omitempty"`
	RxRate *float64 `json:"rx_frames_per_second,omitempty"`
	TxBits *float64 `json:"tx_bits_per_second,omitempty"`
	RxBits *float64 `json:"rx_bits_per_second,omitempty"`

	Sessions        uint64 `json:"sessions"`          // front-ends served
	Refused         uint64 `json:"refused_requests"`  // of front-ends
	Closed          uint64 `json:"closed_sessions"`   // for what the front-end sent or did not
	SecondFrontEnds uint64 `json:"second_front_ends"` // refused, as one was connected
}

// print writes one report of all ports in one piece: a table, or a line of
// JSON.
func (r *reporter) print(now time.Time, ports []*port) error {
	reports := []portReport{}
	seen := map[string]sample{}
	for _, p := range ports {
		if r.last[p.name].of != p { // another one of the name counts from 0
			delete(r.last, p.name)
		}
		reports = append(reports, r.reportOf(now, p))
		seen[p.name] = sample{now, r.last[p.name].port, p}
	}
	r.last = seen
	var b bytes.Buffer
	if r.json {
		err := json.NewEncoder(&b).Encode(map[string]any{"time": now.UTC().Format(time.RFC3339Nano), "ports": reports})
		if err != nil {
			return err
		}
	} else {
		writeTable(&b, reports)
	}
	_, err := r.out.Write(b.Bytes())
	return err
}

// reportOf is one port's part; an uplink is up and has no rings.
func (r *reporter) reportOf(now time.Time, p *port) portReport {
	if p.vm != nil {
		return r.report(now, p.name, p.vm.device.Snapshot(), p.vm.server.Stats())
	}
	out := r.report(now, p.name, netdev.Snapshot{PortSnapshot: p.behind.(*uplink).count()}, vhostuser.Stats{})
	out.Up = true
	return out
}

// report is one port's part. now is later at each call.
func (r *reporter) report(now time.Time, name string, s netdev.Snapshot, served vhostuser.Stats) portReport {
	out := portReport{
		Port: name, Up: s.Features != 0, Features: s.Features.String(),
		Rings:    slices.DeleteFunc(s.Rings, func(r netdev.RingInfo) bool { return !r.Started }),
		Memory:   s.Memory,
		TxFrames: s.TxFrames, TxBytes: s.TxBytes, RxFrames: s.RxFrames, RxBytes: s.RxBytes,
		Soft: s.SoftOffload, Flooded: s.Flooded, Moved: s.Moved, ForeignSource: s.ForeignSource,
		Commands: s.Commands, CommandsRefused: s.CommandsRefused, TableFull: s.TableFull, Stalls: s.Stalls, Drops: s.DropsByReason(),
		Sessions: served.Sessions, Refused: served.Refused, Closed: served.Closed, SecondFrontEnds: served.SecondFrontend,
	}
	if before, ok := r.last[name]; ok {
		seconds := now.Sub(before.at).Seconds()
		rate := func(n, was uint64, scale float64) *float64 {
			v := float64(n-was) * scale / seconds
			return &v
		}
		out.TxRate, out.RxRate = rate(s.TxFrames, before.port.TxFrames, 1), rate(s.RxFrames, before.port.RxFrames, 1)
		out.TxBits, out.RxBits = rate(s.TxBytes, before.port.TxBytes, 8), rate(s.RxBytes, before.port.RxBytes, 8)
	}
	r.last[name] = sample{at: now, port: s}
	return out
}

// writeTable writes to memory, which does not fail.
func writeTable(b *bytes.Buffer, reports []portReport) {
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PORT\tSTATE\tTX FRAMES\tTX/S\tTX BIT/S\tRX FRAMES\tRX/S\tRX BIT/S\tSOFT\tRINGS\tDROPS")
	for _, p := range reports {
		state := "waiting"
		if p.Up {
			state = "up"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\n", p.Port, state,
			p.TxFrames, human(p.TxRate), human(p.TxBits), p.RxFrames, human(p.RxRate), human(p.RxBits),
			p.Soft, ringColumn(p.Rings), dropColumn(p.Drops))
	}
	_ = t.Flush()
}

// ringColumn lists rings: index, then the state unless it is up.
func ringColumn(rings []netdev.RingInfo) string {
	var words []string
	for _, r := range rings {
		word := strconv.Itoa(r.Index)
		if r.Broken {
			word += ":broken"
		} else if !r.Enabled {
			word += ":off"
		}
		words = append(words, word)
	}
	return column(words)
}

func dropColumn(drops map[string]uint64) string {
	var words []string
	for _, name := range netdev.DropNames() {
		if n := drops[name]; n > 0 {
			words = append(words, fmt.Sprintf("%s=%d", name, n))
		}
	}
	return column(words)
}

// column is a list in a table, which has no empty fields.
func column(words []string) string {
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, " ")
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
