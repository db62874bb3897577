package streams

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"sluice/store"
)

// PositionStore is the part of the store that finds and remembers positions; its contract is that of store.Store.
type PositionStore interface {
	PositionAt(ctx context.Context, org string, at time.Time) (store.Cursor, error)
	PositionAgo(ctx context.Context, org string, ago time.Duration) (store.Cursor, error)
	Position(ctx context.Context, reader store.Reader) (at store.Cursor, stale bool, err error)
	KeepPositions(ctx context.Context, list []store.Position) error
}

const (
	positionsAtOnce = 1000
	positionsMost   = 30 * time.Second // that one commit is waited for
)

// Positions finds and remembers how far readers were served that cannot tell it themselves. While one commit is under way
// the next one gathers, so that an event which answers thousands costs few commits and no goroutine each. It is safe for
// concurrent use.
type Positions struct {
	PositionStore

	flight singleflight.Group // look-ups under way

	mu      sync.Mutex
	waiting []kept // guarded by mu
	running bool   // guarded by mu: run is at it
	group   sync.WaitGroup
}

// kept is a position that is to be committed, and who waits for that.
type kept struct {
	store.Position
	done func(error)
}

// NewPositions remembers positions in a store. Close waits for what is under way.
func NewPositions(positions PositionStore) *Positions { return &Positions{PositionStore: positions} }

// PositionAt is that of the store. Those who ask the same at once share an answer: an event that wakes thousands brings them
// all back with its time.
func (p *Positions) PositionAt(ctx context.Context, org string, at time.Time) (store.Cursor, error) {
	return p.share(ctx, fmt.Sprint(org, " at ", at.UTC()), func(ctx context.Context) (store.Cursor, error) {
		return p.PositionStore.PositionAt(ctx, org, at)
	})
}

// PositionAgo is that of the store, shared like PositionAt; it may be of a moment ago.
func (p *Positions) PositionAgo(ctx context.Context, org string, ago time.Duration) (store.Cursor, error) {
	return p.share(ctx, fmt.Sprint(org, " ago ", ago), func(ctx context.Context) (store.Cursor, error) {
		return p.PositionStore.PositionAgo(ctx, org, ago)
	})
}

// share looks up once for all who ask meanwhile. It does not end with the one who asked first.
func (p *Positions) share(ctx context.Context, what string, find func(context.Context) (store.Cursor, error)) (store.Cursor, error) {
	found, err, _ := p.flight.Do(what, func() (any, error) { return find(context.WithoutCancel(ctx)) })
	at, _ := found.(store.Cursor)
	return at, err
}

// Keep commits a position and calls done, with nil once it outlives a crash. It does not block.
func (p *Positions) Keep(at store.Position, done func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, kept{at, done})
	if !p.running {
		p.running = true
		p.group.Go(p.run)
	}
}

// Close waits until everything given to Keep was committed or has failed. Nothing may be given meanwhile.
func (p *Positions) Close() { p.group.Wait() }

// run commits until nobody waits.
func (p *Positions) run() {
	for {
		p.mu.Lock()
		n := min(len(p.waiting), positionsAtOnce)
		batch := p.waiting[:n:n]
		p.waiting = p.waiting[n:]
		if n == 0 {
			p.waiting, p.running = nil, false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		err := p.commit(batch)
		for _, one := range batch {
			one.done(err)
		}
	}
}

// commit writes a batch, each reader once: what was served last counts.
func (p *Positions) commit(batch []kept) error {
	ctx, cancel := context.WithTimeout(context.Background(), positionsMost)
	defer cancel()
	places := map[store.Reader]int{}
	var list []store.Position
	for _, one := range batch {
		at, known := places[one.Reader]
		switch {
		case !known:
			places[one.Reader] = len(list)
			list = append(list, one.Position)
		case list[at].Cursor.Epoch != one.Cursor.Epoch || list[at].Cursor.Seq < one.Cursor.Seq:
			list[at] = one.Position
		}
	}
	return p.KeepPositions(ctx, list)
}
