package store

import (
	"fmt"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestPlans fills a partition after the statements were prepared and used upon the empty one, and never analyses it.
// Every statement must read the few rows that it needs: what is counted is all rows that anything read in it.
func TestPlans(t *testing.T) {
	t.Parallel()
	const rows = 30_000
	for name, behind := range map[string]bool{"prepared": false, "behind a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			db := connect(t, url)
			opts := Options{URL: url, Migrate: true, Connections: 1}
			if behind {
				opts.DirectURL = url + " application_name=direct"
			}
			s := openWith(t, opts)
			execute(t, db, `do $$ declare one regclass; begin
				for one in select inhrelid from pg_inherits where inhparent = 'sluice.events'::regclass loop
					execute format('alter table %s set (autovacuum_enabled = off)', one);
				end loop; end $$`)
			// A generic plan is made at the sixth use, while there is next to nothing to be read.
			for i := range 8 {
				add(t, s, draft("org", fmt.Sprint("early", i)))
				page(t, s, "org", 0)
				if _, err := s.Page(t.Context(), "org", 0, time.Now().Add(-time.Hour), 10); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Heads(t.Context(), []string{"org", "other"}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.PositionAgo(t.Context(), "org", time.Second); err != nil {
					t.Fatal(err)
				}
			}
			execute(t, db, `insert into sluice.events (org, seq, time, id, service, type, data)
				select 'org', 8 + n, (select max(time) from sluice.events) + n * interval '1 microsecond', 'late' || n,
					'finance', 'changed', '{}' from generate_series(1, $1::int) n`, rows)

			answer := add(t, s, draft("org", "late17"), draft("org", "new"), draft("org", fmt.Sprint("late", rows)))
			if answer[0].Cursor.Seq != 25 || answer[1].Cursor.Seq != 9+rows || answer[2].Cursor.Seq != 8+rows {
				t.Errorf("appending answers %+v", answer)
			}
			got, err := s.Page(t.Context(), "org", rows-10, time.Time{}, 10)
			if err != nil || len(got.Events) != 10 || got.Head != 9+rows {
				t.Errorf("a page has %d events up to %d (%v)", len(got.Events), got.Head, err)
			}
			got, err = s.Page(t.Context(), "org", rows-10, got.Events[0].Time.Add(-time.Microsecond), 10)
			if err != nil || len(got.Events) != 10 {
				t.Errorf("a page since a time has %d events (%v)", len(got.Events), err)
			}
			heads, err := s.Heads(t.Context(), []string{"org", "other"})
			if err != nil || heads.Of["org"] != 9+rows {
				t.Errorf("the heads are %v (%v)", heads, err)
			}
			// In the middle, where a walk from either end would be longest.
			at, err := s.PositionAt(t.Context(), "org", got.Events[0].Time.Add(-rows/2*time.Microsecond))
			if err != nil || at.Seq != rows-9-rows/2 {
				t.Errorf("a time in the middle means %v (%v)", at, err)
			}
			// A backend tells what it counted before it is gone. What was read before the partition was full is in it too.
			s.Close()
			db.SetMaxOpenConns(1)
			wait(t, "the backends of the store end", func() bool {
				return ask[int](t, db, `select count(*) from pg_stat_activity
					where datname = current_database() and pid <> pg_backend_pid()`) == 0
			})
			wait(t, "the statistics arrive", func() bool { return ask[int64](t, db, rowsReadSQL) > 20 })
			if read := ask[int64](t, db, rowsReadSQL); read > rows/10 {
				t.Errorf("an append, two pages of ten, one poll and one position read %d rows", read)
			}
		})
	}
}

// rowsReadSQL counts rows and index entries that were read in any partition.
const rowsReadSQL = `select (select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
		from pg_stat_user_tables where relname like 'events_%')
	+ (select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes where relname like 'events_%')`
