package queues

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
)

// enter takes the adapter through e. The caller holds mu, or is alone.
func (a *Adapter) enter(e adapterEvent, verb string) error {
	to, ok := a.state.next(e)
	if !ok {
		return fmt.Errorf("queues: %s: the adapter is %s: %w", verb, a.state, StatusAdapterNotReady)
	}
	a.state = to
	return nil
}

// ready says why a verb cannot be asked for now. The caller holds mu.
func (a *Adapter) ready(verb string) error {
	switch {
	case a.removed:
		return fmt.Errorf("queues: %s: the adapter was removed: %w", verb, StatusNotAccepted)
	case a.resetting:
		return fmt.Errorf("queues: %s: the adapter is being reset; ask again: %w", verb, StatusResetInProgress)
	case a.state == AdapterHalted || a.state == AdapterInitializing || a.state == AdapterShutdown:
		return fmt.Errorf("queues: %s: the adapter is %s: %w", verb, a.state, StatusAdapterNotReady)
	}
	return nil
}

// State is where the adapter stands.
func (a *Adapter) State() AdapterState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// step is a thing that initialize takes, and how it is given back.
type step struct {
	what string
	take func() error
	give func() error
}

// steps is what queue 0 needs, in the order in which it is taken: host memory,
// of it a piece in which each worker softens frames, and what keeps packets.
func (a *Adapter) steps() []step {
	list := []step{{"arena", func() (err error) {
		a.arena, err = sharedmem.NewHostAllocator(uint64(a.workers)*nbl.SoftenerBytes + a.held.Bytes)
		return err
	}, func() error { return a.arena.Close() }}}
	for range a.workers {
		list = append(list, step{"softener", a.takeSoftener, a.giveSoftener})
	}
	return append(list, step{"holder", func() (err error) {
		p := a.held
		p.Memory = a.arena
		a.holder, err = nbl.NewHolder(p)
		return err
	}, func() error { return a.holder.Close() }})
}

func (a *Adapter) takeSoftener() error {
	mem, err := a.arena.Allocate(sharedmem.Parameters{Usage: sharedmem.Receive, Length: nbl.SoftenerBytes, Flags: sharedmem.Contiguous})
	if err != nil {
		return err
	}
	a.queue0Mem = append(a.queue0Mem, mem.AllocationHandle)
	a.softeners = append(a.softeners, nbl.NewSoftener(mem.Bytes()))
	return nil
}

func (a *Adapter) giveSoftener() error {
	last := len(a.queue0Mem) - 1
	h := a.queue0Mem[last]
	a.queue0Mem, a.softeners = a.queue0Mem[:last], a.softeners[:last]
	return a.arena.Free(h)
}

// initialize takes every step, or none.
func (a *Adapter) initialize(steps []step) error {
	if err := a.enter(adInitialize, "initialize"); err != nil {
		return err
	}
	for i, s := range steps {
		if err := s.take(); err != nil {
			err = fmt.Errorf("queues: initialize: %s of queue 0: %w", s.what, errors.Join(StatusResources, err))
			return errors.Join(err, giveBack(steps[:i]), a.enter(adInitFailed, "initialize"))
		}
	}
	return a.enter(adInitialized, "initialize")
}

// giveBack gives back what steps took, the last first.
func giveBack(steps []step) error {
	var errs []error
	for _, s := range slices.Backward(steps) {
		errs = append(errs, s.give())
	}
	return errors.Join(errs...)
}

// Restart lets frames pass (NDIS: MiniportRestart). The adapter must be Paused.
func (a *Adapter) Restart() error {
	a.mu.Lock()
	err := a.enter(adRestart, "restart")
	if err == nil {
		a.paused.Store(false)
		a.queue0.Store(true)
		err = a.enter(adRestarted, "restart")
	}
	a.unlockAndTellState(err == nil)
	return err
}

// unlockAndTellState releases the lock and then reports the adapter's state if
// it changed.
func (a *Adapter) unlockAndTellState(changed bool) {
	e := Event{Kind: EventAdapter, Adapter: a.state}
	a.mu.Unlock()
	if changed {
		a.onEvent(e)
	}
}

// Pause stops frames (NDIS: MiniportPause): from its beginning on they are
// dropped, and when it returns none is being delivered and none is held. Verbs
// go on, memory stays. It does not fail; when ctx ends its wait the adapter is
// Pausing, and Pause may be called again to wait on. A paused adapter stays
// so.
func (a *Adapter) Pause(ctx context.Context) error {
	a.mu.Lock()
	if a.state == AdapterPaused {
		a.mu.Unlock()
		return nil
	}
	if a.state != AdapterPausing {
		if err := a.enter(adPause, "pause"); err != nil {
			a.mu.Unlock()
			return err
		}
		a.queue0.Store(false)
		a.paused.Store(true)
		a.unlockAndTellState(true)
	} else {
		a.mu.Unlock()
	}
	if err := a.drain(ctx); err != nil {
		return fmt.Errorf("queues: pause: still going on: %w", errors.Join(StatusPending, err))
	}
	a.mu.Lock()
	err := a.enter(adPaused, "pause")
	a.unlockAndTellState(err == nil)
	return err
}

// drain waits until no delivery that began before is under way and no packet is
// held.
func (a *Adapter) drain(ctx context.Context) error {
	if err := a.quiesce(ctx); err != nil {
		return fmt.Errorf("workers did not leave: %w", err)
	}
	for id := range QueueID(a.maxQueues) + 1 {
		if err := a.holder.Wait(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Reset brings the filters of all queues into the forwarding table again and
// ends what waits (NDIS: MiniportResetEx with AddressingReset): a pending
// FREE_QUEUE is StatusRequestAborted and may be asked for again, verbs asked
// for meanwhile are StatusResetInProgress. It is no change of state; frames
// pass.
func (a *Adapter) Reset(ctx context.Context) error {
	a.mu.Lock()
	if err := a.ready("reset"); err != nil {
		a.mu.Unlock()
		return err
	}
	a.resetting = true
	a.abortPending()
	a.mu.Unlock()
	a.pending.Wait() // each was told to end
	err := a.quiesce(ctx)
	a.mu.Lock()
	for _, f := range a.zero.filters {
		f.steering.Set(f.VLAN, f.MAC, 0, uint32(f.ID))
	}
	for _, id := range slices.Sorted(maps.Keys(a.queues)) {
		if q := a.queues[id]; q.state == Running {
			for _, f := range q.filters {
				q.steer(f)
			}
		}
	}
	a.resetting = false
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("queues: reset: workers did not pass: %w", err)
	}
	return nil
}

// abortPending ends the wait of every FREE_QUEUE. The caller holds mu.
func (a *Adapter) abortPending() {
	for _, q := range a.queues {
		if q.abort != nil {
			q.abort(StatusRequestAborted)
		}
	}
}

// SurpriseRemove ends everything at once, as when a device is pulled out: no
// frame passes any more, all filters are cleared, all queues are freed, verbs
// are StatusNotAccepted. Halt is what is left to do. The error names queues
// that could not be freed within ctx; Halt frees them.
func (a *Adapter) SurpriseRemove(ctx context.Context) error {
	a.mu.Lock()
	if err := a.ready("remove"); err != nil && !a.resetting {
		a.mu.Unlock()
		return err
	}
	a.removed = true
	a.queue0.Store(false)
	a.paused.Store(true)
	a.abortPending()
	for _, f := range a.zero.filters {
		f.steering.Clear(f.VLAN, f.MAC)
	}
	a.zero.filters = nil
	a.mu.Unlock()
	a.pending.Wait()
	var errs []error
	for _, info := range a.EnumQueues()[1:] {
		errs = append(errs, a.remove(ctx, info.ID))
	}
	return errors.Join(errs...)
}

// remove clears a queue's filters and frees it, whoever owns it.
func (a *Adapter) remove(ctx context.Context, id QueueID) error {
	a.mu.Lock()
	q := a.queues[id]
	for len(q.filters) > 0 {
		if err := q.clear(0); err != nil {
			a.mu.Unlock()
			return err
		}
		a.filters--
	}
	return a.unlockAndFree(ctx, q)
}

// Halt ends a paused or removed adapter (NDIS: MiniportHaltEx): queue 0's
// memory is freed. Queues that are left are named in the error, and their
// memory is freed, too: no worker delivers any more.
func (a *Adapter) Halt() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.removed && a.state != AdapterHalted && a.state != AdapterShutdown {
		a.state = AdapterPaused
	}
	if err := a.enter(adHalt, "halt"); err != nil {
		return err
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(a.queues)) {
		q := a.queues[id]
		errs = append(errs, fmt.Errorf("queues: halt: queue %d (%s) is still %s", id, q.params.VMName, q.state), q.memory.free())
	}
	return errors.Join(append(errs, giveBack(a.steps()))...)
}

// Close is Pause and Halt.
func (a *Adapter) Close(ctx context.Context) error {
	err := a.Pause(ctx)
	if a.State() != AdapterPaused {
		return err
	}
	return errors.Join(err, a.Halt())
}

// Shutdown says that the machine goes down: no frame passes any more, and
// nothing is freed, so it does not wait (NDIS: MiniportShutdownEx). There is no
// way back.
func (a *Adapter) Shutdown() {
	a.mu.Lock()
	err := a.enter(adShutdown, "shutdown")
	if err == nil {
		a.queue0.Store(false)
		a.paused.Store(true)
	}
	a.unlockAndTellState(err == nil)
}
