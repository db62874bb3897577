package store

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Append adds a batch to the logs of its orgs in one transaction and tells the other instances of it. Each item is
// one publisher's drafts, in order, or its change; the answer has the same shape.
//
// When it returns nil, everything is committed and synced, but the changes whose answers have errors. When it fails with
// ErrRefused, nothing was appended and at least one draft of the batch can never be. When it fails otherwise, the batch may
// or may not have been committed: mark its drafts Tried and append them again.
func (s *Store) Append(ctx context.Context, items []Item) ([]Answer, error) {
	answer, err := s.append(ctx, items)
	return answer, classify(err)
}

func (s *Store) append(ctx context.Context, items []Item) ([]Answer, error) {
	drafts := make([][]Draft, len(items))
	for i := range items {
		drafts[i] = items[i].Drafts
	}
	for {
		orgs := orgsOf(drafts)
		if err := s.offerLogs(ctx, orgs); err != nil {
			return nil, err
		}
		answers, err := s.attempt(ctx, items, drafts, orgs)
		// What the changes bring is in drafts now, and its logs are offered without a transaction that holds their rows.
		if !errors.Is(err, errNotOffered) {
			return answers, err
		}
	}
}

// errNotOffered says that a change has brought drafts of an org that this process has not met.
var errNotOffered = errors.New("the row of a log was not offered")

// attempt is one transaction. The orgs are those of the items' own drafts.
func (s *Store) attempt(ctx context.Context, items []Item, drafts [][]Draft, orgs []string) ([]Answer, error) {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()

	answers := make([]Answer, len(items))
	if slices.ContainsFunc(items, func(item Item) bool { return item.Change != nil }) {
		if err := applyChanges(ctx, tx, items, drafts, answers); err != nil {
			return nil, err
		}
		orgs = orgsOf(drafts)
		if len(s.unmet(orgs)) > 0 {
			return nil, errNotOffered
		}
	}
	appended, err := s.appendIn(ctx, tx, orgs, drafts)
	if err != nil {
		return nil, err
	}
	if err := placeChanges(ctx, tx, items, appended); err != nil {
		return nil, err
	}
	// If we stop before the commit, nothing happened. If we stop after it, the notification is on its way with it,
	// and the publisher, who was not answered, publishes the same ids again.
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	for i := range answers {
		answers[i].Appended = appended[i]
	}
	return answers, nil
}

// appendIn appends within a transaction that the caller commits. The orgs are those of the items, sorted, and were offered.
func (s *Store) appendIn(ctx context.Context, tx *sqlx.Tx, orgs []string, items [][]Draft) ([][]Appended, error) {
	// The locks are a statement of their own, so that the next one has a snapshot taken under them: in one statement
	// a duplicate committed while we waited would not be seen. Sorted, so that two batches never wait for each other.
	locked, err := s.lockLogs(ctx, tx, orgs)
	if err != nil {
		return nil, err
	}
	if locked != len(orgs) {
		s.known.Clear() // another incarnation; the retry offers the rows again
		return nil, ErrUnavailable
	}
	heads, epoch, err := s.heads(ctx, tx, orgs)
	if err != nil {
		return nil, err
	}
	batch := &batch{epoch: epoch, heads: heads, seen: map[orgID]int64{}}
	if err := s.findDuplicates(ctx, tx, items, batch.seen); err != nil {
		return nil, err
	}
	answer := batch.place(items)
	if len(batch.seqs) > 0 {
		if err := s.insertBatch(ctx, tx, batch); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

const lockSQL = `select from sluice.logs where org = any($1) order by org for update`

// lockLogs locks the rows of sorted orgs until the transaction ends, and returns how many there were.
func (s *Store) lockLogs(ctx context.Context, tx *sqlx.Tx, orgs []string) (locked int, err error) {
	rows, err := s.lock.query(ctx, s.db, tx, pq.Array(orgs))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		locked++
	}
	return locked, rows.Err()
}

// orgsOf lists the orgs of a batch once, in the order in which they are locked.
func orgsOf(items [][]Draft) []string {
	var orgs []string
	for _, drafts := range items {
		for i := range drafts {
			if len(orgs) == 0 || orgs[len(orgs)-1] != drafts[i].Org {
				orgs = append(orgs, drafts[i].Org)
			}
		}
	}
	slices.Sort(orgs)
	return slices.Compact(orgs)
}

// unmet lists those of the orgs whose row this process has not met.
func (s *Store) unmet(orgs []string) (fresh []string) {
	for _, org := range orgs {
		if _, known := s.known.Load(org); !known {
			fresh = append(fresh, org)
		}
	}
	return fresh
}

// offerLogs inserts the row of every org that this process has not met. It is committed by itself: an org without
// events is no harm.
func (s *Store) offerLogs(ctx context.Context, orgs []string) error {
	fresh := s.unmet(orgs)
	if len(fresh) == 0 {
		return nil
	}
	_, err := s.db.ExecContext(ctx,
		`insert into sluice.logs (org) select unnest($1::text[]) on conflict do nothing`, pq.Array(fresh))
	if err != nil {
		return err
	}
	for _, org := range fresh {
		s.known.Store(org, nil)
	}
	return nil
}

// head is where an org's log stands: its newest position and the earliest time for the next event.
type head struct {
	seq  int64
	next int64 // microseconds since 1970
}

// headsOfSQL reads the heads under the locks. The newest event tells position and time; once all are trimmed, the row
// in logs does. The clock is the database's, so that all instances share it.
const headsOfSQL = `select o.org, e.epoch, greatest(l.trimmed_seq, coalesce(h.seq, 0)) as seq,
	(extract(epoch from greatest(l.last_time + interval '1 microsecond', h.time + interval '1 microsecond',
		clock_timestamp())) * 1000000)::bigint as next
	from unnest($1::text[]) o(org) join sluice.logs l on l.org = o.org cross join sluice.epoch e
	left join lateral (select seq, time from sluice.events v where v.org = o.org order by v.seq desc limit 1) h on true`

func (s *Store) heads(ctx context.Context, tx *sqlx.Tx, orgs []string) (map[string]*head, string, error) {
	rows, err := s.headsOf.query(ctx, s.db, tx, pq.Array(orgs))
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	heads := make(map[string]*head, len(orgs))
	var epoch string
	for rows.Next() {
		var org string
		var here head
		if err := rows.Scan(&org, &epoch, &here.seq, &here.next); err != nil {
			return nil, "", err
		}
		heads[org] = &here
	}
	if err := rows.Err(); err != nil {
		return nil, "", err
	}
	if len(heads) != len(orgs) || epoch == "" && len(orgs) > 0 {
		return nil, "", ErrUnavailable // the epoch is gone with the database, or is another one's; the poll finds out
	}
	return heads, epoch, nil
}

type orgID struct{ org, id string }

// idsOfSQL looks duplicates up id by id on (org, id): "= any(array)" over partitions without statistics scans them.
const idsOfSQL = `select g.org, g.id, d.seq from unnest($1::text[], $2::text[]) g(org, id)
	cross join lateral (select v.seq from sluice.events v where v.org = g.org and v.id = g.id limit 1) d`

// findDuplicates notes the positions of those ids that the log holds already. Only ids that a publisher chose can be
// there, and any id once a try of ours has failed without saying whether it committed.
func (s *Store) findDuplicates(ctx context.Context, tx *sqlx.Tx, items [][]Draft, seen map[orgID]int64) error {
	var orgs, ids []string
	for _, drafts := range items {
		for i := range drafts {
			if drafts[i].IDGiven || drafts[i].Tried {
				orgs, ids = append(orgs, drafts[i].Org), append(ids, drafts[i].ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := s.idsOf.query(ctx, s.db, tx, pq.Array(orgs), pq.Array(ids))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var at orgID
		var seq int64
		if err := rows.Scan(&at.org, &at.id, &seq); err != nil {
			return err
		}
		seen[at] = seq
	}
	return rows.Err()
}

// batch is what one transaction inserts: a column each, since Postgres takes arrays in one round trip.
type batch struct {
	epoch string
	heads map[string]*head
	seen  map[orgID]int64 // positions of ids that the log or this batch holds

	orgs, ids, services, types, properties, entityTypes, entities, users, audiences, documents []string
	seqs, times                                                                                []int64
}

// place gives every new draft the next position of its org and answers for all of them.
func (b *batch) place(items [][]Draft) [][]Appended {
	answer := make([][]Appended, len(items))
	for i, drafts := range items {
		answer[i] = make([]Appended, len(drafts))
		for j := range drafts {
			draft := &drafts[j]
			at := orgID{draft.Org, draft.ID}
			seq, found := b.seen[at]
			if !found {
				seq = b.add(draft)
				b.seen[at] = seq
			}
			answer[i][j] = Appended{
				ID: draft.ID, Cursor: Cursor{b.epoch, seq},
				// An id that we made ourselves is found again only when our own first try had committed after all.
				Duplicate: found && draft.IDGiven,
			}
		}
	}
	return answer
}

func (b *batch) add(draft *Draft) int64 {
	head := b.heads[draft.Org]
	head.seq++
	b.orgs, b.ids = append(b.orgs, draft.Org), append(b.ids, draft.ID)
	b.services, b.types = append(b.services, draft.Service), append(b.types, draft.Type)
	b.properties, b.users = append(b.properties, draft.PropertyID), append(b.users, draft.UserID)
	b.entityTypes, b.entities = append(b.entityTypes, draft.EntityType), append(b.entities, draft.EntityID)
	b.documents = append(b.documents, string(draft.Data))
	if draft.Audience != "" { // most batches have none, and send no column of empty texts
		b.audiences = append(append(b.audiences, make([]string, len(b.ids)-1-len(b.audiences))...), draft.Audience)
	}
	b.seqs, b.times = append(b.seqs, head.seq), append(b.times, head.next)
	head.next++
	return head.seq
}

// insertSQL inserts the columns and notifies, in one statement. The audiences may end before the other columns. A time is whole microseconds, below 2^53: the
// multiplication is exact.
const insertSQL = `with appended as (
	insert into sluice.events (org, seq, time, id, service, type, property_id, entity_type, entity_id, user_id, audience,
		data)
	select c1, c2, timestamptz 'epoch' + c3 * interval '1 microsecond', c4, c5, c6, c7, c8, c9, c10, coalesce(c11, ''),
		c12::json
	from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
		$9::text[], $10::text[], $11::text[], $12::text[]) c(c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12))
	select pg_notify('sluice', $13)`

func (s *Store) insertBatch(ctx context.Context, tx *sqlx.Tx, b *batch) error {
	rows, err := s.insert.query(ctx, s.db, tx, pq.Array(b.orgs), pq.Array(b.seqs), pq.Array(b.times), pq.Array(b.ids),
		pq.Array(b.services), pq.Array(b.types), pq.Array(b.properties), pq.Array(b.entityTypes),
		pq.Array(b.entities), pq.Array(b.users), pq.Array(b.audiences), pq.Array(b.documents), b.hint())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// hintLimit keeps a payload below the 8,000 bytes that Postgres allows.
const hintLimit = 7 << 10

// hint names the orgs that have grown and their new heads, "org:seq" by spaces; a batch of too many orgs says "*".
func (b *batch) hint() string {
	var text strings.Builder
	grown := map[string]bool{}
	for _, org := range b.orgs {
		if grown[org] {
			continue
		}
		grown[org] = true
		if text.Len() > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(url.QueryEscape(org))
		text.WriteByte(':')
		text.WriteString(strconv.FormatInt(b.heads[org].seq, 10))
		if text.Len() > hintLimit {
			return wakeAll
		}
	}
	return text.String()
}
