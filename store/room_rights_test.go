package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// actor is a user of org 1. Those whose ids begin with "admin" are ADMINs.
func actor(user string) Actor {
	return Actor{Org: "1", User: user, Name: strings.ToUpper(user), Admin: strings.HasPrefix(user, "admin")}
}

// change makes one change in a batch of its own.
func change(t testing.TB, s *Store, one Change) error {
	t.Helper()
	answers, err := s.Append(t.Context(), []Item{{Change: one}})
	if err != nil {
		t.Fatal(err)
	}
	return answers[0].Err
}

// must makes changes, each in a batch of its own.
func must(t testing.TB, s *Store, list ...Change) {
	t.Helper()
	for _, one := range list {
		if err := change(t, s, one); err != nil {
			t.Fatalf("%T: %v", one, err)
		}
	}
}

// makeRoom makes a room of org 1 with its owner and further members.
func makeRoom(t testing.TB, s *Store, id, owner string, members ...string) {
	t.Helper()
	must(t, s, NewCreateRoom(actor(owner), NewRoom{ID: id, Name: "The " + id, Members: members}))
}

// say says something, and gives its number.
func say(t testing.TB, s *Store, by Actor, room, clientID string) int64 {
	t.Helper()
	one := s.NewSendMessage(by, room, clientID, "text of "+clientID)
	must(t, s, one)
	return one.Message.Seq
}

// told lists what the log of an org says of rooms: type, room, who has done it, whom it concerns, and the rest.
func told(t testing.TB, s *Store, org string) (list []string) {
	t.Helper()
	for _, event := range page(t, s, org, 0).Events {
		var news roomNews
		if err := json.Unmarshal(event.Data, &news); err != nil || event.EntityID != news.Room || event.EntityType != "room" || event.Service != "chat" {
			t.Errorf("%+v: %v", event, err)
		}
		text := fmt.Sprintf("%s %s by %s: %s", event.Type, news.Room, event.UserID, news.User)
		if news.Seq > 0 {
			text += fmt.Sprint(" ", news.Seq)
		}
		if news.RoomName != nil {
			text += fmt.Sprintf(" %s of %s", *news.RoomName, *news.Owner)
		}
		list = append(list, text)
	}
	return list
}

// kept is all that is kept of rooms but for times, and the log's length.
func kept(t testing.TB, db sqlx.Queryer) string {
	t.Helper()
	return ask[string](t, db, `select concat_ws(E'\n',
		(select string_agg(format('%s %s %s %s %s %s', org, id, name, owner, trimmed, deleted is not null), E'\n' order by org, id) from sluice.rooms),
		(select string_agg(format('%s %s %s %s %s', org, room, user_id, read, told), E'\n' order by org, room, user_id) from sluice.members),
		(select string_agg(m::text, E'\n' order by m) from sluice.memberships m),
		(select string_agg(format('%s %s %s %s %s %s %s %s', org, room, seq, user_id, text, client_id, nth, deleted), E'\n' order by org, room, seq)
			from sluice.messages),
		(select string_agg(s::text, E'\n' order by s) from sluice.statuses s),
		(select count(*) from sluice.events))`)
}

// roomOperation is something that a user may ask of a room. The room has the members that TestRoomRights gives it.
type roomOperation func(t *testing.T, s *Store, by Actor, room string) error

// changing is an operation by a change.
func changing(made func(s *Store, by Actor, room string) Change) roomOperation {
	return func(t *testing.T, s *Store, by Actor, room string) error { return change(t, s, made(s, by, room)) }
}

var roomOperations = map[string]roomOperation{
	"find": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.Room(t.Context(), by, room)
		return err
	},
	"history": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.History(t.Context(), by, room, HistoryRange{Limit: 10})
		return err
	},
	"stats": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.RoomStats(t.Context(), by, room)
		return err
	},
	"users": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.RoomUsers(t.Context(), by, room)
		return err
	},
	"mark": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.MarkRead(t.Context(), UserKey{by.Org, by.User}, room, 1)
		return err
	},
	"status": func(t *testing.T, s *Store, by Actor, room string) error {
		_, err := s.SetStatus(t.Context(), UserKey{by.Org, by.User}, room, StatusAway)
		return err
	},
	"send": changing(func(s *Store, by Actor, room string) Change { return s.NewSendMessage(by, room, room+by.User, "hello") }),
	"rename": changing(func(_ *Store, by Actor, room string) Change {
		name := "another"
		return NewUpdateRoom(by, room, RoomUpdate{Name: &name})
	}),
	"hand over": changing(func(_ *Store, by Actor, room string) Change {
		heir := "member"
		return NewUpdateRoom(by, room, RoomUpdate{Owner: &heir})
	}),
	"hand over to a stranger": changing(func(_ *Store, by Actor, room string) Change {
		heir := "stranger"
		return NewUpdateRoom(by, room, RoomUpdate{Owner: &heir})
	}),
	"delete":        changing(func(_ *Store, by Actor, room string) Change { return NewDeleteRoom(by, room) }),
	"add":           changing(func(_ *Store, by Actor, room string) Change { return NewAddMember(by, room, "new") }),
	"add a member":  changing(func(_ *Store, by Actor, room string) Change { return NewAddMember(by, room, "other") }),
	"come":          changing(func(_ *Store, by Actor, room string) Change { return NewAddMember(by, room, by.User) }),
	"remove":        changing(func(_ *Store, by Actor, room string) Change { return NewRemoveMember(by, room, "other") }),
	"remove nobody": changing(func(_ *Store, by Actor, room string) Change { return NewRemoveMember(by, room, "nobody") }),
	"leave":         changing(func(_ *Store, by Actor, room string) Change { return NewRemoveMember(by, room, by.User) }),
	"edit":          changing(func(_ *Store, by Actor, room string) Change { return NewEditMessage(by, room, 1, "other words") }),
	"edit a former member's": changing(func(_ *Store, by Actor, room string) Change {
		return NewEditMessage(by, room, 2, "other words")
	}),
	"erase":     changing(func(_ *Store, by Actor, room string) Change { return NewEraseMessage(by, room, 1) }),
	"edit none": changing(func(_ *Store, by Actor, room string) Change { return NewEditMessage(by, room, 9, "other words") }),
}

// TestRoomRights asks everything of a room by everybody, and of a room that was deleted, and of one that never was. Who is
// refused changes nothing.
func TestRoomRights(t *testing.T) {
	t.Parallel()
	users := []string{"owner", "author", "member", "admin in", "admin out", "former", "stranger"}
	const yes, no, none, ghost, blank = "", "rights", "room", "member", "message"
	member := []string{yes, yes, yes, yes, none, none, none}
	govern := []string{yes, no, no, yes, yes, none, none}
	want := map[string][]string{
		"find": member, "history": member, "stats": member, "users": member, "mark": member, "status": member, "send": member,
		"rename": govern, "hand over": govern, "delete": govern, "add": govern, "add a member": govern, "remove": govern, "come": govern,
		"hand over to a stranger": {ghost, no, no, ghost, ghost, none, none},
		"remove nobody":           {ghost, no, no, ghost, ghost, none, none},
		"leave":                   {yes, yes, yes, yes, ghost, none, none},
		"edit":                    {no, yes, no, no, none, none, none},
		"edit a former member's":  {no, no, no, no, none, none, none},
		"erase":                   {yes, yes, no, yes, none, none, none},
		"edit none":               {blank, blank, blank, blank, none, none, none},
	}
	errs := map[string]error{yes: nil, no: ErrRoomRights, none: ErrNoRoom, ghost: ErrNoMember, blank: ErrNoMessage}
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	makeRoom(t, s, "gone", "owner", users[1:4]...)
	must(t, s, NewDeleteRoom(actor("owner"), "gone"))
	for _, name := range slices.Sorted(maps.Keys(roomOperations)) {
		for i, user := range users {
			room := strings.ReplaceAll(name+user, " ", "-")
			makeRoom(t, s, room, "owner", "author", "member", "admin in", "other", "former")
			say(t, s, actor("author"), room, room)
			say(t, s, actor("former"), room, room)
			must(t, s, NewRemoveMember(actor("owner"), room, "former"))
			before := kept(t, db)
			err := roomOperations[name](t, s, actor(user), room)
			if expected := errs[want[name][i]]; !errors.Is(err, expected) || expected == nil && err != nil {
				t.Errorf("%s by %s: %v", name, user, err)
			}
			if err != nil && kept(t, db) != before {
				t.Errorf("%s by %s was refused and has changed something: %s\n%s", name, user, before, kept(t, db))
			}
			for _, room := range []string{"gone", "never"} {
				if err := roomOperations[name](t, s, actor(user), room); !errors.Is(err, ErrNoRoom) {
					t.Errorf("%s by %s of a room that is %s: %v", name, user, room, err)
				}
			}
		}
	}
}

// TestRoomEvents tells the life of a room, and what of it the log does not tell.
func TestRoomEvents(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	name, heir := "Another", "b"
	create := NewCreateRoom(actor("a"), NewRoom{ID: "r", Name: "One", Members: []string{"b", "a", "c"}})
	must(t, s, create)
	if got := create.Room; got.Owner != "a" || len(got.Members) != 3 || got.Members[0].User != "a" || got.Members[1].User != "b" || got.Created.IsZero() {
		t.Errorf("%+v", got)
	}
	seq := say(t, s, actor("b"), "r", "one")
	must(t, s,
		NewAddMember(actor("a"), "r", "c"), // who is there
		NewEditMessage(actor("b"), "r", seq, "text of one"),
		NewEditMessage(actor("b"), "r", seq, "better"),
		NewEraseMessage(actor("a"), "r", seq),
		NewEraseMessage(actor("b"), "r", seq),
		NewUpdateRoom(actor("a"), "r", RoomUpdate{Owner: &[]string{"a"}[0]}),
		NewUpdateRoom(actor("a"), "r", RoomUpdate{Name: &name, Owner: &heir}),
		NewRemoveMember(actor("b"), "r", "c"),
		NewAddMember(actor("b"), "r", "c"),
		NewRemoveMember(actor("b"), "r", "b"), // who owns it
		NewRemoveMember(actor("a"), "r", "a"),
		NewRemoveMember(actor("c"), "r", "c"),
		NewAddMember(actor("admin"), "r", "admin"),
		NewDeleteRoom(actor("admin"), "r"),
	)
	if err := change(t, s, NewEditMessage(actor("b"), "r", seq, "again")); !errors.Is(err, ErrNoRoom) {
		t.Error(err)
	}
	if err := change(t, s, NewCreateRoom(actor("d"), NewRoom{ID: "r", Name: "One"})); !errors.Is(err, ErrRoomTaken) {
		t.Error(err)
	}
	got, want := told(t, s, "1"), []string{
		"member_added r by a: a", "member_added r by a: b", "member_added r by a: c",
		"message_created r by b: b 1", "message_updated r by b: b 1", "message_deleted r by a: b 1",
		"room_updated r by a: a Another of b",
		"member_removed r by b: c 1", "member_added r by b: c 1",
		"member_removed r by b: b 1", "room_updated r by b: b Another of a",
		"member_removed r by a: a 1", "room_updated r by a: a Another of c",
		"member_removed r by c: c 1",
		"member_added r by admin: admin 1", "room_updated r by admin: admin Another of admin",
		"room_deleted r by admin: admin 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log says\n%s", strings.Join(got, "\n"))
	}
	intervals := ask[string](t, db, `select string_agg(format('%s %s-%s said %s-%s', user_id, from_seq, to_seq, said_from, said_to), ', '
		order by from_seq) from sluice.memberships`)
	if intervals != "a 1-12 said 0-1, b 2-10 said 0-1, c 3-8 said 0-1, c 9-14 said 1-1, admin 15-17 said 1-1" {
		t.Error(intervals)
	}
	if id := NewCreateRoom(actor("a"), NewRoom{Name: "Two"}).room; len(id) != 36 {
		t.Errorf("a room without an id is made as %q", id)
	}
}

// TestRoomTenants has two orgs use the same ids for everything: neither sees anything of the other.
func TestRoomTenants(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	other := func(user string) Actor { one := actor(user); one.Org = "2"; return one }
	makeRoom(t, s, "r", "a", "b")
	for _, name := range slices.Sorted(maps.Keys(roomOperations)) {
		if err := roomOperations[name](t, s, other("admin"), "r"); !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s in another org: %v", name, err)
		}
	}
	must(t, s, NewCreateRoom(other("b"), NewRoom{ID: "r", Name: "Theirs"}))
	for _, by := range []Actor{other("b"), other("b"), actor("a")} {
		if seq := say(t, s, by, "r", by.Org); seq != 1 {
			t.Errorf("numbered as %d", seq)
		}
	}
	say(t, s, other("b"), "r", "same")
	say(t, s, actor("b"), "r", "same")
	must(t, s, NewAddMember(actor("a"), "r", "c"), NewEraseMessage(other("b"), "r", 1), NewRemoveMember(actor("a"), "r", "b"))
	if err := s.KeepName(t.Context(), UserKey{"2", "a"}, "Theirs"); err != nil {
		t.Fatal(err)
	}
	ours, err := s.Rooms(t.Context(), actor("a"))
	if err != nil || len(ours) != 1 || ours[0].Name != "The r" || fmt.Sprint(ours[0].Members) != "[{a } {c }]" {
		t.Errorf("%+v, %v", ours, err)
	}
	theirs, err := s.History(t.Context(), other("b"), "r", HistoryRange{Limit: 10})
	if err != nil || len(theirs.Messages) != 2 || !theirs.Messages[0].Deleted {
		t.Errorf("%+v, %v", theirs, err)
	}
	must(t, s, NewDeleteRoom(other("b"), "r"))
	for {
		trimmed, err := s.TrimMessages(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if trimmed == 0 {
			break
		}
	}
	mine, err := s.History(t.Context(), actor("a"), "r", HistoryRange{Limit: 10})
	if err != nil || len(mine.Messages) != 2 || mine.Messages[0].Deleted {
		t.Errorf("%+v, %v", mine, err)
	}
	if left := ask[int](t, db, `select count(*) from sluice.messages where org = '2'`); left != 0 {
		t.Errorf("%d messages of the room that was deleted", left)
	}
	for _, one := range []struct{ org, user, strange string }{{"1", "a", "x"}, {"1", "b", "x"}, {"2", "b", "x"}, {"2", "a", "r"}, {"3", "a", "r"}} {
		if got, err := s.StrangeRoom(t.Context(), one.org, one.user, []string{"r", "x"}); err != nil || got != one.strange {
			t.Errorf("%+v: %q, %v", one, got, err)
		}
	}
}
