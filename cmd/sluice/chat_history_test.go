package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestChatHistoryMeanwhile reads history while others talk, and goes on from a cursor of before: together that is everything.
func TestChatHistoryMeanwhile(t *testing.T) {
	t.Parallel()
	flags := append(shared(t), "--max-streams-per-user=0")
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	place := chatPlace{t, "1", to}
	all := &crowd{t: t}
	var names []string
	for i := range 20 {
		all.members = append(all.members, place.user(fmt.Sprint("talker", i), "sse and POST").from(i))
		names = append(names, all.members[i].id)
	}
	reader := place.user("reader", "sse and POST")
	all.room = reader.opens("History", names...).ID
	all.speak(20)
	type reading struct {
		live    *chatUser
		history []chatMessage
	}
	var readings []reading
	for i := range 3 * len(chatDoors) {
		all.reach(20 * i)
		// A stream that has said where it begins is a cursor; what comes by it meanwhile waits.
		live := place.user("reader", chatDoors[i%len(chatDoors)]).from(i).come()
		readings = append(readings, reading{live, place.user("reader", "sse and POST").from(i+1).whole(all.room, 50)})
	}
	all.group.Wait()
	all.members[0].says(all.room, "end")
	whole := seqs(reader.whole(all.room, 200))
	if len(whole) != 401 || whole[400] != 401 {
		t.Fatalf("there are %d messages", len(whole))
	}
	between := false
	for _, one := range readings {
		var live []int64
		for _, e := range one.live.until("end") {
			live = append(live, e.Data.Seq)
		}
		old := seqs(one.history)
		union := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(old), live...))))
		if !slices.Equal(union, whole) {
			t.Errorf("by %s: %d of history and %d that came are %d of %d messages", one.live.door, len(old), len(live), len(union), len(whole))
		}
		if !slices.Equal(live, whole[401-len(live):]) || !slices.Equal(old, whole[:len(old)]) {
			t.Errorf("by %s: there is a gap, or something twice: history %v, live %v", one.live.door, old, live)
		}
		between = between || len(old) > 0 && len(live) > 1
	}
	if !between {
		t.Error("nobody read while others talked")
	}
}

// TestChatReadMarks has a member read message after message, at both instances: the others hear of it once a second, and of
// the last one in the end.
func TestChatReadMarks(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for i, door := range chatDoors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			place := chatPlace{t, door, to}
			alice, bob := place.user("alice", "sse and POST").from(i).come(), []*chatUser{place.user("bob", door).come(), place.user("bob", door).from(1).come()}
			room := alice.opens("Reading", "bob").ID
			const many = 25
			for n := range many {
				alice.says(room, fmt.Sprint(n))
			}
			began := time.Now()
			for n := range int64(many) {
				bob[n%2].does(http.StatusOK, "read", room, fields{"seq": n + 1})
				if got := bob[0].stats(room).UnreadMessages; got != int(many-1-n) {
					t.Errorf("with %d of %d read, %d are unread", n+1, many, got)
				}
			}
			bob[0].does(http.StatusOK, "read", room, fields{"seq": 1 << 40}) // there is no more to be read
			alice.await("the last mark", func() bool {
				last := alice.log[len(alice.log)-1]
				return last.Type == "read" && last.Data.Seq == many
			})
			took, marks := time.Since(began), []int64{0}
			for _, e := range alice.seen() {
				if e.Type != "read" {
					continue
				}
				if e.Data.UserID != "bob" || e.Data.Seq <= marks[len(marks)-1] {
					t.Errorf("after %v: %+v", marks, e)
				}
				marks = append(marks, e.Data.Seq)
			}
			if most := int(took/time.Second) + 2; len(marks)-1 > most {
				t.Errorf("in %s the marks %v were told", took, marks[1:])
			}
		})
	}
}

// TestChatRetention drops a day of the log, of which history does not know, and then messages that are older than an hour, of
// which the log does not know. The room stays.
func TestChatRetention(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	db := database(t, strings.TrimPrefix(flags[0], "--database-url="))
	place := chatPlace{t, "1", []string{serve(t, flags...).url}}
	alice, bob := place.user("alice", "sse and POST").come(), place.user("bob", "poll and POST")
	room := alice.opens("Retention", "bob").ID
	for _, text := range []string{"one", "two", "three"} {
		alice.says(room, text)
	}
	start := alice.until("three")[0].Cursor
	longAgo(t, db)
	// An instance trims when it starts, and no earlier than a minute later.
	alice.moves(serve(t, flags...).url)
	dropped(t, db)
	alice.says(room, "four")
	var answer struct {
		Events []chatEvent
		Reset  *struct{ Reason string }
	}
	alice.calls(http.StatusOK, http.MethodGet, "/v2/realtime/poll?wait=0&services=chat&cursor="+start, nil, &answer)
	if len(answer.Events) > 0 || answer.Reset == nil || answer.Reset.Reason != "expired" {
		t.Errorf("the log has %+v", answer)
	}
	if got := seqs(bob.whole(room, 50)); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Errorf("history has %v", got)
	}
	if got := alice.until("four"); len(got) != 6 {
		t.Errorf("alice was given %q", said(got))
	}

	trim := func(upTo int, want ...int64) {
		t.Helper()
		_, err := db.Exec(`update sluice.messages set time = time - interval '2 hours' where org = '1' and room = $1 and seq <= $2`, room, upTo)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, append(slices.Clone(flags), "--message-retention=1h")...)
		until(t, "the messages do not go", func() bool { return len(bob.whole(room, 50)) <= len(want) })
		if got := seqs(bob.whole(room, 50)); !slices.Equal(got, want) {
			t.Errorf("history has %v, not %v", got, want)
		}
		if got := bob.stats(room); got.TotalMessages != len(want) || got.UnreadMessages != len(want) {
			t.Errorf("the figures are %+v", got)
		}
	}
	trim(2, 3, 4)
	alice.calls(http.StatusNotFound, http.MethodPatch, fmt.Sprint("/v2/rooms/", room, "/messages/1"), fields{"text": "again"}, nil)
	trim(4)
	if got := alice.says(room, "five"); got.Seq != 5 {
		t.Errorf("the next message is %+v", got)
	}
	if got := bob.stats(room).UnreadMessages; got != 1 {
		t.Errorf("%d are unread", got)
	}
	if got := alice.until("five"); len(got) != 7 {
		t.Errorf("alice was given %q", said(got))
	}
}
