package streams_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/streams"
)

// doorway stands between an appender and a real log. It can hold each transaction up until it is let through, and can
// say of one that it failed: before it was tried, or although it was committed.
type doorway struct {
	*store.Store
	gate chan struct{}                           // each transaction takes one; nil: none is needed
	fail func(try int) (instead, although error) // may be nil

	mu    sync.Mutex
	tries int             // guarded by mu
	asked [][]store.Draft // guarded by mu: the drafts of each try, as they were then
	sizes []int           // guarded by mu: items of each try
}

func (d *doorway) Append(ctx context.Context, items []store.Item) ([]store.Answer, error) {
	var asked []store.Draft
	for i := range items {
		asked = append(asked, items[i].Drafts...)
	}
	d.mu.Lock()
	d.tries++
	try := d.tries
	d.asked, d.sizes = append(d.asked, asked), append(d.sizes, len(items))
	d.mu.Unlock()
	if d.gate != nil {
		select {
		case <-d.gate:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
		}
	}
	var instead, although error
	if d.fail != nil {
		instead, although = d.fail(try)
	}
	if instead != nil {
		return nil, instead
	}
	answer, err := d.Store.Append(ctx, items)
	if err == nil && although != nil {
		return nil, although
	}
	return answer, err
}

func (d *doorway) transactions() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sizes)
}

// appender puts one behind the doorway; both end with the test.
func (d *doorway) appender(t *testing.T, database string) (*streams.Appender, *prometheus.Registry) {
	t.Helper()
	var err error
	if d.Store, err = store.Open(context.Background(), store.Options{URL: database, Connections: 4}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Store.Close() })
	registry := prometheus.NewRegistry()
	a := streams.NewAppender(d, streams.NewMetrics(registry, store.DefaultCatalogue()))
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		a.Close(over)
	})
	return a, registry
}

// log reads a whole log, and fails the test where a position is missing.
func (d *doorway) log(t *testing.T, org string) (ids []string) {
	t.Helper()
	for {
		page, err := d.Store.Page(context.Background(), org, int64(len(ids)), time.Time{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range page.Events {
			if event.Seq != int64(len(ids)+1) {
				t.Fatalf("%s stands at %d, after %d", event.ID, event.Seq, len(ids))
			}
			ids = append(ids, event.ID)
		}
		if len(page.Events) == 0 {
			return ids
		}
	}
}

// noticed is a context that tells when it is first waited for: what Append was given waits in the queue then.
type noticed struct {
	context.Context
	waits func()
}

func (n noticed) Done() <-chan struct{} {
	n.waits()
	return n.Context.Done()
}

// brought is what one publisher brought and what it was answered.
type brought struct {
	drafts []store.Draft
	done   chan struct{}
	answer []store.Appended
	err    error
}

// bring publishes beside the test, and returns once the drafts wait or were answered.
func bring(a *streams.Appender, drafts ...store.Draft) *brought {
	b := &brought{drafts: drafts}
	return b.wait(func(ctx context.Context) ([]store.Appended, error) { return a.Append(ctx, drafts) })
}

// bringChange is bring for a change.
func bringChange(a *streams.Appender, change store.Change) *brought {
	return new(brought).wait(func(ctx context.Context) ([]store.Appended, error) { return a.Change(ctx, change) })
}

func (b *brought) wait(publish func(context.Context) ([]store.Appended, error)) *brought {
	b.done = make(chan struct{})
	waits := make(chan struct{})
	notice := noticed{context.Background(), sync.OnceFunc(func() { close(waits) })}
	go func() {
		defer close(b.done)
		b.answer, b.err = publish(notice)
	}()
	select {
	case <-waits:
	case <-b.done:
	}
	return b
}

// result waits for the answer.
func (b *brought) result(t *testing.T) ([]store.Appended, error) {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(patience):
		t.Fatal("a publisher is not answered")
	}
	return b.answer, b.err
}

// first brings one event and returns once its transaction is under way: whatever comes then gathers.
func (d *doorway) first(t *testing.T, a *streams.Appender) *brought {
	t.Helper()
	b := bring(a, made("1", "first"))
	eventually(t, "no transaction begins", func() bool { return len(d.transactions()) == 1 })
	return b
}

// made is a draft whose id the server has made: it is looked up only once a try has failed.
func made(org, id string) store.Draft {
	return store.Draft{Event: store.Event{Org: org, ID: id, Service: "finance", Type: "x", Data: json.RawMessage(`{}`)}}
}
