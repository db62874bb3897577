package store

import (
	"context"
	"errors"
	"testing"

	"github.com/jmoiron/sqlx"
)

// cut is a change with which a batch fails after all others of it were made.
type cut struct{}

func (cut) Key() string { return "~" }

func (cut) Apply(context.Context, *sqlx.Tx) ([]Draft, error) { return nil, ErrUnavailable }

// roomState is all that is kept of rooms, but for times.
func (h *house) roomState(t testing.TB) string {
	t.Helper()
	return ask[string](t, h.db, `select jsonb_build_object(
		'rooms', (select jsonb_agg(jsonb_build_array(id, name, owner, deleted is not null) order by id) from sluice.rooms),
		'members', (select jsonb_agg(jsonb_build_array(room, user_id, read, told) order by room, user_id) from sluice.members),
		'memberships', (select jsonb_agg(to_jsonb(m) order by from_seq) from sluice.memberships m),
		'messages', (select jsonb_agg(to_jsonb(m) - 'time' - 'edited' order by room, seq) from sluice.messages m))::text`)
}

// TestRoomChangesAgain makes every change three times: once in vain, once without being told, and once more. It is made once,
// told of once, and answered as if nothing had happened.
func TestRoomChangesAgain(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	name, bob := "new", "bob"
	h.build(t, "old", "ann", "bob")
	h.say(t, "ann", "old", "one", "two")
	create, send := NewCreateRoom(by("ann"), NewRoom{ID: "r", Name: "r", Members: []string{"bob"}}), h.NewSendMessage(by("ann"), "old", "c", "said")
	edit := NewEditMessage(by("ann"), "old", 1, "edited")
	for _, change := range []Change{
		create, send, edit, NewEraseMessage(by("ann"), "old", 2), NewAddMember(by("ann"), "old", "cid"), NewRemoveMember(by("ann"), "old", "cid"),
		NewUpdateRoom(by("ann"), "old", RoomUpdate{Name: &name, Owner: &bob}), NewRemoveMember(by("bob"), "old", "bob"),
		NewRemoveMember(by("ann"), "old", "ann"), NewDeleteRoom(by("ann"), "r"),
	} {
		before, head := h.roomState(t), h.head(t)
		if _, err := h.Append(t.Context(), []Item{{Change: change}, {Change: cut{}}}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%T: %v", change, err)
		}
		if h.roomState(t) != before || h.head(t) != head {
			t.Errorf("%T is kept, although it was not committed", change)
		}
		h.do(t, change)
		after, told := h.roomState(t), h.head(t)
		if after == before || told == head {
			t.Errorf("%T has changed nothing", change)
		}
		h.do(t, change)
		if got := h.roomState(t); got != after || h.head(t) != told {
			t.Errorf("%T is made twice: %s, and before %s", change, got, after)
		}
	}
	if create.Room.ID != "r" || len(create.Room.Members) != 2 || send.Message.Seq != 3 || edit.Message.Text != "edited" {
		t.Errorf("the answers are %+v, %+v, %+v", create.Room, send.Message, edit.Message)
	}
}
