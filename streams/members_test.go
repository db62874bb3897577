package streams_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"pgregory.net/rapid"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

var chat = store.DefaultCatalogue().Bit("chat")

// said is an event of a room; who is the member that it is about.
func said(id, room, kind, who string) store.Draft {
	return store.Draft{Event: store.Event{
		ID: id, Service: "chat", Type: kind, EntityType: "room", EntityID: room, Data: json.RawMessage(`{"userId":"` + who + `"}`),
	}}
}

// turn is the membership of a user that begins or ends, as the log and the table of intervals have it.
type turn struct {
	org, id, room, user string
	begins              bool
}

func (c turn) Key() string { return "room " + c.org + " " + c.room }

func (c turn) Apply(context.Context, *sqlx.Tx) ([]store.Draft, error) {
	draft := said(c.id, c.room, store.MemberRemoved, c.user)
	if c.begins {
		draft.Type = store.MemberAdded
	}
	draft.Org, draft.IDGiven = c.org, true
	return []store.Draft{draft}, nil
}

func (c turn) Placed(ctx context.Context, tx *sqlx.Tx, appended []store.Appended) error {
	text := `update sluice.memberships set to_seq = $4, said_to = 0 where org = $1 and room = $2 and user_id = $3 and to_seq is null`
	if c.begins {
		text = `insert into sluice.memberships (org, room, user_id, from_seq, said_from) values ($1, $2, $3, $4, 0)`
	}
	_, err := tx.ExecContext(ctx, text, c.org, c.room, c.user, appended[0].Cursor.Seq)
	return err
}

// room is what the model knows of a room: who is in it.
type room map[string]bool

// chatLog is a log of rooms and other things, with whom each event is for.
type chatLog struct {
	org     string
	rooms   map[string]room
	entries []chatEntry
}

type chatEntry struct {
	id, room string // of none: for all
	members  []string
}

func (l *chatLog) next() string { return "e" + strconv.Itoa(len(l.entries)) }

// note adds what was appended, with those who are members at that moment.
func (l *chatLog) note(id, name string) {
	one := chatEntry{id: id, room: name}
	for user := range l.rooms[name] {
		one.members = append(one.members, user)
	}
	l.entries = append(l.entries, one)
}

// step appends something that chance has chosen.
func (l *chatLog) step(t *rapid.T, on *live) {
	id, name := l.next(), rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "room")
	user := rapid.SampledFrom([]string{"u1", "u2", "u3"}).Draw(t, "user")
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		begins := !l.rooms[name][user]
		if _, err := on.appender.Change(context.Background(), turn{l.org, id, name, user, begins}); err != nil {
			t.Fatal(err)
		}
		l.rooms[name][user] = true // it is told of its removal, too
		l.note(id, name)
		if !begins {
			delete(l.rooms[name], user)
		}
	case 1:
		on.append(t, l.org, store.Draft{Event: store.Event{ID: id, Service: "finance"}})
		l.note(id, "")
	default:
		var drafts []store.Draft
		for range rapid.IntRange(1, 8).Draw(t, "messages") {
			id := l.next()
			drafts = append(drafts, said(id, name, "message_created", user))
			l.note(id, name)
		}
		on.append(t, l.org, drafts...)
	}
}

// chatReader is one of the readers, over all the streams that it has had.
type chatReader struct {
	user   string
	filter streams.Filter
	pipe   *pipe
	got    []string
	halted bool
}

func (r *chatReader) want(l *chatLog) (want []string) {
	for _, one := range l.entries {
		switch {
		case one.room == "":
			if r.filter.Services&finance != 0 {
				want = append(want, one.id)
			}
		case slices.Contains(one.members, r.user) && (r.filter.Rooms == nil || slices.Contains(r.filter.Rooms, one.room)):
			want = append(want, one.id)
		}
	}
	return want
}

func (r *chatReader) all() []string {
	ids, _ := r.pipe.events()
	return append(slices.Clone(r.got), ids...)
}

// leave ends the reader's stream and says where it goes on.
func (r *chatReader) leave(t *rapid.T) streams.Start {
	r.pipe.goOn()
	r.pipe.await(t, "ack")
	ids, cursor := r.pipe.events()
	r.pipe.End(nil, streams.EndDrained)
	r.got, r.halted = append(r.got, ids...), false
	at, err := store.ParseCursor(cursor)
	if err != nil {
		t.Fatalf("%q: %v", cursor, err)
	}
	return streams.Start{Kind: streams.StartAt, Cursor: at}
}

// TestRoomsReachTheirMembers plays random rooms on two instances: users become members and are removed, messages fly, and
// readers come, stop, go on, leave, and come back with their cursors. Each ends with exactly what was said while its user was a
// member, with both ends of each membership, and with what is for all, in order; live, from rings and from pages alike.
func TestRoomsReachTheirMembers(t *testing.T) {
	database := pgtest.Database(t)
	instances := []*live{
		open(t, database, streams.Options{RingMemory: 8 << 10}), open(t, database, streams.Options{BatchMax: 3}),
	}
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		log := &chatLog{org: "org" + strconv.Itoa(run), rooms: map[string]room{"r1": {}, "r2": {}, "r3": {}}}
		var readers []*chatReader
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			on := instances[rapid.IntRange(0, 1).Draw(t, "instance")]
			step := rapid.IntRange(0, 5).Draw(t, "step")
			switch {
			case step == 0:
				r := &chatReader{user: rapid.SampledFrom([]string{"u1", "u2", "u3", "u4"}).Draw(t, "reader's user")}
				r.filter = streams.Filter{Services: chat | rapid.SampledFrom([]uint64{0, finance}).Draw(t, "services")}
				r.filter.Rooms = rapid.SampledFrom([][]string{nil, {"r1"}, {"r2", "r3"}}).Draw(t, "rooms")
				r.pipe = on.subscribeAs(r.user, log.org, r.filter, streams.Start{Kind: streams.StartEarliest})
				readers = append(readers, r)
			case step <= 3 || len(readers) == 0:
				log.step(t, on)
			default:
				r := readers[rapid.IntRange(0, len(readers)-1).Draw(t, "reader")]
				switch {
				case step == 5:
					r.pipe = on.subscribeAs(r.user, log.org, r.filter, r.leave(t))
				case r.halted:
					r.pipe.goOn()
					r.halted = false
				default:
					r.pipe.halt()
					r.halted = true
				}
			}
		}
		for i, r := range readers {
			want := r.want(log)
			r.pipe.goOn()
			r.pipe.wait(t, fmt.Sprintf("reader %d (%s %+v) wants %v", i, r.user, r.filter, want), func() bool { return len(r.all()) >= len(want) })
			if got := r.all(); !slices.Equal(got, want) {
				t.Fatalf("reader %d (%s %+v): %v, not %v", i, r.user, r.filter, got, want)
			}
			r.pipe.End(nil, streams.EndDrained)
		}
	})
}

// TestChatIsAddedInPlace lets a stream of something else ask for chat, and for less again: what was added starts at the ack.
func TestChatIsAddedInPlace(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{})
	change := func(id string, begins bool) {
		t.Helper()
		if _, err := l.appender.Change(context.Background(), turn{"1", id, "r", "u", begins}); err != nil {
			t.Fatal(err)
		}
	}
	change("in", true)
	p := new(pipe)
	s := l.hub.Subscribe(&streams.Subscription{
		Org: "1", User: "u", Filter: streams.Filter{Services: finance, AllProperties: true}, Encoder: lines{}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	p.await(t, "ack")
	l.append(t, "1", draft("a"), said("before", "r", "message_created", "x"))
	p.await(t, "event a")
	acks := func() (count int) {
		for _, line := range p.lines() {
			if strings.HasPrefix(line, "ack") {
				count++
			}
		}
		return count
	}
	turnTo := func(filter streams.Filter, count int) {
		t.Helper()
		s.Change(&streams.Subscription{Filter: filter})
		p.wait(t, "no ack", func() bool { return acks() == count })
	}
	turnTo(streams.Filter{Services: finance | chat, AllProperties: true}, 2)
	l.append(t, "1", said("one", "r", "message_created", "x"), said("foreign", "other", "message_created", "x"), draft("b"))
	p.await(t, "event b")
	turnTo(streams.Filter{Services: finance | chat, AllProperties: true, Rooms: []string{"q"}}, 3)
	l.append(t, "1", said("narrowed", "r", "message_created", "x"), draft("c"))
	p.await(t, "event c")
	turnTo(streams.Filter{Services: finance, AllProperties: true}, 4)
	l.append(t, "1", said("after", "r", "message_created", "x"), draft("d"))
	p.await(t, "event d")
	turnTo(streams.Filter{Services: chat}, 5)
	change("out", false)
	p.await(t, "event out")
	l.append(t, "1", said("gone", "r", "message_created", "x"))
	change("again", true)
	p.await(t, "event again")
	if ids, _ := p.events(); !slices.Equal(ids, []string{"a", "one", "b", "c", "d", "out", "again"}) {
		t.Fatal(ids)
	}
}

// TestEditsOfWhatIsHidden edits and deletes what was said before somebody came, while they were there, while they were away, and
// after their return. They are told of all but what was said in between, live and replayed, on an instance that has followed their
// membership and on one that has read it.
func TestEditsOfWhatIsHidden(t *testing.T) {
	database := pgtest.Database(t)
	one, two := open(t, database, streams.Options{}), open(t, database, streams.Options{})
	ann := store.Actor{Org: "1", User: "ann"}
	change := func(c store.Change) {
		t.Helper()
		if _, err := one.appender.Change(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	say := func(text string) { change(one.events.NewSendMessage(ann, "r", text, text)) }
	change(store.NewCreateRoom(ann, store.NewRoom{ID: "r", Name: "r"}))
	live := one.subscribeAs("bob", "1", streams.Filter{Services: chat}, streams.Start{})
	live.await(t, "ack")
	say("before")
	change(store.NewAddMember(ann, "r", "bob"))
	say("there")
	change(store.NewRemoveMember(ann, "r", "bob"))
	say("between")
	change(store.NewAddMember(ann, "r", "bob"))
	say("after")
	for seq := range int64(4) {
		change(store.NewEditMessage(ann, "r", seq+1, "edited"))
		change(store.NewEraseMessage(ann, "r", seq+1))
	}
	say("end")
	page, err := one.events.Page(t.Context(), "1", 0, time.Time{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	what := map[string]string{}
	for i := range page.Events {
		_, message := page.Events[i].Concerns()
		what[page.Events[i].ID] = fmt.Sprint(page.Events[i].Type, " ", message)
	}
	last := page.Events[len(page.Events)-1].ID
	want := []string{
		"member_added 1", "message_created 2", "member_removed 2", "member_added 3", "message_created 4",
		"message_updated 1", "message_deleted 1", "message_updated 2", "message_deleted 2", "message_updated 4", "message_deleted 4", "message_created 5",
	}
	start := streams.Start{Kind: streams.StartEarliest}
	for name, p := range map[string]*pipe{
		"live": live, "replayed": one.subscribeAs("bob", "1", streams.Filter{Services: chat}, start),
		"replayed elsewhere": two.subscribeAs("bob", "1", streams.Filter{Services: chat}, start),
	} {
		p.await(t, "event "+last)
		ids, _ := p.events()
		var got []string
		for _, id := range ids {
			got = append(got, what[id])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestManyIntervals has somebody come back who was added and removed very often, as whoever owns a room can do to anybody. Others
// of the org do not wait for that.
func TestManyIntervals(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	l := open(t, database, streams.Options{})
	query(t, database, `insert into sluice.memberships (org, room, user_id, from_seq, to_seq, said_from, said_to)
		select '1', 'r', 'u', 2 * n, 2 * n + 1, 0, 0 from generate_series(1, 100000) n`)
	l.subscribeAs("u", "1", streams.Filter{Services: chat}, streams.Start{}).await(t, "ack")
}
