package virtqueue_test

import (
	"errors"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

const page = 4096

// softFile is guest memory that can be truncated, with the descriptor to do it.
func softFile(t *testing.T, size uint64) (*sharedmem.File, *sys.FD) {
	t.Helper()
	fd, err := sys.NewMemfd("test", size, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	file, err := sharedmem.OpenFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(file.Unref)
	return file, other
}

// truncate gives the memory file so many bytes.
func truncate(t *testing.T, fd *sys.FD, size uint64) {
	t.Helper()
	if err := sys.Truncate(fd, size); err != nil {
		t.Fatal(err)
	}
}

// wantFault runs f under Guard and wants it to touch memory that is gone.
func wantFault(t *testing.T, what string, f func()) (fault sharedmem.FaultError) {
	t.Helper()
	err := sharedmem.Guard(func() error { f(); return nil })
	got, ok := errors.AsType[*sharedmem.FaultError](err)
	if !ok {
		t.Fatalf("%s: %v, want a fault", what, err)
	}
	return *got
}

// TestV32_FaultInPop: memory disappears under the second of three chains.
// Nothing has been taken, and when the memory is back all three come.
func TestV32_FaultInPop(t *testing.T) {
	const size = 64 * page
	file, fd := softFile(t, size)
	for _, v := range variants(8) {
		v.opts.File, v.opts.Memory = file, size
		v.opts.Features |= virtio.IndirectDesc
		p := newPair(t, v.opts)
		const table = vqtest.PairGPA + 63*page
		add(t, p, vqtest.Request{Out: pieces(6, 8), Indirect: true})
		second := add(t, p, vqtest.Request{Out: [][]byte{{1}}})
		add(t, p, vqtest.Request{Out: [][]byte{{1}}})
		writeTable := func() {
			for i, r := range line(6) {
				p.Driver.SetTableDesc(table, i, vqtest.PairGPA+32*page, 8, r.flags, r.next)
			}
		}
		writeTable()
		p.Driver.SetDesc(second, table, 6*16, flagIndirect, 0)
		p.Queue.Arm()
		p.Driver.Publish()

		truncate(t, fd, 63*page)
		chains := make([]virtqueue.Chain, 8)
		wantFault(t, "Pop", func() { _, _ = p.Queue.Pop(chains) })
		if n, err := p.Queue.Ready(); n != 3 || err != nil || !p.Queue.Armed() {
			t.Fatalf("%s: after the fault Ready = %d, %v", v.name, n, err)
		}
		truncate(t, fd, size)
		writeTable()
		got := popAll(t, p.Queue, 8)
		if len(got) != 3 || got[1].Readable != 48 || len(got[0].ReadableBlocks()) != 6 || len(got[1].ReadableBlocks()) != 6 {
			t.Fatalf("%s: %d chains after the memory came back", v.name, len(got))
		}
		pushAll(p.Queue, got)
		if done, err := p.Driver.Collect(); len(done) != 3 || err != nil {
			t.Errorf("%s: the driver has %d chains back, %v", v.name, len(done), err)
		}
		p.Close()
	}
}

// faultRing is a ring of 1024 entries in soft memory whose last page holds only
// one end of it.
type faultRing struct {
	fd    *sys.FD
	queue *virtqueue.Queue
	used  sharedmem.Block
	avail sharedmem.Block
}

const faultMemory = 64 * page

// newFaultRing puts the avail ring at one guest address and the used ring at
// another. All descriptors are one byte; 300 chains are published.
func newFaultRing(t *testing.T, f virtio.Features, availAt, usedAt uint64) *faultRing {
	t.Helper()
	const size = 1024
	file, fd := softFile(t, faultMemory)
	mem, err := sharedmem.NewMap([]sharedmem.Region{{Size: faultMemory, File: file}}, sharedmem.MapOptions{Owner: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mem.Unref)
	block := func(gpa, n uint64) sharedmem.Block {
		b, err := mem.Block(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r := &faultRing{fd: fd, avail: block(availAt, virtqueue.AvailLen(size, f)), used: block(usedAt, virtqueue.UsedLen(size, f))}
	desc := block(page, virtqueue.DescLen(size))
	for i := range uint32(300) {
		desc.Store64(16*i, 0)
		desc.Store64(16*i+8, 1)
		r.avail.Store16(4+2*i, uint16(i))
	}
	r.avail.StoreRelease32(0, 300<<16)
	r.queue, err = virtqueue.New(virtqueue.Config{Size: size, Features: f, Desc: desc, Avail: r.avail, Used: r.used}, mem)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.queue.Close)
	return r
}

// TestV32_FaultInPush: the used ring loses its second half while entries are
// written. Nothing is published, the chains stay taken, and the same Push
// succeeds when the memory is back.
func TestV32_FaultInPush(t *testing.T) {
	r := newFaultRing(t, 0, 8*page, 62*page-4-8*200) // entry 200 starts page 62
	chains := popAll(t, r.queue, 1024)
	pushAll(r.queue, chains[:150])
	truncate(t, r.fd, 62*page)
	fault := wantFault(t, "Push", func() { pushAll(r.queue, chains[150:]) })
	if idx := r.used.Load16(2); idx != 150 {
		t.Fatalf("used.idx = %d after the fault, want 150", idx)
	}
	truncate(t, r.fd, faultMemory)
	pushAll(r.queue, chains[150:])
	if idx := r.used.Load16(2); idx != 300 {
		t.Fatalf("used.idx = %d, want 300", idx)
	}
	for i := range uint32(300) {
		if id := r.used.Load32(4 + 8*i); id != i {
			t.Fatalf("used entry %d is chain %d", i, id)
		}
	}
	r.queue.Break(&fault)
	if !errors.Is(r.queue.Broken(), &fault) {
		t.Errorf("Broken = %v", r.queue.Broken())
	}
	if s := r.queue.Suspend(); s.Base() != 300 {
		t.Errorf("Suspend = %+v", s)
	}
}

// TestV32_FaultBehindPublication: used.idx was stored, then the driver's wish
// cannot be read. The chains are pushed, and the State says so.
func TestV32_FaultBehindPublication(t *testing.T) {
	// used_event starts the last page, the rest of the avail ring lies before.
	r := newFaultRing(t, virtio.EventIdx, 63*page-4-2*1024, 8*page)
	chains := popAll(t, r.queue, 100)
	pushAll(r.queue, chains[:1]) // the first call does not ask
	truncate(t, r.fd, 63*page)
	wantFault(t, "Push", func() { pushAll(r.queue, chains[1:40]) })
	if idx := r.used.Load16(2); idx != 40 {
		t.Fatalf("used.idx = %d after the fault, want 40", idx)
	}
	if s := r.queue.Suspend(); s.Base() != 40 {
		t.Errorf("Suspend = %+v, want 40", s)
	}
}

// TestV32_EveryEntryPoint: with all memory gone, what reads it faults inside
// Guard, and what need not read it does not.
func TestV32_EveryEntryPoint(t *testing.T) {
	r := newFaultRing(t, 0, 8*page, 16*page)
	chains := popAll(t, r.queue, 2)
	truncate(t, r.fd, 0)
	wantFault(t, "Pop", func() { _, _ = r.queue.Pop(make([]virtqueue.Chain, 1)) })
	wantFault(t, "Ready", func() { _, _ = r.queue.Ready() })
	wantFault(t, "Push", func() { pushAll(r.queue, chains) })
	fault := wantFault(t, "Arm", func() { r.queue.Arm() })
	// Outside of Guard from here on: a fault would end the test binary.
	r.queue.Unpop(1)
	r.queue.Break(&fault)
	if _, err := r.queue.Pop(chains); !errors.Is(err, &fault) {
		t.Errorf("Pop = %v", err)
	}
	if pushAll(r.queue, chains[:1]) || r.queue.Arm() {
		t.Error("a broken ring wants something")
	}
	if s := r.queue.Suspend(); s.Base() != 0 {
		t.Errorf("Suspend = %+v", s)
	}
}

// TestV32_New: a ring that cannot be read at its start is a fault, and takes no
// reference.
func TestV32_New(t *testing.T) {
	file, fd := softFile(t, 64*page)
	budget, err := sharedmem.NewBudget(sharedmem.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	port := budget.Port()
	mem, err := sharedmem.NewMap([]sharedmem.Region{{Size: 64 * page, File: file}}, sharedmem.MapOptions{Budget: port})
	if err != nil {
		t.Fatal(err)
	}
	c := virtqueue.Config{Size: 1}
	c.Desc, _ = mem.Block(0, virtqueue.DescLen(1))
	c.Avail, _ = mem.Block(page, virtqueue.AvailLen(1, 0))
	c.Used, _ = mem.Block(2*page, virtqueue.UsedLen(1, 0))
	logFile, err := sharedmem.NewMemoryFile(page)
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Unref()
	if c.Log, err = sharedmem.NewDirtyLog(logFile, 0, page, sharedmem.MapOptions{Budget: port}); err != nil {
		t.Fatal(err)
	}
	truncate(t, fd, 0)
	wantFault(t, "New", func() { _, _ = virtqueue.New(c, mem) })
	c.Resume = new(virtqueue.State) // the first access is another one
	wantFault(t, "New that resumes", func() { _, _ = virtqueue.New(c, mem) })
	mem.Unref()
	c.Log.Unref()
	if bytes, _ := port.Spent(); bytes != 0 {
		t.Errorf("%d bytes are still mapped", bytes)
	}
}

// TestV32_PackedFirstSlotLast: until all slots of a batch are written, the driver
// sees none of them used: the writing is cut off in the middle, by memory that
// is gone.
func TestV32_PackedFirstSlotLast(t *testing.T) {
	const size, most = 512, 300 // slots from 256 on lie in the page that goes
	for name, first := range map[string]uint32{"chains of one slot": 1, "the first has two": 2} {
		file, fd := softFile(t, 64*page)
		r := newPackedRingIn(t, file, 62*page, size, 0, nil)
		for range first - 1 {
			r.slot(packedData, 8, 0, next|write)
		}
		for i := range uint16(most) {
			r.slot(packedData, 8, i, write)
		}
		r.pop(most)
		back := make([]virtqueue.Used, most)
		for i := range back {
			back[i] = virtqueue.Used{Head: uint16(i), Len: 8}
		}
		truncate(t, fd, 63*page)
		wantFault(t, name, func() { r.q.Push(back) })
		_, _, before := r.at(first)
		if _, _, flags := r.at(0); flags&(avail|used) != avail || before&(avail|used) != avail|used {
			t.Errorf("%s: flags of the first slot %#x, of the second chain's %#x; the driver must see the first unused and the others written", name, flags, before)
		}
	}
}
