package netdev_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// A guest's rings go on over a new connection of which the front-end knows no
// more than that they ran: it has an inflight region and sends the avail index as
// base (Cloud Hypervisor), or has packed rings and sends the base that it was told
// long ago (QEMU), with a region or without. What waits is sent, once, and buffers that were posted are used.
func TestRingsGoOnOverConnections(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "vhostnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, c := range map[string]struct {
		server func(*vhostuser.Options)
		guest  vutest.Options
	}{
		"inflight region": {
			func(o *vhostuser.Options) { o.Inflight = true },
			vutest.Options{Kind: vutest.CloudHypervisor},
		},
		"inflight region of packed rings": {
			func(o *vhostuser.Options) { o.Inflight = true },
			vutest.Options{Kind: vutest.QEMU10, Inflight: true, Guest: vutest.Guest{Packed: true, RingSize: 61}},
		},
		"positions of packed rings": {
			func(o *vhostuser.Options) { o.Positions = filepath.Join(dir, o.Name) },
			vutest.Options{Kind: vutest.QEMU10, Guest: vutest.Guest{Packed: true, RingSize: 61}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigWith(t, rigOptions{server: c.server}, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
			a, b := r.connect("a", c.guest), r.connect("b", vutest.Options{})
			if p := a.Protocol(); (c.guest.Kind == vutest.CloudHypervisor || c.guest.Inflight) && !p.Has(vhostuser.ProtocolInflight) {
				t.Fatalf("the front-end has taken %s, without inflight regions", p)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for round := range uint32(40) {
				pingPong(t, a, b)
				a.Disconnect()
				waiting := frame(macB, macA, 60, 1000+round)
				r.must(a.Send(0, waiting))
				_, err := a.Reconnect(ctx)
				r.must(err)
				arrives(t, b, waiting)
				r.must(a.WaitSent(0))
			}
			_, err := a.Reboot(ctx, c.guest.Guest)
			r.must(err)
			pingPong(t, a, b)
		})
	}
}
