package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// heard are the texts of a room's messages as a user finds them, oldest first.
func (h *house) heard(t testing.TB, user, room string) (texts []string) {
	t.Helper()
	history, err := h.History(t.Context(), by(user), room, HistoryRange{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range history.Messages {
		texts = append(texts, m.Text)
	}
	return texts
}

// TestSendOnce sends with one client id again and again: it is the first message that is answered, as it is now.
func TestSendOnce(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.build(t, "s", "ann")
	first, twin := h.NewSendMessage(by("ann"), "r", "c", "<b>one</b>\n"), h.NewSendMessage(by("ann"), "r", "c", "two")
	if errs := h.batch(t, first, twin); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	if first.Message != twin.Message || first.Message.Text != "<b>one</b>\n" || first.Message.Seq != 1 || first.Message.Name != "ann" || first.Message.Time.IsZero() {
		t.Errorf("said was %+v, and answered %+v", first.Message, twin.Message)
	}
	// Client ids are each user's own.
	h.do(t, h.NewSendMessage(by("bob"), "r", "c", "bob's"))
	if err := h.try(t, h.NewSendMessage(by("ann"), "s", "c", "x")); !errors.Is(err, ErrClientID) {
		t.Errorf("in another room: %v", err)
	}
	h.do(t, NewEditMessage(by("ann"), "r", 1, "edited"))
	again := h.NewSendMessage(by("ann"), "r", "c", "three")
	h.do(t, again)
	if again.Message.Text != "edited" || again.Message.Seq != 1 || again.Message.Edited.IsZero() {
		t.Errorf("once edited: %+v", again.Message)
	}
	h.do(t, NewEraseMessage(by("ann"), "r", 1), again)
	if again.Message.Text != "" || !again.Message.Deleted {
		t.Errorf("once erased: %+v", again.Message)
	}
	same(t, "the log", h.news(t, "1", 3), []string{
		"message_created r ann ann #1 <b>one</b>", "message_created r bob bob #2 bob's", "message_updated r ann ann #1 edited", "message_deleted r ann ann #1",
	})
	h.do(t, NewRemoveMember(by("ann"), "r", "ann"))
	if err := h.try(t, again); !errors.Is(err, ErrNoRoom) {
		t.Errorf("after leaving: %v", err)
	}
}

// TestSendTwoRoomsAtOnce sends one client id to two rooms from two instances at once: one of them has it, the other is told.
func TestSendTwoRoomsAtOnce(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann")
	h.build(t, "s", "ann")
	other := open(t, h.opts.URL)
	for round := range 30 {
		var group sync.WaitGroup
		var errs [2]error
		for i, s := range []*Store{h.Store, other} {
			group.Go(func() {
				answers, err := s.Append(t.Context(), []Item{{Change: s.NewSendMessage(by("ann"), []string{"r", "s"}[i], fmt.Sprint(round), "x")}})
				if errs[i] = err; err == nil {
					errs[i] = answers[0].Err
				}
			})
		}
		group.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), ErrClientID) {
			t.Errorf("round %d: %v", round, errs)
		}
	}
	if got := ask[int](t, h.db, `select count(*) from sluice.messages`); got != 30 {
		t.Errorf("%d messages", got)
	}
}

// TestTwoInstancesSend has two instances fill one room in batches: its messages are numbered without gaps, and in the order of
// the log.
func TestTwoInstancesSend(t *testing.T) {
	t.Parallel()
	const batches, width = 12, 10
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	var group sync.WaitGroup
	for n, user := range []string{"ann", "bob", "ann", "bob"} {
		s := h.Store
		if n%2 == 1 {
			s = open(t, h.opts.URL)
		}
		group.Go(func() {
			for b := range batches {
				var items []Item
				for i := range width {
					items = append(items, Item{Change: s.NewSendMessage(by(user), "r", fmt.Sprint(n, b, i), "x")})
				}
				answers, err := s.Append(t.Context(), items)
				for i := range answers {
					err = errors.Join(err, answers[i].Err)
				}
				if err != nil {
					t.Errorf("%s: %v", user, err)
				}
			}
		})
	}
	group.Wait()
	told := h.news(t, "1", 2)
	if len(told) != 4*batches*width {
		t.Fatalf("%d of %d messages are told of", len(told), 4*batches*width)
	}
	for i := range told {
		if !strings.Contains(told[i], fmt.Sprintf(" #%d ", i+1)) {
			t.Fatalf("the message at place %d is %q", i+1, told[i])
		}
	}
	// Each user's are numbered, too: unread ones are counted by it.
	if got := ask[int](t, h.db, `select count(*) from (select nth, row_number() over (partition by user_id order by seq) as want from sluice.messages) m
		where nth <> want`); got != 0 {
		t.Errorf("%d messages are not numbered among their author's", got)
	}
}

// TestEdit edits and erases what there is and what there is not.
func TestEdit(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob", "chief")
	h.say(t, "bob", "r", "one", "two")
	head := h.head(t)
	edit := NewEditMessage(by("bob"), "r", 1, "ONE")
	h.do(t, edit, NewEditMessage(by("bob"), "r", 1, "ONE"), NewEraseMessage(by("ann"), "r", 1), NewEraseMessage(by("ann"), "r", 1),
		NewEraseMessage(admin("chief"), "r", 2))
	same(t, "the log", h.news(t, "1", head), []string{"message_updated r bob bob #1 ONE", "message_deleted r ann bob #1", "message_deleted r chief bob #2"})
	if edit.Message.Text != "ONE" || edit.Message.Edited.IsZero() || edit.Message.ClientID != "one" {
		t.Errorf("the message is %+v", edit.Message)
	}
	for seq, user := range map[int64]string{1: "bob", 3: "bob", 0: "ann", -1: "ann"} {
		if err := h.try(t, NewEditMessage(by(user), "r", seq, "x")); !errors.Is(err, ErrNoMessage) {
			t.Errorf("%s edits message %d: %v", user, seq, err)
		}
	}
	if err := h.try(t, NewEraseMessage(by("ann"), "r", 3)); !errors.Is(err, ErrNoMessage) {
		t.Errorf("what was never said is erased: %v", err)
	}
	same(t, "the room", h.heard(t, "ann", "r"), []string{"", ""})
}

// TestUnseenMessage has somebody return who then asks for what was said meanwhile: to them it is not there, whatever they ask.
func TestUnseenMessage(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "before")
	h.do(t, NewRemoveMember(by("ann"), "r", "bob"))
	h.say(t, "ann", "r", "between")
	h.do(t, NewAddMember(by("ann"), "r", "bob"))
	h.say(t, "ann", "r", "after")
	h.do(t, NewUpdateRoom(by("ann"), "r", RoomUpdate{Owner: &[]string{"bob"}[0]}), NewAddMember(by("bob"), "r", "cid"))
	same(t, "bob", h.heard(t, "bob", "r"), []string{"before", "after"})
	same(t, "ann", h.heard(t, "ann", "r"), []string{"before", "between", "after"})
	same(t, "cid", h.heard(t, "cid", "r"), []string{"before", "between", "after"})
	for seq, want := range map[int64]error{1: nil, 2: ErrNoMessage, 3: nil} {
		if err := h.try(t, NewEraseMessage(by("bob"), "r", seq)); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("the owner erases message %d: %v", seq, err)
		}
	}
	if err := h.try(t, NewEditMessage(by("bob"), "r", 2, "x")); !errors.Is(err, ErrNoMessage) {
		t.Errorf("the message is edited: %v", err)
	}
}

// TestMessageNames has messages keep the name under which they were sent. A token without one leaves the user the name that
// the others know.
func TestMessageNames(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann")
	for i, one := range []struct{ known, token, want string }{{"", "", ""}, {"Ann", "", "Ann"}, {"Ann", "Anna", "Anna"}} {
		if one.known != "" {
			if err := h.KeepName(t.Context(), UserKey{"1", "ann"}, one.known); err != nil {
				t.Fatal(err)
			}
		}
		send := h.NewSendMessage(Actor{Org: "1", User: "ann", Name: one.token}, "r", fmt.Sprint(i), "x")
		h.do(t, send)
		if send.Message.Name != one.want {
			t.Errorf("%+v: the message is %q's", one, send.Message.Name)
		}
	}
	history, err := h.History(t.Context(), by("ann"), "r", HistoryRange{Limit: 2})
	if err != nil || !history.More || history.Messages[0].Name != "Ann" || history.Messages[1].Name != "Anna" {
		t.Errorf("the history is %+v (%v)", history, err)
	}
}

// TestHostileText brings what Postgres takes for no text, in every place, between neighbours who are not harmed by it.
func TestHostileText(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann")
	for i, bad := range []string{"a\x00b", "\xff", "\xed\xa0\x80", strings.Repeat("x", 3<<20) + "\x00"} {
		h.say(t, "ann", "r", fmt.Sprint("edited", i))
		errs := h.batch(t,
			h.NewSendMessage(by("ann"), "r", fmt.Sprint("before", i), "x"), h.NewSendMessage(by("ann"), "r", fmt.Sprint("bad", i), bad),
			h.NewSendMessage(by("ann"), "r", bad, "x"), h.NewSendMessage(Actor{Org: "1", User: "ann", Name: bad}, "r", fmt.Sprint("n", i), "x"),
			NewEditMessage(by("ann"), "r", int64(3*i+1), bad), NewUpdateRoom(by("ann"), "r", RoomUpdate{Name: &bad}),
			NewCreateRoom(by("ann"), NewRoom{ID: fmt.Sprint("r", i), Name: bad}), NewCreateRoom(by("ann"), NewRoom{ID: bad, Name: "x"}),
			NewCreateRoom(by("ann"), NewRoom{ID: fmt.Sprint("s", i), Name: "x", Members: []string{bad}}), NewAddMember(by("ann"), "r", bad),
			h.NewSendMessage(by("ann"), "r", fmt.Sprint("after", i), "x"))
		for j, err := range errs {
			if neighbour := j == 0 || j == len(errs)-1; neighbour && err != nil || !neighbour && !errors.Is(err, ErrRefused) {
				t.Errorf("text %d, change %d: %.200v", i, j, err)
			}
		}
	}
	odd := "\u2028 \\u0000 \U0001F600 <script>&amp;\t\r\n\"'; drop table sluice.rooms; --"
	h.say(t, "ann", "r", odd)
	if got := h.heard(t, "ann", "r"); got[len(got)-1] != odd {
		t.Errorf("%q is heard as %q", odd, got[len(got)-1])
	}
	if got := h.news(t, "1", h.head(t)-1); !slices.Equal(got, []string{"message_created r ann ann #13 " + odd}) {
		t.Errorf("%q is told as %q", odd, got)
	}
}
