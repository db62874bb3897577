package store

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// fill puts messages into a room past its changes: count of them, each a second after the one before, the last at a time ago.
func (h *house) fill(t testing.TB, room string, count int, ago time.Duration) {
	t.Helper()
	execute(t, h.db, `insert into sluice.messages (org, room, seq, user_id, display_name, text, client_id, nth, time)
		select '1', $1::text, n, 'ann', 'ann', 'x', $1 || n, n, now() - make_interval(secs => $3::float8 + $2::int - n) from generate_series(1, $2::int) n`,
		room, count, ago.Seconds())
}

func (h *house) kept(t testing.TB, room string) int {
	t.Helper()
	return ask[int](t, h.db, `select count(*) from sluice.messages where org = '1' and room = $1`, room)
}

// TestTrimMessages lets retention take messages: a thousand at a time, the oldest ones, and never those that are young. Their
// numbers are not given again, and they are not unread any more.
func TestTrimMessages(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	ctx := t.Context()
	h.build(t, "r", "ann", "bob")
	h.build(t, "s", "ann", "bob")
	h.fill(t, "r", 1500, 2*time.Hour)
	h.fill(t, "s", 700, 2*time.Hour)
	h.say(t, "ann", "r", "young")
	if gone, err := h.TrimMessages(ctx, 0); err != nil || gone != 0 {
		t.Errorf("for ever, %d are taken (%v)", gone, err)
	}
	for _, want := range []int64{1000, 1000, 200, 0} {
		if gone, err := h.TrimMessages(ctx, time.Hour); err != nil || gone != want {
			t.Errorf("%d are taken and not %d (%v)", gone, want, err)
		}
	}
	if r, s := h.kept(t, "r"), h.kept(t, "s"); r != 1 || s != 0 {
		t.Errorf("of the rooms %d and %d messages are kept", r, s)
	}
	send := h.NewSendMessage(by("ann"), "s", "new", "new")
	h.do(t, send, h.NewSendMessage(by("bob"), "s", "bob's", "bob's"))
	if send.Message.Seq != 701 {
		t.Errorf("the next message has the number %d", send.Message.Seq)
	}
	for room, want := range map[string]RoomStats{"r": {Messages: 1, Unread: 1}, "s": {Messages: 2, Unread: 1}} {
		if stats, err := h.RoomStats(ctx, by("bob"), room); err != nil || stats != want {
			t.Errorf("%s has %+v (%v)", room, stats, err)
		}
	}
	if err := h.try(t, NewEraseMessage(by("ann"), "s", 700)); !errors.Is(err, ErrNoMessage) {
		t.Errorf("a message that was taken is erased: %v", err)
	}
	if moved, err := h.MarkRead(ctx, UserKey{"1", "bob"}, "s", 1<<60); err != nil || !moved || ask[int64](t, h.db, `select read from sluice.members where room = 's' and user_id = 'bob'`) != 702 {
		t.Errorf("the mark is not at the newest message (%v)", err)
	}
}

// TestTrimWhileTheySpeak takes the messages of a room away while it is spoken in, and two instances at once: no number is given
// twice, and none left out.
func TestTrimWhileTheySpeak(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	other := open(t, h.opts.URL)
	h.build(t, "r", "ann")
	done := make(chan struct{})
	var trimming sync.WaitGroup
	for _, s := range []*Store{h.Store, other} {
		trimming.Go(func() {
			for {
				if _, err := s.TrimMessages(t.Context(), time.Microsecond); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 200 {
		send := h.NewSendMessage(by("ann"), "r", fmt.Sprint(i), "x")
		h.do(t, send)
		if send.Message.Seq != int64(i+1) {
			t.Fatalf("message %d has the number %d", i+1, send.Message.Seq)
		}
	}
	close(done)
	trimming.Wait()
	if trimmed := ask[int64](t, h.db, `select trimmed from sluice.rooms where id = 'r'`); trimmed+int64(h.kept(t, "r")) != 200 {
		t.Errorf("%d were trimmed and %d are kept", trimmed, h.kept(t, "r"))
	}
}

// TestTrimDeletedRooms has two instances clean up after rooms that were deleted: what was said goes, whatever retention there
// is, a thousand at a time; who was there when, and the ids, stay.
func TestTrimDeletedRooms(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	other := open(t, h.opts.URL)
	for _, room := range []string{"gone", "gone too", "stays"} {
		h.build(t, room, "ann", "bob")
		h.fill(t, room, 1200, 0)
		if _, err := h.SetStatus(t.Context(), UserKey{"1", "bob"}, room, StatusAway); err != nil {
			t.Fatal(err)
		}
		if room != "stays" {
			h.do(t, NewDeleteRoom(by("ann"), room))
		}
	}
	intervals := h.intervals(t, "gone")
	var group sync.WaitGroup
	for _, s := range []*Store{h.Store, other} {
		group.Go(func() {
			for {
				gone, err := s.TrimMessages(t.Context(), 0)
				if err != nil || gone > 1000 {
					t.Errorf("%d are taken (%v)", gone, err)
				}
				if err != nil || gone == 0 {
					return
				}
			}
		})
	}
	group.Wait()
	if a, b, c := h.kept(t, "gone"), h.kept(t, "gone too"), h.kept(t, "stays"); a+b != 0 || c != 1200 {
		t.Errorf("%d, %d and %d messages are kept", a, b, c)
	}
	if got := ask[string](t, h.db, `select string_agg(room, ' ') from sluice.statuses`); got != "stays" {
		t.Errorf("statuses are kept of %s", got)
	}
	if got := h.intervals(t, "gone"); !slices.Equal(got, intervals) || len(got) != 2 {
		t.Errorf("the intervals are %q", got)
	}
	if err := h.try(t, NewCreateRoom(by("ann"), NewRoom{ID: "gone", Name: "x"})); !errors.Is(err, ErrRoomTaken) {
		t.Errorf("the room is made again: %v", err)
	}
}
