package main

import (
	"fmt"
	"slices"
	"testing"
)

// revolving is a room that talks on while members are removed and come back, at two instances.
type revolving struct {
	t           *testing.T
	place       chatPlace
	owner       *chatUser
	room, aside string      // in aside one says what tells everybody that the rest has come
	guests      []*chatUser // one for each door of each instance, who are removed
	talkers     []*chatUser
}

func newRevolving(t *testing.T) *revolving {
	t.Helper()
	flags := append(shared(t), "--max-streams-per-user=0")
	all := &revolving{t: t, place: chatPlace{t, "1", []string{serve(t, flags...).url, serve(t, flags...).url}}}
	all.owner = all.place.user("owner", "ndjson and POST").come()
	var names, guests []string
	for i := range 50 {
		all.talkers = append(all.talkers, all.place.user(fmt.Sprint("talker", i), "ndjson and POST").from(i))
		names = append(names, all.talkers[i].id)
	}
	for i := range 2 * len(chatDoors) {
		guest := all.place.user(fmt.Sprint("guest", i), chatDoors[i/2]).from(i)
		all.guests = append(all.guests, guest.come())
		guests = append(guests, guest.id)
	}
	all.room = all.owner.opens("Revolving", append(names, guests...)...).ID
	all.aside = all.owner.opens("Aside", guests...).ID
	return all
}

// expected is what a guest may have been given: the owner has been there all the time.
func (all *revolving) expected(guest *chatUser) (events []chatEvent) {
	member := map[string]bool{}
	for _, e := range all.owner.seen() {
		concerned := e.Data.UserID == guest.id
		if concerned && e.Type == "member_added" {
			member[e.EntityID] = true
		}
		if member[e.EntityID] {
			events = append(events, e)
		}
		if concerned && e.Type == "member_removed" {
			member[e.EntityID] = false
		}
	}
	return events
}

// compare waits for what is said aside, and looks that a user was given what a guest may have been given.
func (all *revolving) compare(got *chatUser, guest *chatUser, last string) {
	all.t.Helper()
	events, want := got.until(last), all.expected(guest)
	if !slices.Equal(events, want) {
		at := 0
		for at < min(len(events), len(want)) && events[at] == want[at] {
			at++
		}
		all.t.Fatalf("%s by %s (%s) was given %d events, not %d: they differ at %d: %q, not %q", got.id, got.door, got.query, len(events), len(want), at,
			said(events[at:min(at+4, len(events))]), said(want[at:min(at+4, len(want))]))
	}
}

// replay reads it all again from the beginning, by every door of both instances.
func (all *revolving) replay(start, last string) {
	all.t.Helper()
	for i, guest := range all.guests {
		again := []*chatUser{
			all.place.user(guest.id, guest.door).from(i + 1).since(start),
			all.place.user(guest.id, guest.door).from(i).since(start).rooms(all.room, all.aside),
		}
		for _, one := range again {
			one.enter()
		}
		for _, one := range again {
			all.compare(one, guest, last)
			one.leave()
		}
	}
}

// TestChatRemoval removes members while 1,000 messages fly: each is given what was said up to their removal, that, and nothing
// after, at either instance, live and in a replay from before it. Those who come back see nothing of what was said meanwhile.
func TestChatRemoval(t *testing.T) {
	t.Parallel()
	all := newRevolving(t)
	all.owner.await("it has rooms", func() bool { return len(all.owner.log) > 0 })
	start := all.owner.seen()[0].Cursor
	flying := &crowd{t: t, room: all.room, members: all.talkers}
	flying.speak(19)
	flying.reach(100)
	for _, guest := range all.guests {
		all.owner.removes(all.room, guest.id)
	}
	flying.speak(1) // however fast the others were, the last fifty come after the removals
	flying.group.Wait()
	all.owner.says(all.aside, "once")
	all.owner.until("once")
	removed := slices.DeleteFunc(all.owner.seen(), func(e chatEvent) bool { return e.Type != "member_removed" })
	if len(removed) != len(all.guests) {
		t.Fatalf("%q", said(removed))
	}
	for _, guest := range all.guests {
		all.compare(guest, guest, "once")
	}
	all.replay(start, "once")

	for _, guest := range all.guests {
		all.owner.admits(all.room, guest.id)
		all.talkers[0].says(all.room, "welcome "+guest.id)
	}
	all.owner.says(all.aside, "at last")
	all.owner.until("at last")
	for _, guest := range all.guests {
		all.compare(guest, guest, "at last")
		all.remembers(guest)
	}
	all.replay(start, "at last")
}

// remembers looks that history has what was said while the guest was there, or before, and nothing else.
func (all *revolving) remembers(guest *chatUser) {
	all.t.Helper()
	var want []int64
	for _, e := range all.expected(guest) {
		if e.Type == "message_created" && e.EntityID == all.room {
			want = append(want, e.Data.Seq)
		}
	}
	if got := seqs(guest.whole(all.room, 200)); !slices.Equal(got, want) {
		all.t.Fatalf("%s by %s remembers %d messages, not %d", guest.id, guest.door, len(got), len(want))
	}
	for _, e := range all.owner.seen() {
		if e.Type == "message_created" && e.EntityID == all.room && !slices.Contains(want, e.Data.Seq) {
			part := guest.history(all.room, fields{"after": e.Data.Seq - 1, "limit": 1})
			if len(part.Messages) > 0 && part.Messages[0].Seq == e.Data.Seq {
				all.t.Fatalf("%s by %s remembers %+v", guest.id, guest.door, part.Messages[0])
			}
			return
		}
	}
}
