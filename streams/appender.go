package streams

import (
	"context"
	"errors"
	"sync"
	"time"

	"sluice/store"
)

// What Append answers where the events were not refused but cannot be had into the log for now. The publisher tries
// again with the same ids.
var (
	ErrOverloaded  = errors.New("too many events are waiting for the log")
	ErrDraining    = errors.New("the instance is draining")
	ErrUnavailable = errors.New("the log did not take the events in time")
)

// AppendLog is the part of the store that the appender needs; its contract is that of store.Store.Append.
type AppendLog interface {
	Append(ctx context.Context, items []store.Item) ([]store.Answer, error)
	MakePartitions(ctx context.Context) error
}

const (
	batchEvents    = 1000             // of one transaction: ~10 ms of work under the locks of its orgs
	batchBytes     = 4 << 20          // of event data in one transaction
	batchChanges   = 50               // of one transaction: each is statements of its own, and a lock that others wait for
	waitingEvents  = 20_000           // beyond it publishers are told to come back
	waitingBytes   = 64 << 20         // of event data that waits
	appendPatience = 5 * time.Second  // a database that is away for longer is the publisher's to know
	appendAttempt  = 15 * time.Second // of one transaction, locks of other instances included
)

// Appender commits what publishers bring in batches: while one commit is under way the next batch gathers, so that a
// slow disk makes batches larger instead of publishers slower. It is safe for concurrent use.
type Appender struct {
	log     AppendLog
	metrics *Metrics

	// ctx ends when Close gives up; the transaction under way ends with it.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	waiting []*appendItem // guarded by mu
	events  int           // guarded by mu: of waiting
	bytes   int           // guarded by mu: of waiting
	running bool          // guarded by mu: a goroutine is committing
	closed  bool          // guarded by mu
	idle    sync.WaitGroup
}

// appendItem is what one publisher brought: all of it is appended or nothing.
type appendItem struct {
	store.Item
	events int // a change that does not say how many it brings counts as one
	bytes  int
	since  time.Time

	// Written by the committing goroutine before done is closed.
	answer store.Answer
	done   chan struct{}
}

// NewAppender makes an appender upon a log. Close ends it.
func NewAppender(log AppendLog, metrics *Metrics) *Appender {
	ctx, cancel := context.WithCancel(context.Background())
	return &Appender{log: log, metrics: metrics, ctx: ctx, cancel: cancel}
}

// Append adds the drafts to their orgs' logs, all or none, and returns when they are committed and synced, in the
// order given.
//
// It fails with store.ErrRefused where Postgres will never take one of them, with ErrOverloaded or ErrDraining before
// anything was tried, and with ErrUnavailable where the log may or may not hold them. When ctx ends first, the drafts
// may be committed all the same.
func (a *Appender) Append(ctx context.Context, drafts []store.Draft) ([]store.Appended, error) {
	item := &appendItem{Item: store.Item{Drafts: drafts}, events: len(drafts)}
	for i := range drafts {
		item.bytes += len(drafts[i].Data)
	}
	return a.bring(ctx, item)
}

// Change applies a change of state and adds what it says of it to the logs, both or neither, and returns when that is
// committed and synced, with the answers to the change's drafts.
//
// It fails with what the change's Apply has failed with, and otherwise as Append does: with ErrUnavailable, and when ctx
// ends first, the change may have been made.
func (a *Appender) Change(ctx context.Context, change store.Change) ([]store.Appended, error) {
	item := &appendItem{Item: store.Item{Change: change}, events: 1}
	if sized, is := change.(store.Sized); is {
		item.events = sized.Size()
	}
	return a.bring(ctx, item)
}

func (a *Appender) bring(ctx context.Context, item *appendItem) ([]store.Appended, error) {
	item.since, item.done = time.Now(), make(chan struct{})
	if err := a.enqueue(item); err != nil {
		return nil, err
	}
	select {
	case <-item.done:
		return item.answer.Appended, item.answer.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *Appender) enqueue(item *appendItem) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return ErrDraining
	case a.events+item.events > waitingEvents || a.bytes+item.bytes > waitingBytes:
		return ErrOverloaded
	}
	a.waiting = append(a.waiting, item)
	a.events += item.events
	a.bytes += item.bytes
	if !a.running {
		a.running = true
		a.idle.Add(1)
		go a.run()
	}
	return nil
}

// run commits batches until nothing waits.
func (a *Appender) run() {
	defer a.idle.Done()
	for {
		items := a.gather()
		if items == nil {
			return
		}
		a.commit(items)
	}
}

// gather takes what fits into one transaction, at least one item, in the order of arrival.
func (a *Appender) gather() []*appendItem {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 {
		a.running = false
		return nil
	}
	count, events, bytes, changes := 0, 0, 0, 0
	for _, item := range a.waiting {
		if count > 0 && (events+item.events > batchEvents || bytes+item.bytes > batchBytes) {
			break
		}
		if item.Change != nil {
			if changes == batchChanges {
				break
			}
			changes++
		}
		count++
		events += item.events
		bytes += item.bytes
	}
	items := a.waiting[:count:count]
	a.waiting = a.waiting[count:]
	a.events -= events
	a.bytes -= bytes
	return items
}

// commit appends a batch and answers every item of it. A batch that is refused is halved until the bad item stands
// alone: it costs itself, not its neighbours.
func (a *Appender) commit(items []*appendItem) {
	batch := make([]store.Item, len(items))
	for i, item := range items {
		batch[i] = item.Item
	}
	answers, err := a.insist(batch, items[0].since)
	if errors.Is(err, store.ErrRefused) && len(items) > 1 {
		half := len(items) / 2
		a.commit(items[:half])
		a.commit(items[half:])
		return
	}
	for i, item := range items {
		item.answer.Err = err
		if err == nil {
			item.answer = answers[i]
		}
		close(item.done)
	}
}

// insist tries until the log takes the batch or refuses it, or its oldest publisher has waited long enough. From the
// second try on every id is looked up, for the first try may have committed without our being told.
func (a *Appender) insist(batch []store.Item, since time.Time) ([]store.Answer, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		ctx, cancel := context.WithTimeout(a.ctx, appendAttempt)
		answers, err := a.log.Append(ctx, batch)
		cancel()
		switch {
		case err == nil:
			events := 0
			for i := range answers {
				events += len(answers[i].Appended)
			}
			a.metrics.AppendBatch.Observe(float64(events))
			a.metrics.Appended.Add(float64(events))
			return answers, nil
		case errors.Is(err, store.ErrRefused):
			return nil, err
		case errors.Is(err, store.ErrNoPartition):
			// The clock has passed what was made ahead. Making partitions waits for nobody who appends.
			if making := a.log.MakePartitions(a.ctx); making != nil {
				err = making
			}
		}
		a.metrics.AppendErrors.Inc()
		if time.Since(since) > appendPatience {
			return nil, errors.Join(ErrUnavailable, err)
		}
		for _, item := range batch {
			for i := range item.Drafts {
				item.Drafts[i].Tried = true
			}
		}
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
			return nil, errors.Join(ErrUnavailable, a.ctx.Err())
		}
	}
}

// Close takes nothing more, commits what waits, and returns when that is done. When ctx ends first, what is left is
// answered with ErrUnavailable.
func (a *Appender) Close(ctx context.Context) {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	stop := context.AfterFunc(ctx, a.cancel)
	defer stop()
	a.idle.Wait()
	a.cancel()
}
