package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

const planMessages, planMembers = 100_000, 3_000

// TestRoomPlans asks everything of rooms among many messages and members of others, with statements
// that are prepared and behind a pooler, before the tables are analysed and after: each reads the few rows that it needs.
func TestRoomPlans(t *testing.T) {
	t.Parallel()
	for name, behind := range map[string]bool{"prepared": false, "behind a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			db := connect(t, url)
			opts := Options{URL: url, Migrate: true, Connections: 1}
			if behind {
				opts.URL, opts.DirectURL = url+" application_name=pooler", url
			}
			s := openWith(t, opts)
			for _, table := range []string{"rooms", "members", "memberships", "messages", "users", "presence", "statuses"} {
				execute(t, db, fmt.Sprintf(`alter table sluice.%s set (autovacuum_enabled = off)`, table))
			}
			makeRoom(t, s, "r", "a", "b", "c")
			makeRoom(t, s, "trimmed", "a")
			makeRoom(t, s, "gone", "a")
			for i := range 8 { // a generic plan is made at the sixth use
				say(t, s, actor("a"), "r", fmt.Sprint("early", i))
			}
			say(t, s, actor("a"), "trimmed", "old")
			say(t, s, actor("a"), "gone", "gone")
			must(t, s, NewDeleteRoom(actor("a"), "gone"))
			fillRooms(t, db)
			execute(t, db, `update sluice.messages set time = now() - interval '1 day' where room = 'trimmed'`)
			askLittle(t, s, "young", behind)
			execute(t, db, `analyze sluice.rooms, sluice.members, sluice.memberships, sluice.messages, sluice.users, sluice.presence, sluice.statuses`)
			askLittle(t, s, "analysed", behind)
		})
	}
}

// askLittle asks for little, once each, and counts what is read for it.
func askLittle(t *testing.T, s *Store, when string, behind bool) {
	t.Helper()
	for _, one := range []struct {
		what string
		most int64 // rows and index entries
		do   func() error
	}{
		{"sending", 40, func() error { say(t, s, actor("a"), "r", when); return nil }},
		{"sending again", 40, func() error { say(t, s, actor("a"), "r", when); return nil }},
		{"sending to many rooms", 50 * 25, func() error {
			var items []Item
			for i := range 50 {
				items = append(items, Item{Change: s.NewSendMessage(actor("busy"), fmt.Sprint("room", i+1), fmt.Sprint(when, i), "hello")})
			}
			answers, err := s.Append(t.Context(), items)
			for i := range answers {
				err = errors.Join(err, answers[i].Err)
			}
			return err
		}},
		{"a room of whoever is in many", 150, func() error { _, err := s.Room(t.Context(), actor("busy"), "room7"); return err }},
		{"a history of whoever was in many", 150, func() error {
			_, err := s.History(t.Context(), actor("busy"), "room7", HistoryRange{Limit: 50})
			return err
		}},
		{"editing", 60, func() error { return change(t, s, NewEditMessage(actor("a"), "r", planMessages+8, when)) }},
		{"erasing", 60, func() error { return change(t, s, NewEraseMessage(actor("a"), "r", 3+int64(len(when)))) }},
		{"history", 150, func() error { return historyOf(t, s, HistoryRange{Limit: 50}) }},
		{"history in the middle", 150, func() error { return historyOf(t, s, HistoryRange{Limit: 50, Before: &[]int64{planMessages / 2}[0]}) }},
		{"history on", 150, func() error { return historyOf(t, s, HistoryRange{Limit: 50, After: &[]int64{planMessages / 2}[0]}) }},
		{"history over a gap", 150, func() error {
			got, err := s.History(t.Context(), actor("returned"), "r", HistoryRange{Limit: 50})
			if err == nil && (len(got.Messages) < 17 || got.Messages[4].Seq != 5) {
				err = fmt.Errorf("%d messages", len(got.Messages))
			}
			return err
		}},
		{"marking", 40, func() error {
			_, err := s.MarkRead(t.Context(), UserKey{"1", "b"}, "r", 70_000+int64(len(when)))
			return err
		}},
		{"telling", 60, func() error { return change(t, s, new(TellReads)) }},
		{"figures", 150, func() error { _, err := s.RoomStats(t.Context(), actor("b"), "r"); return err }},
		{"users", 150, func() error { _, err := s.RoomUsers(t.Context(), actor("b"), "r"); return err }},
		{"the user's rooms", 150, func() error { _, err := s.Rooms(t.Context(), actor("b")); return err }},
		{"intervals", 60, func() error { _, err := s.Memberships(t.Context(), "1", []string{"a", "b"}); return err }},
		{"a strange room", 60, func() error { _, err := s.StrangeRoom(t.Context(), "1", "b", []string{"r", "x"}); return err }},
		{"adding", 80, func() error { return change(t, s, NewAddMember(actor("a"), "r", "new")) }},
		{"removing", 80, func() error { return change(t, s, NewRemoveMember(actor("a"), "r", "new")) }},
		{"trimming", 150, func() error { _, err := s.TrimMessages(t.Context(), time.Hour); return err }},
		{"users of a large room", 15 * planMembers, func() error { _, err := s.RoomUsers(t.Context(), actor("m7"), "large"); return err }},
		{"figures of a large room", 15 * planMembers, func() error { _, err := s.RoomStats(t.Context(), actor("m7"), "large"); return err }},
		{"a large room", 15 * planMembers, func() error { _, err := s.Room(t.Context(), actor("m7"), "large"); return err }},
	} {
		before := roomRowsRead(t, s)
		if err := one.do(); err != nil {
			t.Errorf("%s: %v", one.what, err)
		}
		if behind {
			one.most += 5 * planMembers // of a small table that it does not know Postgres reads all, rather than an index
		}
		if read := roomRowsRead(t, s) - before; read > one.most {
			t.Errorf("%s read %d rows", one.what, read)
		}
	}
}

// fillRooms makes room r long, a room with many members, and many rooms of few.
func fillRooms(t *testing.T, db *sqlx.DB) {
	t.Helper()
	execute(t, db, `insert into sluice.messages (org, room, seq, user_id, display_name, text, client_id, nth)
		select '1', 'r', 8 + n, case when n % 2 = 0 then 'a' else 'b' end, '', 'text', 'filled' || n, case when n % 2 = 0 then 8 else 0 end + (n + 1) / 2
		from generate_series(1, $1::int) n`, planMessages)
	execute(t, db, `insert into sluice.rooms (org, id, name, owner, creation) select '1', 'room' || n, '', 'm' || n, '' from generate_series(1, $1::int) n`, planMembers)
	execute(t, db, `insert into sluice.rooms (org, id, name, owner, creation, deleted, emptied)
		select '1', 'over' || n, '', 'a', '', now(), true from generate_series(1, $1::int) n`, planMembers)
	execute(t, db, `insert into sluice.rooms (org, id, name, owner, creation) values ('1', 'large', '', 'm1', '')`)
	execute(t, db, `insert into sluice.members (org, room, user_id, read, told)
		select '1', r, 'm' || n, 0, 0 from generate_series(1, $1::int) n cross join lateral (values ('large'), ('room' || n)) v (r)`, planMembers)
	execute(t, db, `insert into sluice.members (org, room, user_id, read, told) select '1', 'room' || n, 'busy', 0, 0 from generate_series(1, $1::int) n`, planMembers)
	execute(t, db, `insert into sluice.memberships (org, room, user_id, from_seq, said_from) select org, room, user_id, 1, 0 from sluice.members
		where room <> 'r' and user_id <> 'a'`)
	execute(t, db, `insert into sluice.members (org, room, user_id, read, told) values ('1', 'r', 'returned', 0, 0)`)
	execute(t, db, `insert into sluice.memberships (org, room, user_id, from_seq, to_seq, said_from, said_to)
		values ('1', 'r', 'returned', 10, 11, 3, 5), ('1', 'r', 'returned', 12, null, $1, null)`, planMessages-4)
	execute(t, db, `insert into sluice.users (org, id, display_name) select '1', 'm' || n, 'M' from generate_series(1, $1::int) n`, planMembers)
	execute(t, db, `insert into sluice.presence (instance, org, user_id, room, streams, polled) select 'i', '1', 'm' || n, '', 1, false from generate_series(1, $1::int) n`, planMembers)
	execute(t, db, `insert into sluice.statuses (org, user_id, room, status) select '1', 'm' || n, 'large', 'away' from generate_series(1, $1::int) n`, planMembers)
}

func historyOf(t *testing.T, s *Store, of HistoryRange) error {
	t.Helper()
	got, err := s.History(t.Context(), actor("c"), "r", of)
	if err == nil && (len(got.Messages) != of.Limit || !got.More) {
		err = errors.New("not as many messages as were asked for")
	}
	return err
}

// roomRowsRead counts rows and index entries that were read in the tables of rooms. The store's own connection has its figures
// written first.
func roomRowsRead(t *testing.T, s *Store) int64 {
	t.Helper()
	execute(t, s.db, `select pg_stat_force_next_flush()`)
	return ask[int64](t, s.db, `select (select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_user_tables where relname = any($1))::bigint
		+ (select sum(idx_tup_read) from pg_stat_user_indexes where relname = any($1))::bigint`,
		`{rooms,members,memberships,messages,users,presence,statuses,instances}`)
}
