package vhostuser

import (
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// linesPerSecond is how much a port logs at most, whatever its front-ends do,
// and however often they come back.
const linesPerSecond = 10

// limitedLog passes on linesPerSecond lines in each second and counts the
// others; the next line says how many there were. It is safe for concurrent
// use.
type limitedLog struct {
	log hclog.Logger
	now func() time.Time

	mu         sync.Mutex
	second     time.Time // when the current second began
	lines      int       // passed on in it
	suppressed uint64    // since the last line
}

func newLimitedLog(log hclog.Logger) *limitedLog {
	return &limitedLog{log: log, now: time.Now}
}

func (l *limitedLog) write(level hclog.Level, text string, pairs ...any) {
	if level < l.log.GetLevel() {
		return
	}
	suppressed, ok := l.admit()
	if !ok {
		return
	}
	if suppressed > 0 {
		pairs = append(pairs, "lines_suppressed", suppressed)
	}
	l.log.Log(level, text, pairs...)
}

// admit decides about one line and says how many were suppressed before it.
func (l *limitedLog) admit() (suppressed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.second) >= time.Second {
		l.second, l.lines = now, 0
	}
	if l.lines >= linesPerSecond {
		l.suppressed++
		return 0, false
	}
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
