package integration

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// Job is a program that runs in a guest by itself: it needs no connection to
// the host while it runs, and goes where its guest goes.
type Job struct {
	guest *Guest
	argv  []string
	file  string // names what it leaves in the guest, with a suffix
}

// jobs numbers them: a guest keeps the files of its former ones.
var jobs atomic.Int64

// jobScript runs the arguments after the first in a session of their own. What
// it writes last is the exit code.
const jobScript = `f=$1; shift
( setsid "$@" >$f.out 2>&1 & echo $! >$f.pid; wait $!; echo $? >$f.new; mv $f.new $f.code ) </dev/null >/dev/null 2>&1 &`

// StartJob starts a program in a guest.
func (g *Guest) StartJob(ctx context.Context, argv ...string) (*Job, error) {
	j := &Job{guest: g, argv: argv, file: "/run/job." + strconv.FormatInt(jobs.Add(1), 10)}
	_, err := g.Run(ctx, append([]string{"sh", "-c", jobScript, "sh", j.file}, argv...)...)
	return j, err
}

// Stop asks the program to end, with SIGTERM, unless it has ended.
func (j *Job) Stop(ctx context.Context) error {
	_, err := j.guest.Shell(ctx, fmt.Sprintf("until [ -s %[1]s.pid ]; do sleep 0.01; done; [ -e %[1]s.code ] || kill -TERM $(cat %[1]s.pid)", j.file))
	return err
}

// Wait waits until the program has ended and returns what it printed; an exit
// code other than 0 is an error.
func (j *Job) Wait(ctx context.Context) (string, error) {
	out, err := j.guest.Shell(ctx, fmt.Sprintf("until [ -e %[1]s.code ]; do sleep 0.05; done; cat %[1]s.code %[1]s.out", j.file))
	if err != nil {
		return "", err
	}
	code, text, _ := strings.Cut(out, "\n")
	if code != "0" {
		return text, fmt.Errorf("integration: %s: %q ended with %s; it printed: %s", j.guest.cfg.Name, strings.Join(j.argv, " "), code, text)
	}
	return text, nil
}

// Output returns what the program has printed so far.
func (j *Job) Output(ctx context.Context) (string, error) {
	return j.guest.Shell(ctx, "cat "+j.file+".out 2>/dev/null || true")
}

// Ended tells whether the program has ended.
func (j *Job) Ended(ctx context.Context) (bool, error) {
	out, err := j.guest.Shell(ctx, "[ -e "+j.file+".code ] && echo ended || true")
	return out != "", err
}
