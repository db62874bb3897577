package store

import (
	"errors"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestUploadPlans asks for uploads among many that are over or ready, and never has the table analysed: nothing reads it
// from one end to the other, neither itself nor an index.
func TestUploadPlans(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	db := connect(t, url)
	s := openWith(t, Options{URL: url, Migrate: true, Connections: 1})
	execute(t, db, `alter table sluice.uploads set (autovacuum_enabled = off)`)
	execute(t, db, `insert into sluice.uploads (id, org, user_id, filename, byte_limit, held, state, expires)
		select 'u' || n, 'org', 'user' || n, 'f', 10, case when n % 2 = 0 then 10 else 0 end, case when n % 2 = 0 then 'ready' else 'expired' end,
			case when n % 2 = 0 then 'infinity' else now() - interval '1 day' end from generate_series(1, 20000) n`)
	for range 8 { // a generic plan is made at the sixth use
		made, err := s.CreateUpload(t.Context(), NewUpload{Org: "org", User: "user2", Filename: "a", Kind: UploadJoined, Parts: []string{"p"}, Size: 1},
			UploadLimits{MaxSize: 10, Quota: 100, Open: 10, Expiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if found, err := s.JoinedUpload(t.Context(), "org", "user2", []string{"p"}); err != nil || found.ID != made.ID {
			t.Fatalf("%q was found: %v", found.ID, err)
		}
		if _, err := s.NeededUploads(t.Context(), []string{"u1", "u2"}); err != nil {
			t.Fatal(err)
		}
		_, expiring := s.ExpiringUploads(t.Context(), 100)
		_, orphaned := s.OrphanedUploads(t.Context(), 100)
		if err := errors.Join(expiring, orphaned, s.ForgetUploads(t.Context(), 30*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	db.SetMaxOpenConns(1)
	wait(t, "the backends of the store end", func() bool {
		return ask[int](t, db, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`) == 0
	})
	wait(t, "the statistics arrive", func() bool {
		return ask[int64](t, db, `select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where relname = 'uploads'`) > 20
	})
	read := ask[int64](t, db, `select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
			+ (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes where relname = 'uploads')::bigint
		from pg_stat_user_tables where relname = 'uploads'`)
	if read > 2000 {
		t.Errorf("%d rows were read", read)
	}
}
