package netdev_test

import (
	"context"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// Every front-end reaches every other one, with frames of every shape.
func TestFramesBetweenAllKinds(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	for _, va := range flavours() {
		for _, vb := range flavours() {
			t.Logf("%s and %s", va.name, vb.name)
			a := r.connect("a", va.options())
			b := r.connect("b", vb.options())
			for i, n := range []int{14, 60, 61, 511, 1514} {
				plain := frame(macB, macA, n, uint32(i))
				alone, cut, parts := plain, plain, plain
				alone.HeaderAlone, cut.HeaderCut, parts.Parts = true, 7, 9
				exchange(t, a, b, 0, plain, alone, cut, parts)
				exchange(t, b, a, 0, frame(macA, macB, n, uint32(i)))
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A long frame goes into several merged buffers and comes out whole.
func TestMergedBuffers(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	a := r.connect("a", vutest.Options{})
	for _, buffer := range []int{13, 64, 256, 1536, 4096, 65562, -13, -256, -65562} { // negative: of packed rings
		g := vutest.Guest{RxBuffer: buffer, RingSize: 1024}
		if buffer < 0 {
			buffer = -buffer
			g = vutest.Guest{RxBuffer: buffer, RingSize: 1021, Packed: true}
		}
		if buffer == 65562 {
			g.RxBuffers = 16
		}
		b := r.connect("b", vutest.Options{Guest: g, MemorySize: 32 << 20})
		t.Logf("buffers of %d bytes", buffer)
		n := min(9000, buffer*1000)
		for i, n := range []int{n, 60, n - 1} { // one by one, as two may need more buffers than there are
			exchange(t, a, b, 0, frame(macB, macA, n, uint32(i)))
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Buffers that can never hold a frame cost that frame, and nothing else.
func TestV44_BuffersTooSmall(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	a := r.connect("a", vutest.Options{})
	b := r.connect("b", vutest.Options{Guest: vutest.Guest{Without: virtio.NetMrgRxBuf, RxBuffer: 600}})
	if err := a.Send(0, frame(macB, macA, 1000, 1)); err != nil {
		t.Fatal(err)
	}
	r.waitFor("the drop", func() bool { return r.devices["b"].Snapshot().Drops[metrics.ReasonBuffersSmall] == 1 })
	exchange(t, a, b, 0, frame(macB, macA, 500, 2))
}

// A driver may boot another one on the same connection, with other features,
// and the front-end may leave and come back.
func TestRebootAndReconnect(t *testing.T) {
	for _, v := range flavours() {
		t.Run(v.name, func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
			a, b := r.connect("a", v.options()), r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, g := range []vutest.Guest{
				{Without: ^virtio.Version1, RingSize: 64}, {Without: virtio.NetMrgRxBuf}, {RingSize: 1024}, {},
			} {
				pingPong(t, a, b)
				if _, err := a.Reboot(ctx, v.guest(g)); err != nil {
					t.Fatal(err)
				}
			}
			pingPong(t, a, b)
			if v.packed { // an older guest on the same connection, and back
				for _, g := range []vutest.Guest{{}, v.guest(vutest.Guest{RingSize: 1})} {
					if _, err := a.Reboot(ctx, g); err != nil {
						t.Fatal(err)
					}
					pingPong(t, a, b)
				}
			}
			if v.packed && v.kind != vutest.VirtioUser {
				return // QEMU knows no more where the ring stands, and virtio has no place for it
			}
			if _, err := a.Reconnect(ctx); err != nil {
				t.Fatal(err)
			}
			pingPong(t, a, b)
		})
	}
}

// What a guest sends by one pair, its answers come back by.
func TestAnswersComeByTheSamePair(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	a := r.connect("a", vutest.Options{Pairs: 4, Guest: vutest.Guest{Pairs: 4}})
	b := r.connect("b", vutest.Options{})
	for pair := range 4 {
		there, back := flow(macB, macA, 1000+pair, 80), flow(macA, macB, 80, 1000+pair)
		if err := a.Send(pair, there); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Recv(0, patience); err != nil {
			t.Fatal(err)
		}
		if err := b.Send(0, back); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Recv(pair, patience); err != nil {
			t.Errorf("the answer of a flow of pair %d: %v", pair, err)
		}
	}
}

// flow is a UDP datagram without checksum.
func flow(dst, src [6]byte, from, to int) vutest.Frame {
	f := frame(dst, src, 80, 0)
	ip := []byte{
		0x45, 0, 0, 66, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, src[5], 10, 0, 0, dst[5],
		byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, 46, 0, 0,
	}
	f.Data[12], f.Data[13] = 0x08, 0x00
	copy(f.Data[14:], ip)
	return f
}

// A receiver without buffers holds its sender up for a moment, loses frames
// after it, and is served again when it gives buffers (V72, V73).
func TestV72_ReceiverWithoutBuffers(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"}, netdev.Options{Name: "c"})
	a := r.connect("a", vutest.Options{})
	b := r.connect("b", vutest.Options{Guest: vutest.Guest{RxBuffers: 4}})
	exchange(t, a, b, 0, frame(macB, macA, 60, 0)) // the switch knows a
	exchange(t, b, a, 0, frame(macA, macB, 60, 0)) // and b
	c := r.connect("c", vutest.Options{})
	for i := range uint32(200) {
		if err := a.Send(0, frame(macB, macA, 60, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.WaitSent(0); err != nil {
		t.Fatal(err)
	}
	exchange(t, a, c, 0, frame(macC, macA, 60, 1)) // flooded: b is too full, c gets it
	exchange(t, c, a, 0, frame(macA, macC, 60, 2))
	for i := range uint32(4) {
		if _, err := b.Recv(0, patience); err != nil {
			t.Fatalf("frame %d of those that found buffers: %v", i, err)
		}
	}
	for range 100 { // drain what came while b had buffers again
		if _, ok, err := b.TryRecv(0); err != nil || !ok {
			break
		}
	}
	exchange(t, a, b, 0, frame(macB, macA, 60, 77))
	if d := r.devices["b"].Snapshot().Drops.Total() + r.devices["a"].Snapshot().Drops.Total(); d == 0 {
		t.Error("200 frames found room in 4 buffers")
	}
}

// QEMU asks for an announcement after a migration; it reaches the others.
func TestAnnounce(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	r.connect("a", vutest.Options{})
	b := r.connect("b", vutest.Options{})
	if err := r.devices["a"].Announce(macA); err != nil {
		t.Fatal(err)
	}
	got, err := b.Recv(0, patience)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 0xa, 0x80, 0x35, // Ethernet: RARP to all
		0, 1, 8, 0, 6, 4, 0, 3, // Ethernet, IPv4, request reverse
		0x52, 0x54, 0, 0, 0, 0xa, 0, 0, 0, 0, // sender
		0x52, 0x54, 0, 0, 0, 0xa, 0, 0, 0, 0, // target
	}
	if len(got.Data) != 60 || string(got.Data[:len(want)]) != string(want) {
		t.Errorf("announcement %x", got.Data)
	}
}

// The driver's MTU keeps longer frames out, segmentation aside.
func TestMTU(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	a := r.connect("a", vutest.Options{})
	b := r.connect("b", vutest.Options{MTU: 1400})
	if !b.Features().Has(virtio.NetMTU) {
		t.Fatalf("the driver did not take an MTU: %v", b.Features())
	}
	exchange(t, a, b, 0, frame(macB, macA, 1414, 1))
	if err := a.Send(0, frame(macB, macA, 1419, 2)); err != nil {
		t.Fatal(err)
	}
	r.waitFor("the drop", func() bool { return r.devices["b"].Snapshot().Drops[metrics.ReasonMTU] == 1 })
}

// Rings that are disabled are left alone; what waits in them moves when they
// are enabled (trap 7.20, 7.35).
func TestTrap7_20_DisabledRings(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.Enable(ctx, 1, false); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(0, frame(macB, macA, 60, 1)); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Recv(0, 50*time.Millisecond); err == nil {
		t.Fatalf("a disabled ring sent %x", got.Data)
	}
	if err := a.Enable(ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(0, patience); err != nil {
		t.Fatal("the frame that waited did not move: ", err)
	}
	if err := b.Enable(ctx, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(0, frame(macB, macA, 60, 2)); err != nil {
		t.Fatal(err)
	}
	r.waitFor("the drop", func() bool { return r.devices["b"].Snapshot().Drops[metrics.ReasonDisabled] == 1 })
}

// What the switch learned of a guest goes when its last ring stops: frames to it
// are looked for elsewhere, where it may be by now.
func TestLearnedAddressesGoWithTheLastRing(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"}, netdev.Options{Name: "c"})
	a, b, c := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{}), r.connect("c", vutest.Options{})
	exchange(t, a, b, 0, frame(macB, macA, 60, 1))
	drain(t, c)
	exchange(t, b, a, 0, frame(macA, macB, 60, 2))
	if got, ok, err := c.TryRecv(0); ok || err != nil {
		t.Fatalf("a frame for a came to c: %x, %v", got.Data, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(a.Stop(ctx))
	exchange(t, b, c, 0, frame(macA, macB, 60, 3))
}

// Packets of different senders are told apart, also where what was made of them
// is kept: each begins as the other does, and both are completed here.
func TestPacketsOfTwoSendersAreToldApart(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b", MAC: macB}, netdev.Options{Name: "c"})
	a, c := r.connect("a", vutest.Options{}), r.connect("c", vutest.Options{})
	b := r.connect("b", vutest.Options{Guest: vutest.Guest{Without: allOffloads}})
	for i := range 20 {
		for seed, from := range []*vutest.FrontEnd{a, c} {
			p := &packet{proto: udp, payload: pattern(100+i, seed)}
			if err := p.carry(from, b); err != nil {
				t.Fatalf("packet %d of sender %d: %v", i, seed, err)
			}
		}
	}
	if n := r.devices["b"].Snapshot().SoftOffload; n != 40 {
		t.Errorf("%d of 40 packets were completed", n)
	}
}
