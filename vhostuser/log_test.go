package vhostuser

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestLogLimit(t *testing.T) {
	out := &lines{}
	l := newLimitedLog(hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Info, DisableTime: true}))
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	for i := range 25 {
		l.write(hclog.Warn, "line", "n", i)
		l.write(hclog.Debug, "not asked for")
	}
	if got := strings.Count(out.String(), "\n"); got != linesPerSecond {
		t.Fatalf("%d lines in the first second, want %d", got, linesPerSecond)
	}
	now = now.Add(time.Second)
	l.write(hclog.Warn, "later")
	if got := out.String(); !strings.Contains(got, "lines_suppressed=15") {
		t.Fatalf("the next line does not say what is missing:\n%s", got)
	}
}

// Memory that is not shared is the commonest mistake of all: the log says once
// what to write in the VM's definition.
func TestUnsharedMemoryIsNamedOnce(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.ok(SetFeatures, U64(accepted).Marshal())
	for i := range 4 {
		b.ok(SetVringEnable, state(i, 1))
		b.ok(SetVringNum, state(i, ringSize))
		b.ok(SetVringAddr, addr(i).Marshal())
		b.ok(SetVringKick, fdPayload(i), newFD(t))
		b.ok(SetVringKick, fdPayload(i), newFD(t)) // tried again
	}
	low := SingleRegion{Region: g.region(guestSize/2, guestSize)}.Marshal() // holds no ring
	b.ok(AddMemReg, low, g.fd(t))
	b.ok(RemMemReg, low)
	log := b.log.String()
	if got := strings.Count(log, "[WARN]"); got != 1 {
		t.Errorf("%d warnings, want 1:\n%s", got, log)
	}
	if got := strings.Count(log, "waits for its memory"); got != 4 {
		t.Errorf("%d lines for 4 rings that wait:\n%s", got, log)
	}
	for _, word := range []string{"memory-backend-memfd", "share=on"} {
		if !strings.Contains(log, word) {
			t.Errorf("the log does not say %s:\n%s", word, log)
		}
	}
	// A ring that ran lacks its memory while the front-end moves it.
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
	b.ok(RemMemReg, SingleRegion{Region: g.whole()}.Marshal())
	if got := strings.Count(b.log.String(), "[WARN]"); got != 1 {
		t.Errorf("%d warnings, want 1:\n%s", got, b.log)
	}
}
