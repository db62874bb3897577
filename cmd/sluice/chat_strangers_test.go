package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"sluice/handlers"
)

// strangers are those who have nothing to see in a room.
func strangers(t *testing.T, to []string, door string) []*chatUser {
	org := func(name string) chatPlace { return chatPlace{t, name, to} }
	return []*chatUser{
		org(door).user("mallory", door),
		org(door).user("admin", door, func(c *handlers.Claims) { c.Role = "ADMIN" }),
		org(door).user("service", door, func(c *handlers.Claims) { c.Scope = "publish admin" }),
		org("not "+door).user("alice", door),
		org("not "+door).user("admin", door, func(c *handlers.Claims) { c.Role, c.Scope = "ADMIN", "publish admin" }),
	}
}

// TestChatStrangers looks that nobody has anything of a room who is not a member, be it by what comes down or by any request,
// nor can tell it from a room that is not there.
func TestChatStrangers(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for _, door := range chatDoors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			place := chatPlace{t, door, to}
			alice := place.user("alice", door).come()
			room := alice.opens("Secret", "bob").ID
			alice.says(room, "a secret")
			all := strangers(t, to, door)
			var owns []string
			for i, one := range all {
				owns = append(owns, one.from(i).come().opens("Own").ID)
			}
			for _, one := range all {
				one.learnsNothing(room, strings.Contains(one.id, "admin") && one.org == door)
			}
			alice.does(http.StatusOK, "typing", room, nil)
			alice.does(http.StatusOK, "read", room, fields{"seq": 1})
			alice.does(http.StatusOK, "presence", room, fields{"status": "away"})
			alice.says(room, "another secret")
			alice.until("another secret")
			for i, one := range all {
				own := owns[i]
				one.says(own, "of my own")
				for _, e := range one.until("of my own") {
					if e.EntityID != own {
						t.Errorf("%s of %s is given %+v", one.id, one.org, e)
					}
				}
				one.mu.Lock()
				for _, s := range one.signals {
					if s.Room != own {
						t.Errorf("%s of %s is given %+v", one.id, one.org, s)
					}
				}
				one.mu.Unlock()
			}
			if got := alice.whole(room, 50); len(got) != 2 || got[0].Text != "a secret" {
				t.Errorf("the room has %+v", got)
			}
			formerly(t, place, alice, room)
		})
	}
}

// learnsNothing asks for everything there is of a room, and for the same of one that is not there.
func (c *chatUser) learnsNothing(room string, admin bool) {
	c.t.Helper()
	at := "/v2/rooms/" + room
	type attempt struct {
		method, path string
		body         any
	}
	tries := []attempt{
		{http.MethodGet, at + "/messages", nil},
		{http.MethodPost, at + "/messages", fields{"clientId": "x", "text": "x"}},
		{http.MethodPatch, at + "/messages/1", fields{"text": "x"}},
		{http.MethodDelete, at + "/messages/1", nil},
		{http.MethodPost, at + "/typing", nil},
		{http.MethodPost, at + "/read", fields{"seq": 1}},
		{http.MethodPost, at + "/presence", fields{"status": "away"}},
		{http.MethodGet, at + "/users", nil},
		{http.MethodGet, at + "/stats", nil},
		{http.MethodGet, at + "/stream", nil},
		{http.MethodGet, "/v2/realtime/stream?services=chat&cursor=earliest&rooms=" + room, nil},
		{http.MethodGet, "/v2/realtime/poll?services=chat&cursor=earliest&wait=0&rooms=" + room, nil},
	}
	if !admin { // who may change rooms without seeing what is said
		tries = append(tries, []attempt{
			{http.MethodGet, at, nil},
			{http.MethodPatch, at, fields{"name": "x"}},
			{http.MethodDelete, at, nil},
			{http.MethodPut, at + "/members/" + c.id, nil},
			{http.MethodDelete, at + "/members/alice", nil},
		}...)
	}
	for _, one := range tries {
		var there, not problemText
		c.calls(http.StatusNotFound, one.method, one.path, one.body, &there)
		c.calls(http.StatusNotFound, one.method, strings.ReplaceAll(one.path, room, "nowhere"), one.body, &not)
		if there != not {
			c.t.Errorf("%s %s: %+v, and elsewhere %+v", one.method, one.path, there, not)
		}
	}
	for kind, given := range map[string]fields{
		"send": {"clientId": "x", "text": "x"}, "history": nil, "typing": nil, "read": {"seq": 1}, "presence": {"status": "away"},
	} {
		c.does(http.StatusNotFound, kind, room, given)
		c.does(http.StatusNotFound, kind, "nowhere", given)
	}
}

type problemText struct{ Type, Title, Detail string }

// formerly looks that a room which was once a user's may be named by them, and never again carries anything.
func formerly(t *testing.T, place chatPlace, alice *chatUser, room string) {
	t.Helper()
	bob := place.user("bob", "sse and POST")
	bob.says(room, "I was here")
	alice.removes(room, "bob")
	alice.says(room, "without bob")
	var removed string
	for _, e := range alice.until("without bob") {
		if e.Type == "member_removed" {
			removed = e.Cursor
		}
	}
	var answer struct {
		Events []chatEvent
		Cursor string
	}
	bob.calls(http.StatusOK, http.MethodGet, "/v2/realtime/poll?services=chat&cursor=earliest&wait=0&rooms="+room, nil, &answer)
	if n := len(answer.Events); n == 0 || answer.Events[n-1].Type != "member_removed" || answer.Events[n-1].Cursor != removed {
		t.Errorf("bob is given %q", said(answer.Events))
	}
	for _, path := range []string{"/v2/realtime/stream?services=chat&rooms=" + room, "/v2/rooms/" + room + "/stream"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		began := false
		err := bob.readBody(ctx, bob.to[0]+path, "application/x-ndjson", func(from io.Reader) error {
			var frame struct{ Type string }
			err := json.NewDecoder(from).Decode(&frame)
			began = frame.Type == "ack"
			return err
		})
		if cancel(); err != nil || !began {
			t.Errorf("%s: %v", path, err)
		}
	}
	bob.does(http.StatusNotFound, "send", room, fields{"clientId": "y", "text": "y"})
	bob.does(http.StatusNotFound, "history", room, nil)
	bob.calls(http.StatusNotFound, http.MethodGet, "/v2/rooms/"+room, nil, nil)
}
