package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// ErrElsewhere says that another instance relays the outbox at the moment.
var ErrElsewhere = errors.New("another instance relays the outbox")

const (
	// relayLock is held by the transaction that reads and moves the outbox.
	relayLock = 0x736c7572 // "slur"

	// relayTerm is how long a transaction that finds nothing stays open. It has no number, and a snapshot for as long as one
	// statement takes, so it holds back vacuum by outboxPatience at most.
	relayTerm = time.Second

	// The database looks for us: a look of ours costs it and us a dozen changes of context each, ten of its own cost less.
	outboxPatience = 500 * time.Millisecond // of one wait; a relay that is killed keeps the lock for as long
	outboxPause    = 9 * time.Millisecond   // between two looks

	// foundLimit bounds the ids that are found at once.
	foundLimit = 50_000
)

// Outbox moves what sluice.publish has left into the logs. One Outbox of all instances works at a time; which one may
// change with every transaction, and nothing that it remembers becomes wrong by that. It is not safe for concurrent use.
//
// What is new is told by snapshots. A row that one snapshot does not show and a later one does belongs to a transaction
// that had not ended in the first: it is in the list of those under way then, or its number is past the highest that had
// ended. Only these transactions are looked for, so a late commit with a low id is found like any other, and rows that
// were moved and cannot be vacuumed are not walked over, whichever transaction keeps them.
type Outbox struct {
	store     *Store
	catalogue *Catalogue

	tx    *sqlx.Tx // holds the lock; nil: somebody else may
	since time.Time

	run   string  // of the server, and the epoch, in which the rest is remembered
	moved string  // a snapshot; every row that it shows was moved. "": none
	found []int64 // rows that were found and not moved yet, in order
	next  string  // what moved becomes when found is empty
}

// NewOutbox gives the outbox as this process sees it.
func (s *Store) NewOutbox(catalogue *Catalogue) *Outbox {
	return &Outbox{store: s, catalogue: catalogue}
}

// holdSQL tries to get the lock, in a statement of its own: the next one has a snapshot taken under it. Its settings end
// with the transaction. A relay that hangs between two statements loses its session, and so the lock.
const holdSQL = `select e.epoch, coalesce(r.run::text, ''), pg_try_advisory_xact_lock($1),
	set_config('idle_in_transaction_session_timeout', '750ms', true), set_config('statement_timeout', '15s', true),
	set_config('lock_timeout', '8s', true), set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)
	from sluice.epoch e left join sluice.relay r on true`

// foundAllSQL finds all rows there are; foundSQL those that the snapshot $1 does not show. What is past the end of the
// present snapshot is invisible and need not be looked at: it may be a transaction's first million rows. The inner
// limit keeps the planner from joining with the whole table.
const (
	foundAllSQL = `select pg_current_snapshot()::text, array(select o.id from sluice.outbox o order by o.id limit $1)`

	foundSQL = `select pg_current_snapshot()::text, array(select id from (
			select o.id from sluice.outbox o where o.xid >= pg_snapshot_xmax($2::pg_snapshot)
				and o.xid < pg_snapshot_xmax(pg_current_snapshot())
			union all
			select o.id from pg_snapshot_xip($2::pg_snapshot) under(xid) cross join lateral (
				select o.id from sluice.outbox o where o.xid = under.xid order by o.id limit $1) o
			where pg_visible_in_snapshot(under.xid, pg_current_snapshot())
		) n order by id limit $1)`
)

// Find makes this the cluster's relay, where no other one is, and says how many rows wait that it has found. ErrElsewhere:
// another instance is at it.
func (o *Outbox) Find(ctx context.Context) (waiting int, err error) {
	defer func() {
		if err != nil {
			o.Release()
			err = classify(err)
		}
	}()
	if o.tx != nil && time.Since(o.since) > relayTerm {
		o.Release()
	}
	if err := o.hold(ctx); err != nil {
		return 0, err
	}
	if len(o.found) > 0 {
		return len(o.found), nil
	}
	statement, args := o.store.found, []any{foundLimit, o.moved}
	if o.moved == "" {
		statement, args = o.store.foundAll, args[:1]
	}
	rows, err := statement.query(ctx, o.store.db, o.tx, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var snapshot string
	var ids pq.Int64Array
	if !rows.Next() {
		return 0, errors.Join(errors.New("no row"), rows.Err())
	}
	if err := rows.Scan(&snapshot, &ids); err != nil {
		return 0, err
	}
	o.found, o.next = ids, snapshot
	if len(ids) == foundLimit {
		o.next = o.moved // there is more that is new since then
	}
	o.settle()
	return len(o.found), nil
}

const awaitSQL = `select sluice.await_outbox($1, make_interval(secs => $2), make_interval(secs => $3))`

// Await waits for half a second at most until there is something to find. It goes with a Find that has found nothing.
func (o *Outbox) Await(ctx context.Context) error {
	rows, err := o.store.await.query(ctx, o.store.db, o.tx, o.moved, outboxPatience.Seconds(), outboxPause.Seconds())
	if err == nil {
		for rows.Next() {
		}
		err = errors.Join(rows.Err(), rows.Close())
	}
	if err != nil {
		o.Release()
	}
	return classify(err)
}

// settle notes how far all was moved.
func (o *Outbox) settle() {
	if len(o.found) == 0 {
		o.moved = o.next
	}
}

// hold begins the transaction that has the lock, unless it is under way.
func (o *Outbox) hold(ctx context.Context) error {
	if o.tx != nil {
		return nil
	}
	// The transaction outlives the call: it ends with Move, Park or Release, not with the caller's context.
	tx, err := o.store.db.BeginTxx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	var epoch, run, ignored string
	held := false
	rows, err := o.store.hold.query(ctx, o.store.db, tx, int64(relayLock))
	if err == nil {
		for rows.Next() && err == nil {
			err = rows.Scan(&epoch, &run, &held, &ignored, &ignored, &ignored, &ignored, &ignored)
		}
		err = errors.Join(err, rows.Err(), rows.Close())
	}
	switch {
	case err != nil:
	case epoch == "":
		err = ErrUnavailable // another incarnation; the poll of the heads finds out
	case !held:
		err = ErrElsewhere
	case run == "":
		_ = tx.Rollback()
		_, err = o.store.db.ExecContext(ctx, `insert into sluice.relay default values on conflict do nothing`)
		return errors.Join(ErrElsewhere, err) // at the next turn, by whoever
	default:
		o.remember(epoch + " " + run)
		o.tx, o.since = tx, time.Now()
		return nil
	}
	_ = tx.Rollback()
	return err
}

// remember drops what is remembered of another run. After a crash, and in another incarnation, the number of a transaction
// that had ended may be that of one that has not.
func (o *Outbox) remember(run string) {
	if o.run != run {
		o.run, o.moved, o.next, o.found = run, "", "", nil
	}
}

// Release lets another instance relay. What was found is found again.
func (o *Outbox) Release() {
	if o.tx != nil {
		_ = o.tx.Rollback()
		o.tx = nil
	}
}

const moveSQL = `with gone as (delete from sluice.outbox where id = any($1) returning *)
	select id, org, event_id, id_given, service, type, property_id, entity_type, entity_id, user_id, data::text
	from gone order by id`

// Move appends the first count rows that were found to their logs and takes them out of the outbox, in one transaction;
// ids that a log holds are dropped as duplicates. It returns the number of rows moved.
//
// ErrRefused: nothing was moved, and at least one of them can never be. Other failures leave the rows where they are or
// have moved them all: Find tells.
func (o *Outbox) Move(ctx context.Context, count int) (int, error) {
	moved, err := o.finish(ctx, count, func(ids []int64) (int, error) {
		drafts, err := o.take(ctx, ids)
		if err != nil || len(drafts) == 0 {
			return 0, err
		}
		items := [][]Draft{drafts}
		orgs := orgsOf(items)
		if err := o.store.offerLogs(ctx, orgs); err != nil {
			return 0, err
		}
		_, err = o.store.appendIn(ctx, o.tx, orgs, items)
		return len(drafts), err
	})
	return moved, err
}

// take deletes rows and gives them as drafts. A row that an earlier relay has moved is not there any more.
func (o *Outbox) take(ctx context.Context, ids []int64) ([]Draft, error) {
	rows, err := o.store.move.query(ctx, o.store.db, o.tx, pq.Array(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	drafts := make([]Draft, 0, len(ids))
	for rows.Next() {
		var one Draft
		var id int64
		var data string
		err := rows.Scan(&id, &one.Org, &one.ID, &one.IDGiven, &one.Service, &one.Type, &one.PropertyID, &one.EntityType,
			&one.EntityID, &one.UserID, &data)
		if err != nil {
			return nil, err
		}
		one.Data = []byte(data)
		if err := o.check(&one); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		drafts = append(drafts, one)
	}
	return drafts, rows.Err()
}

// check refuses what the tables would take and readers could not. The function has checked everything, but a row may have
// been written without it, or under another catalogue.
func (o *Outbox) check(draft *Draft) error {
	switch {
	case draft.Org == "" || draft.Org == "*":
		return errors.New("it has no org")
	case draft.ID == "" || draft.Type == "":
		return errors.New("it has no id or no type")
	case draft.Data[0] != '{':
		return errors.New("its data is no object")
	}
	return o.catalogue.Publishable(draft.Service)
}

// Park moves the first row that was found aside, with the reason, for the operator to look at.
func (o *Outbox) Park(ctx context.Context, reason error) error {
	_, err := o.finish(ctx, 1, func(ids []int64) (int, error) {
		_, err := o.tx.ExecContext(ctx, `with gone as (delete from sluice.outbox where id = $1 returning *)
			insert into sluice.parked (id, org, event_id, id_given, service, type, property_id, entity_type, entity_id,
				user_id, data, reason)
			select id, org, event_id, id_given, service, type, property_id, entity_type, entity_id, user_id, data, $2
			from gone`, ids[0], reason.Error())
		return 1, err
	})
	return err
}

// finish does work on the first count rows that were found, and commits. If we stop before the commit, the rows are in the
// outbox and nowhere else; if we stop after it, they are in the log and nowhere else.
func (o *Outbox) finish(ctx context.Context, count int, work func(ids []int64) (int, error)) (int, error) {
	defer o.Release()
	if err := o.hold(ctx); err != nil {
		return 0, classify(err)
	}
	count = min(count, len(o.found))
	done, err := work(o.found[:count])
	if err == nil {
		err = o.tx.Commit()
	}
	if err != nil {
		return 0, classify(err)
	}
	o.tx = nil
	o.found = o.found[count:]
	o.settle()
	return done, nil
}
