package virtqueue_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// The litmus tests let driver and device decide at the same moment, thousands
// of times: each publishes, fences and looks. Without one of the fences of
// notify.go both miss the other now and then, on amd64 too.

// litmusRounds is how often. On a machine that is busy with other things the
// two hardly ever meet, so a test ends after litmusTime with fewer.
const (
	litmusRounds = 100_000
	litmusTime   = 500 * time.Millisecond
)

// meeting makes two goroutines start each round together.
type meeting struct{ arrived atomic.Int64 }

// wait returns when both have called it for the n-th time.
func (m *meeting) wait(n int) {
	m.arrived.Add(1)
	for spins := 0; m.arrived.Load() < int64(2*n); spins++ {
		if spins > 1000 {
			runtime.Gosched() // the other one may need this processor
		}
	}
}

// litmus runs both sides in every round and returns their answers to check,
// which has the ring to itself.
func litmus(rounds int, device, driver func(round int) bool, check func(round int, device, driver bool) bool) {
	var begin, end meeting
	var answer bool
	stop := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			begin.wait(n)
			if stop {
				return
			}
			answer = driver(n)
			end.wait(n)
		}
	}()
	start := time.Now()
	for n := 1; !stop; n++ {
		begin.wait(n)
		mine := device(n)
		end.wait(n)
		stop = !check(n, mine, answer) || n == rounds || n%64 == 0 && time.Since(start) > litmusTime
		if stop {
			begin.wait(n + 1)
		}
	}
	<-done
}

// lines is memory that both sides write to, so that its cache lines are always
// with the other one: plain stores to them keep the stores behind them waiting,
// which is when a missing fence shows.
type lines struct{ block sharedmem.Block }

const lineCount = 16

func newLines(t *testing.T, p *vqtest.Pair) lines {
	t.Helper()
	gpa, err := p.Driver.Alloc(64 * lineCount)
	if err != nil {
		t.Fatal(err)
	}
	return lines{p.Driver.At(gpa, 64*lineCount)}
}

// touch stores to n lines.
func (l lines) touch(n int) {
	for i := range uint32(n) {
		l.block.Store64(64*i, uint64(n))
	}
}

// TestV75_ArmAgainstPublish: a device that arms while a driver publishes sees
// the chain, or is kicked for it.
func TestV75_ArmAgainstPublish(t *testing.T) {
	for _, v := range allVariants(4) {
		t.Run(v.name, func(t *testing.T) {
			p := newPair(t, v.opts)
			chains, used := make([]virtqueue.Chain, 4), make([]virtqueue.Used, 4)
			head := add(t, p, vqtest.Request{In: []int{8}})
			both, sight, kicked := 0, 0, 0
			shared := newLines(t, p)
			litmus(litmusRounds,
				func(n int) bool { shared.touch(n % lineCount); return p.Queue.Arm() },
				func(n int) bool { shared.touch(n / 7 % lineCount); return p.Driver.Publish() },
				func(n int, more, kick bool) bool {
					switch {
					case !more && !kick:
						t.Errorf("round %d: the device sleeps and the driver does not kick", n)
						return false
					case more && kick:
						both++
					case more:
						sight++
					default:
						kicked++
					}
					if got, err := p.Queue.Pop(chains); got != 1 || err != nil {
						t.Errorf("round %d: Pop = %d, %v", n, got, err)
						return false
					}
					used[0] = virtqueue.Used{Head: head}
					p.Queue.Push(used[:1])
					if got, err := p.Driver.Reap(used); got != 1 || err != nil {
						t.Errorf("round %d: Reap = %d, %v", n, got, err)
						return false
					}
					p.Driver.Post(head)
					return true
				})
			t.Logf("seen %d, kicked %d, both %d", sight, kicked, both)
		})
	}
}

// TestV75_PushAgainstWantCalls: a driver that asks for calls while a device
// publishes sees the chain, or is called for it.
func TestV75_PushAgainstWantCalls(t *testing.T) {
	for _, v := range allVariants(4) {
		t.Run(v.name, func(t *testing.T) {
			p := newPair(t, v.opts)
			chains, used := make([]virtqueue.Chain, 4), make([]virtqueue.Used, 4)
			head := add(t, p, vqtest.Request{In: []int{8}})
			next := func() bool { // one chain is with the device
				p.Driver.NoCalls()
				p.Driver.Publish()
				got, err := p.Queue.Pop(chains)
				used[0] = virtqueue.Used{Head: head}
				return got == 1 && err == nil
			}
			next()
			both, sight, called := 0, 0, 0
			shared := newLines(t, p)
			litmus(litmusRounds,
				func(n int) bool { shared.touch(n % lineCount); return p.Queue.Push(used[:1]) },
				func(n int) bool { shared.touch(n / 7 % lineCount); return p.Driver.WantCalls() },
				func(n int, call, more bool) bool {
					switch {
					case !more && !call:
						t.Errorf("round %d: the driver sleeps and the device does not call", n)
						return false
					case more && call:
						both++
					case more:
						sight++
					default:
						called++
					}
					if got, err := p.Driver.Reap(used); got != 1 || err != nil {
						t.Errorf("round %d: Reap = %d, %v", n, got, err)
						return false
					}
					p.Driver.Post(head)
					if !next() {
						t.Errorf("round %d: the next chain did not come", n)
						return false
					}
					return true
				})
			t.Logf("seen %d, called %d, both %d", sight, called, both)
		})
	}
}
