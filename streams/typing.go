package streams

import (
	"context"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"sluice/store"
)

const (
	typingEvery = 2 * time.Second        // one signal of a user and room
	typingLasts = 5 * time.Second        // what could not be told for so long says nothing any more
	typingRest  = 100 * time.Millisecond // between two rounds; the first after a while of quiet is told at once
	typingKnown = 100_000                // users in rooms that are remembered
	typingMost  = 10_000                 // signals that wait
)

// TypingTeller is the part of the store that tells who types; its contract is that of store.Store.
type TypingTeller interface {
	TellTyping(ctx context.Context, list []store.Typing) error
}

// Typing tells all instances who types, and the streams here what all have told. Any of it may be lost.
type Typing struct {
	log TypingTeller
	hub *Hub
	to  *slog.Logger

	out, in typingQueue
}

// NewTyping makes what tells who types. Run runs it.
func NewTyping(log TypingTeller, hub *Hub, to *slog.Logger) *Typing {
	return &Typing{log: log, hub: hub, to: to, out: newTypingQueue(), in: newTypingQueue()}
}

// Tell has all instances told that a user types. It does not block; what is too much is left out.
func (t *Typing) Tell(one store.Typing) { t.out.add(one) }

// Typed is told by the notifier who types.
func (t *Typing) Typed(list []store.Typing) {
	for _, one := range list {
		t.in.add(one)
	}
}

// Run tells and passes on until ctx ends.
func (t *Typing) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		t.out.drain(ctx, func(list []store.Typing) bool {
			bounded, cancel := context.WithTimeout(ctx, typingLasts)
			defer cancel()
			err := t.log.TellTyping(bounded, list)
			if err != nil && ctx.Err() == nil {
				t.to.Debug("who types cannot be told", "err", err)
			}
			return err == nil
		})
	})
	group.Go(func() {
		t.in.drain(ctx, func(list []store.Typing) bool {
			signals := map[string][]Signal{}
			for _, one := range list {
				signals[one.Org] = append(signals[one.Org], Signal{Kind: SignalTyping, Room: one.Room, User: one.User, Name: one.Name})
			}
			for org, of := range signals {
				t.hub.Signal(org, of)
			}
			return true
		})
	})
}

// typingQueue is signals that wait. It takes one of a user and room in two seconds: of those that a client gives, and again of
// those that instances tell, since one user may give them to several.
type typingQueue struct {
	some chan struct{} // of one place: there are some

	mu    sync.Mutex
	taken *lru.Cache[store.Typing, time.Time] // guarded by mu; when the newest one was, the name left out
	list  []typed                             // guarded by mu
}

// typed is a signal with the time at which it was given.
type typed struct {
	store.Typing
	at time.Time
}

func newTypingQueue() typingQueue {
	taken, err := lru.New[store.Typing, time.Time](typingKnown)
	if err != nil {
		panic(err) // the size is not positive
	}
	return typingQueue{some: make(chan struct{}, 1), taken: taken}
}

func (q *typingQueue) add(one store.Typing) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, key := time.Now(), one
	key.Name = ""
	if at, known := q.taken.Get(key); known && now.Sub(at) < typingEvery || len(q.list) >= typingMost {
		return
	}
	q.taken.Add(key, now)
	q.list = append(q.list, typed{one, now})
	wake(q.some)
}

// drain gives what waits to pass, in rounds, until ctx ends. What it does not take is given again while it says something.
func (q *typingQueue) drain(ctx context.Context, pass func([]store.Typing) bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.some:
		}
		q.mu.Lock()
		list := q.list
		q.list = nil
		q.mu.Unlock()
		var fresh []store.Typing
		for _, one := range list {
			if time.Since(one.at) < typingLasts {
				fresh = append(fresh, one.Typing)
			}
		}
		if len(fresh) > 0 && !pass(fresh) {
			q.mu.Lock()
			q.list = append(list, q.list...)
			q.mu.Unlock()
			wake(q.some)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(typingRest):
		}
	}
}
