package store

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// read moves a mark of the org "1".
func (h *house) read(t testing.TB, user, room string, seq int64) (moved bool) {
	t.Helper()
	moved, err := h.MarkRead(t.Context(), UserKey{"1", user}, room, seq)
	if err != nil {
		t.Fatal(err)
	}
	return moved
}

// later makes what was told of read marks a while old.
func (h *house) later(t testing.TB, by time.Duration) {
	t.Helper()
	execute(t, h.db, `update sluice.members set told_at = told_at - make_interval(secs => $1)`, by.Seconds())
}

// tell tells of read marks, and says whether some are left.
func (h *house) tell(t testing.TB) (left bool) {
	t.Helper()
	change := new(TellReads)
	h.do(t, change)
	return change.Left
}

// TestReadMarks moves marks: only up, never beyond what was said, and of members alone. Whoever comes later has nothing to read.
func TestReadMarks(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	if h.read(t, "bob", "r", 5) {
		t.Error("a mark has moved in a room where nothing was said")
	}
	h.say(t, "ann", "r", "1", "2", "3")
	for _, one := range []struct {
		seq   int64
		moved bool
		at    int64
	}{{2, true, 2}, {2, false, 2}, {1, false, 2}, {-1, false, 2}, {-1 << 63, false, 2}, {1<<63 - 1, true, 3}, {4, false, 3}} {
		if moved := h.read(t, "bob", "r", one.seq); moved != one.moved {
			t.Errorf("to %d: moved is %v", one.seq, moved)
		}
		if at := ask[int64](t, h.db, `select read from sluice.members where user_id = 'bob'`); at != one.at {
			t.Errorf("after %d the mark is at %d", one.seq, at)
		}
	}
	h.do(t, NewAddMember(by("ann"), "r", "cid"))
	if stats, err := h.RoomStats(t.Context(), by("cid"), "r"); err != nil || stats.Unread != 0 || stats.Messages != 3 {
		t.Errorf("whoever comes later has %+v (%v)", stats, err)
	}
	if h.read(t, "cid", "r", 3) {
		t.Error("the mark of whoever comes later has moved")
	}
	h.tell(t)
	same(t, "the log", h.news(t, "1", h.head(t)-1), []string{"read r bob bob #3"}) // and nothing of cid
	h.do(t, NewDeleteRoom(by("ann"), "r"))
	for _, room := range []string{"r", "nowhere"} {
		if _, err := h.MarkRead(t.Context(), UserKey{"1", "bob"}, room, 3); !errors.Is(err, ErrNoRoom) {
			t.Errorf("in %s: %v", room, err)
		}
	}
}

// TestReadsAreTold tells of marks: of each once in a second, of the last one in the end, and by the name that is known.
func TestReadsAreTold(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	if err := h.KeepName(t.Context(), UserKey{"1", "bob"}, "Bob"); err != nil {
		t.Fatal(err)
	}
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "1", "2", "3", "4")
	head := h.head(t)
	h.later(t, time.Second)
	h.read(t, "bob", "r", 1)
	if h.tell(t) {
		t.Error("something is left that was told of")
	}
	h.read(t, "bob", "r", 2)
	h.read(t, "ann", "r", 1)
	if !h.tell(t) {
		t.Error("nothing is left of what may not be told of yet")
	}
	h.read(t, "bob", "r", 3)
	h.later(t, 900*time.Millisecond)
	h.tell(t)
	same(t, "within a second", h.news(t, "1", head), []string{"read r bob bob #1", "read r ann ann #1"})
	h.later(t, time.Second)
	for range 2 {
		if h.tell(t) {
			t.Error("something is left that was told of")
		}
	}
	same(t, "in the end", h.news(t, "1", head), []string{"read r bob bob #1", "read r ann ann #1", "read r bob bob #3"})
	if data := string(page(t, h.Store, "1", head+2).Events[0].Data); data != `{"room":"r","seq":3,"userId":"bob","displayName":"Bob"}` {
		t.Errorf("the event has %s", data)
	}
}

// TestReadsOfWhoeverLeaves removes members whose marks were not told of yet: nothing is told of them after that they left, nor
// of what they had read before once they are back.
func TestReadsOfWhoeverLeaves(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "1", "2")
	h.read(t, "bob", "r", 1)
	head := h.head(t)
	told := new(TellReads)
	if errs := h.batch(t, told, NewRemoveMember(by("bob"), "r", "bob")); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	h.do(t, NewAddMember(by("ann"), "r", "bob"))
	h.later(t, time.Hour)
	h.tell(t)
	same(t, "the log", h.news(t, "1", head), []string{"member_removed r bob bob #2", "member_added r ann bob #2"})
}

// TestReadsWaitForNobody has somebody hold a member's row: the marks of the others are told of, and that one is later.
func TestReadsWaitForNobody(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	h.build(t, "r", "ann", "bob")
	h.say(t, "ann", "r", "1")
	head := h.head(t)
	h.read(t, "ann", "r", 1)
	h.read(t, "bob", "r", 1)
	holder := h.db.MustBegin()
	defer holder.Rollback()
	execute(t, holder, `select from sluice.members where user_id = 'ann' for update`)
	if !h.tell(t) {
		t.Error("nothing is left")
	}
	same(t, "meanwhile", h.news(t, "1", head), []string{"read r bob bob #1"})
	holder.Rollback()
	if h.tell(t) {
		t.Error("something is left")
	}
	same(t, "in the end", h.news(t, "1", head), []string{"read r bob bob #1", "read r ann ann #1"})
}

// TestReadsOfMany tells of more marks than one change takes, from two instances at once, while marks move and members come and
// go: nobody waits in a circle, each mark is told of once, and in the end all of the last ones were.
func TestReadsOfMany(t *testing.T) {
	t.Parallel()
	const rooms, readers = 12, 100
	h := openHouse(t)
	other := open(t, h.opts.URL)
	var users []string
	for i := range readers {
		users = append(users, fmt.Sprintf("u%02d", i))
	}
	for n := range rooms {
		room := fmt.Sprintf("r%02d", n)
		h.build(t, room, "own", users...)
		h.say(t, "own", room, room+"1", room+"2")
	}
	head := h.head(t)
	var group sync.WaitGroup
	telling := func(s *Store) {
		for left := true; left; {
			change, room := new(TellReads), NewAddMember(by("own"), "r00", "new")
			answers, err := s.Append(t.Context(), []Item{{Change: change}, {Change: room}, {Change: NewRemoveMember(by("own"), "r00", "new")}})
			if err != nil || answers[0].Err != nil {
				t.Error(err, answers)
				return
			}
			left = change.Left
			if _, err := s.db.ExecContext(t.Context(), `update sluice.members set told_at = told_at - interval '1 second' where room = 'r01'`); err != nil {
				t.Error(err)
			}
		}
	}
	for seq := range int64(2) {
		execute(t, h.db, `update sluice.members set read = $1 where user_id <> 'own' and room <> 'r01'`, seq+1)
		for _, s := range []*Store{h.Store, other} {
			group.Go(func() { telling(s) })
			group.Go(func() {
				for _, user := range users {
					if _, err := s.MarkRead(t.Context(), UserKey{"1", user}, "r01", seq+1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	}
	h.later(t, time.Second)
	for h.tell(t) {
	}
	last, times := map[string]string{}, map[string]int{}
	for after := head; ; after += 1000 {
		told := h.news(t, "1", after)
		for _, one := range told {
			var room, user, again, mark string
			if n, _ := fmt.Sscanf(one, "read %s %s %s %s", &room, &user, &again, &mark); n == 4 {
				times[one]++
				last[room+user] = mark
			}
		}
		if len(told) < 1000 {
			break
		}
	}
	for one, count := range times {
		if count > 1 {
			t.Errorf("%s is told %d times", one, count)
		}
	}
	marks := slices.Collect(func(yield func(string) bool) {
		for _, mark := range last {
			if mark != "#2" && !yield(mark) {
				return
			}
		}
	})
	if len(last) != rooms*readers || len(marks) > 0 {
		t.Errorf("%d of %d marks are told of; the last ones of %d are others: %v", len(last), rooms*readers, len(marks), marks)
	}
}
