package queues

import (
	"context"
	"errors"
	"fmt"
)

// FreeQueue takes a queue back (OID_RECEIVE_FILTER_FREE_QUEUE). Its filters
// must have been cleared. No delivery begins for it any more; when those under
// way have ended, EventDMAStopped is told, once; when all its packets are back
// that somebody holds, its memory is freed and its id may be given out again.
//
// ctx bounds the wait. When it ends, or a reset does (StatusRequestAborted),
// the queue stays on its way out, with its memory; FreeQueue may be called
// again and goes on from there. While one waits another is refused.
func (b *Binding) FreeQueue(ctx context.Context, id QueueID) error {
	a := b.a
	a.mu.Lock()
	q, err := a.lookup(id, "free")
	if err == nil {
		err = q.ownedBy(b, false, "free")
	}
	if err != nil {
		a.mu.Unlock()
		return err
	}
	return a.unlockAndFree(ctx, q)
}

// beginFree takes the queue away from its NIC, unless an earlier FREE_QUEUE
// did and was given up. The caller holds the adapter's lock.
func (q *Queue) beginFree() error {
	if q.abort == nil && (q.state == StopDMA || q.state == Freeing) {
		return nil
	}
	if err := q.move(evFree, "free"); err != nil {
		return err
	}
	q.params.NIC.queue.CompareAndSwap(q, nil)
	return nil
}

// unlockAndFree is FreeQueue for whoever holds the adapter's lock and may.
func (a *Adapter) unlockAndFree(ctx context.Context, q *Queue) error {
	if err := q.beginFree(); err != nil {
		a.mu.Unlock()
		return err
	}
	return a.unlockAndWaitFree(ctx, q)
}

// unlockAndWaitFree releases the lock, tells the state and does the rest of
// FREE_QUEUE.
func (a *Adapter) unlockAndWaitFree(ctx context.Context, q *Queue) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q.abort = cancel
	a.pending.Add(1)
	defer a.pending.Done()
	a.unlockAndTell(q)
	return a.free(ctx, q)
}

// free waits for the workers and for packets, and frees.
func (a *Adapter) free(ctx context.Context, q *Queue) error {
	if err := a.quiesce(ctx); err != nil {
		return a.giveUpFree(ctx, q, fmt.Errorf("workers did not leave it: %w", err))
	}
	a.mu.Lock()
	if q.state == StopDMA { // else it was told already
		if err := q.move(evDMAStopped, "free"); err != nil {
			a.mu.Unlock()
			return err
		}
		q.told = q.state // by the event that follows
		a.mu.Unlock()
		a.onEvent(Event{Kind: EventDMAStopped, Queue: q.id, VM: q.params.VMName, State: Freeing})
	} else {
		a.mu.Unlock()
	}
	if err := a.holder.Wait(ctx, q.id); err != nil {
		return a.giveUpFree(ctx, q, err)
	}
	a.mu.Lock()
	err := errors.Join(q.memory.free(), q.move(evFreed, "free"))
	q.abort = nil
	delete(a.queues, q.id)
	a.unlockAndTell(q)
	return err
}

// giveUpFree leaves the queue on its way out.
func (a *Adapter) giveUpFree(ctx context.Context, q *Queue, why error) error {
	a.mu.Lock()
	q.abort = nil
	a.mu.Unlock()
	if cause := context.Cause(ctx); errors.Is(cause, StatusRequestAborted) {
		why = cause
	}
	return fmt.Errorf("queues: free: queue %d: %w", q.id, why)
}
