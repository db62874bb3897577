package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Rooms are those that the user is a member of, by the time of their making.
func (s *Store) Rooms(ctx context.Context, by Actor) ([]Room, error) {
	rooms, err := roomsOf(ctx, s.db, by.Org, `r.deleted is null and exists (
		select from sluice.members m where m.org = r.org and m.room = r.id and m.user_id = $2)`, by.User)
	return rooms, classify(err)
}

// Room is one that the user is a member of. ErrNoRoom.
func (s *Store) Room(ctx context.Context, by Actor, id string) (Room, error) {
	if err := s.IsMember(ctx, UserKey{by.Org, by.User}, id); err != nil {
		return Room{}, err
	}
	room, err := oneRoom(ctx, s.db, by.Org, id)
	return room, ofRoom(err)
}

func oneRoom(ctx context.Context, db sqlx.QueryerContext, org, id string) (Room, error) {
	rooms, err := roomsOf(ctx, db, org, `r.deleted is null and r.id = $2`, id)
	if err == nil && len(rooms) == 0 {
		err = ErrNoRoom
	}
	if err != nil {
		return Room{}, err
	}
	return rooms[0], nil
}

// memberName is what a member m is called. It is no join: one over tables that were never analysed reads all users of the org
// for every member.
const memberName = `coalesce((select u.display_name from sluice.users u where u.org = m.org and u.id = m.user_id), '')`

// roomsOf reads the rooms of an org that a condition upon r and $2 is true of, in one snapshot.
func roomsOf(ctx context.Context, db sqlx.QueryerContext, org, condition, argument string) (rooms []Room, err error) {
	rows, err := db.QueryxContext(ctx, `select r.id, r.name, r.owner, r.created, l.ids, l.names
		from sluice.rooms r cross join lateral (
			select coalesce(array_agg(m.user_id order by m.since, m.user_id), '{}') as ids,
				coalesce(array_agg(`+memberName+` order by m.since, m.user_id), '{}') as names
			from sluice.members m where m.org = r.org and m.room = r.id) l
		where r.org = $1 and `+condition+` order by r.created, r.id`, org, argument)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var room Room
		var ids, names pq.StringArray
		if err := rows.Scan(&room.ID, &room.Name, &room.Owner, &room.Created, &ids, &names); err != nil {
			return nil, err
		}
		room.Members = make([]Member, len(ids))
		for i := range ids {
			room.Members[i] = Member{User: ids[i], Name: names[i]}
		}
		rooms = append(rooms, room)
	}
	return rooms, rows.Err()
}

// StrangeRoom names one of the rooms that was never the user's, or is not there; "": there is none.
func (s *Store) StrangeRoom(ctx context.Context, org, user string, rooms []string) (strange string, err error) {
	err = s.db.GetContext(ctx, &strange, `select coalesce(min(asked.id), '') from unnest($3::text[]) as asked(id)
		where not exists (select from sluice.memberships m where m.org = $1 and m.user_id = $2 and m.room = asked.id)`,
		org, user, pq.Array(rooms))
	return strange, classify(err)
}

// KeepName keeps what a user is called. Nothing is written or locked where that is known.
func (s *Store) KeepName(ctx context.Context, user UserKey, name string) error {
	_, err := s.db.ExecContext(ctx, `insert into sluice.users as u (org, id, display_name) select $1::text, $2::text, $3::text
		where not exists (select from sluice.users where org = $1 and id = $2 and display_name = $3)
		on conflict (org, id) do update set display_name = excluded.display_name where u.display_name <> excluded.display_name`,
		user.Org, user.ID, name)
	return classify(err)
}

// RoomUsers are the members of a room as one of them sees them, by their ids. ErrNoRoom.
func (s *Store) RoomUsers(ctx context.Context, by Actor, room string) ([]RoomUser, error) {
	if err := s.IsMember(ctx, UserKey{by.Org, by.User}, room); err != nil {
		return nil, err
	}
	var ids []string
	err := s.db.SelectContext(ctx, &ids, `select user_id from sluice.members where org = $1 and room = $2 order by user_id`, by.Org, room)
	if err != nil {
		return nil, classify(err)
	}
	found, err := s.Attendance(ctx, by.Org, []string{room}, ids, false)
	if err != nil {
		return nil, err
	}
	of := make(map[string]RoomUser, len(found))
	for _, one := range found {
		of[one.User] = one.RoomUser
	}
	users := make([]RoomUser, 0, len(ids))
	for _, id := range ids {
		if user, there := of[id]; there { // else they were removed meanwhile
			users = append(users, user)
		}
	}
	return users, nil
}

// roomStatsSQL counts without looking at messages one by one: their numbers have no gaps beyond what retention has taken, and
// a user's own are numbered by themselves. Only what was deleted is counted, by an index of its own.
const roomStatsSQL = `select w.connections, w.online,
	n.seq - r.trimmed - (select count(*) from sluice.messages e where e.org = r.org and e.room = r.id and e.deleted) as messages,
	n.seq - b.seq - coalesce((select l.nth from sluice.messages l where l.org = r.org and l.room = r.id and l.user_id = m.user_id
			and l.seq > b.seq order by l.seq desc limit 1)
		- (select f.nth from sluice.messages f where f.org = r.org and f.room = r.id and f.user_id = m.user_id
			and f.seq > b.seq order by f.seq limit 1) + 1, 0)
		- (select count(*) from sluice.messages e where e.org = r.org and e.room = r.id and e.deleted
			and e.seq > b.seq and e.user_id <> m.user_id) as unread
	from sluice.rooms r join sluice.members m on m.org = r.org and m.room = r.id and m.user_id = $3
	cross join lateral (select greatest(r.trimmed, coalesce((select w.seq from sluice.messages w
		where w.org = r.org and w.room = r.id order by w.seq desc limit 1), 0)) as seq) n
	cross join lateral (select greatest(m.read, r.trimmed) as seq) b
	cross join lateral (select coalesce(sum(h.streams), 0) as connections, count(h.streams) filter (where not exists (
				select from sluice.statuses s where s.org = o.org and s.user_id = o.user_id and s.room = o.room and s.status = 'offline')) as online
		from sluice.members o cross join lateral (select sum(p.streams) as streams from sluice.presence p
			where p.org = o.org and p.user_id = o.user_id and p.room in ('', o.room)
				and exists (select from sluice.instances i where i.id = p.instance and i.alive > now())) h
		where o.org = r.org and o.room = r.id) w
	where r.org = $1 and r.id = $2`

// RoomStats are the figures of a room as one of its members sees it. ErrNoRoom.
func (s *Store) RoomStats(ctx context.Context, by Actor, room string) (stats RoomStats, err error) {
	err = s.db.QueryRowxContext(ctx, roomStatsSQL, by.Org, room, by.User).
		Scan(&stats.Connections, &stats.Online, &stats.Messages, &stats.Unread)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoRoom
	}
	return stats, ofRoom(err)
}

// trimAtOnce is how many messages one transaction takes away.
const trimAtOnce = 1000

// TrimMessages takes away messages older than retention, a thousand at a time and at most; 0 keeps them for ever. It takes
// away those of rooms that were deleted in any case. It says how many there were: where they are a thousand, there may be more.
func (s *Store) TrimMessages(ctx context.Context, retention time.Duration) (trimmed int64, err error) {
	trimmed, err = s.trimDeleted(ctx)
	if err != nil || retention == 0 {
		return trimmed, classify(err)
	}
	var old []struct {
		Org, Room string
		Seq       int64
	}
	err = s.db.SelectContext(ctx, &old, `select org, room, max(seq) as seq from (
			select org, room, seq from sluice.messages where time < now() - make_interval(secs => $1) order by time limit $2) o
		group by org, room`, retention.Seconds(), trimAtOnce)
	for _, one := range old {
		if err != nil {
			break
		}
		var gone int64
		gone, err = s.trimRoom(ctx, one.Org, one.Room, one.Seq)
		trimmed += gone
	}
	return trimmed, classify(err)
}

// trimRoom takes away the messages of a room up to one. Their numbers are never given again.
func (s *Store) trimRoom(ctx context.Context, org, room string, last int64) (gone int64, err error) {
	err = s.transact(ctx, func(tx *sqlx.Tx) error {
		// The lock is the one that a message is numbered under.
		_, err := tx.ExecContext(ctx, `update sluice.rooms set trimmed = greatest(trimmed, $3) where org = $1 and id = $2`, org, room, last)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, `delete from sluice.messages where org = $1 and room = $2 and seq <= $3`, org, room, last)
		if err == nil {
			gone, err = done.RowsAffected()
		}
		return err
	})
	return gone, err
}

// trimDeleted takes away the messages of rooms that were deleted. Those that have none any more are not looked
// at again. Another instance that is at it takes others.
func (s *Store) trimDeleted(ctx context.Context) (trimmed int64, err error) {
	done, err := s.db.ExecContext(ctx, `delete from sluice.messages where ctid = any(array(
		select o.at from sluice.rooms r cross join lateral (
			select m.ctid as at from sluice.messages m where m.org = r.org and m.room = r.id order by m.seq limit $1 for update skip locked) o
		where r.deleted is not null and not r.emptied limit $1))`, trimAtOnce)
	if err == nil {
		trimmed, err = done.RowsAffected()
	}
	if err == nil && trimmed < trimAtOnce {
		_, err = s.db.ExecContext(ctx, `update sluice.rooms r set emptied = true where r.deleted is not null and not r.emptied
			and (select m.seq from sluice.messages m where m.org = r.org and m.room = r.id order by m.seq limit 1) is null`)
	}
	return trimmed, err
}
