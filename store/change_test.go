package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"sluice/store/localpg/pgtest"
)

// entry is a change that tests make: it locks an account, enters itself once into its book, and brings drafts.
type entry struct {
	account, id string
	drafts      []Draft
	then        func(tx *sqlx.Tx) error // after the entry was made; may be nil
}

var errNoCredit = errors.New("the account has no credit")

func (e entry) Key() string { return "account/" + e.account }

func (e entry) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	_, err := tx.ExecContext(ctx, `select from accounts where name = $1 for update`, e.account)
	if err == nil {
		_, err = tx.ExecContext(ctx, `insert into book (id, account) values ($1, $2) on conflict (id) do nothing`, e.id, e.account)
	}
	if err == nil && e.then != nil {
		err = e.then(tx)
	}
	return e.drafts, err
}

// accounts opens a store beside a book with some accounts.
func accounts(t testing.TB, opts Options, names ...string) (*Store, *sqlx.DB) {
	t.Helper()
	opts.URL, opts.Migrate = pgtest.Database(t), true
	s, db := openWith(t, opts), connect(t, opts.URL)
	execute(t, db, `create table accounts (name text primary key)`)
	execute(t, db, `create table book (n bigint generated always as identity, id text primary key, account text not null)`)
	execute(t, db, `insert into accounts select unnest($1::text[])`, pq.Array(names))
	return s, db
}

// book lists the entries in the order in which they were made.
func book(t testing.TB, db *sqlx.DB) []string {
	t.Helper()
	return ask[pq.StringArray](t, db, `select coalesce(array_agg(id order by n), '{}') from book`)
}

// changed makes an entry that the log of its org tells of under the same id.
func changed(org, account, id string) Item {
	return Item{Change: entry{account: account, id: id, drafts: []Draft{draft(org, id)}}}
}

// TestChangesInOrder applies changes in the order of their keys, those of one key in the order in which they came, and
// has the log in the order of arrival, with the drafts of others between.
func TestChangesInOrder(t *testing.T) {
	t.Parallel()
	s, db := accounts(t, Options{}, "a", "b", "c")
	items := []Item{changed("org", "c", "c1"), changed("org", "b", "b1")}
	items = append(items, itemsOf([]Draft{draft("org", "plain"), draft("other", "plain")})...)
	items = append(items, changed("org", "b", "b2"), changed("org", "a", "a1"), changed("other", "b", "b3"),
		Item{Change: entry{account: "a", id: "a2"}})
	answers, err := s.Append(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	if got := book(t, db); !slices.Equal(got, []string{"a1", "a2", "b1", "b2", "b3", "c1"}) {
		t.Errorf("the entries were made as %q", got)
	}
	expect(t, s, "org", "c1", "b1", "plain", "b2", "a1")
	expect(t, s, "other", "plain", "b3")
	for i, want := range []int64{1, 2, 3, 4, 5, 2, 0} {
		switch got := answers[i]; {
		case got.Err != nil:
			t.Errorf("item %d: %v", i, got.Err)
		case want == 0 && len(got.Appended) != 0, want > 0 && got.Appended[0].Cursor.Seq != want:
			t.Errorf("item %d is answered with %+v", i, got)
		}
	}
}

// raise has Postgres fail within a change, with an error of its own.
func raise(code string) func(*sqlx.Tx) error {
	return func(tx *sqlx.Tx) error {
		_, err := tx.Exec(fmt.Sprintf(`do $$ begin raise exception using errcode = '%s'; end $$`, code))
		return err
	}
}

// TestRefusedChange has changes fail after they have written: each costs itself, and its error comes back as it was.
func TestRefusedChange(t *testing.T) {
	t.Parallel()
	isCode := func(code string) func(error) bool {
		return func(err error) bool {
			var failure *pq.Error
			return errors.As(err, &failure) && string(failure.Code) == code && !errors.Is(err, ErrUnavailable)
		}
	}
	s, db := accounts(t, Options{}, "a", "b")
	for i, one := range []struct {
		then func(*sqlx.Tx) error
		is   func(error) bool
	}{
		{func(*sqlx.Tx) error { return fmt.Errorf("%w: 3 are missing", errNoCredit) }, func(err error) bool {
			return errors.Is(err, errNoCredit) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRefused)
		}},
		{raise("23505"), func(err error) bool { return errors.Is(err, ErrRefused) && isCode("23505")(err) }},
		{raise("P0001"), isCode("P0001")},
		{raise("42P01"), isCode("42P01")},
		{func(tx *sqlx.Tx) error { _ = raise("23505")(tx); return nil }, isCode("25P02")}, // the transaction is spoilt
	} {
		name := fmt.Sprint("x", i)
		bad := entry{account: "a", id: name + "bad", drafts: []Draft{draft("org", name+"bad")}, then: one.then}
		answers, err := s.Append(t.Context(), []Item{
			changed("org", "a", name+"before"), {Change: bad}, changed("org", "a", name+"after"), {Drafts: []Draft{draft("org", name)}},
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for j, got := range answers {
			if bad := j == 1; bad != (got.Err != nil) || bad != (len(got.Appended) == 0) {
				t.Errorf("%s: item %d is answered with %+v", name, j, got)
			}
		}
		if !one.is(answers[1].Err) {
			t.Errorf("%s: %v", name, answers[1].Err)
		}
		if got := book(t, db); !slices.Equal(got[2*i:], []string{name + "before", name + "after"}) {
			t.Errorf("%s: the book has %q", name, got)
		}
		if got := logged(t, s, "org"); !slices.Equal(got[3*i:], []string{name + "before", name + "after", name}) {
			t.Errorf("%s: the log has %q", name, got)
		}
	}
}

// TestChangeEndsBatch has a change fail for what is the database's matter, and bring a draft that can never be: nothing of
// the batch is kept, and what remains of it goes through afterwards.
func TestChangeEndsBatch(t *testing.T) {
	t.Parallel()
	s, db := accounts(t, Options{}, "a", "b")
	broken := draft("org", "bad")
	broken.Data = []byte(`{"a":`)
	gone := func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`select pg_terminate_backend(pg_backend_pid())`)
		return err
	}
	for _, one := range []struct {
		bad  entry
		want error
	}{
		{entry{then: raise("40P01")}, ErrUnavailable},
		{entry{then: raise("40001")}, ErrUnavailable},
		{entry{then: raise("55P03")}, ErrUnavailable},
		{entry{then: raise("25006")}, ErrUnavailable},
		{entry{then: raise("57014")}, ErrUnavailable},
		{entry{then: func(*sqlx.Tx) error { return ErrUnavailable }}, ErrUnavailable},
		{entry{then: gone}, ErrUnavailable},
		{entry{then: func(tx *sqlx.Tx) error { _ = gone(tx); return errNoCredit }}, ErrUnavailable},
		{entry{drafts: []Draft{broken}}, ErrRefused},
	} {
		one.bad.account, one.bad.id = "a", "bad"
		_, err := s.Append(t.Context(), []Item{
			changed("org", "a", "before"), {Change: one.bad}, changed("org", "b", "after"), {Drafts: []Draft{draft("org", "plain")}},
		})
		if !errors.Is(err, one.want) {
			t.Errorf("%v", err)
		}
	}
	if got := book(t, db); len(got) != 0 {
		t.Errorf("the book has %q", got)
	}
	expect(t, s, "org")
	if _, err := s.Append(t.Context(), []Item{changed("org", "a", "before"), changed("org", "b", "after")}); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "org", "before", "after")
}

// TestChangeAgain makes a change that was made: its event is found, and not appended twice.
func TestChangeAgain(t *testing.T) {
	t.Parallel()
	s, db := accounts(t, Options{}, "a")
	var first Cursor
	for i := range 3 {
		answers, err := s.Append(t.Context(), []Item{changed("org", "a", "once")})
		if err != nil || len(answers[0].Appended) != 1 {
			t.Fatal(answers, err)
		}
		if i == 0 {
			first = answers[0].Appended[0].Cursor
		}
		if got := answers[0].Appended[0]; got.Cursor != first || got.Duplicate != (i > 0) {
			t.Errorf("try %d is answered with %+v", i, got)
		}
	}
	expect(t, s, "org", "once")
	if got := book(t, db); len(got) != 1 {
		t.Errorf("the book has %q", got)
	}
}

// TestChangesCross has two instances make changes to the same accounts in opposite order, whose events go to logs that
// neither has met, on pools of one connection: nobody waits for another in a circle, and nothing is lost.
func TestChangesCross(t *testing.T) {
	t.Parallel()
	const rounds, width = 60, 6
	var names []string
	for i := range width {
		names = append(names, fmt.Sprint("account", i))
	}
	s, db := accounts(t, Options{Connections: 1}, names...)
	stores := []*Store{s, openWith(t, Options{URL: s.opts.URL, Connections: 1})}
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			for round := range rounds {
				var items []Item
				for i, name := range names {
					org := fmt.Sprintf("org%d-%d", round, (i+n)%width)
					items = append(items, changed(org, name, fmt.Sprintf("%d-%d-%d", n, round, i)))
				}
				items = append(items, itemsOf([]Draft{draft(fmt.Sprintf("org%d-0", round), fmt.Sprintf("plain%d-%d", n, round))})...)
				if n%2 == 1 {
					slices.Reverse(items)
				}
				answers, err := stores[n%2].Append(t.Context(), items)
				if err != nil {
					t.Errorf("publisher %d, round %d: %v", n, round, err)
					return
				}
				for i := range answers {
					if answers[i].Err != nil || len(answers[i].Appended) != 1 {
						t.Errorf("publisher %d, round %d, item %d: %+v", n, round, i, answers[i])
					}
				}
			}
		})
	}
	group.Wait()
	if got := len(book(t, db)); got != 4*rounds*width {
		t.Errorf("%d entries of %d", got, 4*rounds*width)
	}
	if got := ask[int](t, db, `select count(*) from sluice.events`); got != 4*rounds*(width+1) {
		t.Errorf("%d events of %d", got, 4*rounds*(width+1))
	}
}
