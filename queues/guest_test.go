package queues

import (
	"bytes"
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// ethernet is a frame of n bytes that differs from those of other seeds.
func ethernet(n, seed int) []byte {
	f := make([]byte, n)
	copy(f, []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5})
	for i := 14; i < n; i++ {
		f[i] = byte(i*7 + i>>8 + seed*31)
	}
	return f
}

// tcp4 is an IPv4 TCP frame with so much payload, its checksum left to do.
func tcp4(payload, seed int) []byte {
	f := ethernet(54+payload, seed)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	copy(f[14:], []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(f[16:], uint16(40+payload))
	copy(f[34:], []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0})
	sum := fold(f[26:34], []byte{0, 6}, []byte{byte((20 + payload) >> 8), byte(20 + payload)})
	binary.BigEndian.PutUint16(f[50:], sum)
	return f
}

// fold is the ones' complement sum of parts of even length, but for the last.
func fold(parts ...[]byte) uint16 {
	var sum uint32
	for i, b := range bytes.Join(parts, nil) {
		sum += uint32(b) << (8 * (1 - i&1))
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// checksumHeader and tso are the headers that a driver puts before tcp4 frames.
func checksumHeader() virtio.NetHeader {
	return virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: 34, CsumOffset: 16}
}

func tso(mss uint16) virtio.NetHeader {
	h := checksumHeader()
	h.GSOType, h.GSOSize, h.HdrLen = virtio.GSOTCPv4, mss, 54
	return h
}

// canary is what receive buffers hold before anything is delivered.
const canary = 0xa5

// receiver is a guest that receives, by one pair of a NIC.
type receiver struct {
	*vqtest.Pair
	t       testing.TB
	nic     *NIC
	opts    vqtest.Options
	heads   []uint16       // of the chains with the device, oldest first
	sizes   map[uint16]int // of each, bytes
	written int            // bytes behind the ring that are no canaries any more
}

// The two kinds of receive rings of today's drivers.
const (
	plainRx   = virtio.Version1
	mergeable = virtio.Version1 | virtio.NetMrgRxBuf
)

// newReceiver is a guest with a NIC of one pair, its ring started and enabled.
func (r *rig) newReceiver(o vqtest.Options) *receiver {
	r.t.Helper()
	return r.attach(r.newNIC("web", 1), 0, o)
}

// attach starts and enables a pair of a NIC. Drivers of today get the rings of
// the rig's format.
func (r *rig) attach(n *NIC, pair int, o vqtest.Options) *receiver {
	r.t.Helper()
	if o.Features.Has(virtio.Version1) {
		o.Features |= ringFormat
	}
	if o.Size == 0 {
		o.Size = 256
	}
	if o.Memory == 0 {
		o.Memory = 4 << 20
	}
	p, err := vqtest.NewPair(o)
	must(r.t, err)
	v := &receiver{Pair: p, t: r.t, nic: n, opts: o, sizes: map[uint16]int{}}
	r.t.Cleanup(func() {
		n.StopRx(pair)
		p.Close()
	})
	v.fill()
	n.StartRx(pair, p.Queue, Attributes{Features: o.Features})
	n.EnableRx(pair, true)
	return v
}

// ringBytes is how much memory the ring itself takes.
func (v *receiver) ringBytes() uint64 {
	c := vqtest.Config{Size: v.opts.Size, Features: v.opts.Features, ShiftAvail: v.opts.ShiftAvail}
	return c.Bytes()
}

// buffers is the memory behind the ring.
func (v *receiver) buffers() sharedmem.Block {
	return v.Driver.At(vqtest.PairGPA+v.ringBytes(), v.opts.Memory-v.ringBytes())
}

// fill makes all memory behind the ring canaries.
func (v *receiver) fill() {
	b := v.buffers()
	b.CopyFrom(bytes.Repeat([]byte{canary}, int(b.Len())), 0)
	v.written = 0
}

// remake is a ring that goes on where the former one stood.
func (v *receiver) remake(s virtqueue.State) (*virtqueue.Queue, error) {
	err := v.Restart(&s)
	return v.Queue, err
}

// restart is StartRx with the ring at s.
func (v *receiver) restart(s virtqueue.State, at Attributes) {
	v.t.Helper()
	q, err := v.remake(s)
	must(v.t, err)
	v.nic.StartRx(0, q, at)
}

// post gives the device a buffer of each size.
func (v *receiver) post(sizes ...int) {
	v.t.Helper()
	for _, n := range sizes {
		v.postChain(n)
	}
}

// postChain gives the device one chain of several descriptors.
func (v *receiver) postChain(descriptors ...int) {
	v.t.Helper()
	indirect := v.opts.Features.Has(virtio.IndirectDesc) && len(descriptors) > 1
	head, err := v.Driver.Add(vqtest.Request{In: descriptors, Indirect: indirect})
	must(v.t, err)
	if indirect {
		v.written = v.changed() // the driver's table
	}
	v.Driver.Publish()
	v.heads = append(v.heads, head)
	v.sizes[head] = 0
	for _, n := range descriptors {
		v.sizes[head] += n
	}
}

// whole are packets of complete frames.
func whole(frames ...[]byte) []packet {
	list := make([]packet, len(frames))
	for i := range frames {
		list[i].frame = frames[i]
	}
	return list
}

// expect reaps all buffers that came back. They must be the oldest ones, hold
// list in order, and say so in their used entries; no other byte behind the
// ring may have changed (V50, V51). num_buffers follows from their sizes.
func (v *receiver) expect(list ...packet) {
	v.t.Helper()
	used := make([]virtqueue.Used, v.opts.Size)
	n, err := v.Driver.Reap(used)
	must(v.t, err)
	used = used[:n]
	for i, d := range list {
		stream, count := v.stream(d)
		if count > len(used) {
			v.t.Fatalf("delivery %d of %d takes %d buffers, the device returned %d more", i, len(list), count, len(used))
		}
		for at, u := range used[:count] {
			size := v.sizes[v.heads[0]]
			part := stream[:min(len(stream), size)]
			if u.Head != v.heads[0] || int(u.Len) != len(part) {
				v.t.Fatalf("delivery %d, buffer %d: used entry %d with %d bytes, want %d with %d", i, at, u.Head, u.Len, v.heads[0], len(part))
			}
			got := v.Driver.Written(u.Head, uint32(size))
			if !bytes.Equal(got[:len(part)], part) {
				v.t.Fatalf("delivery %d, buffer %d differs:\n%x, want\n%x", i, at, got[:min(80, len(part))], part[:min(80, len(part))])
			}
			if bytes.Count(got[len(part):], []byte{canary}) != size-len(part) {
				v.t.Fatalf("delivery %d, buffer %d: bytes behind used.len %d changed", i, at, len(part))
			}
			v.written += len(part) - bytes.Count(part, []byte{canary})
			stream, v.heads = stream[len(part):], v.heads[1:]
		}
		used = used[count:]
	}
	if len(used) > 0 {
		v.t.Fatalf("%d buffers came back beyond the %d deliveries", len(used), len(list))
	}
	v.expectNothingElse()
}

// expectNothingElse wants canaries in all memory behind the ring that holds
// nothing.
func (v *receiver) expectNothingElse() {
	v.t.Helper()
	if changed := v.changed(); changed != v.written {
		v.t.Errorf("%d bytes behind the ring were written, want %d", changed, v.written)
	}
}

// changed is how many bytes behind the ring are no canaries.
func (v *receiver) changed() int {
	image := make([]byte, v.buffers().Len())
	v.buffers().CopyTo(image, 0)
	return len(image) - bytes.Count(image, []byte{canary})
}

// stream is p as the driver reads it over its oldest buffers, and how many of
// them it takes.
func (v *receiver) stream(p packet) (bytes []byte, count int) {
	need := virtio.NetHeaderLen(v.opts.Features) + len(p.frame)
	for room := 0; room < need; count++ {
		if count == len(v.heads) {
			v.t.Fatalf("a delivery of %d bytes is expected in %d bytes of buffers", need, room)
		}
		room += v.sizes[v.heads[count]]
	}
	p.header.NumBuffers = uint16(count)
	header := make([]byte, need-len(p.frame))
	p.header.Encode(header)
	return append(header, p.frame...), count
}

// softFile is memory that can be taken away, with the descriptor to do it.
func softFile(t testing.TB, size uint64) (*sharedmem.File, *sys.FD) {
	t.Helper()
	fd, err := sys.NewMemfd("test", size, sys.MemfdOptions{})
	must(t, err)
	other, err := fd.Dup()
	must(t, err)
	t.Cleanup(func() { _ = other.Close() })
	file, err := sharedmem.OpenFile(fd)
	must(t, err)
	t.Cleanup(file.Unref)
	return file, other
}

// wantFault wants err to be a fault of m's.
func wantFault(t testing.TB, err error, m *sharedmem.Map) {
	t.Helper()
	var fault *sharedmem.FaultError
	if !errors.As(err, &fault) || fault.Map != m {
		t.Fatalf("%v, want a fault of the memory of %q", err, m.Owner())
	}
}

// signals reads how often an eventfd was signalled since it was asked last.
func signals(t testing.TB, e *virtqueue.Event) uint64 {
	t.Helper()
	var b [8]byte
	switch _, err := syscall.Read(e.FD(), b[:]); {
	case errors.Is(err, syscall.EAGAIN):
		return 0
	case err != nil:
		t.Fatalf("read an eventfd: %v", err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

// counted wants the NIC's counters to be these and no others.
func (v *receiver) counted(frames int, drops map[metrics.Reason]int) {
	v.t.Helper()
	s := v.nic.counters.Snapshot()
	if s.RxFrames != uint64(frames) {
		v.t.Errorf("%d frames are counted, want %d", s.RxFrames, frames)
	}
	for reason := range metrics.NumReasons {
		if got, want := s.Drops[reason], uint64(drops[reason]); got != want {
			v.t.Errorf("%d drops for %q, want %d", got, reason, want)
		}
	}
}
