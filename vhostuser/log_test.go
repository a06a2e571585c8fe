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
