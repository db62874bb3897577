package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// TestRoomAtOnce has two instances send to one room while members come and go: messages are numbered without gaps in the order
// of the log, and every interval begins and ends at its event, with the messages said till then.
func TestRoomAtOnce(t *testing.T) {
	t.Parallel()
	const senders, rounds = 6, 25
	url := pgtest.Database(t)
	stores, db := []*Store{open(t, url), open(t, url)}, connect(t, url)
	makeRoom(t, stores[0], "r", "owner", "s0", "s1", "s2", "s3", "s4", "s5")
	var group sync.WaitGroup
	for n := range senders {
		group.Go(func() {
			s, by, guest := stores[n%2], actor(fmt.Sprint("s", n)), fmt.Sprint("guest", n)
			for i := range rounds {
				items := []Item{
					{Change: s.NewSendMessage(by, "r", fmt.Sprint(i), "one")},
					{Change: NewAddMember(actor("owner"), "r", guest)},
					{Change: s.NewSendMessage(actor(guest), "r", fmt.Sprint(i), "of a guest")},
					{Change: NewRemoveMember(actor(guest), "r", guest)},
					{Change: s.NewSendMessage(by, "r", fmt.Sprint(i, "b"), "two")},
				}
				answers, err := s.Append(t.Context(), items)
				if err != nil {
					t.Errorf("sender %d, round %d: %v", n, i, err)
					return
				}
				for j := range answers {
					if answers[j].Err != nil || len(answers[j].Appended) != 1 {
						t.Errorf("sender %d, round %d, item %d: %+v", n, i, j, answers[j])
					}
				}
			}
		})
	}
	group.Wait()
	var said []int64
	err := db.Select(&said, `select (data->>'seq')::bigint from sluice.events where type = 'message_created' order by seq`)
	if err != nil || len(said) != 3*senders*rounds {
		t.Fatalf("%d messages, %v", len(said), err)
	}
	for i, seq := range said {
		if seq != int64(i+1) {
			t.Fatalf("message %d of the log is numbered %d", i+1, seq)
		}
	}
	wrongIntervals(t, db)
}

// wrongIntervals holds the intervals against the log: the events at their ends, and what was said before these.
func wrongIntervals(t *testing.T, db sqlx.Queryer) {
	t.Helper()
	wrong := ask[string](t, db, `with said as (select *, count(*) filter (where type = 'message_created') over (partition by org, entity_id order by seq) as n
			from sluice.events)
		select coalesce(string_agg(m::text, ' '), '') from sluice.memberships m
		left join said b on b.org = m.org and b.seq = m.from_seq left join said e on e.org = m.org and e.seq = m.to_seq
		where (b.type, b.entity_id, b.data->>'userId', b.n) is distinct from ('member_added', m.room, m.user_id, m.said_from)
			or (m.to_seq is null) <> exists (select from sluice.members o where o.org = m.org and o.room = m.room and o.user_id = m.user_id)
				and not exists (select from sluice.memberships n where n.org = m.org and n.room = m.room and n.user_id = m.user_id and n.from_seq > m.from_seq)
			or m.to_seq is not null and (e.entity_id, e.n) is distinct from (m.room, m.said_to)
			or m.to_seq is not null and e.type <> 'room_deleted'
				and (e.type, e.data->>'userId') is distinct from ('member_removed', m.user_id)`)
	if wrong != "" {
		t.Errorf("intervals that are not those of the log: %s", wrong)
	}
	if events, intervals := ask[int](t, db, `select count(*) from sluice.events where type = 'member_added'`),
		ask[int](t, db, `select count(*) from sluice.memberships`); events != intervals {
		t.Errorf("%d intervals of %d events", intervals, events)
	}
}

// TestClientIDAtOnce sends under one client id at once, to one room and to two: it is one message, and that of one room.
func TestClientIDAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores, db := []*Store{open(t, url), open(t, url)}, connect(t, url)
	makeRoom(t, stores[0], "a", "owner")
	makeRoom(t, stores[0], "b", "owner")
	for round := range 40 {
		rooms := []string{"a", "a"}
		if round%2 == 1 {
			rooms[1] = "b"
		}
		sent := make([]*SendMessage, 4)
		errs := make([]error, len(sent))
		var group sync.WaitGroup
		for i := range sent {
			s := stores[i%2]
			sent[i] = s.NewSendMessage(actor("owner"), rooms[i/2], fmt.Sprint(round), fmt.Sprint("text ", i))
			group.Go(func() {
				answers, err := s.Append(t.Context(), []Item{{Change: sent[i]}})
				if err == nil {
					err = answers[0].Err
				}
				errs[i] = err
			})
		}
		group.Wait()
		var made []*SendMessage
		for i, err := range errs {
			if err == nil {
				made = append(made, sent[i])
			} else if !errors.Is(err, ErrClientID) || rooms[0] == rooms[1] {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if len(made) == 0 {
			t.Errorf("round %d: everybody was refused", round)
		}
		for _, one := range made {
			if one.Message != made[0].Message || one.room != made[0].room {
				t.Errorf("round %d: %+v and %+v", round, one.Message, made[0].Message)
			}
		}
	}
	if got := ask[int](t, db, `select count(*) from sluice.events where type = 'message_created'`); got != 40 {
		t.Errorf("%d messages", got)
	}
}

// TestClientIDMeanwhile sends under a client id while another instance does so in another room, and has not committed yet: that
// is not waited for, since the one that is waited for may wait for a room of this batch.
func TestClientIDMeanwhile(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	makeRoom(t, s, "a", "owner")
	makeRoom(t, s, "b", "owner")
	tx, err := s.db.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := s.NewSendMessage(actor("owner"), "a", "same", "hello").Apply(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if err := change(t, s, s.NewSendMessage(actor("owner"), "b", "same", "hello")); !errors.Is(err, ErrClientID) {
		t.Error(err)
	}
	say(t, s, actor("owner"), "b", "another")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	say(t, s, actor("owner"), "b", "same")
}

// TestRoomsCross has two instances do everything that takes locks, in all rooms at once and in any order, with client ids that
// are taken in other rooms: nobody waits for another in a circle.
func TestRoomsCross(t *testing.T) {
	t.Parallel()
	const rooms, users, workers, rounds = 4, 2, 12, 60
	url := pgtest.Database(t)
	stores, db := []*Store{open(t, url), open(t, url)}, connect(t, url)
	room := func() string { return fmt.Sprint("room", rand.N(rooms)) }
	user := func() string { return fmt.Sprint("user", rand.N(users)) }
	for i := range rooms {
		makeRoom(t, stores[0], fmt.Sprint("room", i), "owner", "user0", "user1")
		say(t, stores[0], actor("owner"), fmt.Sprint("room", i), fmt.Sprint("first", i))
	}
	var sent atomic.Int64
	batch := func(s *Store) error {
		var items []Item
		for range 10 {
			var one Change
			switch rand.N(8) {
			case 0:
				one = NewRemoveMember(actor("owner"), room(), user())
			case 1, 2:
				one = NewAddMember(actor("owner"), room(), user())
			case 3:
				one = new(TellReads)
			case 4:
				one = NewEraseMessage(actor("owner"), room(), rand.N(int64(10)))
			case 5:
				one = NewCreateRoom(actor("owner"), NewRoom{ID: fmt.Sprint("new", rand.N(rounds)), Members: []string{user()}})
			default:
				one = s.NewSendMessage(actor(user()), room(), fmt.Sprint(sent.Add(1)/6), "hello")
			}
			items = append(items, Item{Change: one})
		}
		_, err := s.Append(t.Context(), items)
		return err
	}
	statuses := []Status{StatusOnline, StatusAway, StatusOffline}
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			s := stores[worker%2]
			for range rounds {
				var err error
				switch worker {
				case 0:
					_, err = s.TrimMessages(t.Context(), time.Duration(rand.N(int64(100)))*time.Millisecond)
				case 1:
					_, err = s.MarkRead(t.Context(), UserKey{"1", user()}, room(), rand.N(int64(100)))
				case 2, 3, 4:
					_, err = s.SetStatus(t.Context(), UserKey{"1", user()}, room(), statuses[rand.N(3)])
				case 5, 6, 7:
					gone := []UserKey{{"1", user()}}
					err = s.KeepPresence(t.Context(), "instance", PresenceChange{Users: gone, Gone: gone})
				default:
					err = batch(s)
				}
				if err != nil && !errors.Is(err, ErrNoRoom) {
					t.Errorf("worker %d: %v", worker, err)
				}
			}
		})
	}
	group.Wait()
	wrongIntervals(t, db)
}
