package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestRoomPlans asks for parts of a large room, before its tables are analysed and after, when many rooms were deleted: nothing
// reads what it does not need, be it for what is sent, for histories in the middle and beside a gap, for figures, or for the
// cleaning up.
func TestRoomPlans(t *testing.T) {
	t.Parallel()
	for name, behind := range map[string]bool{"prepared": false, "behind a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			opts := Options{URL: url, Migrate: true, Connections: 1}
			if behind {
				opts.DirectURL = url + " application_name=direct"
			}
			h := &house{openWith(t, opts), connect(t, url)}
			execute(t, h.db, `alter table sluice.messages set (autovacuum_enabled = off); alter table sluice.rooms set (autovacuum_enabled = off)`)
			h.largeRoom(t)
			h.askAll(t, "young", 20)
			execute(t, h.db, `insert into sluice.rooms (org, id, name, owner, creation, deleted)
				select '1', 'gone' || n, 'x', 'ann', n, now() from generate_series(1, 3000) n`)
			execute(t, h.db, `analyze sluice.rooms, sluice.messages`)
			h.askAll(t, "analysed", 20)
			// Behind a pooler, what is asked for once before there are statistics may look at the room as a whole.
			if read := h.messagesRead(t); read > 3*largeRoom {
				t.Errorf("%d messages were read", read)
			}
		})
	}
}

const largeRoom = 20_000

// largeRoom makes a room where much was said while bob was away.
func (h *house) largeRoom(t testing.TB) {
	t.Helper()
	h.build(t, "r", "ann", "bob")
	for i := range 8 { // a generic plan is made at the sixth use
		h.say(t, "bob", "r", fmt.Sprint("early", i))
	}
	h.do(t, NewRemoveMember(by("ann"), "r", "bob"))
	execute(t, h.db, `insert into sluice.messages (org, room, seq, user_id, display_name, text, client_id, nth)
		select '1', 'r', 8 + n, 'ann', 'ann', 'x', 'late' || n, n from generate_series(1, $1::int) n`, largeRoom)
	h.do(t, NewAddMember(by("ann"), "r", "bob"))
}

// askAll asks for little of all that a room can be asked for, some times.
func (h *house) askAll(t testing.TB, when string, times int) {
	t.Helper()
	begin, middle, end := int64(15), int64(largeRoom/2), int64(largeRoom)
	for i := range times {
		h.say(t, "bob", "r", fmt.Sprint(when, i))
		for _, user := range []string{"ann", "bob"} {
			for _, of := range []HistoryRange{{}, {Before: &begin}, {Before: &middle}, {Before: &end}, {After: &begin}, {After: &middle}, {After: &end}} {
				of.Limit = 5
				if _, err := h.History(t.Context(), by(user), "r", of); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, moved := h.MarkRead(t.Context(), UserKey{"1", "ann"}, "r", int64(i))
		stats, figures := h.RoomStats(t.Context(), by("ann"), "r")
		_, trimmed := h.TrimMessages(t.Context(), time.Hour)
		if err := errors.Join(moved, figures, trimmed); err != nil || stats.Unread == 0 {
			t.Fatal(stats, err)
		}
	}
}

// messagesRead closes the store and counts messages, and entries of their indexes, that anything has read.
func (h *house) messagesRead(t testing.TB) int64 {
	t.Helper()
	h.Close() // a backend tells what it counted before it is gone
	h.db.SetMaxOpenConns(1)
	wait(t, "the backends of the store end", func() bool {
		return ask[int](t, h.db, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`) == 0
	})
	wait(t, "the statistics arrive", func() bool {
		return ask[int64](t, h.db, `select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where relname = 'messages'`) > 100
	})
	return ask[int64](t, h.db, `select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
			+ (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes where relname = 'messages')::bigint
		from pg_stat_user_tables where relname = 'messages'`)
}
