package store

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sluice/store/localpg/pgtest"
)

// TestWithoutMigrating opens databases whose schema is missing or behind with leave to look only.
func TestWithoutMigrating(t *testing.T) {
	t.Parallel()
	empty, full := pgtest.Empty(t), pgtest.Database(t)
	_, err := Open(t.Context(), Options{URL: empty})
	if err == nil || !strings.Contains(err.Error(), "00001_log.sql") || !strings.Contains(err.Error(), "sluice migrate up") {
		t.Errorf("an empty database: %v", err)
	}
	if ask[bool](t, connect(t, empty), `select to_regnamespace('sluice') is not null`) {
		t.Error("looking has made the schema")
	}
	s := openWith(t, Options{URL: full})
	if answer := add(t, s, draft("org", "x")); answer[0].Cursor.Seq != 1 {
		t.Errorf("%+v", answer)
	}
	if answer := add(t, open(t, empty), draft("org", "x")); answer[0].Cursor.Seq != 1 {
		t.Errorf("with leave to migrate: %+v", answer)
	}
}

// TestOpenFails gives addresses where no database is.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	good := pgtest.Database(t)
	for _, opts := range []Options{
		{URL: "host=/nowhere dbname=x sslmode=disable", Migrate: true},
		{URL: "host=/nowhere dbname=x sslmode=disable", DirectURL: good, Migrate: true},
		{URL: good, DirectURL: "host=/nowhere dbname=x sslmode=disable", Migrate: true},
		{URL: "postgres://[", Migrate: true},
		{URL: good, DirectURL: "postgres://["},
	} {
		if s, err := Open(t.Context(), opts); err == nil {
			s.Close()
			t.Errorf("%q and %q were opened", opts.URL, opts.DirectURL)
		}
	}
	if DSN("postgres://[") == nil || DSN(good) != nil {
		t.Error("a text that is none passes, or one that is one does not")
	}
}

// TestReady takes the schema and then the server's answer away.
func TestReady(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	link := pgtest.NewLink(t, url)
	s, db := open(t, link.URL), connect(t, url)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, db, `update sluice.migrations set is_applied = false where version_id > 0`)
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "migrate up") {
		t.Errorf("a schema that is behind: %v", err)
	}
	execute(t, db, `update sluice.migrations set is_applied = true`)
	link.Cut() // connections that were cut are made anew
	wait(t, "it is ready again", func() bool { return s.Ready(t.Context()) == nil })
	s.Close()
	if err := s.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a store that was closed: %v", err)
	}
}

// TestBehindAPooler gives a direct connection beside the main one: nothing is prepared and nothing is set on the main
// one, for the next transaction may run in another session.
func TestBehindAPooler(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for name, opts := range map[string]Options{
		"direct": {URL: url, Migrate: true, Connections: 1},
		"pooled": {URL: url + " application_name=pooler", DirectURL: url, Migrate: true, Connections: 1},
	} {
		s := openWith(t, opts)
		if s.Epoch() == "" {
			t.Errorf("%s: the epoch is not known before the first use", name)
		}
		answer := add(t, s, append(drafts(name, "x", 3), draft(name, "x1"))...)
		if answer[3].Cursor != answer[0].Cursor || !answer[3].Duplicate || answer[2].Cursor.Seq != 3 {
			t.Errorf("%s: %+v", name, answer)
		}
		got := page(t, s, name, 1)
		if got.Head != 3 || len(got.Events) != 2 || string(got.Events[0].Data) != `{}` {
			t.Errorf("%s: %+v", name, got)
		}
		if got, err := s.Page(t.Context(), name, 1, got.Events[0].Time, 1); err != nil || len(got.Events) != 1 {
			t.Errorf("%s: %+v (%v)", name, got, err)
		}
		if heads, err := s.Heads(t.Context(), []string{name, "x"}); err != nil || heads.Of[name] != 3 || len(heads.Of) != 1 {
			t.Errorf("%s: %+v (%v)", name, heads, err)
		}
		if err := s.Ready(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// The pool has one connection, so this looks at the one that all of the above went through.
		prepared := ask[int](t, s.db, `select count(*) from pg_prepared_statements`)
		var settings []string
		for _, setting := range []string{"application_name", "enable_seqscan", "lock_timeout", "statement_timeout"} {
			settings = append(settings, ask[string](t, s.db, `select current_setting($1)`, setting))
		}
		want := []string{"sluice", "off", "8s", "15s"}
		if name == "pooled" {
			want = []string{"pooler", "on", "0", "0"}
		}
		if (prepared == 0) != (name == "pooled") || !slices.Equal(settings, want) {
			t.Errorf("%s: %d statements are prepared, the settings are %q", name, prepared, settings)
		}
	}
}

// TestConnectionsAreCut cuts every connection: the batch that met that is tried again, and the epoch stays.
func TestConnectionsAreCut(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	link := pgtest.NewLink(t, url)
	s := open(t, link.URL)
	add(t, s, draft("org", "first"))
	epoch := s.Epoch()
	link.Cut()
	again := draft("org", "second")
	wait(t, "appending goes on", func() bool {
		_, err := s.Append(t.Context(), itemsOf([]Draft{again}))
		if err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		again.Tried = true
		return err == nil
	})
	if got := page(t, s, "org", 0); got.Head != 2 || got.Epoch != epoch {
		t.Errorf("after a cut: %+v", got)
	}
}
