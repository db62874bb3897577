package streams_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestListenSwallowed makes the LISTEN connection silent without a word to either end. Events arrive by the poll
// meanwhile; the connection is found dead and replaced, and notifications come again.
func TestListenSwallowed(t *testing.T) {
	t.Parallel()
	link := pgtest.NewLink(t, pgtest.Database(t))
	m := openMetered(t, link.URL, streams.Options{RingMemory: 1 << 20})
	m.notify()
	p := m.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	var want []string
	publish := func() {
		id := fmt.Sprint("e", len(want))
		want = append(want, id)
		m.append(t, "1", draft(id))
		p.await(t, "event "+id+" ")
	}
	heard := func() bool {
		before := m.figure(t, "wakes_total{source=notify}")
		publish()
		return m.figure(t, "wakes_total{source=notify}") > before
	}
	eventually(t, "no notification arrives", heard)
	if n := link.Swallow(); n != 1 {
		t.Fatalf("%d connections listen", n)
	}
	polled, told := m.figure(t, "wakes_total{source=poll}"), m.figure(t, "wakes_total{source=notify}")
	for range 2 { // the first may still be read with what came before it
		publish()
	}
	if m.figure(t, "wakes_total{source=poll}") == polled || m.figure(t, "wakes_total{source=notify}") != told {
		t.Error("the events have not come by the poll")
	}
	eventually(t, "the connection is not replaced", heard)
	if got, _ := p.events(); !slices.Equal(got, want) {
		t.Errorf("the reader has %q, not %q", got, want)
	}
}

// TestHintsCoalesce counts reads. A hint at what was read, and what the poll finds, lead to none; and what is committed
// together is one notification, which wakes once.
func TestHintsCoalesce(t *testing.T) {
	t.Parallel()
	m := openMetered(t, pgtest.Database(t), streams.Options{RingMemory: 1 << 20})
	m.notify()
	p := m.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	m.append(t, "1", draft("first"))
	p.await(t, "event first")
	eventually(t, "no notification arrives", func() bool {
		before := m.figure(t, "wakes_total{source=notify}")
		m.append(t, "1", draft(fmt.Sprint("warm-", before, m.log.pages.Load())))
		return m.figure(t, "wakes_total{source=notify}") > before
	})

	var drafts []store.Draft
	for i := range 100 {
		drafts = append(drafts, draft(fmt.Sprint("e", i)))
	}
	m.append(t, "1", drafts...)
	p.await(t, "event e99 ")
	polled := m.figure(t, "wakes_total{source=poll}")
	m.reach(t, "wakes_total{source=poll}", polled+1) // whatever was under way has come
	read, woken := m.log.pages.Load(), m.figure(t, "wakes_total{source=notify}")
	m.append(t, "1", draft("repeated"), draft("repeated too"))
	p.await(t, "event repeated too")
	m.reach(t, "wakes_total{source=poll}", polled+3) // two more polls, which find nothing new
	if got := m.figure(t, "wakes_total{source=notify}") - woken; got > 1 {
		t.Errorf("two events of one transaction have notified %v times", got)
	}
	if got := m.log.pages.Load() - read; got > 2 { // a second one where a poll came during the first
		t.Errorf("one transaction, and polls without news, have led to %d reads", got)
	}
}

// TestSameRoad publishes where the reader is, with no notifier: nothing short of a wake delivers what was committed, and
// then the log is read for it.
func TestSameRoad(t *testing.T) {
	t.Parallel()
	m := openMetered(t, pgtest.Database(t), streams.Options{RingMemory: 1 << 20})
	p := m.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	read := m.log.pages.Load()
	var want []string
	for i := range 30 { // a short cut would have the time of 29 commits to be seen
		want = append(want, fmt.Sprint("e", i))
		m.append(t, "1", draft(want[i]))
	}
	if got, _ := p.events(); len(got) != 0 || m.log.pages.Load() != read || m.hub.Stats("1").RingEvents != 0 {
		t.Errorf("without a wake the reader has %q after %d reads", got, m.log.pages.Load()-read)
	}
	m.hub.WakeAll()
	p.await(t, "event e29")
	if got, _ := p.events(); !slices.Equal(got, want) {
		t.Errorf("the reader has %q", got)
	}
	if got := m.log.pages.Load() - read; got != 1 {
		t.Errorf("one wake has led to %d reads", got)
	}
}

// TestOneReadForAll has fifty readers of one log: what is new is read once for all of them.
func TestOneReadForAll(t *testing.T) {
	t.Parallel()
	m := openMetered(t, pgtest.Database(t), streams.Options{RingMemory: 1 << 20})
	var all []*pipe
	for range 50 {
		all = append(all, m.subscribe("1", everything, streams.Start{}))
	}
	for _, p := range all {
		p.await(t, "ack")
	}
	m.append(t, "1", draft("a"), draft("b"))
	read := m.log.pages.Load()
	m.hub.WakeAll()
	for _, p := range all {
		p.await(t, "event b")
	}
	if got := m.log.pages.Load() - read; got != 1 {
		t.Errorf("50 readers have led to %d reads", got)
	}
}

// TestPostgresAway cuts every connection again and again under a reader: the stream stays, and nothing is missing.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	link := pgtest.NewLink(t, pgtest.Database(t))
	m := openMetered(t, link.URL, streams.Options{RingMemory: 1 << 20})
	m.notify()
	p := m.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	var want []string
	for i := range 10 {
		link.Cut()
		want = append(want, fmt.Sprint("e", i))
		m.append(t, "1", draft(want[i]))
	}
	p.await(t, "event e9")
	if got, _ := p.events(); !slices.Equal(got, want) {
		t.Errorf("the reader has %q", got)
	}
	if m.hub.Stats("1").Streams != 1 {
		t.Error("the stream has ended")
	}
}

// TestQueuedIsTold hears of documents that are to be read, which is in no log.
func TestQueuedIsTold(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	m := openMetered(t, database, streams.Options{RingMemory: 1 << 20})
	queued := make(chan struct{}, 1)
	notifier := streams.NewNotifier(m.events, m.hub, slog.New(slog.DiscardHandler))
	notifier.Queued = func() {
		select {
		case queued <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { notifier.Run(ctx) })
	defer running.Wait()
	defer cancel()
	eventually(t, "nobody is told", func() bool {
		if err := execute(database, `select pg_notify('sluice', '!document')`); err != nil {
			t.Fatal(err)
		}
		return len(queued) > 0
	})
}
