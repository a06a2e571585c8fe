//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Migration is what QEMU tells of one: times in milliseconds, sizes in bytes.
type Migration struct {
	Status    string `json:"status"`
	ErrorDesc string `json:"error-desc"`
	Total     int64  `json:"total-time"`
	Downtime  int64  `json:"downtime"` // the guest stood still
	RAM       struct {
		Transferred int64 `json:"transferred"`
		Rounds      int64 `json:"dirty-sync-count"`
	} `json:"ram"`
}

// over tells whether nothing more will happen.
func (m Migration) over() bool {
	return m.Status == "completed" || m.Status == "failed" || m.Status == "cancelled"
}

// errMigration is a migration that has failed: the guest runs on where it was.
var errMigration = errors.New("integration: the migration has failed")

// Bounds of what a migration copies, in bytes a second: as fast as it can, or so
// slowly that there is time to do something to it.
const (
	fullSpeed = 1 << 34
	slowly    = 24 << 20
)

// migrating is a migration that is under way.
type migrating struct {
	guest       *Guest
	destination *Guest
	source      *monitor
	address     string
}

// Migrate moves a running guest into a new QEMU on the port of place, and
// returns when it runs there. What runs in the guest is not touched; g is the
// guest in its new place.
func (g *Guest) Migrate(ctx context.Context, place GuestConfig) (Migration, error) {
	m, err := g.startMigration(ctx, place)
	if err != nil {
		return Migration{}, err
	}
	return m.finish(ctx)
}

// startMigration starts the QEMU to which g is to move and begins to copy.
func (g *Guest) startMigration(ctx context.Context, place GuestConfig, options ...migrateOption) (*migrating, error) {
	cfg := g.cfg
	cfg.Name, cfg.Socket, cfg.incoming = place.Name, place.Socket, true
	destination, err := PowerOn(ctx, cfg)
	if err != nil {
		return nil, err
	}
	m := &migrating{guest: g, destination: destination, address: "unix:" + destination.path("migration.sock")}
	if err = m.begin(ctx, options); err != nil {
		m.close()
		destination.Kill()
		return nil, err
	}
	return m, nil
}

func (m *migrating) begin(ctx context.Context, options []migrateOption) error {
	err := poll(ctx, "the control socket of "+m.destination.cfg.Name, func() (bool, error) {
		return m.destination.monitor(ctx, func(*monitor) error { return nil }) == nil, m.destination.proc.alive()
	})
	if err != nil {
		return err
	}
	err = m.destination.monitor(ctx, func(q *monitor) error {
		// Otherwise the source takes the guest for moved before it has arrived.
		if err := q.setCapability(ctx, "return-path", true); err != nil {
			return err
		}
		_, err := q.execute(ctx, "migrate-incoming", map[string]any{"uri": m.address})
		return err
	})
	if err != nil {
		return err
	}
	if m.source, err = dialMonitor(ctx, m.guest.path("qmp.sock")); err != nil {
		return err
	}
	if err := m.source.setCapability(ctx, "return-path", true); err != nil {
		return err
	}
	for _, set := range append([]migrateOption{speed(fullSpeed), hold(false)}, options...) {
		if err := set(ctx, m); err != nil {
			return err
		}
	}
	_, err = m.source.execute(ctx, "migrate", map[string]any{"uri": m.address})
	return err
}

// migrateOption sets something of a migration.
type migrateOption func(ctx context.Context, m *migrating) error

// speed bounds how many bytes are copied in a second.
func speed(bytes int64) migrateOption {
	return func(ctx context.Context, m *migrating) error {
		_, err := m.source.execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": bytes})
		return err
	}
}

// hold has a migration wait when the guest stands still and is about to be
// handed over.
func hold(on bool) migrateOption {
	return func(ctx context.Context, m *migrating) error {
		return m.source.setCapability(ctx, "pause-before-switchover", on)
	}
}

// setCapability turns a feature of migrations on or off.
func (m *monitor) setCapability(ctx context.Context, name string, on bool) error {
	_, err := m.execute(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []map[string]any{{"capability": name, "state": on}},
	})
	return err
}

// close gives the control connection back.
func (m *migrating) close() {
	if m.source != nil {
		m.source.close()
	}
}

// query asks how far it is.
func (m *migrating) query(ctx context.Context) (Migration, error) {
	var now Migration
	answer, err := m.source.execute(ctx, "query-migrate", nil)
	if err != nil {
		return now, err
	}
	if err := json.Unmarshal(answer, &now); err != nil {
		return now, fmt.Errorf("integration: query-migrate: %w", err)
	}
	return now, nil
}

// held is the status of a migration that waits (see hold).
const held = "pre-switchover"

// finish waits for the end. Without an error the guest runs in its new place;
// with errMigration it runs where it was.
func (m *migrating) finish(ctx context.Context) (Migration, error) {
	defer m.close()
	var now Migration
	err := pollEvery(ctx, 20*time.Millisecond, "the migration of "+m.guest.cfg.Name, func() (done bool, err error) {
		if now, err = m.query(ctx); err == nil && now.Status == held {
			_, err = m.source.execute(ctx, "migrate-continue", map[string]any{"state": held})
		}
		return now.over(), err
	})
	if err == nil && now.Status != "completed" {
		err = fmt.Errorf("%w: %s: %s", errMigration, now.Status, now.ErrorDesc)
	}
	if err == nil {
		err = m.destination.awaitRunning(ctx)
	}
	if err != nil {
		m.destination.Kill()
		return now, err
	}
	m.arrive()
	return now, nil
}

// arrive makes the guest the one in the new QEMU and ends the old one. Its
// agent has said hello long ago, to the connection of its former place.
func (m *migrating) arrive() {
	m.guest.Kill()
	m.destination.cfg.incoming = false
	m.guest.proc, m.guest.agent, m.guest.cfg, m.guest.hellos = m.destination.proc, m.destination.agent, m.destination.cfg, 0
}

// awaitRunning waits until the guest's processors run.
func (g *Guest) awaitRunning(ctx context.Context) error {
	return g.monitor(ctx, func(q *monitor) error {
		return pollEvery(ctx, 5*time.Millisecond, g.cfg.Name+" to run", func() (bool, error) {
			answer, err := q.execute(ctx, "query-status", nil)
			if err != nil {
				return false, err
			}
			var status struct {
				Running bool `json:"running"`
			}
			err = json.Unmarshal(answer, &status)
			return status.Running, err
		})
	})
}
