package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// house is a store whose rooms a test fills.
type house struct {
	*Store
	db *sqlx.DB
}

func openHouse(t testing.TB) *house {
	t.Helper()
	url := pgtest.Database(t)
	return &house{open(t, url), connect(t, url)}
}

// by is a user of the org "1" whose token has their id as a name.
func by(user string) Actor { return Actor{Org: "1", User: user, Name: user} }

func admin(user string) Actor { return Actor{Org: "1", User: user, Name: user, Admin: true} }

// batch makes changes in one transaction, and answers each.
func (h *house) batch(t testing.TB, changes ...Change) (errs []error) {
	t.Helper()
	items := make([]Item, len(changes))
	for i := range changes {
		items[i].Change = changes[i]
	}
	answers, err := h.Append(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range answers {
		errs = append(errs, answer.Err)
	}
	return errs
}

// try makes one change, and is its error.
func (h *house) try(t testing.TB, change Change) error {
	t.Helper()
	return h.batch(t, change)[0]
}

// do makes changes one after the other, none of which may fail.
func (h *house) do(t testing.TB, changes ...Change) {
	t.Helper()
	for _, change := range changes {
		if err := h.try(t, change); err != nil {
			t.Fatalf("%T: %v", change, err)
		}
	}
}

// build makes a room of the org "1" which its first member owns.
func (h *house) build(t testing.TB, room, owner string, others ...string) {
	t.Helper()
	h.do(t, NewCreateRoom(by(owner), NewRoom{ID: room, Name: room, Members: others}))
}

// say sends a message with its text as the client id.
func (h *house) say(t testing.TB, user, room string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		h.do(t, h.NewSendMessage(by(user), room, text, text))
	}
}

// news are the events of an org's log from a position on, in words: its type, who did it, and whom or what it concerns.
func (h *house) news(t testing.TB, org string, after int64) (told []string) {
	t.Helper()
	for _, event := range page(t, h.Store, org, after).Events {
		var of roomNews
		if err := json.Unmarshal(event.Data, &of); err != nil {
			t.Fatal(err)
		}
		if event.Service != ChatService || event.EntityType != "room" || event.EntityID != of.Room || event.Audience != "" || event.PropertyID != "" {
			t.Errorf("%+v is no event of a room", event)
		}
		words := []string{event.Type, of.Room, event.UserID, of.User}
		if of.Seq > 0 {
			words = append(words, fmt.Sprint("#", of.Seq))
		}
		if of.RoomName != nil {
			words = append(words, *of.RoomName, *of.Owner)
		}
		told = append(told, strings.TrimSpace(strings.Join(append(words, of.Text), " ")))
	}
	return told
}

// head is where the log of the org "1" ends.
func (h *house) head(t testing.TB) int64 {
	t.Helper()
	return ask[int64](t, h.db, `select coalesce(max(seq), 0) from sluice.events where org = '1'`)
}

func (h *house) members(t testing.TB, room string) []string {
	t.Helper()
	var list []string
	if err := h.db.Select(&list, `select user_id from sluice.members where org = '1' and room = $1 order by since, user_id`, room); err != nil {
		t.Fatal(err)
	}
	return list
}

// intervals are those of a room, in words: "user from-to said from-said to".
func (h *house) intervals(t testing.TB, room string) (list []string) {
	t.Helper()
	err := h.db.Select(&list, `select user_id || ' ' || from_seq || '-' || coalesce(to_seq::text, '') || ' ' || said_from || '-' || coalesce(said_to::text, '')
		from sluice.memberships where org = '1' and room = $1 order by from_seq`, room)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, not %q", what, got, want)
	}
}

// TestRoomBegins makes a room: its owner is a member and comes first, the log tells of each member, and the id is taken.
func TestRoomBegins(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	if err := h.KeepName(t.Context(), UserKey{"1", "bob"}, "Bob"); err != nil {
		t.Fatal(err)
	}
	create := NewCreateRoom(by("zoe"), NewRoom{ID: "r", Name: "The room", Members: []string{"bob", "zoe", "ann"}})
	h.do(t, create)
	room, err := h.Room(t.Context(), by("bob"), "r")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(create.Room), fmt.Sprint(room); got != want {
		t.Errorf("the change gives %s, and the room is %s", got, want)
	}
	if !slices.Equal(room.Members, []Member{{"zoe", ""}, {"bob", "Bob"}, {"ann", ""}}) || room.Owner != "zoe" || room.Name != "The room" {
		t.Errorf("the room is %+v", room)
	}
	same(t, "the log", h.news(t, "1", 0), []string{"member_added r zoe zoe", "member_added r zoe bob", "member_added r zoe ann"})
	same(t, "the intervals", h.intervals(t, "r"), []string{"zoe 1- 0-", "bob 2- 0-", "ann 3- 0-"})
	for _, other := range []string{"zoe", "cid"} {
		if err := h.try(t, NewCreateRoom(by(other), NewRoom{ID: "r", Name: "x"})); !errors.Is(err, ErrRoomTaken) {
			t.Errorf("%s makes it again: %v", other, err)
		}
	}
	unnamed := NewCreateRoom(by("zoe"), NewRoom{Name: "x"})
	h.do(t, unnamed)
	if unnamed.Room.ID == "" {
		t.Error("a room has no id")
	}
	list, err := h.Rooms(t.Context(), by("zoe"))
	if err != nil || len(list) != 2 || list[0].ID != "r" || list[1].ID != unnamed.Room.ID {
		t.Errorf("the rooms are %+v (%v)", list, err)
	}
	if got := h.head(t); got != 4 {
		t.Errorf("the log has %d events", got)
	}
}

// TestReadersAreMembers asks for all that may be read of a room, as strangers of several kinds and as members.
func TestReadersAreMembers(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "a")
	h.do(t, NewRemoveMember(by("ann"), "r", "bob"))
	ctx := t.Context()
	for who, actor := range map[string]Actor{"ann": by("ann"), "bob": by("bob"), "cid": by("cid"), "an ADMIN": admin("boss"), "another ann": {Org: "2", User: "ann"}} {
		for _, room := range []string{"r", "nowhere"} {
			_, find := h.Room(ctx, actor, room)
			_, history := h.History(ctx, actor, room, HistoryRange{Limit: 10})
			_, users := h.RoomUsers(ctx, actor, room)
			_, stats := h.RoomStats(ctx, actor, room)
			_, mark := h.MarkRead(ctx, UserKey{actor.Org, actor.User}, room, 1)
			for i, err := range []error{find, history, users, stats, mark} {
				if who == "ann" && room == "r" && err != nil || (who != "ann" || room != "r") && !errors.Is(err, ErrNoRoom) {
					t.Errorf("%s reads %s by way %d: %v", who, room, i, err)
				}
			}
		}
		if list, err := h.Rooms(ctx, actor); err != nil || (len(list) == 1) != (who == "ann") {
			t.Errorf("%s has %d rooms (%v)", who, len(list), err)
		}
		// Whoever was a member once may name the room: the intervals decide what they get.
		for _, room := range []string{"r", "nowhere"} {
			strange, err := h.StrangeRoom(ctx, actor.Org, actor.User, []string{room})
			if known := room == "r" && (who == "ann" || who == "bob"); err != nil || (strange == "") != known || !known && strange != room {
				t.Errorf("strange to %s is %q of %s (%v)", who, strange, room, err)
			}
		}
	}
	h.build(t, "s", "cid")
	if strange, err := h.StrangeRoom(ctx, "1", "cid", []string{"s", "r"}); strange != "r" {
		t.Errorf("strange to whoever has another room: %q (%v)", strange, err)
	}
}

// TestOwnerLeaves empties a room: whoever has been a member longest owns it then, which the same change tells. The last one
// leaves it to the ADMINs, who may fill it again.
func TestOwnerLeaves(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "zoe", "yan", "bob")
	h.do(t, NewAddMember(by("zoe"), "r", "ann"), NewRemoveMember(by("zoe"), "r", "yan"), NewAddMember(by("zoe"), "r", "yan"))
	head := h.head(t)
	h.do(t, NewRemoveMember(by("zoe"), "r", "zoe"), NewRemoveMember(by("yan"), "r", "yan"), NewRemoveMember(admin("boss"), "r", "bob"),
		NewRemoveMember(by("ann"), "r", "ann"))
	same(t, "the log", h.news(t, "1", head), []string{
		"member_removed r zoe zoe", "room_updated r zoe zoe r bob", "member_removed r yan yan", "member_removed r boss bob",
		"room_updated r boss boss r ann", "member_removed r ann ann",
	})
	same(t, "the members", h.members(t, "r"), nil)
	if err := h.try(t, NewAddMember(by("ann"), "r", "ann")); !errors.Is(err, ErrNoRoom) {
		t.Errorf("the last one comes back by themselves: %v", err)
	}
	head = h.head(t)
	h.do(t, NewAddMember(admin("boss"), "r", "new"), NewAddMember(by("new"), "r", "ann"))
	same(t, "the log", h.news(t, "1", head), []string{"member_added r boss new", "room_updated r boss boss r new", "member_added r new ann"})
	if err := h.try(t, NewUpdateRoom(by("new"), "r", RoomUpdate{Owner: &[]string{"bob"}[0]})); !errors.Is(err, ErrNoMember) {
		t.Errorf("the room is given to somebody who is no member: %v", err)
	}
}

// TestIntervals adds, removes and speaks within one batch and over several: an interval begins and ends with its events.
func TestIntervals(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann") // 1
	add, remove := NewAddMember(by("ann"), "r", "bob"), NewRemoveMember(by("ann"), "r", "bob")
	for i, err := range h.batch(t, h.NewSendMessage(by("ann"), "r", "2", "2"), add, h.NewSendMessage(by("bob"), "r", "4", "4"), remove,
		h.NewSendMessage(by("bob"), "r", "no", "no"), h.NewSendMessage(by("ann"), "r", "6", "6"), NewAddMember(by("ann"), "r", "bob"),
		h.NewSendMessage(by("bob"), "r", "8", "8")) {
		if want := map[int]error{4: ErrNoRoom}[i]; !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	same(t, "the log", h.news(t, "1", 1), []string{
		"message_created r ann ann #1 2", "member_added r ann bob #1", "message_created r bob bob #2 4", "member_removed r ann bob #2",
		"message_created r ann ann #3 6", "member_added r ann bob #3", "message_created r bob bob #4 8",
	})
	same(t, "the intervals", h.intervals(t, "r"), []string{"ann 1- 0-", "bob 3-5 1-2", "bob 7- 3-"})
	h.do(t, NewAddMember(by("ann"), "r", "bob")) // is there
	h.batch(t, NewRemoveMember(by("bob"), "r", "bob"), h.NewSendMessage(by("ann"), "r", "10", "10"), NewDeleteRoom(by("ann"), "r"),
		h.NewSendMessage(by("ann"), "r", "11", "11"))
	same(t, "the rest", h.news(t, "1", 8), []string{"member_removed r bob bob #4", "message_created r ann ann #5 10", "room_deleted r ann ann #5"})
	same(t, "the intervals", h.intervals(t, "r"), []string{"ann 1-11 0-5", "bob 3-5 1-2", "bob 7-9 3-4"})

	h.do(t, NewCreateRoom(by("ann"), NewRoom{ID: "s", Name: "s"}))
	list, err := h.Memberships(t.Context(), "1", []string{"bob", "ann", "cid"})
	if err != nil || !slices.Equal(list, []Membership{
		{"ann", "r", 1, 11, 0, 5}, {"bob", "r", 3, 5, 1, 2}, {"bob", "r", 7, 9, 3, 4}, {"ann", "s", 12, 0, 0, 0},
	}) {
		t.Errorf("the intervals are %+v (%v)", list, err)
	}
}

// TestRoomIsWaitedFor holds a room's row while something is said, as a batch of another instance does: every change waits for it,
// and then knows what was said.
func TestRoomIsWaitedFor(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "1")
	name, said := "new", h.NewSendMessage(by("ann"), "r", "said", "said")
	for i, change := range []Change{
		NewAddMember(by("ann"), "r", "cid"), NewRemoveMember(by("ann"), "r", "bob"), NewEditMessage(by("ann"), "r", 1, "edited"),
		NewEraseMessage(by("ann"), "r", 1), NewUpdateRoom(by("ann"), "r", RoomUpdate{Name: &name}), said, NewDeleteRoom(by("ann"), "r"),
	} {
		holder := h.db.MustBegin()
		execute(t, holder, `select from sluice.rooms where org = '1' and id = 'r' for update`)
		done := make(chan error, 1)
		go func() {
			answers, err := h.Append(context.Background(), []Item{{Change: change}})
			if err == nil {
				err = answers[0].Err
			}
			done <- err
		}()
		waitLocked(t, h.db)
		execute(t, holder, `insert into sluice.messages (org, room, seq, user_id, display_name, text, client_id, nth)
			select '1', 'r', max(seq) + 1, 'own', '', 'x', $1, count(*) from sluice.messages`, fmt.Sprint("meanwhile", i))
		if err := holder.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%T: %v", change, err)
		}
	}
	if said.Message.Seq != 8 {
		t.Errorf("what was said has the number %d", said.Message.Seq)
	}
	same(t, "the intervals", h.intervals(t, "r"), []string{"ann 1-10 0-9", "bob 2-5 0-3", "cid 4-10 2-9"})
}

// TestDeletedRoom ends a room: nobody finds it any more, and nobody makes it again.
func TestDeletedRoom(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.do(t, NewDeleteRoom(by("ann"), "r"))
	for who, actor := range map[string]Actor{"its owner": by("ann"), "an ADMIN": admin("boss")} {
		for _, change := range []Change{
			NewDeleteRoom(actor, "r"), NewUpdateRoom(actor, "r", RoomUpdate{Name: &who}), NewAddMember(actor, "r", "cid"),
			NewRemoveMember(actor, "r", "bob"), h.NewSendMessage(actor, "r", who, "x"), NewEraseMessage(actor, "r", 1),
		} {
			if err := h.try(t, change); !errors.Is(err, ErrNoRoom) {
				t.Errorf("%T by %s: %v", change, who, err)
			}
		}
		if err := h.try(t, NewCreateRoom(actor, NewRoom{ID: "r", Name: "x"})); !errors.Is(err, ErrRoomTaken) {
			t.Errorf("%s makes it again: %v", who, err)
		}
	}
	if list, err := h.Rooms(t.Context(), by("bob")); err != nil || len(list) != 0 {
		t.Errorf("bob has %+v (%v)", list, err)
	}
}

// TestRoomFull fills a room to its last place.
func TestRoomFull(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann")
	execute(t, h.db, `insert into sluice.members (org, room, user_id, read, told) select '1', 'r', n, 0, 0 from generate_series(2, $1::int) n`, RoomMembers-1)
	errs := h.batch(t, NewAddMember(by("ann"), "r", "last"), NewAddMember(by("ann"), "r", "over"), NewAddMember(by("ann"), "r", "last"))
	if errs[0] != nil || !errors.Is(errs[1], ErrRoomFull) || errs[2] != nil {
		t.Errorf("the last places: %v", errs)
	}
	if got := len(h.members(t, "r")); got != RoomMembers {
		t.Errorf("%d members", got)
	}
}
