package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"vhostnet/integration/stream"
)

const (
	churnPages = 2048
	pageSize   = 4096
)

// churn holds pages whose content it can compute. It changes one after the
// other, looks first whether that one is still what it was, and at the end at
// all of them.
func churn(every time.Duration, stop <-chan struct{}) error {
	m := newMemory()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := m.change(); err != nil {
				return err
			}
		case <-stop:
			fmt.Fprintln(os.Stdout, m.changes)
			return m.checkAll()
		}
	}
}

// memory is pages, each the first bytes of a stream whose seed is the page and
// how often it was changed.
type memory struct {
	pages   [churnPages * pageSize]byte
	version [churnPages]uint64
	changes int
	want    [pageSize]byte
}

func newMemory() *memory {
	m := &memory{}
	for i := range churnPages {
		copy(m.page(i), m.expect(i))
	}
	return m
}

func (m *memory) page(i int) []byte { return m.pages[i*pageSize : (i+1)*pageSize] }

// expect computes what page i must hold. It is valid until the next call.
func (m *memory) expect(i int) []byte {
	stream.Fill(m.want[:], m.version[i]*churnPages+uint64(i))
	return m.want[:]
}

// change checks one page and gives it another content.
func (m *memory) change() error {
	// Each page comes once in a round: the step and the count have no common
	// divisor.
	const step = 733
	i := m.changes * step % churnPages
	if err := m.check(i); err != nil {
		return err
	}
	m.version[i]++
	copy(m.page(i), m.expect(i))
	m.changes++
	return nil
}

func (m *memory) check(i int) error {
	if !bytes.Equal(m.page(i), m.expect(i)) {
		return fmt.Errorf("page %d, after %d changes of it, %d of all, is not what was written", i, m.version[i], m.changes)
	}
	return nil
}

func (m *memory) checkAll() error {
	for i := range churnPages {
		if err := m.check(i); err != nil {
			return err
		}
	}
	return nil
}
