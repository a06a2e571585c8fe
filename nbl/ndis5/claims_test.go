package ndis5

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"vhostnet/nbl"
)

// Claims of docs/ndis.md about packets of NDIS 5.1.

var test = Tag{'t', 'e', 's', 't'}

// wire is an adapter that keeps what it was given to send.
type wire struct {
	sent   []*Packet
	frames [][]byte
	err    error
}

func (w *wire) send(p *Packet, frame nbl.Buffer) error {
	if w.err != nil {
		return w.err
	}
	out := make([]byte, frame.Length)
	c := frame.At(0)
	c.Read(out)
	w.sent, w.frames = append(w.sent, p), append(w.frames, out)
	return nil
}

// bound is a binding with pools of its own, which end empty with the test.
func bound(t *testing.T, w *wire, sizes PoolSizes) (*Binding, *Heap) {
	t.Helper()
	h := NewHeap(1 << 16)
	d, err := NewDriver(h, PoolSizes{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Bind(w.send, sizes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Unbind(), d.Unload()); err != nil {
			t.Error(err)
		}
		if a := h.Accounts(); len(a) != 0 {
			t.Errorf("memory left: %v", a)
		}
	})
	return b, h
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func refused(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func packet(t *testing.T, p *PacketPool) *Packet {
	t.Helper()
	packet, err := p.AllocatePacket()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// region is data in memory of h.
func region(t *testing.T, h *Heap, data string) *Region {
	t.Helper()
	r, err := h.AllocateMemoryWithTag(uint32(len(data)), test)
	if err != nil {
		t.Fatal(err)
	}
	copy(r.Bytes(), data)
	return r
}

func mapping(t *testing.T, p *BufferPool, r *Region) *Buffer {
	t.Helper()
	b, err := p.AllocateBuffer(r, 0, uint32(len(r.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// text is the bytes of a packet's chain.
func text(p *Packet) string {
	var s []byte
	for b, _, _ := p.Query(); b != nil; b = b.Next() {
		s = append(s, b.Bytes()...)
	}
	return string(s)
}

func TestClaim33_SendNeedsAChain(t *testing.T) {
	w := &wire{}
	b, h := bound(t, w, PoolSizes{Packets: 2, Buffers: 2})
	p := packet(t, b.Packets)
	refused(t, "no chain", b.Send(p), ErrParameter)
	r := region(t, h, "frame")
	buffer := mapping(t, b.Buffers, r)
	ok(t, p.ChainBufferAtBack(buffer), b.Send(p))
	if len(w.frames) != 1 || string(w.frames[0]) != "frame" {
		t.Errorf("sent %q", w.frames)
	}
	refused(t, "sent twice", b.Send(p), ErrParameter)
	refused(t, "freed while sent", b.Packets.FreePacket(p), ErrParameter)
	refused(t, "discarded while sent", b.Discard(p), ErrParameter)
	if p.UnchainBufferAtFront() != nil || p.UnchainBufferAtBack() != nil {
		t.Error("the adapter's packet lost a buffer")
	}
	ok(t, b.Complete(p))
	refused(t, "completed twice", b.Complete(p), ErrParameter)
	w.err = ErrResources
	refused(t, "the adapter's status", b.Send(p), ErrResources)
	ok(t, b.Discard(p)) // it is the sender's again
}

func TestClaim34_PacketsOfThePool(t *testing.T) {
	w := &wire{}
	b, h := bound(t, w, PoolSizes{Packets: 1, Buffers: 1})
	other, err := AllocatePacketPool(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	foreign, loose := packet(t, other), &Packet{}
	r := region(t, h, "x")
	buffer := mapping(t, b.Buffers, r)
	ok(t, foreign.ChainBufferAtBack(buffer))
	refused(t, "send of a foreign packet", b.Send(foreign), ErrParameter)
	refused(t, "chaining to no pool's packet", loose.ChainBufferAtBack(buffer), ErrParameter)
	refused(t, "send of no pool's packet", b.Send(loose), ErrParameter)
	foreign.Reinitialize()
	refused(t, "free to another pool", b.Packets.FreePacket(foreign), ErrParameter)
	ok(t, other.FreePacket(foreign))
	refused(t, "free twice", other.FreePacket(foreign), ErrParameter)
	refused(t, "chaining to a free packet", foreign.ChainBufferAtFront(buffer), ErrParameter)
	ok(t, b.Buffers.FreeBuffer(buffer), h.FreeMemory(r), other.Free())
	if len(w.sent) != 0 {
		t.Error("a foreign packet was sent")
	}
}

func TestClaim35_FixedPool(t *testing.T) {
	for _, n := range []int{1, 7, maxPackets} {
		p, err := AllocatePacketPool(n, 8)
		if err != nil {
			t.Fatal(err)
		}
		var all []*Packet
		for range n {
			all = append(all, packet(t, p))
		}
		if _, err := p.AllocatePacket(); !errors.Is(err, ErrResources) || p.Usage() != n {
			t.Errorf("packet %d of %d: %v, %d in use", n+1, n, err, p.Usage())
		}
		for _, x := range all {
			ok(t, p.FreePacket(x))
		}
		ok(t, p.Free())
	}
	for n, want := range map[int]error{0: ErrParameter, -1: ErrParameter, maxPackets + 1: ErrResources} {
		if _, err := AllocatePacketPool(n, 0); !errors.Is(err, want) {
			t.Errorf("a pool of %d: %v, want %v", n, err, want)
		}
	}
}

// Overflow is made when all are in use, up to the cap, and leaves the pool
// when it is freed.
func TestClaim36_OverflowPool(t *testing.T) {
	p, err := AllocatePacketPoolEx(2, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Packet
	for i := range 5 {
		all = append(all, packet(t, p))
		if want := max(2, i+1); p.total != want {
			t.Errorf("%d descriptors exist after %d were taken, want %d", p.total, i+1, want)
		}
	}
	if _, err := p.AllocatePacket(); !errors.Is(err, ErrResources) {
		t.Errorf("a sixth of five: %v", err)
	}
	for i, x := range all {
		ok(t, p.FreePacket(x))
		if want := max(2, 4-i); p.total != want {
			t.Errorf("%d descriptors exist after %d were freed, want %d", p.total, i+1, want)
		}
	}
	refused(t, "freed overflow, again", p.FreePacket(all[0]), ErrParameter)
	if a, b := packet(t, p), packet(t, p); a != all[4] && b != all[4] || p.total != 2 {
		t.Error("the pool does not hold what was freed last")
	}
	for _, c := range []struct{ n, overflow, most int }{
		{maxPackets, 1, maxPackets}, {1, maxPackets, maxPackets}, {0xfff0, 0xff, maxPackets}, {0xfff0, 0xf, maxPackets}, {10, 5, 15},
	} {
		p, err := AllocatePacketPoolEx(c.n, c.overflow, 0)
		if err != nil || p.most != c.most {
			t.Errorf("%d and %d more: %v, %d in all, want %d", c.n, c.overflow, err, p.most, c.most)
		}
	}
	if _, err := AllocatePacketPoolEx(maxPackets+1, 0, 0); !errors.Is(err, ErrResources) {
		t.Errorf("more than can be: %v", err)
	}
}

// A driver's pools serve its bindings and outlive them; a binding's die with
// it.
func TestClaim37_PoolsOfDriverOrBinding(t *testing.T) {
	h := NewHeap(1 << 10)
	w := &wire{}
	d, err := NewDriver(h, PoolSizes{Packets: 4, Buffers: 4})
	if err != nil {
		t.Fatal(err)
	}
	shared, err := d.Bind(w.send, PoolSizes{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := d.Bind(w.send, PoolSizes{Packets: 1, Buffers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if shared.Packets != d.pools.Packets || own.Packets == d.pools.Packets {
		t.Error("a binding uses the wrong pools")
	}
	x, y := packet(t, shared.Packets), packet(t, own.Packets)
	refused(t, "unload while bound", d.Unload(), ErrParameter)
	refused(t, "unbind with a packet of its pool", own.Unbind(), ErrParameter)
	ok(t, own.Packets.FreePacket(y), own.Unbind())
	if _, err := own.Packets.AllocatePacket(); !errors.Is(err, ErrResources) {
		t.Errorf("the pool outlives its binding: %v", err)
	}
	refused(t, "unbind twice", own.Unbind(), ErrParameter)
	ok(t, shared.Unbind())
	refused(t, "unload with a packet out", d.Unload(), ErrParameter)
	ok(t, d.pools.Packets.FreePacket(packet(t, d.pools.Packets))) // the driver's pool lives on
	ok(t, d.pools.Packets.FreePacket(x), d.Unload())
	none, err := NewDriver(h, PoolSizes{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Bind(w.send, PoolSizes{}); !errors.Is(err, ErrParameter) {
		t.Errorf("a binding without pools: %v", err)
	}
	ok(t, none.Unload())
}

// One call takes one descriptor, with an empty chain and a zero area.
func TestClaim38_OnePacket(t *testing.T) {
	p, err := AllocatePacketPool(3, 16)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		x := packet(t, p)
		first, n, bytes := x.Query()
		if p.Usage() != i+1 || first != nil || n != 0 || bytes != 0 || len(x.Reserved()) != 16 || slices.Max(x.Reserved()) != 0 {
			t.Errorf("%d in use, %d buffers, reserved %v", p.Usage(), n, x.Reserved())
		}
		x.Reserved()[15] = 1
		if i == 1 {
			ok(t, p.FreePacket(x))
			if again := packet(t, p); again != x || x.Reserved()[15] != 0 {
				t.Error("the area holds what was left by the last owner")
			}
		}
	}
}

// Any sequence of chaining and unchaining at both ends is that on a slice.
func TestClaim39_ChainOrder(t *testing.T) {
	h, pool := NewHeap(1<<10), AllocateBufferPool(20)
	packets, err := AllocatePacketPool(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := packet(t, packets)
	rng := rand.New(rand.NewPCG(39, 0))
	var spare, chain []*Buffer
	for i := range 20 {
		spare = append(spare, mapping(t, pool, region(t, h, string(rune('a'+i)))))
	}
	for range 3000 {
		switch op := rng.IntN(4); {
		case op < 2 && len(spare) > 0:
			b := spare[0]
			spare = spare[1:]
			if op == 0 {
				ok(t, p.ChainBufferAtFront(b))
				chain = append([]*Buffer{b}, chain...)
			} else {
				ok(t, p.ChainBufferAtBack(b))
				chain = append(chain, b)
			}
			refused(t, "chained twice", p.ChainBufferAtBack(b), ErrParameter)
			refused(t, "freed while chained", pool.FreeBuffer(b), ErrParameter)
		case op >= 2:
			var got, want *Buffer
			if op == 2 {
				if got = p.UnchainBufferAtFront(); len(chain) > 0 {
					want, chain = chain[0], chain[1:]
				}
			} else {
				if got = p.UnchainBufferAtBack(); len(chain) > 0 {
					want, chain = chain[len(chain)-1], chain[:len(chain)-1]
				}
			}
			if got != want {
				t.Fatal("another buffer was taken off")
			}
			if got != nil {
				spare = append(spare, got)
			}
		}
		var want []byte
		for _, b := range chain {
			want = append(want, b.Bytes()...)
		}
		if _, n, length := p.Query(); text(p) != string(want) || n != len(chain) || int(length) != len(want) {
			t.Fatalf("the chain is %q (%d buffers, %d bytes), want %q", text(p), n, length, want)
		}
	}
	p.Reinitialize()
	if _, n, _ := p.Query(); n != 0 {
		t.Errorf("%d buffers after reinitialize", n)
	}
	ok(t, packets.FreePacket(p))
}

func TestClaim40_Split(t *testing.T) {
	w := &wire{}
	b, h := bound(t, w, PoolSizes{Packets: 1, Buffers: 20})
	client := make([]byte, 100)
	for i := range client {
		client[i] = byte(i)
	}
	for _, size := range []uint32{5, 7, 99, 100, 1000} {
		p, err := b.Split(client, size, test)
		if err != nil {
			t.Fatal(err)
		}
		_, n, _ := p.Query()
		if want := (100 + int(size) - 1) / int(size); n != want || text(p) != string(client) {
			t.Errorf("pieces of %d: %d, want %d", size, n, want)
		}
		if &p.head.bytes[0] == &client[0] || h.Accounts()[0] != (TagAccount{test, 100, n}) {
			t.Errorf("not a copy under the tag: %v", h.Accounts())
		}
		ok(t, b.Send(p))
		if got := w.frames[len(w.frames)-1]; !bytes.Equal(got, client) {
			t.Errorf("pieces of %d: sent %x", size, got)
		}
		ok(t, b.Complete(p), b.Discard(p))
	}
	// What cannot be made whole leaves nothing.
	for _, c := range []struct {
		what   string
		client []byte
		size   uint32
		want   error
	}{
		{"21 pieces of 20", client[:84], 4, ErrFailure},
		{"too little memory", make([]byte, 1<<17), 1 << 14, ErrFailure},
		{"no size", client, 0, ErrParameter},
		{"no bytes", nil, 1, ErrParameter},
	} {
		_, err := b.Split(c.client, c.size, test)
		refused(t, c.what, err, c.want)
	}
	if b.Packets.Usage() != 0 || b.Buffers.Live() != 0 || len(h.Accounts()) != 0 {
		t.Errorf("%d packets, %d buffers, %v left", b.Packets.Usage(), b.Buffers.Live(), h.Accounts())
	}
}

func TestClaim41_BufferPool(t *testing.T) {
	h := NewHeap(100)
	p := AllocateBufferPool(2)
	r := region(t, h, "0123456789")
	a, b := mapping(t, p, r), mapping(t, p, r)
	_, err := p.AllocateBuffer(r, 0, 1)
	refused(t, "a third of two", err, ErrFailure)
	refused(t, "pool freed in use", p.Free(), ErrParameter)
	refused(t, "freed to another pool", AllocateBufferPool(1).FreeBuffer(a), ErrParameter)
	ok(t, p.FreeBuffer(a))
	refused(t, "freed twice", p.FreeBuffer(a), ErrParameter)
	if p.Live() != 1 {
		t.Errorf("%d live, want 1", p.Live())
	}
	ok(t, p.FreeBuffer(b), p.Free(), h.FreeMemory(r))
	_, err = AllocateBufferPool(0).AllocateBuffer(region(t, h, "x"), 0, 1)
	refused(t, "of a pool of none", err, ErrFailure)
}

func TestClaim42_MemoryWithTag(t *testing.T) {
	h := NewHeap(100)
	a, err := h.AllocateMemoryWithTag(60, Tag{'u', 'p', 'p', 'r'})
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.AllocateMemoryWithTag(10, Tag{})
	if err != nil {
		t.Fatal(err)
	}
	want := []TagAccount{{DefaultTag, 10, 1}, {a.Tag(), 60, 1}}
	if got := h.Accounts(); !slices.Equal(got, want) || DefaultTag.String() != "NDam" {
		t.Errorf("accounts %v, want %v", got, want)
	}
	for _, n := range []uint32{0, 31, 1 << 31} {
		_, err := h.AllocateMemoryWithTag(n, test)
		refused(t, "30 bytes are left", err, ErrFailure)
	}
	refused(t, "freed elsewhere", NewHeap(1).FreeMemory(a), ErrParameter)
	ok(t, h.FreeMemory(a), h.FreeMemory(b))
	refused(t, "freed twice", h.FreeMemory(a), ErrParameter)
	if len(h.Accounts()) != 0 || h.used != 0 {
		t.Errorf("%v, %d bytes used", h.Accounts(), h.used)
	}
}

// A descriptor maps the memory itself: what is written to one is in the other.
func TestClaim43_BufferMapsMemory(t *testing.T) {
	h, p := NewHeap(100), AllocateBufferPool(2)
	r := region(t, h, "0123456789")
	whole := mapping(t, p, r)
	part, err := p.AllocateBuffer(r, 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	if string(whole.Bytes()) != "0123456789" || string(part.Bytes()) != "3456" || cap(part.Bytes()) != 4 {
		t.Errorf("%q and %q", whole.Bytes(), part.Bytes())
	}
	part.Bytes()[0] = 'x'
	if r.Bytes()[3] != 'x' || whole.Bytes()[3] != 'x' || whole.Region() != r {
		t.Error("the descriptor maps other memory")
	}
	refused(t, "memory freed while it is mapped", h.FreeMemory(r), ErrParameter)
	ok(t, p.FreeBuffer(whole))
	refused(t, "memory freed while a part is mapped", h.FreeMemory(r), ErrParameter)
	ok(t, p.FreeBuffer(part), h.FreeMemory(r))
}

func TestClaim44_RangeInsideAllocation(t *testing.T) {
	h, p := NewHeap(100), AllocateBufferPool(5)
	r := region(t, h, "0123456789")
	for _, c := range [][2]uint32{{0, 11}, {10, 1}, {11, 0}, {5, 6}, {0, 0}, {1<<32 - 1, 1}, {1, 1<<32 - 1}} {
		_, err := p.AllocateBuffer(r, c[0], c[1])
		refused(t, "a range outside", err, ErrParameter)
	}
	for _, c := range [][2]uint32{{0, 10}, {9, 1}, {0, 1}} {
		b, err := p.AllocateBuffer(r, c[0], c[1])
		if err != nil {
			t.Errorf("%d bytes at %d: %v", c[1], c[0], err)
			continue
		}
		ok(t, p.FreeBuffer(b))
	}
	ok(t, h.FreeMemory(r))
	for _, gone := range []*Region{r, nil, {}} {
		_, err := p.AllocateBuffer(gone, 0, 1)
		refused(t, "memory that is not allocated", err, ErrParameter)
	}
	if p.Live() != 0 {
		t.Errorf("%d descriptors of refused ranges", p.Live())
	}
}
