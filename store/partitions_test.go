package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// state lists the tables of days as `<days from today> <attached|alone|pending>`.
func state(t *testing.T, db *sqlx.DB) (list []string) {
	t.Helper()
	err := db.Select(&list, `select (right(c.relname, 8)::date - (clock_timestamp() at time zone 'UTC')::date) || case
			when i.inhrelid is null then ' alone' when i.inhdetachpending then ' pending' else ' attached' end
		from pg_class c left join pg_inherits i on i.inhrelid = c.oid
		where c.relnamespace = 'sluice'::regnamespace and c.relkind = 'r' and c.relname ~ '^events_' order by c.relname`)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// attached is the state of consecutive days that are as they should be.
func attached(from, to int) (list []string) {
	for ahead := from; ahead <= to; ahead++ {
		list = append(list, fmt.Sprint(ahead, " attached"))
	}
	return list
}

func drop(t *testing.T, s *Store, db *sqlx.DB, days ...int) {
	t.Helper()
	for _, ahead := range days {
		execute(t, db, `drop table sluice.events_`+day(t, s, ahead).Format(partitionDay))
	}
}

func trim(t *testing.T, s *Store, retention time.Duration, want int) {
	t.Helper()
	if dropped, err := s.Trim(t.Context(), retention); err != nil || dropped != want {
		t.Fatalf("trimming dropped %d days, not %d (%v)", dropped, want, err)
	}
}

// TestDaysAhead opens a store upon a bare schema: today and the seven days after it are there, and no default.
func TestDaysAhead(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the partitions are %q", got)
	}
	if ask[bool](t, db, `select partdefid <> 0 from pg_partitioned_table where partrelid = 'sluice.events'::regclass`) {
		t.Error("there is a default partition")
	}
	begin := day(t, s, 0)
	for seq, at := range []time.Time{begin, begin.Add(24*time.Hour - time.Microsecond)} {
		put(t, db, "org", int64(seq+1), 1, at) // the first and last moment of the UTC day
	}
	if got := ask[int](t, db, `select count(*) from sluice.events_`+begin.Format(partitionDay)); got != 2 {
		t.Errorf("today's partition has %d events of today's 2", got)
	}
	if err := s.PartitionReady(t.Context()); err != nil {
		t.Errorf("all partitions are there: %v", err)
	}
}

// TestMakingResumes stops the making of a day after its CREATE and before its ATTACH.
func TestMakingResumes(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	last := "sluice.events_" + day(t, s, 7).Format(partitionDay)
	drop(t, s, db, 6, 7)
	execute(t, db, `create table `+last+` (like sluice.events including defaults including constraints)`)
	if err := s.MakePartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the partitions are %q", got)
	}
	if got := ask[int](t, db, `select count(*) from pg_index where indrelid = '`+last+`'::regclass`); got != 2 {
		t.Errorf("the attached day has %d indexes", got)
	}
}

// TestMakingWaitsForNobody makes a day while a transaction that has appended is open: nothing may need the whole table.
func TestMakingWaitsForNobody(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	drop(t, s, db, 7)
	tx := db.MustBegin()
	defer tx.Rollback()
	execute(t, tx, `insert into sluice.events (org, seq, time, id, service, type, data)
		values ('org', 1, clock_timestamp(), 'open', 'finance', 'changed', '{}')`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.MakePartitions(ctx); err != nil {
		t.Fatal(err)
	}
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the partitions are %q", got)
	}
}

// TestMissingDays takes tomorrow away, and then today: the first is not ready, the second an error of its own.
func TestMissingDays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	drop(t, s, db, 1, 2) // both, so that midnight may pass
	if err := s.PartitionReady(t.Context()); err == nil {
		t.Error("a store without tomorrow is ready")
	}
	execute(t, db, `create table sluice.events_`+time.Now().UTC().AddDate(0, 0, 1).Format(partitionDay)+` (like sluice.events including constraints)`)
	if err := s.PartitionReady(t.Context()); err == nil {
		t.Error("a store whose tomorrow is not attached is ready")
	}
	drop(t, s, db, 0)
	if _, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "x")})); !errors.Is(err, ErrNoPartition) || errors.Is(err, ErrRefused) {
		t.Errorf("appending without today: %v", err)
	}
	if err := s.MakePartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.PartitionReady(t.Context()); err != nil {
		t.Error(err)
	}
	if answer := add(t, s, draft("org", "x")); answer[0].Cursor.Seq != 1 {
		t.Errorf("afterwards: %+v", answer)
	}
}

// TestTrimDropsWholeDays has events of four days, and retains one and a half: what ended before that goes.
func TestTrimDropsWholeDays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	put(t, db, "old", 1, 3, day(t, s, -4))
	put(t, db, "both", 1, 5, day(t, s, -3))
	put(t, db, "both", 6, 5, day(t, s, -1))
	add(t, s, draft("both", "now"), draft("new", "now"))
	trim(t, s, 36*time.Hour, 2)
	if got := state(t, db); !slices.Equal(got, attached(-1, 7)) {
		t.Errorf("the days are %q", got)
	}
	for org, want := range map[string]Page{"old": {Head: 3, Floor: 3}, "both": {Head: 11, Floor: 5}, "new": {Head: 1}} {
		got := page(t, s, org, want.Floor)
		if got.Head != want.Head || got.Floor != want.Floor || int64(len(got.Events)) != want.Head-want.Floor {
			t.Errorf("%s has head %d, floor %d and %d events", org, got.Head, got.Floor, len(got.Events))
		}
		if len(got.Events) > 0 && got.Events[0].Seq != want.Floor+1 {
			t.Errorf("the oldest event of %s is %d", org, got.Events[0].Seq)
		}
	}
	if got := ask[int](t, db, `select count(*) from sluice.logs`); got != 3 {
		t.Errorf("there are %d rows of logs", got)
	}
	trim(t, s, 36*time.Hour, 0)
}

// TestTrimReadsByIndex trims a day of many events of few orgs: what that costs must not grow with the events.
func TestTrimReadsByIndex(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	begin := day(t, s, -3)
	execute(t, db, `alter table sluice.events_`+begin.Format(partitionDay)+` set (autovacuum_enabled = off)`)
	for _, org := range []string{"a", "b", "c"} {
		put(t, db, org, 1, 10_000, begin)
	}
	conn, err := s.direct.Connx(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	one := partition{Name: partitionPrefix + begin.Format(partitionDay)}
	if err := raiseFloors(t.Context(), conn, one); err != nil {
		t.Fatal(err)
	}
	if got := ask[int](t, db, `select count(*) from sluice.logs where trimmed_seq = 10000 and last_time = $1`,
		begin.Add(9999*time.Second)); got != 3 {
		t.Errorf("%d floors of 3 were raised", got)
	}
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // the backend tells what it counted before it is gone
	db.SetMaxOpenConns(1)
	read := func() int64 {
		return ask[int64](t, db, `select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = $1`, one.Name)
	}
	wait(t, "the statistics arrive", func() bool { return read() > 0 })
	if got := read(); got > 1000 {
		t.Errorf("raising three floors read %d rows", got)
	}
}

// TestTrimEverything drops all events of an org, one of them ahead of the clock. Positions and times go on from them.
func TestTrimEverything(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	add(t, s, drafts("org", "first", 3)...)
	ahead := day(t, s, 1).Add(3*time.Hour + 7*time.Microsecond)
	put(t, db, "org", 4, 1, ahead)
	trim(t, s, -96*time.Hour, 4) // today, tomorrow, and two days that are empty
	if got := page(t, s, "org", 0); got.Head != 4 || got.Floor != 4 || len(got.Events) != 0 {
		t.Fatalf("after trimming everything: %+v", got)
	}
	if err := s.MakePartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := open(t, url)
	if answer := add(t, other, draft("org", "next"), draft("org", "first1")); answer[0].Cursor.Seq != 5 || answer[1].Cursor.Seq != 6 {
		t.Errorf("the sequence does not go on: %+v", answer)
	}
	events := page(t, other, "org", 4).Events
	if len(events) != 2 || !events[0].Time.Equal(ahead.Add(time.Microsecond)) {
		t.Errorf("the time does not go on from %v: %+v", ahead, events)
	}
}

// TestTrimHeldUp has a transaction that reads for long. Trimming gives up within its time and leaves the day pending; meanwhile
// all else proceeds; and a store that is opened afterwards, as after a restart, ends what was begun.
func TestTrimHeldUp(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	put(t, db, "org", 1, 5, day(t, s, -3))
	put(t, db, "org", 6, 5, day(t, s, -2))
	reader := db.MustBegin()
	defer reader.Rollback()
	ask[int](t, reader, `select count(*) from sluice.events`)

	type result struct {
		dropped int
		err     error
	}
	done := make(chan result, 1)
	go func() {
		dropped, err := s.Trim(t.Context(), time.Hour)
		done <- result{dropped, err}
	}()
	waitLocked(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for i := range 20 {
		if _, err := s.Append(ctx, itemsOf([]Draft{draft("org", fmt.Sprint("meanwhile", i))})); err != nil {
			t.Fatalf("appending waits for the trimming: %v", err)
		}
		got, err := s.Page(ctx, "org", 10, time.Time{}, 1000)
		if err != nil || got.Head != int64(11+i) || len(got.Events) != i+1 || got.Floor != 5 {
			t.Fatalf("a page meanwhile: %+v (%v)", got, err)
		}
	}
	if got := <-done; got.err != nil || got.dropped != 0 {
		t.Errorf("a trimming that is held up: %+v", got)
	}
	if got := state(t, db); !slices.Equal(got, append([]string{"-3 pending", "-2 attached"}, attached(0, 7)...)) {
		t.Errorf("the days are %q", got)
	}
	trim(t, s, time.Hour, 0) // still held up
	add(t, s, draft("org", "while pending"))
	s.Close()
	if err := reader.Commit(); err != nil {
		t.Fatal(err)
	}

	next := open(t, url)
	trim(t, next, time.Hour, 2)
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the days are %q", got)
	}
	if got := page(t, next, "org", 10); got.Floor != 10 || got.Head != 31 || len(got.Events) != 21 {
		t.Errorf("floor %d, head %d, %d events", got.Floor, got.Head, len(got.Events))
	}
}

// TestTrimCancelled ends the caller while the DETACH waits: the lock of the partitions is free at once, and the same store
// ends what was begun.
func TestTrimCancelled(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	put(t, db, "org", 1, 5, day(t, s, -3))
	reader := db.MustBegin()
	defer reader.Rollback()
	ask[int](t, reader, `select count(*) from sluice.events`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Trim(ctx, time.Hour)
		done <- err
	}()
	wait(t, "the day is pending", func() bool { return state(t, db)[0] == "-3 pending" })
	cancel()
	if err := <-done; err == nil {
		t.Error("a trimming that was cancelled says that it was done")
	}
	if err := s.MakePartitions(t.Context()); err != nil {
		t.Errorf("the lock of the partitions is still held: %v", err)
	}
	if err := reader.Commit(); err != nil {
		t.Fatal(err)
	}
	trim(t, s, time.Hour, 1)
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the days are %q", got)
	}
}

// TestTrimResumesBeforeDrop stops between DETACH and DROP: the table stands alone, and the next call drops it. Events that
// nobody can see any more must be below the floor.
func TestTrimResumesBeforeDrop(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	put(t, db, "org", 1, 5, day(t, s, -3))
	execute(t, db, `alter table sluice.events detach partition sluice.events_`+day(t, s, -3).Format(partitionDay))
	trim(t, s, 240*time.Hour, 1)
	if got := state(t, db); !slices.Equal(got, attached(0, 7)) {
		t.Errorf("the days are %q", got)
	}
	if got := page(t, s, "org", 0); got.Floor != 5 || got.Head != 5 {
		t.Errorf("floor %d, head %d", got.Floor, got.Head)
	}
}

// TestTrimAloneAtATime holds the lock of the partitions elsewhere: trimming does nothing, without an error.
func TestTrimAloneAtATime(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other := open(t, url), open(t, url)
	put(t, connect(t, url), "org", 1, 5, day(t, s, -3))
	_, err := other.alone(t.Context(), time.Minute, func(*sqlx.Conn, time.Time) error {
		trim(t, s, time.Hour, 0)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	trim(t, s, time.Hour, 1)
}

// TestReadingWhileTrimming pages from the start again and again while days are dropped: what is missing is always below
// the floor of the same page.
func TestReadingWhileTrimming(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	const days = 6
	for i := range int64(days) {
		put(t, db, "org", 1+i*10, 10, day(t, s, int(i)-days-1))
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for ahead := -days; ahead <= 0 && err == nil; ahead++ {
			_, err = s.Trim(t.Context(), time.Duration(-ahead)*24*time.Hour)
		}
		done <- err
	}()
	for {
		got := page(t, s, "org", 0)
		first := got.Head + 1
		if len(got.Events) > 0 {
			first = got.Events[0].Seq
		}
		if got.Head != days*10 || first > got.Floor+1 {
			t.Fatalf("head %d, floor %d, and the first event is %d", got.Head, got.Floor, first)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if got := page(t, s, "org", 0); got.Floor != days*10 || len(got.Events) != 0 {
				t.Errorf("in the end: %+v", got)
			}
			return
		default:
		}
	}
}
