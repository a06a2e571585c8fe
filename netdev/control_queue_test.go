package netdev_test

import (
	"context"
	"encoding/binary"
	"testing"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// forwarding are the front-ends that hand the control queue to the back-end.
var forwarding = []vutest.Kind{vutest.Crosvm, vutest.Libkrun}

// controlled is a guest that uses its control queue.
func controlled(k vutest.Kind) vutest.Options {
	return vutest.Options{Kind: k, Guest: vutest.Guest{Control: true}}
}

// command sends one that is to be answered with ack.
func command(t *testing.T, f *vutest.FrontEnd, ack uint8, data ...byte) {
	t.Helper()
	got, err := f.Control(vutest.Command{Data: data})
	if err != nil || got != ack {
		t.Fatalf("command %x: answered with %d, %v; want %d", data, got, err, ack)
	}
}

// tagged is a frame with an 802.1Q tag.
func tagged(dst, src [6]byte, id uint16) vutest.Frame {
	f := frame(dst, src, 64, uint32(id))
	b := append(append([]byte{}, f.Data[:12]...), 0x81, 0, byte(id>>8), byte(id))
	return vutest.Frame{Data: append(b, f.Data[12:]...)}
}

var (
	everybody = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	group1    = [6]byte{0x01, 0x00, 0x5e, 0, 0, 1}
	group2    = [6]byte{0x33, 0x33, 0, 0, 0, 2}
)

// A guest behind crosvm or libkrun receives what it asks for: everything at
// first, then what its modes, its tables and its VLANs say.
func TestReceiveModes(t *testing.T) {
	for _, k := range forwarding {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b", MAC: macB})
			a, b := r.connect("a", vutest.Options{}), r.connect("b", controlled(k))
			unwanted := func() uint64 {
				s := r.devices["b"].Snapshot()
				return s.Drops[metrics.ReasonUnwanted]
			}
			arrives := func(what string, f vutest.Frame, want bool) {
				t.Helper()
				before := unwanted()
				if want {
					exchange(t, a, b, 0, f)
					return
				}
				r.must(a.Send(0, f))
				r.must(a.WaitSent(0))
				if n := unwanted() - before; n != 1 {
					t.Errorf("%s: %d frames were dropped as unwanted, want 1: %s", what, n, r.counters())
				}
			}
			to := func(dst [6]byte) vutest.Frame { return frame(dst, macA, 60, 7) }
			for what, f := range map[string]vutest.Frame{"own": to(macB), "other": to(macC), "group": to(group1), "broadcast": to(everybody), "tag": tagged(macB, macA, 5)} {
				arrives("before any command: "+what, f, true)
			}
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 0)
			arrives("own address", to(macB), true)
			arrives("another address", to(macC), false)
			arrives("a group", to(group1), false)
			arrives("broadcast", to(everybody), true)
			arrives("a tag", tagged(macB, macA, 5), false)
			arrives("a tag without VLAN", tagged(macB, macA, 0), true)

			command(t, b, virtio.CtrlOK, virtio.CtrlVLAN, virtio.CtrlVLANAdd, 5, 0)
			arrives("a VLAN in the table", tagged(macB, macA, 5), true)
			arrives("another VLAN", tagged(macB, macA, 6), false)
			command(t, b, virtio.CtrlOK, virtio.CtrlVLAN, virtio.CtrlVLANDel, 5, 0)
			arrives("a VLAN taken out", tagged(macB, macA, 5), false)

			list := append([]byte{virtio.CtrlMAC, virtio.CtrlMACTableSet, 1, 0, 0, 0}, macC[:]...)
			command(t, b, virtio.CtrlOK, append(append(list, 1, 0, 0, 0), group1[:]...)...)
			arrives("an address in the table", to(macC), true)
			arrives("a group in the table", to(group1), true)
			arrives("another group", to(group2), false)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxAllMulticast, 1)
			arrives("all groups", to(group2), true)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxNoMulticast, 1)
			arrives("no groups", to(group1), false)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxNoBroadcast, 1)
			arrives("no broadcast", to(everybody), false)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxNoUnicast, 1)
			arrives("no unicast", to(macB), false)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 1)
			arrives("everything again", to(group2), true)

			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 0)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if _, err := b.Reboot(ctx, vutest.Guest{Control: true}); err != nil { // another driver, which has said nothing
				t.Fatal(err)
			}
			r.must(b.Barrier(ctx))
			arrives("after a reboot", to(group2), true)
		})
	}
}

// A front-end that answers the control queue itself gets everything, whatever
// its guest said: what is started decides, not what is negotiated.
func TestModesNeedTheQueue(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{Kind: vutest.CloudHypervisor})
	if !b.Features().Has(virtio.NetCtrlVQ) {
		t.Fatalf("features %s", b.Features())
	}
	exchange(t, a, b, 0, frame(macC, macA, 60, 1), frame(group1, macA, 60, 2), tagged(macB, macA, 9))
}

// MQ commands say by how many pairs frames come; the queue's index is behind
// all pairs, and GET_QUEUE_NUM counts it.
func TestPairsByCommand(t *testing.T) {
	for _, k := range forwarding {
		t.Run(k.String(), func(t *testing.T) {
			const pairs = 4
			r := newRig(t, 2, netdev.Options{Name: "a", Pairs: pairs}, netdev.Options{Name: "b", MAC: macB, Pairs: pairs})
			o := controlled(k)
			o.Pairs, o.Guest.Pairs = pairs, 1
			a, b := r.connect("a", vutest.Options{}), r.connect("b", o)
			if b.QueueNum() != 2*pairs+1 {
				t.Errorf("GET_QUEUE_NUM is %d, want %d", b.QueueNum(), 2*pairs+1)
			}
			// spread is by how many rings many flows arrive.
			spread := func() (rings int) {
				t.Helper()
				const flows = 64
				before := [pairs]uint64{}
				for i := range before {
					before[i] = used(b, 2*i)
				}
				for i := range uint32(flows) {
					f := udp4(macB, macA, i)
					r.must(a.Send(0, f))
					r.must(a.WaitSent(0))
				}
				total := uint64(0)
				for i := range before {
					n := used(b, 2*i) - before[i]
					if total += n; n > 0 {
						rings++
					}
				}
				if total != flows {
					t.Errorf("%d frames of %d arrived: %s", total, flows, r.counters())
				}
				return rings
			}
			if n := spread(); n != 1 {
				t.Errorf("a guest that uses 1 pair received by %d", n)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			r.must(b.UsePairs(ctx, pairs))
			if n := spread(); n != pairs {
				t.Errorf("64 flows came by %d of %d pairs", n, pairs)
			}
			r.must(b.UsePairs(ctx, 2))
			if n := spread(); n > 2 {
				t.Errorf("a guest that uses 2 pairs received by %d", n)
			}
			command(t, b, virtio.CtrlErr, virtio.CtrlMQ, virtio.CtrlMQPairsSet, 0, 0)
			command(t, b, virtio.CtrlErr, virtio.CtrlMQ, virtio.CtrlMQPairsSet, pairs+1, 0)
			if n := spread(); n > 2 {
				t.Errorf("a command that was refused changed the pairs to %d", n)
			}
		})
	}
}

// udp4 is a datagram of a flow.
func udp4(dst, src [6]byte, flow uint32) vutest.Frame {
	b := make([]byte, 60)
	copy(b, dst[:])
	copy(b[6:], src[:])
	copy(b[12:], []byte{0x08, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(b[34:], uint16(1000+flow))
	binary.BigEndian.PutUint16(b[36:], 9)
	binary.BigEndian.PutUint16(b[38:], 26)
	return vutest.Frame{Data: b}
}

// Commands as no good driver sends them: cut up, too long, without room for an
// answer. Each is answered, the queue goes on, and the counters tell.
func TestOddCommands(t *testing.T) {
	for _, k := range forwarding {
		r := newRig(t, 1, netdev.Options{Name: "b", MAC: macB})
		b := r.connect("b", controlled(k))
		long := make([]byte, 20<<10)
		copy(long, []byte{virtio.CtrlMAC, virtio.CtrlMACTableSet})
		for i, c := range []struct {
			cmd vutest.Command
			ack uint8
		}{
			{vutest.Command{Data: []byte{virtio.CtrlRx, virtio.CtrlRxPromisc, 0}, Parts: 3}, virtio.CtrlOK},
			{vutest.Command{Data: []byte{virtio.CtrlRx, virtio.CtrlRxPromisc, 1}, Parts: 7}, virtio.CtrlOK},
			{vutest.Command{Data: []byte{virtio.CtrlRx, virtio.CtrlRxPromisc, 0}, NoRoom: true}, 0},
			{vutest.Command{Data: long}, virtio.CtrlErr},
			{vutest.Command{Data: []byte{virtio.CtrlRx}}, virtio.CtrlErr},
			{vutest.Command{}, virtio.CtrlErr},
			{vutest.Command{Data: []byte{virtio.CtrlAnnounce, virtio.CtrlAnnounceAck}}, virtio.CtrlOK},
		} {
			ack, err := b.Control(c.cmd)
			if err != nil || ack != c.ack {
				t.Errorf("%s: command %d: answered with %d, %v; want %d", k, i, ack, err, c.ack)
			}
		}
		if s := r.devices["b"].Snapshot(); s.CommandsRefused != 4 || s.Commands < 7 {
			t.Errorf("%s: %d commands, %d refused; want at least 7 and 4", k, s.Commands, s.CommandsRefused)
		}
	}
}

// The control queue lives through what the other rings do: memory changes, a
// stop and a start on the same connection, a new connection.
func TestControlQueueLives(t *testing.T) {
	for _, k := range forwarding {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b", MAC: macB})
			a, b := r.connect("a", vutest.Options{}), r.connect("b", controlled(k))
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 0)
			region, err := b.AddMemory(ctx, 1<<20)
			r.must(err)
			r.must(b.Barrier(ctx))
			r.must(a.Send(0, frame(group1, macA, 60, 1)))
			r.must(a.WaitSent(0))
			if s := r.devices["b"].Snapshot(); s.Drops[metrics.ReasonUnwanted] != 1 {
				t.Errorf("the modes did not survive a change of memory: %s", r.counters())
			}
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxAllMulticast, 1)
			r.must(b.RemoveMemory(ctx, region))
			r.must(b.Barrier(ctx))
			exchange(t, a, b, 0, frame(group1, macA, 60, 2))
			r.must(b.Stop(ctx))
			r.start(b)
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 1)
			if _, err := b.Reconnect(ctx); err != nil {
				t.Fatal(err)
			}
			r.must(b.Barrier(ctx))
			command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 0)
			exchange(t, a, b, 0, frame(macB, macA, 60, 3))
		})
	}
}

// A guest whose memory goes away under its control queue loses that ring and
// costs its neighbours nothing.
func TestControlQueueFaults(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB}, netdev.Options{Name: "c", MAC: macC})
	a, c := r.connect("a", vutest.Options{}), r.connect("c", vutest.Options{})
	o := controlled(vutest.Crosvm)
	o.Truncatable = true
	b := r.connect("b", o)
	command(t, b, virtio.CtrlOK, virtio.CtrlRx, virtio.CtrlRxPromisc, 0)
	r.must(b.Truncate(0, 0))
	b.KickControl()
	r.waitFor("the ring to break", func() bool {
		for _, ring := range r.devices["b"].Snapshot().Rings {
			if ring.Broken && ring.Index == 2 {
				return true
			}
		}
		return false
	})
	pingPongBetween(t, a, c)
}

func pingPongBetween(t *testing.T, a, c *vutest.FrontEnd) {
	t.Helper()
	for i := range uint32(3) {
		exchange(t, a, c, 0, frame(macC, macA, 60, i))
		exchange(t, c, a, 0, frame(macA, macC, 60, i))
	}
}
