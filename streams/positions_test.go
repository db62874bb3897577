package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// gatedPositions are those of a real store, whose commits are let through one by one, and may be said to have failed.
type gatedPositions struct {
	*store.Store
	gate  chan error // each commit takes one: nil, or what it is said to have failed with
	sizes chan int   // of each commit, when it begins
}

func (g *gatedPositions) KeepPositions(ctx context.Context, list []store.Position) error {
	g.sizes <- len(list)
	if err := <-g.gate; err != nil {
		return err
	}
	return g.Store.KeepPositions(ctx, list)
}

// TestPositionsGather has thousands of positions wait for one commit: they become few, each reader stands in one of them
// once, and nobody is told before the commit.
func TestPositionsGather(t *testing.T) {
	t.Parallel()
	events, err := store.Open(t.Context(), store.Options{URL: pgtest.Database(t), Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	gated := &gatedPositions{Store: events, gate: make(chan error), sizes: make(chan int)}
	positions := streams.NewPositions(gated)
	told := make(chan error, 3000)
	keep := func(user, seq int) {
		at := store.Position{Reader: store.Reader{Org: "1", User: fmt.Sprint(user)}, Cursor: store.Cursor{Epoch: events.Epoch(), Seq: int64(seq)}}
		positions.Keep(at, func(err error) { told <- err })
	}
	commit := func(size, readers int, outcome error) {
		t.Helper()
		if got := <-gated.sizes; got != size {
			t.Errorf("a commit of %d positions, not %d", got, size)
		}
		if len(told) > 0 {
			t.Error("somebody was told before the commit")
		}
		gated.gate <- outcome
		for range readers {
			select {
			case err := <-told:
				if !errors.Is(err, outcome) {
					t.Errorf("told %v, not %v", err, outcome)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("nobody is told")
			}
		}
	}
	keep(0, 7)
	if size := <-gated.sizes; size != 1 {
		t.Errorf("the first commit has %d", size)
	}
	for i := range 1500 {
		keep(i/2, 10+i%2)
	}
	for i := range 600 {
		keep(i, 20)
	}
	gated.gate <- nil
	if err := <-told; err != nil {
		t.Error(err)
	}
	commit(500, 1000, nil)
	commit(750, 1000, errors.New("no"))
	commit(100, 100, nil)
	positions.Close()
	for user, want := range map[int]int64{0: 11, 499: 11, 500: 20, 599: 20} {
		at, _, err := events.Position(t.Context(), store.Reader{Org: "1", User: fmt.Sprint(user)})
		if err != nil || at.Seq != want {
			t.Errorf("user %d stands at %v, not %d (%v)", user, at, want, err)
		}
	}
}

// heldPositions answer no look-up before they are let.
type heldPositions struct {
	streams.PositionStore
	let   chan struct{}
	asked atomic.Int32
}

func (h *heldPositions) PositionAt(ctx context.Context, _ string, at time.Time) (store.Cursor, error) {
	h.asked.Add(1)
	<-h.let
	return store.Cursor{Epoch: "e", Seq: at.Unix()}, ctx.Err()
}

// TestPositionsAreShared has a crowd come back with one time: they are one look-up, whoever of them leaves meanwhile.
func TestPositionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := &heldPositions{let: make(chan struct{})}
		positions := streams.NewPositions(held)
		var crowd sync.WaitGroup
		ask := func(ctx context.Context, org string, seq int64) {
			crowd.Go(func() {
				if at, err := positions.PositionAt(ctx, org, time.Unix(seq, 0)); err != nil || at.Seq != seq {
					t.Errorf("%s at %d is %v (%v)", org, seq, at, err)
				}
			})
			synctest.Wait()
		}
		first, leave := context.WithCancel(t.Context())
		ask(first, "1", 7)
		leave()
		for range 100 {
			ask(t.Context(), "1", 7)
		}
		ask(t.Context(), "1", 8)
		ask(t.Context(), "2", 7)
		if asked := held.asked.Load(); asked != 3 {
			t.Errorf("the store was asked %d times", asked)
		}
		close(held.let)
		crowd.Wait()
	})
}
