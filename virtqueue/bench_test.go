package virtqueue_test

import (
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

const benchBatch = 64

// benchChains are the shapes of chains that the benchmarks move.
var benchChains = []struct {
	name string
	req  vqtest.Request
}{
	{"one descriptor", vqtest.Request{Out: [][]byte{make([]byte, 76)}}},
	{"one writable", vqtest.Request{In: []int{1526}}},
	{"two descriptors", vqtest.Request{Out: [][]byte{make([]byte, 12), make([]byte, 64)}}},
	{"indirect of two", vqtest.Request{Out: [][]byte{make([]byte, 12), make([]byte, 64)}, Indirect: true}},
	{"indirect of nineteen", vqtest.Request{Out: pieces(19, 3400), Indirect: true}},
}

// pieces is n buffers of size bytes.
func pieces(n, size int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = make([]byte, size)
	}
	return list
}

// BenchmarkPopPush is the device's share of a transfer, per chain: a batch is
// popped and pushed back. The avail ring is full of heads, so the driver's
// share is one store per batch.
func BenchmarkPopPush(b *testing.B) {
	for _, bc := range benchChains {
		b.Run(bc.name, func(b *testing.B) {
			p := newPair(b, vqtest.Options{Features: virtio.IndirectDesc | virtio.EventIdx, Memory: 64 << 20})
			fillRing(b, p, bc.req)
			chains, used := make([]virtqueue.Chain, benchBatch), make([]virtqueue.Used, benchBatch)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				p.Driver.SetAvailIdx(uint16(done) + benchBatch)
				n, err := p.Queue.Pop(chains)
				if n == 0 || err != nil {
					b.Fatal(n, err)
				}
				for i := range n {
					used[i] = virtqueue.Used{Head: chains[i].Head, Len: chains[i].Writable}
				}
				p.Queue.Push(used[:n])
				done += n
			}
		})
	}
}

// BenchmarkRoundTrip is a whole transfer, per chain, in both formats: the
// driver posts a batch and publishes it, the device pops and pushes it, the
// driver reaps it. Both are on one core, so a packed ring's fewer cache lines
// show no gain here, and its driver writes whole slots anew.
func BenchmarkRoundTrip(b *testing.B) {
	for _, name := range []string{"split", "packed"} {
		for _, bc := range benchChains[:4] {
			b.Run(name+", "+bc.name, func(b *testing.B) {
				p := newPair(b, vqtest.Options{Features: formats[name] | virtio.IndirectDesc | virtio.EventIdx, Memory: 64 << 20})
				for range benchBatch {
					add(b, p, bc.req)
				}
				p.Driver.NoCalls()
				chains, used := make([]virtqueue.Chain, benchBatch), make([]virtqueue.Used, benchBatch)
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; done += benchBatch {
					roundTrip(b, p, chains, used)
				}
			})
		}
	}
}

// roundTrip moves what was posted to the device and back, and posts it again.
func roundTrip(b *testing.B, p *vqtest.Pair, chains []virtqueue.Chain, used []virtqueue.Used) {
	p.Driver.Publish()
	n, err := p.Queue.Pop(chains)
	if n != len(chains) || err != nil {
		b.Fatal(n, err)
	}
	for i := range chains {
		used[i] = virtqueue.Used{Head: chains[i].Head, Len: chains[i].Writable}
	}
	p.Queue.Push(used)
	if n, err := p.Driver.Reap(used); n != len(used) || err != nil {
		b.Fatal(n, err)
	}
	for _, u := range used {
		p.Driver.Post(u.Head)
	}
}

// BenchmarkJournal is what a journal adds to a packed ring's round trip.
func BenchmarkJournal(b *testing.B) {
	for _, bc := range benchChains[:4] {
		b.Run(bc.name, func(b *testing.B) {
			p := newPair(b, vqtest.Options{Features: virtio.RingPacked | virtio.IndirectDesc | virtio.EventIdx, Memory: 64 << 20})
			c, err := p.Config()
			if err != nil {
				b.Fatal(err)
			}
			c.Journal = &virtqueue.Journal{Memory: sharedmem.BytesBlock(make([]byte, virtqueue.JournalLen(c.Size)))}
			p.Queue.Close()
			if p.Queue, err = virtqueue.New(c, p.Mem); err != nil {
				b.Fatal(err)
			}
			for range benchBatch {
				add(b, p, bc.req)
			}
			p.Driver.NoCalls()
			chains, used := make([]virtqueue.Chain, benchBatch), make([]virtqueue.Used, benchBatch)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += benchBatch {
				roundTrip(b, p, chains, used)
			}
		})
	}
}

// BenchmarkEmptyPop is what a poll of an idle ring costs.
func BenchmarkEmptyPop(b *testing.B) {
	for _, name := range []string{"split", "packed"} {
		b.Run(name, func(b *testing.B) {
			p := newPair(b, vqtest.Options{Features: formats[name]})
			chains := make([]virtqueue.Chain, benchBatch)
			for b.Loop() {
				if n, err := p.Queue.Pop(chains); n != 0 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// fillRing writes requests until every entry of the avail ring has a head,
// and publishes none of them.
func fillRing(tb testing.TB, p *vqtest.Pair, req vqtest.Request) {
	tb.Helper()
	var heads []uint16
	for {
		head, err := p.Driver.Add(req)
		if err != nil {
			break
		}
		heads = append(heads, head)
	}
	if len(heads) == 0 {
		tb.Fatal("no request fits the ring")
	}
	for i := range p.Driver.Size() {
		p.Driver.SetAvailEntry(uint16(i), heads[i%len(heads)])
	}
}
