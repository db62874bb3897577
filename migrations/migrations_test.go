package migrations_test

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"

	"sluice/migrations"
	"sluice/store/localpg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func connect(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// tables lists the tables of the schema sluice; none where there is no such schema.
func tables(t *testing.T, db *sql.DB) []string {
	t.Helper()
	var names []string
	err := db.QueryRow(`select coalesce(array_agg(relname::text order by relname), '{}') from pg_class
		where relnamespace = to_regnamespace('sluice') and relkind in ('r', 'p')`).Scan(pq.Array(&names))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestUpAtOnce starts eight instances upon an empty database. One works, all succeed, and nothing is applied twice.
func TestUpAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var group sync.WaitGroup
	begin := make(chan struct{})
	for range 8 {
		db := connect(t, url)
		group.Go(func() {
			<-begin
			if err := migrations.Up(t.Context(), db); err != nil {
				t.Errorf("up: %v", err)
			}
		})
	}
	close(begin)
	group.Wait()
	db := connect(t, url)
	if err := migrations.Check(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	var twice int
	err := db.QueryRow(`select count(*) from (select version_id from sluice.migrations where is_applied
		group by version_id having count(*) > 1) d`).Scan(&twice)
	if err != nil || twice != 0 {
		t.Fatalf("%d migrations were applied twice (%v)", twice, err)
	}
	if names := tables(t, db); !slices.Contains(names, "events") || !slices.Contains(names, "logs") {
		t.Fatalf("the schema has %q", names)
	}
	var foreign int
	err = db.QueryRow(`select count(*) from pg_class where relnamespace = 'public'::regnamespace`).Scan(&foreign)
	if err != nil || foreign != 0 {
		t.Fatalf("%d relations of ours lie in the schema public (%v)", foreign, err)
	}
}

// TestCheckChangesNothing asks databases that are not, half and fully migrated.
func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	db := connect(t, pgtest.Empty(t))
	list, err := migrations.List(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 || list[0].Version != 1 {
		t.Fatalf("the binary has %v", list)
	}
	for i, one := range list {
		if !one.Applied.IsZero() {
			t.Errorf("%s counts as applied in an empty database", one.Name)
		}
		if i > 0 && one.Version <= list[i-1].Version {
			t.Errorf("%s comes after %s", one.Name, list[i-1].Name)
		}
	}
	if err := migrations.Check(t.Context(), db); err == nil || !strings.Contains(err.Error(), list[0].Name) {
		t.Errorf("an empty database passes, or the missing migration is not named: %v", err)
	}
	var there bool
	if err := db.QueryRow(`select to_regnamespace('sluice') is not null`).Scan(&there); err != nil || there {
		t.Errorf("asking has made the schema (%v)", err)
	}

	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if list, err = migrations.List(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		if one.Applied.IsZero() {
			t.Errorf("%s counts as pending after up", one.Name)
		}
	}
	last := list[len(list)-1]
	if _, err := db.Exec(`delete from sluice.migrations where version_id = $1`, last.Version); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), db); err == nil || !strings.Contains(err.Error(), last.Name) {
		t.Errorf("a missing last migration passes, or is not named: %v", err)
	}
}

// TestDownUp takes everything back and applies it again: what comes out is the same schema.
func TestDownUp(t *testing.T) {
	t.Parallel()
	db := connect(t, pgtest.Database(t))
	before := dump(t, db)
	provider, err := migrations.Provider(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if names := tables(t, db); !slices.Equal(names, []string{"migrations"}) {
		t.Fatalf("going down has left %q", names)
	}
	if err := migrations.Check(t.Context(), db); err == nil {
		t.Error("a database that went down passes the check")
	}
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("down and up again gives another schema:\n%s\nbefore:\n%s", after, before)
	}
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Errorf("a second up: %v", err)
	}
}

// TestAudienceOfDays brings events of an older schema up to date: the events of a day that is attached are for nobody alone,
// and a day whose table was made and not attached yet can be.
func TestAudienceOfDays(t *testing.T) {
	t.Parallel()
	db := connect(t, pgtest.Database(t))
	provider, err := migrations.Provider(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	const attach = `alter table sluice.events attach partition sluice.events_%[1]s for values from ('%[1]s 00:00:00+00') to ('%[2]s 00:00:00+00');`
	const made = `create table sluice.events_%s (like sluice.events including defaults including constraints);`
	_, err = db.Exec(fmt.Sprintf(made, "20400101") + fmt.Sprintf(made, "20400102") + fmt.Sprintf(attach, "20400101", "20400102") +
		`insert into sluice.events (org, seq, time, id, service, type, data) values ('1', 1, '2040-01-01 12:00+00', 'a', 'finance', 'x', '{}')`)
	if err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(fmt.Sprintf(attach, "20400102", "20400103")); err != nil {
		t.Fatal(err)
	}
	var alone int
	err = db.QueryRow(`with new as (insert into sluice.events (org, seq, time, id, service, type, audience, data)
			values ('1', 2, '2040-01-02 12:00+00', 'b', 'finance', 'x', 'u', '{}') returning audience)
		select (select count(*) from sluice.events where audience = '') + (select count(*) from new where audience = 'u')`).Scan(&alone)
	if err != nil || alone != 2 {
		t.Fatal(alone, err)
	}
}

// TestFailedMigration puts a table in the way of the first migration: it is rolled back whole, and applied by the next
// start once the way is clear.
func TestFailedMigration(t *testing.T) {
	t.Parallel()
	db := connect(t, pgtest.Empty(t))
	// The last table of the file is in the way, so that everything before it has been done when it fails.
	if _, err := db.Exec(`create schema sluice; create table sluice.catalogue ()`); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db); err == nil {
		t.Fatal("a migration that cannot work succeeds")
	}
	if names := tables(t, db); slices.Contains(names, "events") || slices.Contains(names, "logs") {
		t.Fatalf("a failed migration has left %q", names)
	}
	if _, err := db.Exec(`drop table sluice.catalogue`); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), db); err != nil {
		t.Fatal(err)
	}
}
