package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// meter reads what the processes of a rig have used of the CPUs.
type meter struct {
	qemu, carrier int
	cpus          []int // QEMU's threads that are the guest's CPUs
}

func (r *rig) newMeter(ctx context.Context) (*meter, error) {
	cpus, err := r.guest.CPUThreads(ctx)
	if err != nil {
		return nil, err
	}
	return &meter{qemu: r.guest.PID(), carrier: r.carrier, cpus: cpus}, nil
}

// reading is CPU time at one moment.
type reading struct {
	at                   time.Time
	guest, qemu, carrier time.Duration // qemu: all of its threads
}

func (m *meter) read() (reading, error) {
	r := reading{at: time.Now()}
	var err error
	for _, thread := range m.cpus {
		used, err := cpuTime(fmt.Sprintf("/proc/%d/task/%d/stat", m.qemu, thread))
		if err != nil {
			return r, err
		}
		r.guest += used
	}
	if r.qemu, err = cpuTime(fmt.Sprintf("/proc/%d/stat", m.qemu)); err != nil || m.carrier == 0 {
		return r, err
	}
	r.carrier, err = cpuTime(fmt.Sprintf("/proc/%d/stat", m.carrier))
	return r, err
}

// since is what was used after an earlier reading, as parts of the time.
func (r reading) since(before reading) stream {
	all := r.at.Sub(before.at).Seconds()
	guest, qemu := (r.guest - before.guest).Seconds(), (r.qemu - before.qemu).Seconds()
	return stream{Guest: guest / all, QEMU: max(0, qemu-guest) / all, Carrier: (r.carrier - before.carrier).Seconds() / all}
}

// tick is the unit of CPU time in /proc, on every platform that Linux has
// (USER_HZ).
const tick = time.Second / 100

// cpuTime reads utime and stime of a stat file (proc(5)).
func cpuTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	used, err := parseStat(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return used, nil
}

// parseStat: the name in parentheses may hold anything; the state follows it, and
// utime and stime are the 12th and 13th fields after that.
func parseStat(text []byte) (time.Duration, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%w: %q", errFigures, text)
	}
	var sum int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}
