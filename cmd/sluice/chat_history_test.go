package main

import (
	"fmt"
	"slices"
	"testing"
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
