//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestMigration moves a guest that is under load between two QEMUs, there and
// back, on two ports of one vhostnet. VHOSTNET_MIGRATIONS says how often.
func TestMigration(t *testing.T) {
	lab := startLab(t, migrationGuests(machine.QEMU, "")...)
	testMigration(t, lab, amount(t, migrationsVariable, 2))
	run(t, "VhostnetKilled", func(t *testing.T) { testKilledMigrations(t, lab) })
}

// TestMigrationPacked is the same with packed rings.
func TestMigrationPacked(t *testing.T) {
	lab := startLab(t, migrationGuests(machine.QEMU, "packed=on")...)
	const packed = 34 // VIRTIO_F_RING_PACKED
	for _, g := range lab.Guests[:2] {
		checkFeatures(t, g, offloads{name: "packed rings", on: []int{packed}})
	}
	testMigration(t, lab, amount(t, migrationsVariable, 2))
}

// TestMigrationOldQEMU is the same between two of Debian 12's own QEMU.
func TestMigrationOldQEMU(t *testing.T) {
	lab := startLab(t, migrationGuests(machine.OldQEMU, "")...)
	testMigration(t, lab, 2)
}

// migrationsVariable names the number of migrations, for each kind of rings.
const migrationsVariable = "VHOSTNET_MIGRATIONS"

// migrationGuests are one that moves, one that stays, and the place to which
// the first one moves.
func migrationGuests(q *QEMU, device string) []GuestConfig {
	return []GuestConfig{
		{Name: "a", QEMU: q, Device: device},
		{Name: "b", QEMU: q, OwnQueue: true, Device: device},
		{Name: "c", QEMU: q, Number: 1, Later: true},
	}
}

// migrationTime bounds one migration and the proof that the guest is whole.
const migrationTime = 2 * time.Minute

func testMigration(t *testing.T, lab *Lab, times int) {
	load := startLoad(t, lab)
	memory := startChurn(t, lab.Guests[0])
	var down, total []int64
	var moved int64
	for range times {
		ctx := within(t, migrationTime)
		m, err := lab.Guests[0].Migrate(ctx, lab.elsewhere())
		must(t, err)
		load.whole(t)
		down, total, moved = append(down, m.Downtime), append(total, m.Total), moved+m.RAM.Transferred
	}
	stopChurn(t, memory)
	sent := load.stop(t)
	noChecksumErrors(t, lab)
	slices.Sort(down)
	slices.Sort(total)
	t.Logf("%d migrations under load: the guest stood still for %d ms (median), at most %d; each took %d ms (median), at most %d",
		times, down[len(down)/2], down[len(down)-1], total[len(total)/2], total[len(total)-1])
	t.Logf("%d MB of memory were moved; %d MB over TCP arrived as sent", moved/megabyte, sent/megabyte)
}

// elsewhere is the place where the first guest is not.
func (l *Lab) elsewhere() GuestConfig {
	for i, port := range l.Backend.Ports {
		if i != 1 && port.Name != l.Guests[0].cfg.Name {
			return GuestConfig{Name: port.Name, Socket: port.Socket}
		}
	}
	panic("a lab without a place to migrate to")
}

// startChurn has a guest change memory and check it.
func startChurn(t *testing.T, g *Guest) *Job {
	t.Helper()
	job, err := g.StartJob(within(t, 10*time.Second), "/init", "churn", "-every", "500us")
	must(t, err)
	return job
}

// stopChurn fails t unless the memory was at every look what it had to be.
func stopChurn(t *testing.T, job *Job) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	must(t, job.Stop(ctx))
	changes, err := job.Wait(ctx)
	must(t, err)
	t.Logf("%s changes of memory, each seen again", changes[:len(changes)-1])
}

// testKilledMigrations kills vhostnet in each phase of a migration. The guest
// must run on, in either place, with its streams and its memory whole. The
// phases stand still while that is done: a QEMU whose back-end ends in the midst
// of an exchange about the log calls abort.
func testKilledMigrations(t *testing.T, lab *Lab) {
	for _, phase := range []struct {
		name    string
		reached func(Migration) bool
	}{
		{"before the copy", nil},
		{"in the copy", func(now Migration) bool { return now.RAM.Transferred > 8<<20 }},
		{"between the two", func(now Migration) bool { return now.Status == held }},
		{"after the copy", func(now Migration) bool { return now.Status == "completed" }},
	} {
		run(t, phase.name, func(t *testing.T) {
			load := startLoad(t, lab)
			memory := startChurn(t, lab.Guests[0])
			ctx := within(t, migrationTime)
			before := func(context.Context, *migrating) error {
				if phase.reached == nil {
					lab.Backend.Kill()
				}
				return nil
			}
			m, err := lab.Guests[0].startMigration(ctx, lab.elsewhere(), speed(slowly), hold(phase.name != "after the copy"), before)
			must(t, err)
			if phase.reached != nil {
				must(t, m.await(ctx, phase.reached))
				lab.Backend.Kill()
			}
			now, err := m.query(ctx)
			must(t, err)
			t.Logf("vhostnet is dead; the migration is %s after %d MB", now.Status, now.RAM.Transferred/megabyte)
			must(t, lab.Backend.Start(ctx))
			must(t, speed(fullSpeed)(ctx, m))
			now, err = m.finish(ctx)
			if err != nil && !errors.Is(err, errMigration) {
				t.Fatal(err)
			}
			t.Logf("it has %s (%v); the guest is in %s", now.Status, err, lab.Guests[0].cfg.Name)
			load.whole(t)
			stopChurn(t, memory)
			load.stop(t)
			noChecksumErrors(t, lab)
		})
	}
}

// await waits until a migration is so far.
func (m *migrating) await(ctx context.Context, reached func(Migration) bool) error {
	return pollEvery(ctx, 2*time.Millisecond, "a phase of the migration", func() (bool, error) {
		now, err := m.query(ctx)
		if err == nil && now.over() && !reached(now) {
			err = fmt.Errorf("%w: %s: %s", errMigration, now.Status, now.ErrorDesc)
		}
		return reached(now), err
	})
}
