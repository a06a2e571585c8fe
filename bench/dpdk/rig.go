package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// rig is one run: a front-end and a back-end joined by two sockets, with a
// directory and a file prefix that no other run has. close ends and removes all.
type rig struct {
	options  options
	machine  machine
	what     combination
	dir      string
	prefix   string
	sockets  [2]string
	back     *back
	frontEnd *testpmd
	quitted  bool // the front-end was told to quit
}

// newRig makes the directory and starts the back-end and then the front-end
// with its two virtio ports, followed by the given further devices. When it
// fails it leaves nothing behind.
func (b *bench) newRig(ctx context.Context, backend string, what combination, extra func(dir string) ([]string, error)) (*rig, error) {
	b.rigs++
	prefix := fmt.Sprintf("%s%d-%d-", namePrefix, os.Getpid(), b.rigs)
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	r := &rig{
		options: b.options, machine: b.machine, what: what, dir: dir,
		prefix:  prefix,
		sockets: [2]string{filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")},
	}
	if err := r.start(ctx, backend, extra); err != nil {
		return nil, r.finish(err)
	}
	return r, nil
}

func (r *rig) start(ctx context.Context, backend string, extra func(dir string) ([]string, error)) error {
	var devices []string
	var err error
	if extra != nil {
		if devices, err = extra(r.dir); err != nil {
			return err
		}
	}
	if r.back, err = r.startBackEnd(ctx, backend); err != nil {
		return err
	}
	r.frontEnd, err = r.startFrontEnd(ctx, devices)
	return err
}

// finish closes the rig, whether the run went well or failed with err. Its
// result says what went wrong, in the run or in closing, and carries what the
// two programs had printed last when it did.
func (r *rig) finish(err error) error {
	var tails string
	if err != nil {
		if r.back != nil {
			r.back.report()
		}
		tails = r.tails()
	}
	if ending := r.close(); ending != nil {
		err = errors.Join(err, ending)
		tails += r.tails()
	}
	if err == nil {
		return nil
	}
	return &runError{err, tails}
}

// tails are the last lines of both programs.
func (r *rig) tails() string {
	var s string
	if r.frontEnd != nil {
		s += r.frontEnd.tail(30)
	}
	if r.back != nil {
		s += r.back.tail(50)
	}
	return s
}

// runError is a failed run, with the tails of what its programs printed.
type runError struct {
	error
	tails string
}

func (e *runError) Unwrap() error { return e.error }

// close ends both programs, the front-end first, and removes their files.
// A program that ended by itself or had to be killed is an error.
func (r *rig) close() error {
	var errs []error
	errs = append(errs, r.quitFrontEnd())
	if r.back != nil {
		errs = append(errs, r.back.end())
	}
	pages, err := filepath.Glob(filepath.Join(r.machine.hugeDir, r.prefix+"*"))
	errs = append(errs, err)
	for _, name := range pages {
		errs = append(errs, os.Remove(name))
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// quitFrontEnd ends the front-end, once.
func (r *rig) quitFrontEnd() error {
	if r.frontEnd == nil || r.quitted {
		return nil
	}
	r.quitted = true
	return r.frontEnd.quit()
}

// sample takes the counters of so many ports and of the scheduler.
func (r *rig) sample(ctx context.Context, ports int) (sample, error) {
	s, err := r.frontEnd.sample(ctx, ports)
	s.front, s.back = r.frontEnd.waited(), r.back.waited()
	return s, err
}

// observe waits, samples, waits and samples again.
func (r *rig) observe(ctx context.Context, before, duration time.Duration) (passage, error) {
	if err := sleep(ctx, before); err != nil {
		return passage{}, err
	}
	first, err := r.sample(ctx, 2)
	if err != nil {
		return passage{}, err
	}
	if err := sleep(ctx, duration); err != nil {
		return passage{}, err
	}
	second, err := r.sample(ctx, 2)
	if err != nil {
		return passage{}, err
	}
	return between(first, second)
}

// sleep waits for d or until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
