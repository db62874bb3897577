package store

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// UserKey names a user: ids are an org's own.
type UserKey struct{ Org, ID string }

// Carried is what one instance carries to a user of a room.
type Carried struct {
	UserKey
	Room    string // "": all of the user's
	Streams int    // open ones
	Polled  bool   // a moment ago
}

// PresenceChange is what an instance has to say about those to whom it carries rooms.
type PresenceChange struct {
	Users   []UserKey // whose rows are to be those of Carried, and no others
	Carried []Carried
	Gone    []UserKey // those of Users without any
	Told    []UserKey // whom the instances are to look at
}

// KeepPresence brings the rows of an instance in line, and notifies, in one transaction. Who has gone was last seen now;
// the statuses of whoever is nowhere any more are forgotten.
func (s *Store) KeepPresence(ctx context.Context, instance string, change PresenceChange) error {
	return classify(s.transact(ctx, func(tx *sqlx.Tx) error {
		if err := keepRows(ctx, tx, instance, change); err != nil {
			return err
		}
		if len(change.Gone) > 0 {
			orgs, ids := columns(change.Gone)
			// These rows are locked, in one order, so that of two instances which a user leaves at once one sees the other's.
			_, err := tx.ExecContext(ctx, `insert into sluice.users as u (org, id, last_seen)
				select org, id, clock_timestamp() from unnest($1::text[], $2::text[]) g (org, id) order by org, id
				on conflict (org, id) do update set last_seen = excluded.last_seen`, orgs, ids)
			if err == nil {
				err = forgetStatuses(ctx, tx, change.Gone)
			}
			if err != nil {
				return err
			}
		}
		return notify(ctx, tx, presencePayloads(change.Told))
	}))
}

func keepRows(ctx context.Context, tx *sqlx.Tx, instance string, change PresenceChange) error {
	if len(change.Users) == 0 {
		return nil
	}
	var orgs, ids, rooms []string
	var open []int64
	var polled []bool
	for _, one := range change.Carried {
		orgs, ids, rooms = append(orgs, one.Org), append(ids, one.ID), append(rooms, one.Room)
		open, polled = append(open, int64(one.Streams)), append(polled, one.Polled)
	}
	users, names := columns(change.Users)
	_, err := tx.ExecContext(ctx, `delete from sluice.presence p using unnest($2::text[], $3::text[]) u (org, id)
		where p.instance = $1 and p.org = u.org and p.user_id = u.id and not exists (
			select from unnest($4::text[], $5::text[], $6::text[]) c (org, id, room)
			where c.org = p.org and c.id = p.user_id and c.room = p.room)`,
		instance, users, names, pq.Array(orgs), pq.Array(ids), pq.Array(rooms))
	if err != nil || len(orgs) == 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, `insert into sluice.presence (instance, org, user_id, room, streams, polled)
		select $1, c.* from unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::boolean[]) c
		on conflict (org, user_id, room, instance) do update set streams = excluded.streams, polled = excluded.polled`,
		instance, pq.Array(orgs), pq.Array(ids), pq.Array(rooms), pq.Array(open), pq.Array(polled))
	return err
}

// forgetStatuses forgets what those users had chosen who are nowhere any more.
func forgetStatuses(ctx context.Context, tx *sqlx.Tx, users []UserKey) error {
	orgs, ids := columns(users)
	_, err := tx.ExecContext(ctx, `delete from sluice.statuses s using unnest($1::text[], $2::text[]) g (org, id)
		where s.org = g.org and s.user_id = g.id and not exists (
			select from sluice.presence p join sluice.instances i on i.id = p.instance and i.alive > now()
			where p.org = g.org and p.user_id = g.id)`, orgs, ids)
	return err
}

// PresenceOf names the instances that live, in order, and counts the rows that are kept for one: another may have
// taken it for dead.
func (s *Store) PresenceOf(ctx context.Context, instance string) (alive []string, rows int, err error) {
	err = s.db.QueryRowxContext(ctx, `select
		coalesce((select array_agg(id order by id) from sluice.instances where alive > now()), '{}'),
		(select count(*) from sluice.presence where instance = $1)`, instance).Scan(pq.Array(&alive), &rows)
	return alive, rows, classify(err)
}

// PresentUsers names those of whom the table says that an instance carries rooms to them.
func (s *Store) PresentUsers(ctx context.Context, instance string) (users []UserKey, err error) {
	err = s.db.SelectContext(ctx, &users, `select distinct org, user_id as id from sluice.presence where instance = $1`, instance)
	return users, classify(err)
}

// ForgetPresence deletes what the dead instances have left behind. Whoever was there was last seen when they ended.
func (s *Store) ForgetPresence(ctx context.Context) error {
	return classify(s.transact(ctx, func(tx *sqlx.Tx) error {
		var gone []UserKey
		err := tx.SelectContext(ctx, &gone, `with gone as (delete from sluice.presence p
				where not exists (select from sluice.instances i where i.id = p.instance and i.alive > now())
				returning org, user_id, instance),
			seen as (select g.org, g.user_id, max(coalesce(i.alive, now())) as at
				from gone g left join sluice.instances i on i.id = g.instance group by g.org, g.user_id)
			insert into sluice.users as u (org, id, last_seen) select org, user_id, at from seen order by org, user_id
			on conflict (org, id) do update set last_seen = greatest(u.last_seen, excluded.last_seen)
			returning org, id`)
		if err != nil || len(gone) == 0 {
			return err
		}
		return forgetStatuses(ctx, tx, gone)
	}))
}

// SetStatus keeps what a member wants to be shown as in a room while they are there. It says whether that is another one
// than before. ErrNoRoom.
func (s *Store) SetStatus(ctx context.Context, user UserKey, room string, status Status) (changed bool, err error) {
	err = s.transact(ctx, func(tx *sqlx.Tx) error {
		if err := isMember(ctx, tx, user, room); err != nil {
			return err
		}
		if status == StatusOffline {
			// Whoever hides was last seen at that moment. The row is locked before that of the status, as in KeepPresence.
			_, err := tx.ExecContext(ctx, `insert into sluice.users (org, id, last_seen) select $1::text, $2::text, clock_timestamp()
				where not exists (select from sluice.statuses where org = $1 and user_id = $2 and room = $3 and status = 'offline')
				on conflict (org, id) do update set last_seen = excluded.last_seen`, user.Org, user.ID, room)
			if err != nil {
				return err
			}
		}
		done, err := tx.ExecContext(ctx, `insert into sluice.statuses as s (org, room, user_id, status) values ($1, $2, $3, $4)
			on conflict (org, user_id, room) do update set status = excluded.status where s.status <> excluded.status`,
			user.Org, room, user.ID, string(status))
		if err != nil {
			return err
		}
		rows, err := done.RowsAffected()
		changed = rows > 0
		return err
	})
	return changed, ofRoom(err)
}

// IsMember is ErrNoRoom where the user is no member of the room, or there is none.
func (s *Store) IsMember(ctx context.Context, user UserKey, room string) error {
	return ofRoom(isMember(ctx, s.db, user, room))
}

// MemberName is what a member of a room is called; "": no name is known. ErrNoRoom.
func (s *Store) MemberName(ctx context.Context, user UserKey, room string) (name string, err error) {
	err = s.db.GetContext(ctx, &name, `select `+memberName+` from sluice.members m where m.org = $1 and m.room = $2 and m.user_id = $3`,
		user.Org, room, user.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return "", ErrNoRoom
	}
	return name, classify(err)
}

func isMember(ctx context.Context, db sqlx.QueryerContext, user UserKey, room string) error {
	var member bool
	err := sqlx.GetContext(ctx, db, &member, `select exists (select from sluice.members where org = $1 and room = $2 and user_id = $3)`,
		user.Org, room, user.ID)
	if err == nil && !member {
		return ErrNoRoom
	}
	return err
}

// Attendee is a member of a room as the others see them.
type Attendee struct {
	Room string
	RoomUser
}

// Attendance gives those of the users who are members of the rooms as they are now, once for each room; with everybody,
// also whoever else is there.
func (s *Store) Attendance(ctx context.Context, org string, rooms, users []string, everybody bool) (found []Attendee, err error) {
	// What is looked up of each is a subquery of its own, and offset keeps the first one so: a join over tables that were never
	// analysed reads all users of the org for every member.
	rows, err := s.db.QueryxContext(ctx, `with who as (
			select id from unnest($3::text[]) id union select user_id from sluice.presence where $4 and org = $1::text)
		select m.room, m.user_id, `+memberName+`, coalesce(h.status, 'offline'),
			case when h.status is null or h.status = 'offline' then
				(select u.last_seen from sluice.users u where u.org = m.org and u.id = m.user_id) else now() end
		from who cross join lateral (
			select org, room, user_id from sluice.members where org = $1::text and user_id = who.id and room = any($2::text[]) offset 0) m
		left join lateral (
			select coalesce((select s.status from sluice.statuses s where s.org = m.org and s.user_id = m.user_id and s.room = m.room), 'online')
			where exists (select from sluice.presence p join sluice.instances i on i.id = p.instance and i.alive > now()
				where p.org = m.org and p.user_id = m.user_id and p.room in ('', m.room))) h (status) on true`, org, pq.Array(rooms), pq.Array(users), everybody)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var one Attendee
		var seen sql.NullTime
		if err := rows.Scan(&one.Room, &one.User, &one.Name, &one.Status, &seen); err != nil {
			return nil, classify(err)
		}
		one.LastSeen = seen.Time
		found = append(found, one)
	}
	return found, classify(rows.Err())
}

// presencePayloads names users in lines of an org each: "org user user…", escaped. Where that takes more notifications
// than one transaction may send, the orgs alone are named: "org *".
func presencePayloads(users []UserKey) []string {
	users = slices.Clone(users)
	slices.SortFunc(users, func(a, b UserKey) int { return strings.Compare(a.Org+"\x00"+a.ID, b.Org+"\x00"+b.ID) })
	var named, orgs []string
	for i, user := range users {
		org := url.QueryEscape(user.Org)
		word := " " + url.QueryEscape(user.ID)
		if i == 0 || user.Org != users[i-1].Org {
			orgs = append(orgs, org+" "+wakeAll)
			named = append(named, org+word)
		} else if last := &named[len(named)-1]; len(*last)+len(word) < signalLine {
			*last += word
		} else {
			named = append(named, org+word)
		}
	}
	for _, lines := range [][]string{named, orgs} {
		if payloads, all := signalPayloads(signalPresence, lines, presenceNotifications); all {
			return payloads
		}
	}
	return []string{wakeAll}
}

// presenceNotifications is how many one transaction sends at most.
const presenceNotifications = 4

// readPresence reads what presencePayloads names: by orgs, all of its users where it names none.
func readPresence(text string) (map[string][]string, error) {
	named := map[string][]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if org, all := strings.CutSuffix(line, " "+wakeAll); all {
			org, err := url.QueryUnescape(org)
			if err != nil {
				return nil, err
			}
			named[org] = nil
			continue
		}
		fields, err := readFields(line)
		if err != nil {
			return nil, err
		}
		if len(fields) < 2 {
			return nil, errUnread
		}
		named[fields[0]] = append(named[fields[0]], fields[1:]...)
	}
	return named, nil
}

// transact runs work in one transaction.
func (s *Store) transact(ctx context.Context, work func(tx *sqlx.Tx) error) error {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// ofRoom is classify for what may be said of a room.
func ofRoom(err error) error {
	if errors.Is(err, ErrNoRoom) {
		return err
	}
	return classify(err)
}

// columns are the arrays that Postgres takes users by.
func columns(users []UserKey) (orgs, ids pq.StringArray) {
	for _, user := range users {
		orgs, ids = append(orgs, user.Org), append(ids, user.ID)
	}
	return orgs, ids
}
