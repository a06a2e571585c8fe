package dhcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The lease file is JSON:
//
//	{"version": 1, "leases": [
//	  {"port": "web", "mac": "52:54:00:00:00:01", "address": "10.0.2.15", "until": "2026-01-02T15:04:05Z"}]}
//
// It is written anew, beside the old one, and renamed over it.

const (
	fileVersion = 1
	maxFile     = 16 << 20
	saveEvery   = time.Second      // changes within it are written together
	retryAfter  = 10 * time.Second // when the file could not be written
)

type leaseFile struct {
	Version int         `json:"version"`
	Leases  []fileLease `json:"leases"`
}

type fileLease struct {
	Port    string     `json:"port,omitempty"`
	MAC     string     `json:"mac"`
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
}

// load reads the lease file, once, in New. One that cannot be used is set aside
// and said so: guests then get addresses as if new.
func (s *Server) load() {
	err := s.read()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	aside := s.cfg.File + ".bad"
	if renamed := os.Rename(s.cfg.File, aside); renamed != nil {
		aside = renamed.Error()
	}
	s.log.Warn("the lease file cannot be used; leases start anew", "file", s.cfg.File, "error", err, "set aside", aside)
}

func (s *Server) read() error {
	f, err := os.Open(s.cfg.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fmt.Errorf("longer than %d bytes", maxFile)
	}
	var file leaseFile
	if err := json.Unmarshal(text, &file); err != nil {
		return err
	}
	if file.Version != fileVersion {
		return fmt.Errorf("of version %d; this program writes %d", file.Version, fileVersion)
	}
	leases := make([]*lease, 0, len(file.Leases))
	for i, l := range file.Leases {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil || len(mac) != 6 || !l.Address.IsValid() {
			return fmt.Errorf("lease %d: MAC %q, address %v", i+1, l.MAC, l.Address)
		}
		leases = append(leases, &lease{client: Client{Port: l.Port, MAC: [6]byte(mac)}, address: l.Address, state: bound, until: l.Until})
	}
	s.restore(leases)
	return nil
}

// restore takes the leases that fit this configuration: those of addresses that
// are given out, and not by reservation to others.
func (s *Server) restore(leases []*lease) {
	for _, l := range leases {
		p := s.v4
		if l.address.Is6() {
			p = s.v6
		}
		if p == nil || p.byClient[l.client] != nil || !p.free(time.Time{}, l.client, l.address) {
			continue
		}
		p.add(l)
	}
}

// Run saves leases until ctx ends, and then a last time. A Server without a
// file has nothing to save. Run is called once.
func (s *Server) Run(ctx context.Context) error {
	if s.cfg.File == "" {
		<-ctx.Done()
		return nil
	}
	for {
		select {
		case <-s.dirty:
		case <-ctx.Done():
			return s.save()
		}
		wait := saveEvery
		if err := s.save(); err != nil {
			s.changed()
			wait = retryAfter
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// save writes the file, and tells when that begins and ceases to fail.
func (s *Server) save() error {
	err := s.write()
	if err != nil {
		s.Counters.SaveFails.Add(1)
		err = fmt.Errorf("dhcp: save leases: %w", err)
	}
	if s.saveEdge.Set(time.Now(), err != nil) {
		if err != nil {
			s.log.Warn("leases are not kept; they would be lost by a restart", "file", s.cfg.File, "error", err)
		} else {
			s.log.Info("leases are kept again", "file", s.cfg.File)
		}
	}
	return err
}

func (s *Server) write() (err error) {
	text, err := json.MarshalIndent(s.snapshot(), "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.cfg.File), filepath.Base(s.cfg.File)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.cfg.File)
}

// snapshot is what is saved: leases that somebody took, also those that are
// over, since who comes back gets the same.
func (s *Server) snapshot() leaseFile {
	file := leaseFile{Version: fileVersion, Leases: []fileLease{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(func(l *lease) {
		if l.state == bound {
			file.Leases = append(file.Leases, fileLease{
				Port: l.client.Port, MAC: net.HardwareAddr(l.client.MAC[:]).String(), Address: l.address, Until: l.until.UTC(),
			})
		}
	})
	slices.SortFunc(file.Leases, func(a, b fileLease) int { return a.Address.Compare(b.Address) })
	return file
}
