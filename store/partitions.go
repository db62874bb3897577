package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

const (
	partitionPrefix = "events_"
	partitionDay    = "20060102"
	daysAhead       = 7

	// partitionLock is held by the one session that makes or drops partitions.
	partitionLock = 0x736c7570 // "slup"
)

// partition is one UTC day of events.
type partition struct {
	Name     string `db:"name"`
	Attached bool   `db:"attached"`
	Pending  bool   `db:"pending"` // a DETACH CONCURRENTLY was interrupted
	day      time.Time
}

func (p partition) table() string { return "sluice." + p.Name }

// partitionsSQL lists every table that is called like a partition, attached or not.
const partitionsSQL = `select c.relname as name, i.inhrelid is not null as attached,
	coalesce(i.inhdetachpending, false) as pending
	from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'sluice'
	left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'sluice.events'::regclass
	where c.relkind = 'r' and c.relname ~ '^events_[0-9]{8}$' order by c.relname`

func partitions(ctx context.Context, conn *sqlx.Conn) ([]partition, error) {
	var list []partition
	if err := conn.SelectContext(ctx, &list, partitionsSQL); err != nil {
		return nil, err
	}
	for i := range list {
		day, err := time.Parse(partitionDay, strings.TrimPrefix(list[i].Name, partitionPrefix))
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", list[i].Name, err)
		}
		list[i].day = day
	}
	return list, nil
}

// alone runs work on a connection that holds the lock of the partitions; where another instance holds it for longer
// than wait, it does nothing and says so with false.
func (s *Store) alone(ctx context.Context, wait time.Duration, work func(*sqlx.Conn, time.Time) error) (bool, error) {
	conn, err := s.direct.Connx(ctx)
	if err != nil {
		return false, classify(err)
	}
	defer conn.Close()
	// A lock_timeout applies to advisory locks as well. The two settings leave with the connection's use.
	_, err = conn.ExecContext(ctx, fmt.Sprintf(`set lock_timeout = %d`, wait.Milliseconds()))
	if err != nil {
		return false, classify(err)
	}
	if _, err := conn.ExecContext(ctx, `select pg_advisory_lock($1)`, partitionLock); err != nil {
		if locked(err) {
			return false, nil
		}
		return false, classify(err)
	}
	defer func() {
		// The context may have ended; the lock must not live on with a pooled connection.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryDeadline)
		defer cancel()
		_, err := conn.ExecContext(release, `select pg_advisory_unlock_all()`)
		if err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
	}()
	var now time.Time
	if err := conn.GetContext(ctx, &now, `select clock_timestamp()`); err != nil {
		return true, classify(err)
	}
	return true, work(conn, now.UTC())
}

// locked says that a lock was not to be had within lock_timeout.
func locked(err error) bool {
	var failure *pq.Error
	return errors.As(err, &failure) && failure.Code == "55P03"
}

// MakePartitions makes the partitions from today to seven days ahead, by the database's clock. It waits for another
// instance that is at it.
func (s *Store) MakePartitions(ctx context.Context) error {
	done, err := s.alone(ctx, time.Minute, func(conn *sqlx.Conn, now time.Time) error {
		list, err := partitions(ctx, conn)
		if err != nil {
			return err
		}
		for ahead := range daysAhead + 1 {
			if err := makePartition(ctx, conn, list, now.Truncate(24*time.Hour).AddDate(0, 0, ahead)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && !done {
		err = errors.New("another instance has been at the partitions for a minute")
	}
	return err
}

// makePartition creates the table first and attaches it then: CREATE … PARTITION OF would lock the parent against
// everyone. If we stop in between, the next call finds the table and attaches it.
func makePartition(ctx context.Context, conn *sqlx.Conn, list []partition, day time.Time) error {
	one := partition{Name: partitionPrefix + day.Format(partitionDay)}
	at := slices.IndexFunc(list, func(p partition) bool { return p.Name == one.Name })
	if at >= 0 && list[at].Attached {
		return nil
	}
	if at < 0 {
		_, err := conn.ExecContext(ctx, fmt.Sprintf(
			`create table %s (like sluice.events including defaults including constraints)`, one.table()))
		if err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, fmt.Sprintf(
		`alter table sluice.events attach partition %s for values from ('%s 00:00:00+00') to ('%s 00:00:00+00')`,
		one.table(), day.Format(time.DateOnly), day.AddDate(0, 0, 1).Format(time.DateOnly)))
	return err
}

// PartitionReady fails where tomorrow's partition is missing: at midnight nothing could be appended any more.
func (s *Store) PartitionReady(ctx context.Context) error {
	var there bool
	err := s.db.GetContext(ctx, &there, `select exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'sluice.events'::regclass and not i.inhdetachpending and c.relname =
		'events_' || to_char((clock_timestamp() at time zone 'UTC') + interval '1 day', 'YYYYMMDD'))`)
	if err != nil {
		return classify(err)
	}
	if !there {
		return errors.New("tomorrow's partition of events is missing")
	}
	return nil
}

// Trim drops every partition whose last event is older than retention and returns how many. It costs the same however
// many events they hold. Where another instance is at it, it does nothing.
func (s *Store) Trim(ctx context.Context, retention time.Duration) (dropped int, err error) {
	_, err = s.alone(ctx, 2*time.Second, func(conn *sqlx.Conn, now time.Time) error {
		list, err := partitions(ctx, conn)
		if err != nil {
			return err
		}
		for _, one := range list {
			end := one.day.AddDate(0, 0, 1)
			// One that is attached no more lost its floor in an earlier call that did not get to the end.
			leftover := !one.Attached && end.Before(now) || one.Pending
			if !leftover && end.After(now.Add(-retention)) {
				continue
			}
			if err := trimPartition(ctx, conn, one); err != nil {
				return fmt.Errorf("trim %s: %w", one.Name, err)
			}
			dropped++
		}
		return nil
	})
	if locked(err) {
		return dropped, nil // somebody reads for long; the next minute tries again
	}
	return dropped, err
}

// trimPartition raises the floors first, so that there is no moment at which events are gone and the floor denies it.
func trimPartition(ctx context.Context, conn *sqlx.Conn, one partition) error {
	if err := raiseFloors(ctx, conn, one); err != nil {
		return err
	}
	// If we stop here: readers are told that the events are gone while they still are there. They get a reset.
	switch {
	case one.Pending:
		_, err := conn.ExecContext(ctx, fmt.Sprintf(
			`alter table sluice.events detach partition %s finalize`, one.table()))
		if err != nil {
			return err
		}
	case one.Attached:
		// CONCURRENTLY takes no lock that appending waits for. When it times out it stays pending, and FINALIZE ends
		// it in a later call.
		_, err := conn.ExecContext(ctx, fmt.Sprintf(
			`alter table sluice.events detach partition %s concurrently`, one.table()))
		if err != nil {
			return err
		}
	}
	// If we stop here: the table stands alone, and a later call drops it. Once more, for an org that was new might
	// have been given its first events while the clock was set back.
	if err := raiseFloors(ctx, conn, one); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, `drop table `+one.table())
	return err
}

// newestSQL finds the newest event of every org in one partition by steps over its index: an org that follows costs one
// look, however many events lie between. Time rises with the position, so the newest event has the newest time.
const newestSQL = `with recursive orgs(org) as (
		(select org from %[1]s order by org limit 1)
		union all
		select (select v.org from %[1]s v where v.org > o.org order by v.org limit 1) from orgs o where o.org is not null
	), newest as (
		select o.org, v.seq, v.time from orgs o
		cross join lateral (select seq, time from %[1]s v where v.org = o.org order by v.seq desc limit 1) v
	)`

// raiseFloors notes in logs what is about to be dropped: the newest position and time of every org in the partition.
// Appending to these orgs waits meanwhile, so nothing here may read the events one by one.
func raiseFloors(ctx context.Context, conn *sqlx.Conn, one partition) error {
	tx, err := conn.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	newest := fmt.Sprintf(newestSQL, one.table())
	_, err = tx.ExecContext(ctx, newest+`
		select from sluice.logs where org in (select org from newest) order by org for update`)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, newest+`
		update sluice.logs l set trimmed_seq = greatest(l.trimmed_seq, d.seq), last_time = greatest(l.last_time, d.time)
		from newest d where d.org = l.org and (d.seq > l.trimmed_seq or d.time > l.last_time)`)
	if err != nil {
		return err
	}
	return tx.Commit()
}
