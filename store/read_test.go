package store

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestPageSeesOtherInstances appends through one store and reads through another: head and rows are the primary's.
func TestPageSeesOtherInstances(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	one, other := open(t, url), open(t, url)
	for i := range int64(20) {
		answer := add(t, one, draft("org", fmt.Sprint("x", i)))
		got := page(t, other, "org", i)
		if got.Head != i+1 || len(got.Events) != 1 || got.Events[0].ID != fmt.Sprint("x", i) {
			t.Fatalf("after %+v a page of another instance is %+v", answer, got)
		}
		if got.Epoch != answer[0].Cursor.Epoch || got.Epoch != one.Epoch() || other.Epoch() != one.Epoch() {
			t.Fatalf("the epochs are %q, %q, %q", got.Epoch, one.Epoch(), other.Epoch())
		}
	}
}

// TestPageIsUnfiltered has events of every label: a page gives all of the org's and none of another's.
func TestPageIsUnfiltered(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	var list []Draft
	for i := range 60 {
		one := draft("org", fmt.Sprint("x", i))
		one.Service = []string{"finance", "chat", "no such service", ""}[i%4]
		one.PropertyID = []string{"", "p1", "p2"}[i%3]
		list = append(list, one, draft("another", fmt.Sprint("x", i)), draft("org ", fmt.Sprint("x", i)))
	}
	add(t, s, list...)
	for _, limit := range []int{1, 7, 59, 60, 61} {
		var after int64
		for after < 60 {
			got, err := s.Page(t.Context(), "org", after, time.Time{}, limit)
			if err != nil {
				t.Fatal(err)
			}
			if want := min(limit, 60-int(after)); len(got.Events) != want || got.Head != 60 || got.Floor != 0 {
				t.Fatalf("a page of %d after %d has %d events, head %d, floor %d", limit, after, len(got.Events), got.Head, got.Floor)
			}
			for _, event := range got.Events {
				want := list[after*3]
				if after++; event.Seq != after || event.ID != want.ID || event.Org != "org" || event.Service != want.Service || event.PropertyID != want.PropertyID {
					t.Fatalf("position %d is %+v", after, event)
				}
			}
		}
	}
	for _, after := range []int64{60, 61, 1 << 62} {
		if got := page(t, s, "org", after); got.Head != 60 || len(got.Events) != 0 || got.Epoch == "" {
			t.Errorf("a page after %d is %+v", after, got)
		}
	}
	if got := page(t, s, "nobody", 0); got.Head != 0 || got.Floor != 0 || len(got.Events) != 0 || got.Epoch != s.Epoch() {
		t.Errorf("an org without events has %+v", got)
	}
}

// TestPageIsOneSnapshot reads short pages from all over the log while another instance appends and old days are dropped. In
// one snapshot, a page that is not full ends at the head, and what it lacks at its beginning is below the floor.
func TestPageIsOneSnapshot(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other, db := open(t, url), open(t, url), connect(t, url)
	const days, batches, size, limit = 4, 120, 5, 1000
	for i := range int64(days) {
		put(t, db, "org", 1+i*10, 10, day(t, s, int(i)-days-1))
	}
	done := make(chan error, 1)
	go func() {
		for i := range batches {
			if _, err := other.Append(t.Context(), itemsOf(drafts("org", fmt.Sprint(i, "-"), size))); err != nil {
				done <- err
				return
			}
			if i%20 == 10 {
				if _, err := other.Trim(t.Context(), time.Duration(max(0, days-i/20))*24*time.Hour); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	var head, floor int64
	for pages, running := int64(0), true; running; pages++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		after := max(0, head-pages%15)
		if pages%3 == 0 {
			after = pages % (days * 10)
		}
		got, err := s.Page(t.Context(), "org", after, time.Time{}, limit)
		if err != nil {
			t.Fatal(err)
		}
		last := after
		for i, event := range got.Events {
			if i > 0 && event.Seq != last+1 || i == 0 && event.Seq != after+1 && event.Seq > got.Floor+1 {
				t.Fatalf("after %d, position %d follows %d with the floor at %d", after, event.Seq, last, got.Floor)
			}
			last = event.Seq
		}
		if len(got.Events) < limit && got.Head != max(last, got.Floor) {
			t.Fatalf("a page that ends at %d has the head %d", last, got.Head)
		}
		if got.Head < head || got.Floor < floor {
			t.Fatalf("head and floor went from %d, %d to %d, %d", head, floor, got.Head, got.Floor)
		}
		head, floor = got.Head, got.Floor
	}
	if head != days*10+batches*size || floor == 0 {
		t.Errorf("in the end the head is %d and the floor %d", head, floor)
	}
}

// TestPageIsOneStatement stops a page at each of the tables that it reads, and changes all of them meanwhile, in one
// transaction. Whatever the page had read before it was stopped would be older than the rest.
func TestPageIsOneStatement(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"events", "logs", "epoch"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			s, db := open(t, url), connect(t, url)
			add(t, s, drafts("org", "x", 4)...)
			page(t, s, "org", 0) // the connection is there and the plan is made
			tx := db.MustBegin()
			defer tx.Rollback()
			execute(t, tx, `lock table sluice.`+table+` in access exclusive mode`)
			type result struct {
				page Page
				err  error
			}
			done := make(chan result, 1)
			go func() {
				got, err := s.Page(t.Context(), "org", 1, time.Time{}, 10)
				done <- result{got, err}
			}()
			waitLocked(t, db)
			execute(t, tx, `delete from sluice.events where seq <= 2`)
			execute(t, tx, `update sluice.logs set trimmed_seq = 2`)
			execute(t, tx, `update sluice.epoch set epoch = 'another'`)
			execute(t, tx, `insert into sluice.events select org, 5, time + interval '1 second', 'x5', service, type, '', '', '', '', '{}'
				from sluice.events where seq = 4`)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			got := <-done
			if got.err != nil {
				t.Fatal(got.err)
			}
			if p := got.page; p.Epoch != "another" || p.Floor != 2 || p.Head != 5 || len(p.Events) != 3 || p.Events[0].Seq != 3 {
				t.Errorf("stopped at %s: %+v", table, p)
			}
		})
	}
}

// TestSincePrunesOnly reads the same pages with the time of the event before them and without: the answers are equal.
func TestSincePrunesOnly(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	day(t, s, -1)
	put(t, db, "org", 1, 4, day(t, s, -2).Add(24*time.Hour-3*time.Second)) // the last event is at midnight
	put(t, db, "org", 5, 3, day(t, s, 0))
	execute(t, db, `insert into sluice.events select 'other', seq, time, id, service, type, '', '', '', '', '{}' from sluice.events`)
	ahead := day(t, s, 2)
	put(t, db, "org", 8, 2, ahead)
	add(t, s, drafts("org", "now", 3)...)
	whole := page(t, s, "org", 0)
	if len(whole.Events) != 12 || whole.Head != 12 {
		t.Fatalf("%+v", whole)
	}
	for _, event := range whole.Events {
		for _, limit := range []int{1, 3, 100} {
			with, err := s.Page(t.Context(), "org", event.Seq, event.Time, limit)
			if err != nil {
				t.Fatal(err)
			}
			without, err := s.Page(t.Context(), "org", event.Seq, time.Time{}, limit)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(with, without) || len(with.Events) != min(limit, 12-int(event.Seq)) {
				t.Errorf("after %d: since its time %+v, without %+v", event.Seq, with, without)
			}
		}
	}
	// The time does prune: an event is not found by a time after it.
	got, err := s.Page(t.Context(), "org", 0, whole.Events[6].Time, 100)
	if err != nil || len(got.Events) == 0 || got.Events[0].Seq != 7 {
		t.Errorf("since the time of position 7: %+v (%v)", got, err)
	}
}

// TestPageIsBounded fills pages with large documents, of which one kind takes little room where it is stored: what counts is what a page holds.
func TestPageIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"random": randomText(60 << 10), "repetitive": strings.Repeat("all work and no play ", 3000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, pgtest.Database(t))
			const events = 200
			document := json.RawMessage(`{"text":"` + text + `"}`)
			list := drafts("org", "x", events)
			for i := range list {
				list[i].Data = document
			}
			for i := 0; i < events; i += 50 {
				add(t, s, list[i:i+50]...)
			}
			pages := 0
			for after := int64(0); after < events; pages++ {
				got := page(t, s, "org", after)
				size := 0
				for _, event := range got.Events {
					after++
					size += len(event.Data)
					if event.Seq != after || string(event.Data) != string(document) {
						t.Fatalf("position %d is %d with %d bytes", after, event.Seq, len(event.Data))
					}
				}
				if size > pageBytes || len(got.Events) == 0 || got.Head != events {
					t.Fatalf("a page of %d events up to %d has %d bytes", len(got.Events), got.Head, size)
				}
			}
			if least := events * len(document) / pageBytes; pages > least+2 {
				t.Errorf("%d pages for what fits into %d", pages, least+1)
			}
		})
	}
}

// TestPageHasOneAtLeast reads events of which each alone is larger than a page should be.
func TestPageHasOneAtLeast(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	for _, text := range []string{randomText(pageBytes + 1000), strings.Repeat("a", 2*pageBytes)} {
		large := draft("org", text[:20])
		large.Data = json.RawMessage(`{"text":"` + text + `"}`)
		add(t, s, large)
	}
	for after := range int64(2) {
		if got := page(t, s, "org", after); len(got.Events) != 1 || got.Events[0].Seq != after+1 || got.Head != 2 {
			t.Errorf("after %d there are %d events up to %d", after, len(got.Events), got.Head)
		}
	}
}

// TestHeads asks for logs that grow, that are old, and that are not there.
func TestHeads(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other, db := open(t, url), open(t, url), connect(t, url)
	put(t, db, "old", 1, 3, day(t, s, -2))
	add(t, other, append(drafts("a", "x", 3), draft("b c:*", "x"), draft("unasked", "x"))...)
	orgs := []string{"a", "b c:*", "old", "nobody"}
	got, err := s.Heads(t.Context(), orgs)
	if want := map[string]int64{"a": 3, "b c:*": 1}; err != nil || !reflect.DeepEqual(got.Of, want) || got.Epoch != s.Epoch() {
		t.Errorf("%+v (%v)", got, err)
	}
	add(t, other, draft("old", "x"), draft("a", "y"))
	got, err = s.Heads(t.Context(), orgs)
	if want := map[string]int64{"a": 4, "b c:*": 1, "old": 4}; err != nil || !reflect.DeepEqual(got.Of, want) {
		t.Errorf("%+v (%v)", got, err)
	}
	if got, err = s.Heads(t.Context(), nil); err != nil || len(got.Of) != 0 || got.Epoch != s.Epoch() {
		t.Errorf("of nobody: %+v (%v)", got, err)
	}
}
