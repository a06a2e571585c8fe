package virtqueue_test

import (
	"encoding/binary"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// journaled is a packed ring with a journal, or with an inflight region.
type journaled struct {
	t *testing.T
	*vqtest.Pair
	journal  virtqueue.Journal
	inflight *virtqueue.Inflight
	posted   map[uint16]int // bytes of each head that the driver has given and not got back
}

func newJournaled(t *testing.T, size int, f virtio.Features) *journaled {
	t.Helper()
	p := newPair(t, vqtest.Options{Size: size, Features: f | virtio.RingPacked, MaxChain: size, Memory: 1 << 20})
	j := &journaled{t: t, Pair: p, posted: map[uint16]int{}}
	j.journal = virtqueue.Journal{Memory: sharedmem.BytesBlock(make([]byte, virtqueue.JournalLen(size))), Key: [32]byte{1}}
	j.begin(nil)
	return j
}

// newTracked is one with an inflight region, of more entries than the ring has.
func newTracked(t *testing.T, size int, f virtio.Features) *journaled {
	t.Helper()
	j := newJournaled(t, size, f)
	j.inflight = &virtqueue.Inflight{Memory: sharedmem.BytesBlock(make([]byte, virtqueue.InflightLen(size+3))), Map: j.Mem}
	j.begin(nil)
	return j
}

// begin starts a Queue as the first one of a front-end's session: at a base that
// is of no use unless the ring is new.
func (j *journaled) begin(change func(*virtqueue.Config)) {
	j.t.Helper()
	c, err := j.Config()
	if err != nil {
		j.t.Fatal(err)
	}
	journal := j.journal
	journal.Recover = true
	c.Journal, c.Resume = &journal, &virtqueue.State{Avail: 1 << 15, Used: 1 << 15, Packed: true}
	if j.inflight != nil {
		inflight := *j.inflight
		inflight.Recover = true
		c.Journal, c.Inflight = nil, &inflight
	}
	if change != nil {
		change(&c)
	}
	j.Queue.Close()
	if j.Queue, err = virtqueue.New(c, j.Mem); err != nil {
		j.t.Fatal(err)
	}
}

// replace starts another Queue as one whose session goes on.
func (j *journaled) replace() {
	j.t.Helper()
	state := j.Queue.Suspend()
	j.begin(func(c *virtqueue.Config) {
		c.Resume = &state
		if c.Inflight != nil {
			c.Inflight.Recover = false
		} else {
			c.Journal.Recover = false
		}
	})
}

// post gives the device n chains.
func (j *journaled) post(n int, r vqtest.Request) {
	j.t.Helper()
	for range n {
		j.posted[add(j.t, j.Pair, r)] = bytesOf(r)
	}
	j.Driver.Publish()
}

// bytesOf is how many bytes a chain of r has.
func bytesOf(r vqtest.Request) (n int) {
	for _, b := range r.Out {
		n += len(b)
	}
	for _, b := range r.In {
		n += b
	}
	return n
}

// serve pops and pushes everything, each chain as long as it was given, and reaps
// it.
func (j *journaled) serve() (reaped int) {
	j.t.Helper()
	for chains := popAll(j.t, j.Queue, 16); len(chains) > 0; chains = popAll(j.t, j.Queue, 16) {
		for i := range chains {
			c := &chains[i]
			if n, given := j.posted[c.Head]; !given || n != int(c.Readable+c.Writable) {
				j.t.Fatalf("a chain of head %d and %d bytes, given %t with %d", c.Head, c.Readable+c.Writable, given, n)
			}
		}
		pushAll(j.Queue, chains)
	}
	return j.reap()
}

// reap has the driver take what came back: each head once.
func (j *journaled) reap() (reaped int) {
	j.t.Helper()
	var used [64]virtqueue.Used
	for {
		n, err := j.Driver.Reap(used[:])
		if err != nil {
			j.t.Fatal(err)
		}
		for _, u := range used[:n] {
			if _, given := j.posted[u.Head]; !given {
				j.t.Fatalf("head %d came back, and was not given", u.Head)
			}
			delete(j.posted, u.Head)
			j.Driver.Free(u.Head)
		}
		if reaped += n; n == 0 {
			return reaped
		}
	}
}

// word is a 64-bit word of the journal.
func (j *journaled) word(i uint32) uint64 { return j.journal.Memory.Load64(8 * i) }

// A Queue that is made from a journal, or an inflight region, goes on where the
// one before it was when its process ended, in every lap, whatever the front-end
// says.
func TestJournalGoesOn(t *testing.T) {
	for _, make := range []func(*testing.T, int, virtio.Features) *journaled{newJournaled, newTracked} {
		for _, f := range []virtio.Features{0, virtio.EventIdx} {
			j := make(t, 7, f)
			for i := range 40 {
				n := 1 + i%4
				if i%8 == 7 {
					n = 7 // the index is the same afterwards
				}
				j.post(n, vqtest.Request{In: []int{100}})
				switch i % 3 {
				case 0:
					j.Queue.Arm()
				case 1:
					popAll(t, j.Queue, 2) // and its process ends
				}
				j.begin(nil)
				if found, err := j.Queue.Recovered(); !found || err != nil {
					t.Fatalf("restart %d: recovered %t, %v", i, found, err)
				}
				if got := j.serve(); got != n || len(j.posted) != 0 {
					t.Fatalf("restart %d: %d of %d heads came back", i, got, n)
				}
			}
		}
	}
}

// A ring that gets another Queue in the same process keeps its journal: mark
// and position stay, and nothing is recovered.
func TestJournalOfAReplacedQueue(t *testing.T) {
	j := newJournaled(t, 8, 0)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	mark := j.word(1) >> 48
	j.replace()
	if found, err := j.Queue.Recovered(); found || err != nil {
		t.Errorf("a Queue with a State of its own has recovered %t, %v", found, err)
	}
	if now := j.word(1) >> 48; now != mark || mark == 0 {
		t.Errorf("the mark was %#x and is %#x", mark, now)
	}
	j.post(3, vqtest.Request{In: []int{100}})
	j.begin(nil)
	if got := j.serve(); got != 3 {
		t.Errorf("%d of 3 heads came back", got)
	}
}

// A journal that is not of this ring and driver, or makes no sense, is not
// believed: the ring starts where the front-end says.
func TestJournalIsRefused(t *testing.T) {
	store := func(at uint32, v uint64) func(*journaled) {
		return func(j *journaled) { j.journal.Memory.Store64(8*at, v) }
	}
	// from, to, chains, mark
	push := func(from, to, chains uint64) func(*journaled) {
		return func(j *journaled) {
			j.journal.Memory.Store64(8, from|to<<16|chains<<32|j.word(1)&(0xffff<<48))
		}
	}
	// a push of three chains from slot 3 on, which are there
	unfinished := func(to uint64, spoil func(*journaled)) func(*journaled) {
		return func(j *journaled) {
			j.post(3, vqtest.Request{In: []int{100}})
			push(3|1<<15, to, 3)(j)
			if spoil != nil {
				spoil(j)
			}
		}
	}
	for name, spoil := range map[string]func(*journaled){
		"another magic":      store(0, 7),
		"another key":        func(j *journaled) { j.journal.Key[31]++ },
		"no mark":            store(1, 0),
		"position beyond":    push(8, 8, 0),
		"position from":      push(8, 0, 0),
		"more than the ring": push(1<<15, 3|1<<15, 9),
		"no chains":          push(3|1<<15, 9, 0),
		"too few slots":      unfinished(7|1<<15, nil),
		"no slots":           unfinished(6|1<<15, store(8, 0)),
		"many slots":         unfinished(6|1<<15, store(8, 0xffff<<16)),
		"cleared areas": func(j *journaled) {
			c, err := j.Config()
			if err != nil {
				j.t.Fatal(err)
			}
			c.Used.Store32(0, 0)
		},
		"served by another": func(j *journaled) {
			c, err := j.Config()
			if err != nil {
				j.t.Fatal(err)
			}
			c.Used.Store32(0, 1<<16)
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournaled(t, 8, 0)
			j.post(3, vqtest.Request{In: []int{100}})
			j.serve()
			spoil(j)
			j.begin(nil)
			if found, err := j.Queue.Recovered(); found || err == nil {
				t.Errorf("recovered %t, %v", found, err)
			}
			if state := j.Queue.Suspend(); state.Used != 1<<15 {
				t.Errorf("the ring stands at %+v, want the front-end's base", state)
			}
			j.begin(nil) // the journal is this ring's now
			if found, err := j.Queue.Recovered(); !found || err != nil {
				t.Errorf("afterwards: recovered %t, %v", found, err)
			}
		})
	}
}

// A position that the front-end was told is not kept.
func TestJournalForgets(t *testing.T) {
	j := newJournaled(t, 8, virtio.EventIdx)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	j.Queue.Suspend()
	j.journal.Forget()
	j.begin(nil)
	if found, err := j.Queue.Recovered(); found || err != nil {
		t.Errorf("recovered %t, %v", found, err)
	}
	if state := j.Queue.Suspend(); state.Used != 1<<15 {
		t.Errorf("the ring stands at %+v, want the front-end's base", state)
	}
}

// QEMU asks for a kick where it thinks that the ring stands, or for none, when a
// guest transmits while nobody serves it.
func TestJournalOfARingThatQEMUTouched(t *testing.T) {
	j := newJournaled(t, 8, virtio.EventIdx)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	c, err := j.Config()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []uint32{2<<16 | 1<<15, 1<<16 | 3, 1 << 16} {
		c.Used.Store32(0, word)
		j.post(2, vqtest.Request{In: []int{100}})
		j.begin(nil)
		if found, err := j.Queue.Recovered(); !found || err != nil || j.serve() != 2 {
			t.Errorf("%#x in the device's area: recovered %t, %v", word, found, err)
		}
	}
}

// What a driver may write into its ring moves no position out of it, and a
// journal of any bytes is either believed or not.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{}, []byte{}, false)
	f.Add(binary.LittleEndian.AppendUint64(nil, 3<<16), []byte{0xff}, true)
	f.Fuzz(func(t *testing.T, spoiled, ring []byte, event bool) {
		features := virtio.Features(0)
		if event {
			features = virtio.EventIdx
		}
		j := newJournaled(t, 8, features)
		j.post(3, vqtest.Request{In: []int{100}})
		j.serve()
		j.journal.Memory.CopyFrom(spoiled[:min(len(spoiled), 32+8*8)], 8) // behind the magic
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.Desc.CopyFrom(ring[:min(len(ring), int(c.Desc.Len()))], 0)
		j.begin(nil)
		state := j.Queue.Suspend()
		if state.Used&^(1<<15) >= 8 || state.Used != state.Avail {
			t.Errorf("the ring stands at %+v", state)
		}
	})
}

// Config refuses a journal that cannot be the ring's.
func TestJournalConfig(t *testing.T) {
	j := newJournaled(t, 8, 0)
	for name, change := range map[string]func(*virtqueue.Config){
		"too short": func(c *virtqueue.Config) { c.Journal.Memory = c.Journal.Memory.Sub(0, 120) },
		"unaligned": func(c *virtqueue.Config) {
			c.Journal.Memory = sharedmem.BytesBlock(make([]byte, 256)).Sub(4, virtqueue.JournalLen(8))
		},
		"split": func(c *virtqueue.Config) { c.Features, c.Resume = 0, nil },
	} {
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		journal := j.journal
		c.Journal = &journal
		change(&c)
		if _, err := virtqueue.New(c, j.Mem); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
