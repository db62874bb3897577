package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"

	"sluice/store/localpg/pgtest"
)

func TestMain(m *testing.M) {
	status := pgtest.Run(m)
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

const patience = 30 * time.Second

// openWith opens a store that is closed with the test.
func openWith(t testing.TB, opts Options) *Store {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t testing.TB, url string) *Store {
	t.Helper()
	return openWith(t, Options{URL: url, Migrate: true})
}

// connect gives plain connections, to play another instance or an operator.
func connect(t testing.TB, url string) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t testing.TB, db interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, query string, args ...any,
) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%v: %s", err, query)
	}
}

// ask reads one value.
func ask[T any](t testing.TB, db sqlx.Queryer, query string, args ...any) (value T) {
	t.Helper()
	if err := sqlx.Get(db, &value, query, args...); err != nil {
		t.Fatalf("%v: %s", err, query)
	}
	return value
}

// wait polls a condition until it is met.
func wait(t testing.TB, what string, met func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !met() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// waitLocked waits until a backend of the database waits for a lock: whatever was called is where the test wants it.
func waitLocked(t testing.TB, db *sqlx.DB) {
	t.Helper()
	wait(t, "somebody waits for a lock", func() bool {
		return ask[bool](t, db, `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock')`)
	})
}

// draft is an event whose id the publisher chose.
func draft(org, id string) Draft {
	return Draft{
		Event: Event{Org: org, ID: id, Service: "finance", Type: "changed", Data: json.RawMessage(`{}`)}, IDGiven: true,
	}
}

// drafts are count events of one org with the ids first1, first2, and so on.
func drafts(org, first string, count int) (list []Draft) {
	for i := range count {
		list = append(list, draft(org, fmt.Sprintf("%s%d", first, i+1)))
	}
	return list
}

// itemsOf makes each list one publisher's part of a batch.
func itemsOf(lists ...[]Draft) []Item {
	items := make([]Item, len(lists))
	for i := range lists {
		items[i].Drafts = lists[i]
	}
	return items
}

// add appends one publisher's drafts.
func add(t testing.TB, s *Store, list ...Draft) []Appended {
	t.Helper()
	answer, err := s.Append(t.Context(), itemsOf(list))
	if err != nil {
		t.Fatal(err)
	}
	return answer[0].Appended
}

func page(t testing.TB, s *Store, org string, after int64) Page {
	t.Helper()
	got, err := s.Page(t.Context(), org, after, time.Time{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// day makes the partition of a day, 0 for today and negative before it, and returns when that day begins.
func day(t testing.TB, s *Store, ahead int) (begin time.Time) {
	t.Helper()
	_, err := s.alone(t.Context(), time.Minute, func(conn *sqlx.Conn, now time.Time) error {
		list, err := partitions(t.Context(), conn)
		if err != nil {
			return err
		}
		begin = now.Truncate(24*time.Hour).AddDate(0, 0, ahead)
		return makePartition(t.Context(), conn, list, begin)
	})
	if err != nil {
		t.Fatal(err)
	}
	return begin
}

// put writes events past the store, as they were appended at another time: one a second, from a position on.
func put(t testing.TB, db *sqlx.DB, org string, from, count int64, begin time.Time) {
	t.Helper()
	execute(t, db, `insert into sluice.logs (org) values ($1) on conflict do nothing`, org)
	execute(t, db, `insert into sluice.events (org, seq, time, id, service, type, data)
		select $1, $2 + n, $4::timestamptz + n * interval '1 second', 'put' || ($2 + n), 'finance', 'changed', '{}'
		from generate_series(0, $3::bigint - 1) n`, org, from, count, begin)
}

// randomText is text that Postgres cannot compress.
func randomText(length int) string {
	var text strings.Builder
	for text.Len() < length {
		text.WriteString(rand.Text())
	}
	return text.String()[:length]
}
