package store

import (
	"errors"
	"fmt"
	"testing"
)

// TestSendTogether sends in one batch what is good and what is refused: each message is answered as it would be alone. With a text that
// the database cannot keep, all are sent one by one.
func TestSendTogether(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		h := openHouse(t)
		h.build(t, "r", "ann", "bob")
		h.build(t, "s", "ann")
		h.do(t, h.NewSendMessage(by("ann"), "r", "before", "0"))
		sends := []struct {
			change *SendMessage
			seq    int64
			want   error
		}{
			{h.NewSendMessage(by("ann"), "r", "a", "1"), 2, nil},
			{h.NewSendMessage(by("ann"), "s", "b", "2"), 1, nil},
			{h.NewSendMessage(by("eve"), "r", "c", "3"), 0, ErrNoRoom},
			{h.NewSendMessage(by("bob"), "r", "a", "4"), 3, nil},
			{h.NewSendMessage(by("ann"), "r", "a", "5"), 2, nil},
			{h.NewSendMessage(by("ann"), "s", "a", "6"), 0, ErrClientID},
			{h.NewSendMessage(by("ann"), "nowhere", "d", "7"), 0, ErrNoRoom},
			{h.NewSendMessage(by("ann"), "r", "before", "8"), 1, nil},
			{h.NewSendMessage(by("bob"), "s", "e", "9"), 0, ErrNoRoom},
			{h.NewSendMessage(by("ann"), "r", "f", "10"), 4, nil},
			{h.NewSendMessage(by("ann"), "s", "g", "11"), 2, nil},
		}
		var changes []Change
		for _, one := range sends {
			changes = append(changes, one.change)
		}
		if bad {
			changes = append(changes, h.NewSendMessage(by("ann"), "r", "h", "a\x00"))
		}
		errs := h.batch(t, changes...)
		for i, one := range sends {
			if !errors.Is(errs[i], one.want) || one.want == nil && (errs[i] != nil || one.change.Message.Seq != one.seq) {
				t.Errorf("bad %v, %q: %v, %+v", bad, one.change.text, errs[i], one.change.Message)
			}
		}
		if bad && !errors.Is(errs[len(sends)], ErrRefused) {
			t.Errorf("a text with a NUL: %v", errs[len(sends)])
		}
		same(t, "room r", h.heard(t, "ann", "r"), []string{"0", "1", "4", "10"})
		same(t, "room s", h.heard(t, "ann", "s"), []string{"2", "11"})
		if got := len(h.news(t, "1", 3)); got != 6 {
			t.Errorf("%d messages are told of", got)
		}
		if got := ask[int](t, h.db, `select count(*) from (select nth, row_number() over (partition by room, user_id order by seq) as want from sluice.messages) m
			where nth <> want`); got != 0 {
			t.Errorf("%d messages are numbered wrongly for their authors", got)
		}
	}
}

// TestSendTogetherInOrder sends in one batch as users whose order is not that of their messages: times rise with numbers.
func TestSendTogetherInOrder(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9")
	var changes []Change
	for i := range 40 {
		changes = append(changes, h.NewSendMessage(by(fmt.Sprint("u", 9-i%10)), "r", fmt.Sprint(i), "x"))
	}
	for _, err := range h.batch(t, changes...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if wrong := ask[int](t, h.db, `select count(*) from sluice.messages m join sluice.messages n on n.seq = m.seq + 1 where n.time <= m.time`); wrong > 0 {
		t.Errorf("%d messages are not later than the one before", wrong)
	}
}
