package streams_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestFarBehindDelaysNobody replays a long log for a reader whose filter admits none of it, beside one that is a little
// behind: their turns alternate, however much lies before the first.
func TestFarBehindDelaysNobody(t *testing.T) {
	database := pgtest.Database(t)
	l := openMetered(t, database, streams.Options{RingMemory: 1}) // nothing is served from a ring
	l.notify()
	first := l.append(t, "1", draft("first"))[0].Cursor
	const long = 60_000
	if err := execute(database, fmt.Sprintf(`insert into sluice.events (org, seq, time, id, service, type, data)
		select '1', n, clock_timestamp(), 'e' || n, 'finance', 'x', '{}' from generate_series(2, %d) n`, long)); err != nil {
		t.Fatal(err)
	}
	tasks := streams.Filter{Services: store.DefaultCatalogue().Bit("tasks"), AllProperties: true}
	far := make([]*pipe, 5)
	for i := range far {
		far[i] = l.subscribe("1", tasks, streams.Start{Kind: streams.StartAt, Cursor: first})
	}
	for _, p := range far {
		p.await(t, "ack")
	}
	before := l.figure(t, "replay_pages_total")
	near := l.subscribe("1", everything, streams.Start{
		Kind: streams.StartAt, Cursor: store.Cursor{Epoch: first.Epoch, Seq: long - 1000},
	})
	near.await(t, fmt.Sprintf("event e%d ", long))
	if pages := l.figure(t, "replay_pages_total") - before; pages > 30 {
		t.Errorf("%v pages were read until a reader had its two", pages)
	}
	last := draft("last")
	last.Service = "tasks"
	l.append(t, "1", last)
	for _, p := range far {
		p.await(t, "event last ")
	}
}

// TestSharedPageWithAGap serves readers at different positions from pages of a log in which somebody has deleted an
// event: each is told of the gap, and none loses an event that is there.
func TestSharedPageWithAGap(t *testing.T) {
	database := pgtest.Database(t)
	l := open(t, database, streams.Options{RingMemory: 1})
	var drafts []store.Draft
	for i := 1; i <= 20; i++ {
		drafts = append(drafts, draft(fmt.Sprint("e", i)))
	}
	epoch := l.append(t, "1", drafts...)[0].Cursor.Epoch
	if err := execute(database, `delete from sluice.events where seq = 10`); err != nil {
		t.Fatal(err)
	}
	readers := map[int64]*pipe{}
	for _, at := range []int64{1, 5, 8, 10, 12, 15} {
		readers[at] = l.subscribe("1", everything, streams.Start{Kind: streams.StartAt, Cursor: store.Cursor{Epoch: epoch, Seq: at}})
	}
	for at, p := range readers {
		var want []string
		for i := at + 1; i <= 20 && (i < 10 || at >= 10); i++ {
			want = append(want, fmt.Sprint("e", i))
		}
		p.wait(t, fmt.Sprint("reader at ", at), func() bool { ids, _ := p.events(); return len(ids) >= len(want) })
		if at < 10 {
			p.await(t, "reset expired")
		}
		if ids, _ := p.events(); !slices.Equal(ids, want) {
			t.Errorf("reader at %d: %q, not %q", at, ids, want)
		}
	}
}

// TestFiltersThatLookAlike has two readers whose lists of properties are the same text when they are joined carelessly.
func TestFiltersThatLookAlike(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{})
	of := func(properties ...string) *pipe {
		return l.subscribe("1", streams.Filter{Services: ^uint64(0), Properties: properties}, streams.Start{})
	}
	joined, apart, slashed := of("1\x002"), of("1", "2"), of("1/1:2")
	for _, p := range []*pipe{joined, apart, slashed} {
		p.await(t, "ack")
	}
	one := draft("one")
	one.PropertyID = "1"
	l.append(t, "1", one, draft("all"))
	for p, want := range map[*pipe][]string{joined: {"all"}, apart: {"one", "all"}, slashed: {"all"}} {
		p.await(t, "event all ")
		if ids, _ := p.events(); !slices.Equal(ids, want) {
			t.Errorf("%q, not %q", ids, want)
		}
	}
}

// TestUnreadTailIsSwept keeps publishing to an org that nobody reads any more: it is forgotten here all the same, and
// later readers begin anew.
func TestUnreadTailIsSwept(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		reader := l.watch(everything, time.Hour)
		log.add("a")
		l.hub.WakeAll()
		reader.End(nil, streams.EndDrained)
		for i := range 20 {
			<-time.After(2 * time.Second)
			log.add(fmt.Sprint("unread", i))
			l.hub.WakeAll()
		}
		if orgs := l.hub.Orgs(); len(orgs) != 0 {
			t.Fatalf("%q are in use", orgs)
		}
		again := l.watch(everything, time.Hour)
		log.add("read")
		l.hub.WakeAll()
		again.await(t, "event read ")
	})
}
