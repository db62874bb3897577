package main

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sluice/handlers"
)

// TestChatConversation holds the same conversation by each door, across two instances.
func TestChatConversation(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for _, door := range chatDoors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			converse(t, chatPlace{t, door, to}, door)
		})
	}
}

// chatBlocked is HAProxy that lets nobody upgrade.
var chatBlocked = haproxyWith("HAProxy that refuses to upgrade", "60s", haproxyPrompt, "http-request deny deny_status 403 if { req.hdr(upgrade) -m found }")

// TestChatNames looks that others know a user's name from the first request on, whatever it is, and that it follows the token.
func TestChatNames(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	place := chatPlace{t, "1", []string{serve(t, flags...).url, serve(t, flags...).url}}
	alice := place.user("alice", "poll and POST")
	named := func(name string) func(*handlers.Claims) {
		return func(c *handlers.Claims) { c.DisplayName = name }
	}
	room := alice.opens("Names", "bob", "carol", "dave").ID
	is := func(user, want string) {
		t.Helper()
		var found chatRoom
		alice.calls(http.StatusOK, http.MethodGet, "/v2/rooms/"+room, nil, &found)
		for _, one := range found.Members {
			if one.UserID == user && one.DisplayName != want {
				t.Errorf("%s is called %q, not %q", user, one.DisplayName, want)
			}
		}
		if got := alice.present(room)[user].DisplayName; got != want {
			t.Errorf("%s is shown as %q, not %q", user, got, want)
		}
	}
	is("alice", "The alice")
	is("bob", "")
	place.user("bob", "poll and POST").does(http.StatusOK, "read", room, fields{"seq": 0})
	is("bob", "The bob")
	place.user("bob", "poll and POST", named("Bob\tthe\r\n 2nd")).from(1).does(http.StatusOK, "history", room, nil)
	is("bob", "Bobthe 2nd")
	place.user("carol", "sse and POST").come()
	is("carol", "The carol")
	socket := place.user("dave", "socket", named("é"+strings.Repeat("😀", 200))).come()
	socket.does(http.StatusOK, "typing", room, nil)
	is("dave", "é"+strings.Repeat("😀", 127))
	if got := alice.says(room, "hi"); got.DisplayName != "The alice" {
		t.Errorf("the message is %+v", got)
	}
}

// TestChatWithoutWebSocket holds it through proxies that let no WebSocket through, or no stream at all.
func TestChatWithoutWebSocket(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for _, one := range []struct {
		setup   proxySetup
		refuses int // a WebSocket, with this status
		doors   []string
	}{
		{nginxStripped, http.StatusUpgradeRequired, chatDoors[2:]},
		{chatBlocked, http.StatusForbidden, chatDoors[2:]},
		{nginxHolding, http.StatusUpgradeRequired, chatDoors[4:]},
	} {
		t.Run(one.setup.name, func(t *testing.T) {
			t.Parallel()
			before := one.setup.start(t, to...).url
			for _, door := range one.doors {
				t.Run(door, func(t *testing.T) {
					t.Parallel()
					place := chatPlace{t, one.setup.name + " " + door, []string{before}}
					blocked := place.user("alice", "socket")
					err := blocked.read(t.Context(), before, "")
					if want := fmt.Sprint(one.refuses); err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("a WebSocket: %v, expected: %s", err, want)
					}
					converse(t, place, door)
				})
			}
		})
	}
}

// chatText has in it what may trip a parser, or a page.
const chatText = "<b onclick='x'>\r\n\ndata: }\\\"\u2028\u0001 é😀 & \u200f</b>"

// trio are the three of a conversation, and what they have heard so far of what happened.
type trio struct {
	alice, bob, carol *chatUser
	heard             [3]int
}

// hear has those of them who are members hear of what happened, and of nothing else.
func (all *trio) hear(want ...string) {
	all.alice.t.Helper()
	for i, one := range []*chatUser{all.alice, all.bob, all.carol} {
		if one != nil {
			one.hears(&all.heard[i], want...)
		}
	}
}

// converse goes through what rooms are for, with everybody behind the same kind of door.
func converse(t *testing.T, place chatPlace, door string) {
	alice, bob := place.user("alice", door).come(), place.user("bob", door).from(1).come()
	carol := place.user("carol", door).come()
	all := &trio{alice: alice, bob: bob}
	room := alice.opens("Room 7", "bob")
	if room.Name != "Room 7" || room.Owner != "alice" || room.CreatedAt.IsZero() ||
		!slices.Equal(room.Members, []struct{ UserID, DisplayName string }{{"alice", "The alice"}, {"bob", "The bob"}}) {
		t.Errorf("the room is %+v", room)
	}
	alice.hears(&all.heard[0], "member_added alice", "member_added bob")
	bob.hears(&all.heard[1], "member_added bob") // what was before is not theirs
	hello := alice.says(room.ID, "hello")
	hi := bob.says(room.ID, "hi")
	all.hear("message_created 1 alice hello", "message_created 2 bob hi")
	if got := alice.seen()[2]; got.UserID != "alice" || got.Data.DisplayName != "The alice" || got.Data.ClientID != hello.ClientID || hello.Seq != 1 || hi.Seq != 2 {
		t.Errorf("the first message is %+v, its event %+v", hello, got)
	}

	// Who is no member has nothing, and then has what was said before.
	carol.does(http.StatusNotFound, "send", room.ID, fields{"clientId": "a", "text": "let me in"})
	carol.does(http.StatusNotFound, "history", room.ID, nil)
	carol.calls(http.StatusNotFound, http.MethodGet, "/v2/rooms/"+room.ID, nil, nil)
	for range 2 {
		alice.admits(room.ID, "carol") // which nobody hears twice
	}
	all.carol = carol
	all.hear("member_added 2 carol")
	if got := carol.whole(room.ID, 50); len(got) != 2 || got[1].Text != "hi" {
		t.Errorf("carol sees of the past: %+v", got)
	}
	all.talk(t, room.ID)
	all.pages(t, room.ID)
	all.part(t, room)
}

// talk sends, repeats, edits, erases and reads.
func (all *trio) talk(t *testing.T, room string) {
	t.Helper()
	alice, bob, carol := all.alice, all.bob, all.carol
	third := alice.says(room, chatText)
	for range 2 {
		alice.does(http.StatusOK, "send", room, fields{"clientId": third.ClientID, "text": "another"}) // it is the first one
	}
	bob.says(room, strings.Repeat("é", 4000))
	all.hear("message_created 3 alice "+chatText, "message_created 4 bob "+strings.Repeat("é", 4000))
	for _, text := range []string{"", strings.Repeat("é", 4001), "a\x00b"} {
		alice.does(http.StatusBadRequest, "send", room, fields{"clientId": "x", "text": text})
	}
	if signals(alice.door) {
		bob.does(http.StatusOK, "typing", room, nil)
		alice.await("bob types", func() bool {
			return slices.ContainsFunc(alice.signals, func(s chatSignal) bool {
				return s.Type == "typing" && s.Room == room && s.UserID == "bob" && s.DisplayName == "The bob"
			})
		})
	}

	third2 := "/v2/rooms/" + room + "/messages/3"
	for range 2 {
		alice.calls(http.StatusOK, http.MethodPatch, third2, fields{"text": "better"}, nil)
	}
	bob.calls(http.StatusForbidden, http.MethodPatch, third2, fields{"text": "worse"}, nil)
	bob.calls(http.StatusForbidden, http.MethodDelete, third2, nil, nil)
	all.unread(t, room, 2, 2, 2)
	for range 2 {
		bob.calls(http.StatusOK, http.MethodDelete, "/v2/rooms/"+room+"/messages/2", nil, nil)
	}
	bob.calls(http.StatusNotFound, http.MethodPatch, "/v2/rooms/"+room+"/messages/2", fields{"text": "again"}, nil)
	bob.calls(http.StatusNotFound, http.MethodDelete, "/v2/rooms/"+room+"/messages/99", nil, nil)
	all.unread(t, room, 1, 2, 2)
	carol.does(http.StatusOK, "read", room, fields{"seq": 4})
	all.hear("message_updated 3 alice better", "message_deleted 2 bob", "read 4 carol")
	carol.does(http.StatusOK, "read", room, fields{"seq": 2}) // marks only go up
	all.unread(t, room, 1, 2, 0)
	until(t, "the figures do not come", func() bool {
		figures := bob.stats(room)
		streams := 3
		if !signals(bob.door) {
			streams = 0
		}
		return figures == chatStats{ActiveConnections: streams, OnlineUsers: 3, TotalMessages: 3, UnreadMessages: 2}
	})
}

// unread compares what each of them has not read.
func (all *trio) unread(t *testing.T, room string, want ...int) {
	t.Helper()
	for i, one := range []*chatUser{all.alice, all.bob, all.carol} {
		if got := one.stats(room).UnreadMessages; got != want[i] {
			t.Errorf("%s by %s has %d unread messages, not %d", one.id, one.door, got, want[i])
		}
	}
}

// pages reads history in parts, forwards and backwards.
func (all *trio) pages(t *testing.T, room string) {
	t.Helper()
	carol := all.carol
	for _, one := range []struct {
		given fields
		seqs  []int64
		more  bool
	}{
		{nil, []int64{1, 2, 3, 4}, false},
		{fields{"limit": 2}, []int64{3, 4}, true},
		{fields{"limit": 2, "before": 3}, []int64{1, 2}, false},
		{fields{"limit": 2, "after": 1}, []int64{2, 3}, true},
		{fields{"limit": 2, "after": 2}, []int64{3, 4}, false},
		{fields{"after": 4}, nil, false},
	} {
		part := carol.history(room, one.given)
		if got := seqs(part.Messages); !slices.Equal(got, one.seqs) || part.HasMore != one.more {
			t.Errorf("%v: messages %v, more: %v", one.given, got, part.HasMore)
		}
	}
	carol.does(http.StatusBadRequest, "history", room, fields{"limit": 201})
	whole := carol.whole(room, 1)
	if got := all.bob.whole(room, 3); !reflect.DeepEqual(got, whole) {
		t.Errorf("carol sees %+v, bob %+v", whole, got)
	}
	erased, edited := whole[1], whole[2]
	if !erased.Deleted || erased.Text != "" || edited.EditedAt == nil || edited.Text != "better" || whole[0].EditedAt != nil || whole[0].Deleted {
		t.Errorf("the messages are %+v", whole)
	}
}

func seqs(messages []chatMessage) (list []int64) {
	for _, one := range messages {
		list = append(list, one.Seq)
	}
	return list
}

// part renames the room, hands it over, leaves it and deletes it.
func (all *trio) part(t *testing.T, room chatRoom) {
	t.Helper()
	alice, bob, carol, at := all.alice, all.bob, all.carol, "/v2/rooms/"+room.ID
	carol.calls(http.StatusForbidden, http.MethodPatch, at, fields{"name": "Mine"}, nil)
	carol.calls(http.StatusForbidden, http.MethodDelete, at+"/members/bob", nil, nil)
	carol.calls(http.StatusForbidden, http.MethodPut, at+"/members/dave", nil, nil)
	alice.calls(http.StatusOK, http.MethodPatch, at, fields{"name": "Renamed"}, nil)
	alice.calls(http.StatusOK, http.MethodPatch, at, fields{"owner": "bob"}, nil)
	all.hear("room_updated Renamed alice", "room_updated Renamed bob")

	carol.removes(room.ID, "carol")
	all.hear("member_removed 4 carol")
	all.carol = nil
	bob.calls(http.StatusNotFound, http.MethodDelete, at+"/members/carol", nil, nil)
	bob.removes(room.ID, "bob")
	alice.hears(&all.heard[0], "member_removed 4 bob", "room_updated Renamed alice")
	bob.hears(&all.heard[1], "member_removed 4 bob")
	bob.calls(http.StatusNotFound, http.MethodGet, at, nil, nil)

	alice.calls(http.StatusOK, http.MethodDelete, at, nil, nil)
	alice.hears(&all.heard[0], "room_deleted 4")
	alice.calls(http.StatusNotFound, http.MethodGet, at, nil, nil)
	alice.does(http.StatusNotFound, "history", room.ID, nil)
	alice.calls(http.StatusConflict, http.MethodPost, "/v2/rooms", fields{"id": room.ID, "name": "Again"}, nil)

	// What was heard of it is all that there was.
	all.carol = carol
	second := alice.opens("Second", "bob", "carol")
	alice.hears(&all.heard[0], "member_added alice", "member_added bob", "member_added carol")
	bob.hears(&all.heard[1], "member_added bob", "member_added carol")
	carol.hears(&all.heard[2], "member_added carol")
	var rooms struct{ Rooms []chatRoom }
	bob.calls(http.StatusOK, http.MethodGet, "/v2/rooms", nil, &rooms)
	if len(rooms.Rooms) != 1 || rooms.Rooms[0].ID != second.ID {
		t.Errorf("bob's rooms are %+v", rooms.Rooms)
	}
}
