package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// LabConfig is a vhostnet process with two or more guests on one switch.
type LabConfig struct {
	Dir     string // sockets and logs; its name must be short, see maxSocketPath
	Binary  string // vhostnet
	Image   *Image
	Guests  []GuestConfig // Dir, Socket and, if missing, Number and Image are filled in
	Backend []string      // further arguments of "vhostnet run"
}

// maxSocketPath is what fits into a unix socket's address, with its final zero
// byte (unix(7)).
const maxSocketPath = 107

// tailBytes is how much of each log a report shows.
const tailBytes = 16 << 10

// Lab is a running LabConfig.
type Lab struct {
	Backend *Backend
	Guests  []*Guest // as in LabConfig.Guests
}

// StartLab starts vhostnet and boots the guests, all at the same time. Close
// the Lab also when it comes with an error.
func StartLab(ctx context.Context, cfg LabConfig) (*Lab, error) {
	lab := &Lab{
		Backend: &Backend{Binary: cfg.Binary, Log: filepath.Join(cfg.Dir, "vhostnet.log"), Args: cfg.Backend},
		Guests:  make([]*Guest, len(cfg.Guests)),
	}
	for i := range cfg.Guests {
		g := cfg.Guests[i]
		g.Dir = cfg.Dir
		if g.Number == 0 {
			g.Number = i + 1
		}
		if g.Image == nil {
			g.Image = cfg.Image
		}
		g.Socket = filepath.Join(cfg.Dir, g.Name+".port.sock")
		if len(g.Socket) > maxSocketPath {
			return lab, fmt.Errorf("integration: socket %s: %d bytes, at most %d are possible", g.Socket, len(g.Socket), maxSocketPath)
		}
		port := Port{Name: g.Name, Socket: g.Socket, Mode: g.PortMode}
		if g.ManualQueue {
			port.Queue = "manual"
		}
		if g.OwnQueue {
			port.MAC = g.mac()
		}
		lab.Backend.Ports = append(lab.Backend.Ports, port)
		lab.Guests[i] = &Guest{cfg: g}
	}
	if err := lab.Backend.Start(ctx); err != nil {
		return lab, err
	}
	return lab, lab.bootAll(ctx)
}

func (l *Lab) bootAll(ctx context.Context) error {
	errs := make([]error, len(l.Guests))
	var wg sync.WaitGroup
	for i, g := range l.Guests {
		if !g.cfg.Later {
			wg.Go(func() { errs[i] = l.Boot(ctx, i, nil) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Boot boots guest i, which does not run, in a new QEMU; change, if not nil,
// may alter its configuration.
func (l *Lab) Boot(ctx context.Context, i int, change func(*GuestConfig)) error {
	cfg := l.Guests[i].cfg
	if change != nil {
		change(&cfg)
	}
	g, err := Boot(ctx, cfg)
	if g != nil {
		l.Guests[i] = g
	}
	return err
}

// PowerOn starts the QEMU of guest i, which does not run.
func (l *Lab) PowerOn(ctx context.Context, i int) error {
	g, err := PowerOn(ctx, l.Guests[i].cfg)
	if g != nil {
		l.Guests[i] = g
	}
	return err
}

// Close stops the guests, then vhostnet, each of which must end well when asked
// to.
func (l *Lab) Close() error {
	var errs []error
	for _, g := range l.Guests {
		if g.proc != nil && g.proc.alive() == nil {
			errs = append(errs, g.Close())
		}
	}
	if l.Backend.proc != nil && l.Backend.Alive() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		errs = append(errs, l.Backend.Stop(ctx))
	}
	return errors.Join(errs...)
}

// Report writes the ends of all logs: what there is to know after a failure.
func (l *Lab) Report(w io.Writer) {
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(l.Backend.Log), "*.log"))
	if err != nil {
		fmt.Fprintln(w, err)
	}
	for _, log := range logs {
		tail(w, log)
	}
}

// tail writes the last tailBytes of a file, from the start of a line, without
// the control characters that firmware sends to a terminal.
func tail(w io.Writer, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintf(w, "--- %s: %v\n", filepath.Base(path), err)
		return
	}
	size := len(data)
	if size > tailBytes {
		data = data[size-tailBytes:]
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	data = bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, data)
	fmt.Fprintf(w, "--- %s, the last %d of %d bytes:\n%s\n", filepath.Base(path), len(data), size, data)
}
