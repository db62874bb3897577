package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// relayed opens a store whose catalogue is in force, and its outbox.
func relayed(t testing.TB) (*Store, *Outbox, *sqlx.DB) {
	t.Helper()
	url := pgtest.Database(t)
	s := open(t, url)
	if err := s.KeepCatalogue(t.Context(), DefaultCatalogue()); err != nil {
		t.Fatal(err)
	}
	o := s.NewOutbox(DefaultCatalogue())
	t.Cleanup(o.Release)
	return s, o, connect(t, url)
}

// publish calls the function as an application does.
func publish(t testing.TB, db sqlx.Queryer, org, id string) string {
	t.Helper()
	return ask[string](t, db, `select sluice.publish($1, 'finance', 'changed', id => $2)`, org, id)
}

// turn finds and moves until nothing is left, as a relay would.
func turn(t testing.TB, o *Outbox) {
	t.Helper()
	wait(t, "the outbox is empty", func() bool {
		waiting, err := o.Find(t.Context())
		done := err == nil && waiting == 0
		if err == nil && !done {
			_, err = o.Move(t.Context(), 1000)
		}
		if err != nil && !errors.Is(err, ErrElsewhere) {
			t.Fatal(err)
		}
		return done
	})
}

// logged gives the ids in the log of an org.
func logged(t testing.TB, s *Store, org string) (ids []string) {
	t.Helper()
	for {
		got := page(t, s, org, int64(len(ids)))
		if len(got.Events) == 0 {
			return ids
		}
		for _, event := range got.Events {
			ids = append(ids, event.ID)
		}
	}
}

func expect(t testing.TB, s *Store, org string, want ...string) {
	t.Helper()
	if got := logged(t, s, org); !slices.Equal(got, want) {
		t.Errorf("the log of %s has %q, not %q", org, got, want)
	}
}

// TestOutboxTransactions publishes in transactions that overlap in every way: each is found when it has ended, whatever
// its number and the ids of its rows, also where savepoints wrote them.
func TestOutboxTransactions(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	begin := func() *sqlx.Tx { return db.MustBegin() }
	turn(t, o)

	early, rolled, number := begin(), begin(), begin()
	ask[string](t, number, `select pg_current_xact_id()::text`) // older than all others, and publishes last
	publish(t, early, "1", "early")
	publish(t, rolled, "1", "rolled")
	publish(t, db, "1", "free")
	turn(t, o)
	expect(t, s, "1", "free")

	saved := begin()
	publish(t, saved, "1", "saved1")
	execute(t, saved, `savepoint one`)
	publish(t, saved, "1", "saved2")
	execute(t, saved, `rollback to one`)
	publish(t, saved, "1", "saved3")
	execute(t, saved, `release one`)
	turn(t, o)
	if err := early.Commit(); err != nil {
		t.Fatal(err)
	}
	turn(t, o)
	expect(t, s, "1", "free", "early")
	if err := rolled.Rollback(); err != nil {
		t.Fatal(err)
	}
	publish(t, number, "1", "number")
	if err := errors.Join(saved.Commit(), number.Commit()); err != nil {
		t.Fatal(err)
	}
	turn(t, o)
	expect(t, s, "1", "free", "early", "saved1", "saved3", "number")
	if left := ask[int](t, db, `select count(*) from sluice.outbox`); left != 0 {
		t.Errorf("%d rows are left", left)
	}
}

// TestOutboxOrder publishes two orgs' events in one transaction, and two transactions' alternately: what was published
// first comes first, although the other one's number is older.
func TestOutboxOrder(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	turn(t, o)
	older := db.MustBegin()
	ask[string](t, older, `select pg_current_xact_id()::text`)
	for i := range 3 {
		publish(t, db, "1", fmt.Sprint("a", i))
		publish(t, older, "1", fmt.Sprint("b", i))
		publish(t, older, "2", fmt.Sprint("c", i))
	}
	if err := older.Commit(); err != nil {
		t.Fatal(err)
	}
	turn(t, o)
	expect(t, s, "1", "a0", "b0", "a1", "b1", "a2", "b2")
	expect(t, s, "2", "c0", "c1", "c2")
}

// TestOutboxDuplicates drops ids that the log or the outbox holds already.
func TestOutboxDuplicates(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	add(t, s, draft("1", "http"))
	for _, id := range []string{"http", "twice", "other", "twice"} {
		if got := publish(t, db, "1", id); got != id {
			t.Errorf("publish answers %q for %q", got, id)
		}
	}
	turn(t, o)
	publish(t, db, "1", "other")
	publish(t, db, "2", "other")
	turn(t, o)
	expect(t, s, "1", "http", "twice", "other")
	expect(t, s, "2", "other")
}

// TestOutboxAlone lets one of two outboxes at the rows, and the other one when the first is gone, or hangs.
func TestOutboxAlone(t *testing.T) {
	t.Parallel()
	s, first, db := relayed(t)
	second := s.NewOutbox(DefaultCatalogue())
	defer second.Release()
	turn(t, first)
	publish(t, db, "1", "a")
	if _, err := second.Find(t.Context()); !errors.Is(err, ErrElsewhere) {
		t.Fatalf("two relays at once: %v", err)
	}
	first.Release()
	turn(t, second)
	expect(t, s, "1", "a")
	// The second one hangs, holding the lock: Postgres ends its session.
	publish(t, db, "1", "b")
	turn(t, first)
	expect(t, s, "1", "a", "b")
	publish(t, db, "1", "c")
	second.Release()
	first.Release()
	turn(t, second)
	turn(t, second)
	expect(t, s, "1", "a", "b", "c")
}

// TestOutboxCrash moves nothing where the relay ends before the commit, and everything once.
func TestOutboxCrash(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	publish(t, db, "1", "a")
	waiting := 0
	wait(t, "a row is found", func() bool {
		waiting, _ = o.Find(t.Context())
		return waiting > 0
	})
	if err := o.hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	drafts, err := o.take(t.Context(), o.found)
	if err != nil || len(drafts) != 1 {
		t.Fatal(len(drafts), err)
	}
	if _, err := s.appendIn(t.Context(), o.tx, []string{"1"}, [][]Draft{drafts}); err == nil {
		t.Fatal("the row of an org that was not offered is there")
	}
	o.Release()
	if err := s.offerLogs(context.Background(), []string{"1"}); err != nil {
		t.Fatal(err)
	}
	other := s.NewOutbox(DefaultCatalogue())
	turn(t, other)
	other.Release()
	turn(t, o)
	expect(t, s, "1", "a")
}

// TestOutboxParked parks what the log or the readers could not take, and nothing else, whatever stands beside it.
func TestOutboxParked(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	publish(t, db, "1", "a")
	for n, bad := range []struct{ org, id, service, data string }{
		{"1", "no org", "finance", `{}`},
		{"1", "derived", "dashboard", `{}`},
		{"1", "list", "finance", `[]`},
		{"1", randomText(9000), "finance", `{}`},
		{randomText(9000), "long org", "finance", `{}`},
	} {
		if bad.id == "no org" {
			bad.org = ""
		}
		execute(t, db, `insert into sluice.outbox (org, event_id, service, type, data) values ($1, $2, $3, 't', $4)`,
			bad.org, bad.id, bad.service, bad.data)
		publish(t, db, "1", fmt.Sprint("after", n))
	}
	wait(t, "all is moved or parked", func() bool {
		waiting, err := o.Find(t.Context())
		done := err == nil && waiting == 0
		for count := 8; err == nil && !done && count > 0; count /= 2 {
			_, refused := o.Move(t.Context(), count)
			switch {
			case refused == nil:
				return false
			case !errors.Is(refused, ErrRefused):
				t.Fatal(refused)
			case count == 1:
				err = o.Park(t.Context(), errors.New("because"))
			}
		}
		if err != nil && !errors.Is(err, ErrElsewhere) {
			t.Fatal(err)
		}
		return done
	})
	if got := ask[int](t, db, `select count(*) from sluice.parked where reason = 'because'`); got != 5 {
		t.Errorf("%d rows are parked", got)
	}
	expect(t, s, "1", "a", "after0", "after1", "after2", "after3", "after4")
	// What an operator does with one: docs/protocol.md.
	execute(t, db, `with back as (delete from sluice.parked where event_id = 'derived' returning *)
		insert into sluice.outbox (org, event_id, id_given, service, type, property_id, entity_type, entity_id, user_id, data)
		select org, event_id, id_given, 'tasks', type, property_id, entity_type, entity_id, user_id, data from back`)
	turn(t, o)
	if got := logged(t, s, "1"); got[len(got)-1] != "derived" {
		t.Errorf("the log has %q", got)
	}
}

// TestOutboxUnderSnapshot moves many rows while a transaction is open that has a number and a snapshot, so that nothing
// can be vacuumed or passed. A look at what is new must not walk over them; what is counted is pages, not time.
func TestOutboxUnderSnapshot(t *testing.T) {
	t.Parallel()
	_, o, db := relayed(t)
	turn(t, o)
	held, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback()
	execute(t, held, `set transaction isolation level repeatable read`)
	publish(t, held, "1", "late")
	const rows = 20_000
	execute(t, db, `insert into sluice.outbox (org, event_id, service, type) select '1', 'e' || n, 'finance', 't'
		from generate_series(1, $1::int) n`, rows)
	turn(t, o)
	execute(t, db, `vacuum sluice.outbox`)
	if kept := ask[int](t, db, `select pg_relation_size('sluice.outbox')`); kept < 1<<20 {
		t.Fatalf("the dead rows are gone: the outbox has %d bytes, and nothing is tested", kept)
	}
	publish(t, db, "1", "new")
	if err := o.hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	look := func() (pages int) {
		t.Helper()
		list, err := o.tx.QueryContext(t.Context(), `explain (analyze, buffers, format json) `+foundSQL, foundLimit, o.moved)
		if err != nil {
			t.Fatal(err)
		}
		defer list.Close()
		var text []byte
		for list.Next() {
			if err := list.Scan(&text); err != nil {
				t.Fatal(err)
			}
		}
		var plans []struct {
			Plan map[string]any
		}
		if err := json.Unmarshal(text, &plans); err != nil {
			t.Fatal(err)
		}
		return int(plans[0].Plan["Shared Hit Blocks"].(float64) + plans[0].Plan["Shared Read Blocks"].(float64))
	}
	if pages := look(); pages > 40 {
		t.Errorf("finding one row among %d dead ones reads %d pages", rows, pages)
	}
	turn(t, o)
	if err := held.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := o.hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pages := look(); pages > 40 {
		t.Errorf("finding the late row reads %d pages", pages)
	}
	turn(t, o)
	if got := ask[string](t, db, `select id from sluice.events order by seq desc limit 1`); got != "late" {
		t.Errorf("the last event is %s", got)
	}
}

// TestOutboxAwait waits for what is not there yet: a row that is committed at last, in whichever order, ends the wait, and one
// that is not does not.
func TestOutboxAwait(t *testing.T) {
	t.Parallel()
	s, o, db := relayed(t)
	turn(t, o)
	open := db.MustBegin()
	publish(t, open, "1", "open")
	publish(t, db, "1", "free")
	for _, one := range []struct {
		commit func() error
		want   []string
	}{
		{func() error { return nil }, []string{"free"}},
		{open.Commit, []string{"free", "open"}},
	} {
		committed := make(chan error, 1)
		go func() { committed <- one.commit() }() // before the wait or during it
		wait(t, "something is found", func() bool {
			waiting, err := o.Find(t.Context())
			if err == nil && waiting == 0 {
				err = o.Await(t.Context())
			}
			if err != nil && !errors.Is(err, ErrElsewhere) {
				t.Fatal(err)
			}
			return waiting > 0
		})
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
		turn(t, o)
		expect(t, s, "1", one.want...)
	}
	if waiting, err := o.Find(t.Context()); err != nil || waiting != 0 {
		t.Fatal(waiting, err)
	}
	if err := o.Await(t.Context()); err != nil {
		t.Fatalf("a wait for nothing: %v", err)
	}
	if waiting, err := o.Find(t.Context()); err != nil || waiting != 0 {
		t.Fatal(waiting, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Await(ctx); err == nil {
		t.Error("a relay that has stopped waits")
	}
}
