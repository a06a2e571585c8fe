package netdev_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// stream is numbered frames from one front-end to another, without end. Some
// may get lost, as rings change under them; none may come altered, twice or
// out of order.
type stream struct {
	t       *testing.T
	arrived atomic.Uint64
	stop    context.CancelFunc
	ended   sync.WaitGroup
}

// streamed is the frame of a number, of a length that varies with it.
func streamed(dst, src [6]byte, number uint32) vutest.Frame {
	f := frame(dst, src, 60+int(number*37%1400), number)
	f.Parts, f.HeaderAlone = int(number%4), number%3 == 0
	return f
}

// runStream starts a stream, which ends with the test if end was not called.
func runStream(t *testing.T, from, to *vutest.FrontEnd, dst, src [6]byte) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &stream{t: t, stop: stop}
	s.ended.Go(func() {
		for number := uint32(1); ctx.Err() == nil; number++ {
			if err := from.Send(0, streamed(dst, src, number)); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			if number%16 == 0 {
				if err := from.WaitSent(0); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		}
	})
	s.ended.Go(func() {
		last := uint32(0)
		for ctx.Err() == nil {
			got, err := to.Recv(0, 20*time.Millisecond)
			if errors.Is(err, vutest.ErrTimeout) {
				continue
			}
			if err != nil {
				t.Errorf("receive: %v", err)
				return
			}
			number := binary.BigEndian.Uint32(got.Data[14:])
			if want := streamed(dst, src, number); number <= last || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("frame %d of %d bytes came behind frame %d, or altered", number, len(got.Data), last)
				return
			}
			last = number
			s.arrived.Add(1)
		}
	})
	t.Cleanup(s.end)
	return s
}

func (s *stream) end() {
	s.stop()
	s.ended.Wait()
}

// goesOn waits until some more frames have arrived.
func (s *stream) goesOn() {
	s.t.Helper()
	from := s.arrived.Load()
	for end := time.Now().Add(patience); s.arrived.Load() < from+50; time.Sleep(time.Millisecond) {
		if s.t.Failed() || time.Now().After(end) {
			s.t.Fatalf("%d frames arrived before, %d do now", from, s.arrived.Load())
		}
	}
}

// drain takes away what has arrived.
func drain(t *testing.T, f *vutest.FrontEnd) {
	t.Helper()
	for range 65536 {
		if _, ok, err := f.TryRecv(0); err != nil {
			t.Fatal(err)
		} else if !ok {
			return
		}
	}
	t.Fatal("frames come without end")
}

// Everything that a front-end may change on running rings changes under load
// in both directions (reference: live reconfiguration), and the frames go on.
func TestLiveReconfiguration(t *testing.T) {
	for _, v := range flavours() {
		t.Run(v.name, func(t *testing.T) {
			r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
			a, b := r.connect("a", v.options()), r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			there, back := runStream(t, a, b, macB, macA), runStream(t, b, a, macA, macB)
			step := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				there.goesOn()
				back.goesOn()
			}
			step("nothing", nil)
			for range 3 {
				for ring := range 2 {
					step("call", a.SetCall(ctx, ring))
					step("disabled", errors.Join(a.Enable(ctx, ring, false), a.Barrier(ctx), a.Enable(ctx, ring, true)))
				}
				step("kick", a.SetKick(ctx, 1))
				_, err := a.AddMemory(ctx, 1<<20)
				step("memory", err)
				step("the same memory again", table(ctx, a))
			}
			there.end()
			back.end()
			r.must(errors.Join(a.WaitSent(0), b.WaitSent(0))) // all that was on its way is there
			drain(t, a)
			drain(t, b)
			pingPong(t, a, b)
		})
	}
}

// table sends the whole memory again, as it is.
func table(ctx context.Context, f *vutest.FrontEnd) error {
	m, fds, err := f.MemTable()
	if err != nil {
		return err
	}
	defer sys.CloseAll(fds)
	_, err = f.Request(ctx, vhostuser.SetMemTable, m.Marshal(), fds, false)
	return errors.Join(err, f.Barrier(ctx))
}

// Regions that the guest has nothing in come and go under load, and each of
// them leaves no mapping behind (traps 7.9, 7.12).
func TestTrap7_9_RegionsComeAndGo(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	file, err := sharedmem.NewMemoryFile(2 << 20)
	r.must(err)
	defer file.Unref()
	fd, err := file.Dup()
	r.must(err)
	defer func() { _ = fd.Close() }()
	there, back := runStream(t, a, b, macB, macA), runStream(t, b, a, macA, macB)
	_, mappings := r.budget.Spent()
	for i := range uint64(20) {
		one := vhostuser.SingleRegion{Region: vhostuser.MemRegion{GPA: 1<<40 + i<<30, User: 1<<45 + i<<30, Size: 1 << 20, Offset: 1 << 20}}
		_, err := a.Request(ctx, vhostuser.AddMemReg, one.Marshal(), []*sys.FD{fd}, true)
		r.must(err)
		if i%5 == 0 {
			there.goesOn()
			back.goesOn()
		}
		one.Region.Offset = 0 // does not count
		_, err = a.Request(ctx, vhostuser.RemMemReg, one.Marshal(), nil, true)
		r.must(err)
	}
	r.waitFor("the mappings to be gone", func() bool { _, now := r.budget.Spent(); return now == mappings })
	there.goesOn()
	back.goesOn()
}

// A ring whose memory goes away rests and goes on where it was when the memory
// is back; nobody kicks it then.
func TestRingWithoutMemoryRests(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	pingPong(t, a, b)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	memory, fds, err := a.MemTable()
	r.must(err)
	defer sys.CloseAll(fds)
	for i, region := range memory.Regions { // of the guest's rings each lies in one of them
		one := vhostuser.SingleRegion{Region: region}
		_, err := a.Request(ctx, vhostuser.RemMemReg, one.Marshal(), nil, true)
		r.must(err)
		parked := -1
		for ring, s := range r.devices["a"].Snapshot().Rings {
			if ring < a.Rings() && !s.Started {
				parked = ring
			}
		}
		kicks := a.Kicks(1)
		if parked == 1 {
			r.must(a.Send(0, frame(macB, macA, 60, 10)))
			kicks = a.Kicks(1)
			r.must(a.Barrier(ctx))
			if _, ok, err := b.TryRecv(0); ok || err != nil {
				t.Fatalf("a ring without memory sent a frame: %t, %v", ok, err)
			}
		}
		_, err = a.Request(ctx, vhostuser.AddMemReg, one.Marshal(), fds[i:i+1], true)
		r.must(err)
		if parked == 1 {
			if _, err := b.Recv(0, patience); err != nil {
				t.Fatal(err)
			}
		}
		if a.Kicks(1) != kicks {
			t.Fatal("the ring was kicked, so this shows nothing")
		}
		t.Logf("region %d held ring %d", i, parked)
		if want := map[int]int{0: 0, 1: 1, 2: -1}[i]; parked != want {
			t.Errorf("without region %d ring %d rested, want %d", i, parked, want)
		}
		pingPong(t, a, b)
	}
}

// When GET_VRING_BASE is answered nobody writes to the guest's memory any more
// or calls it, though frames keep coming, for every front-end's way to stop.
func TestStoppedGuestIsLeftAlone(t *testing.T) {
	for _, k := range vutest.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
			a := r.connect("a", vutest.Options{Kind: k, MemorySize: 4 << 20, Guest: vutest.Guest{RingSize: 64}})
			b := r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for round := range 5 {
				load := runLoad(t, b, macA, macB)
				load.goesOn()
				r.must(a.Stop(ctx))
				before, calls := snapshot(t, a), a.Calls(0)+a.Calls(1)
				load.goesOn()
				if after := snapshot(t, a); !bytes.Equal(before, after) {
					t.Fatalf("round %d: memory of a stopped guest was written to", round)
				}
				if now := a.Calls(0) + a.Calls(1); now != calls {
					t.Fatalf("round %d: a stopped guest was called %d times", round, now-calls)
				}
				load.end()
				r.start(a)
				drain(t, a)
				pingPong(t, a, b)
			}
		})
	}
}

// runLoad sends frames from f that nobody needs to receive.
func runLoad(t *testing.T, f *vutest.FrontEnd, dst, src [6]byte) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &stream{t: t, stop: stop}
	s.ended.Go(func() {
		for number := uint32(1); ctx.Err() == nil; number++ {
			if err := errors.Join(f.Send(0, frame(dst, src, 200, number)), f.WaitSent(0)); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			s.arrived.Add(1)
		}
	})
	t.Cleanup(s.end)
	return s
}

// snapshot is all memory of a guest.
func snapshot(t *testing.T, f *vutest.FrontEnd) (all []byte) {
	t.Helper()
	for _, region := range f.Regions() {
		b, err := f.Peek(region.GPA, int(region.Size))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// The guest changes how many pairs it uses: what arrives afterwards,
// arrives on a pair in use.
func TestPairsInUse(t *testing.T) {
	for _, k := range []vutest.Kind{vutest.QEMU10, vutest.QEMU72, vutest.VirtioUser} {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
			a := r.connect("a", vutest.Options{Kind: k, Pairs: 4, Guest: vutest.Guest{Pairs: 1}})
			b := r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, n := range []int{4, 2, 3, 1, 4, 1} {
				r.must(a.UsePairs(ctx, n))
				r.must(a.Barrier(ctx))
				for i := range 64 { // flows that spread over all pairs in use
					r.must(b.Send(0, flow(macA, macB, 2000+i, 80)))
				}
				r.must(b.WaitSent(0))
				seen := make([]int, 4)
				for pair := range 4 {
					for {
						_, ok, err := a.TryRecv(pair)
						r.must(err)
						if !ok {
							break
						}
						seen[pair]++
					}
				}
				sum := 0
				for pair, frames := range seen {
					sum += frames
					if (frames > 0) != (pair < n) {
						t.Errorf("%d pairs in use: pair %d got %d of 64 flows", n, pair, frames)
					}
				}
				if sum != 64 {
					t.Errorf("%d pairs in use: %d of 64 frames arrived", n, sum)
				}
			}
		})
	}
}
