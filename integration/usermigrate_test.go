//go:build integration

package integration

import (
	"fmt"
	"testing"
	"time"
)

// TestUserNetworkMigration moves a guest between two ports that were told its
// address: it keeps its lease and its connection through the gateway, and asks for
// nothing.
func TestUserNetworkMigration(t *testing.T) {
	lab := startUnprivileged(t, []string{"--uplink", "user,host=on"},
		GuestConfig{Name: "a", QEMU: machine.QEMU, OwnQueue: true},
		GuestConfig{Name: "c", QEMU: machine.QEMU, OwnQueue: true, Number: 1, Later: true})
	port := serveEchoes(t)
	before := lease(t, lab.Guests[0])
	job, err := lab.Guests[0].StartJob(within(t, 30*time.Second), "sh", "-c", "(echo before; until [ -e /run/moved ]; do sleep 0.1; done; echo after; sleep 60) | nc "+gateway4+" "+fmt.Sprint(port))
	must(t, err)
	said := func(text string) {
		t.Helper()
		ctx := within(t, time.Minute)
		must(t, pollEvery(ctx, 100*time.Millisecond, "the echo of "+text, func() (bool, error) {
			out, err := job.Output(ctx)
			return out == text, err
		}))
	}
	said("before\n")
	_, err = lab.Guests[0].Migrate(within(t, migrationTime), GuestConfig{Name: "c", Socket: lab.Backend.Ports[1].Socket})
	must(t, err)
	job.guest = lab.Guests[0]
	_, err = lab.Guests[0].Shell(within(t, 30*time.Second), "touch /run/moved")
	must(t, err)
	said("before\nafter\n")
	if out, err := lab.Guests[0].Run(within(t, 40*time.Second), "ping", "-c", "3", "-W", "5", gateway4); err != nil {
		t.Errorf("ping: %v\n%s", err, out)
	}
	if after := lease(t, lab.Guests[0]); after != before {
		t.Errorf("the guest had %s, and is given %s at the port to which it moved", before, after)
	}
}
