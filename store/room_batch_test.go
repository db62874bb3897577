package store

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sluice/store/localpg/pgtest"
)

// TestRoomRightsLost takes the rights from whoever has asked for a change that was rolled back: the next try is refused.
func TestRoomRightsLost(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	name, heir := "Another", "b"
	for what, made := range map[string]func(room string) Change{
		"rename": func(room string) Change { return NewUpdateRoom(actor("a"), room, RoomUpdate{Name: &name}) },
		"remove": func(room string) Change { return NewRemoveMember(actor("a"), room, "c") },
		"delete": func(room string) Change { return NewDeleteRoom(actor("a"), room) },
		"add":    func(room string) Change { return NewAddMember(actor("a"), room, "d") },
		"erase":  func(room string) Change { return NewEraseMessage(actor("a"), room, 1) },
	} {
		for _, loss := range []Change{NewUpdateRoom(actor("a"), what, RoomUpdate{Owner: &heir}), NewRemoveMember(actor("a"), what+"-left", "a")} {
			room := loss.Key()[len("room 1 "):]
			makeRoom(t, s, room, "a", "b", "c")
			say(t, s, actor("b"), room, room)
			one, want := made(room), ErrRoomRights
			if strings.HasSuffix(room, "left") {
				want = ErrNoRoom
			}
			tx, err := s.db.Beginx()
			if err != nil {
				t.Fatal(err)
			}
			_, err = one.Apply(t.Context(), tx)
			if err := errors.Join(err, tx.Rollback()); err != nil {
				t.Fatal(err)
			}
			must(t, s, loss)
			before := kept(t, db)
			if err := change(t, s, one); !errors.Is(err, want) {
				t.Errorf("%s: %v", room, err)
			}
			if kept(t, db) != before {
				t.Errorf("%s has changed something", room)
			}
		}
	}
}

// TestRoomBatch makes changes of one room in one batch, whose rights and intervals depend on each other.
func TestRoomBatch(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	send := func(user, id string) Item { return Item{Change: s.NewSendMessage(actor(user), "r", id, "hello")} }
	items := []Item{
		send("b", "early"),
		{Change: NewCreateRoom(actor("a"), NewRoom{ID: "r", Name: "R", Members: []string{"c"}})},
		send("b", "stranger"),
		{Change: NewAddMember(actor("a"), "r", "b")},
		send("b", "1"), send("b", "2"),
		{Change: NewRemoveMember(actor("b"), "r", "b")},
		send("b", "gone"), send("a", "3"),
		{Change: NewAddMember(actor("a"), "r", "b")},
		send("b", "4"), send("b", "1"),
		{Change: NewRemoveMember(actor("a"), "r", "a")},
		{Change: NewAddMember(actor("c"), "r", "a")},
		{Change: NewCreateRoom(actor("b"), NewRoom{ID: "r", Name: "R"})},
		{Change: NewDeleteRoom(actor("a"), "r")},
		{Change: NewDeleteRoom(actor("c"), "r")},
		send("c", "late"),
	}
	answers, err := s.Append(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]error{0: ErrNoRoom, 2: ErrNoRoom, 7: ErrNoRoom, 14: ErrRoomTaken, 15: ErrRoomRights, 17: ErrNoRoom}
	for i := range answers {
		if !errors.Is(answers[i].Err, want[i]) || want[i] == nil && answers[i].Err != nil {
			t.Errorf("item %d: %v", i, answers[i].Err)
		}
	}
	wrongIntervals(t, db)
	got := told(t, s, "1")
	if !slices.Equal(got, []string{
		"member_added r by a: a", "member_added r by a: c", "member_added r by a: b", "message_created r by b: b 1",
		"message_created r by b: b 2", "member_removed r by b: b 2", "message_created r by a: a 3", "member_added r by a: b 3",
		"message_created r by b: b 4", "member_removed r by a: a 4", "room_updated r by a: a R of c", "member_added r by c: a 4",
		"room_deleted r by c: c 4",
	}) {
		t.Errorf("the log says\n%s", strings.Join(got, "\n"))
	}
}
