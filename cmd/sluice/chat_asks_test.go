package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
)

// fields are those of a request.
type fields map[string]any

// try asks once, by the user's door: what has a frame goes up as one where there is a WebSocket for it.
func (c *chatUser) try(kind, room string, given fields) (chatAnswer, error) {
	if c.door == "socket" {
		c.mu.Lock()
		up := c.up
		c.mu.Unlock()
		if up == nil {
			return chatAnswer{}, errGone
		}
		ref := uuid.NewString()
		message := map[string]any{"type": kind, "room": room, "ref": ref}
		for name, value := range given {
			message[name] = value
		}
		return up.ask(ref, message)
	}
	at := "/v2/rooms/" + url.PathEscape(room)
	switch kind {
	case "send":
		return c.call(http.MethodPost, at+"/messages", given)
	case "history":
		query := url.Values{}
		for name, value := range given {
			query.Set(name, fmt.Sprint(value))
		}
		return c.call(http.MethodGet, at+"/messages?"+query.Encode(), nil)
	case "typing":
		return c.call(http.MethodPost, at+"/typing", nil)
	}
	return c.call(http.MethodPost, at+"/"+kind, given)
}

// again repeats a request until it is answered and not refused for now alone.
func (c *chatUser) again(ask func() (chatAnswer, error)) (chatAnswer, error) {
	for deadline := time.After(2 * patience); ; {
		got, err := ask()
		c.mu.Lock()
		wrong := c.wrong
		c.mu.Unlock()
		if len(wrong) > 0 {
			return got, fmt.Errorf("%s by %s: %q", c.id, c.door, wrong)
		}
		if err == nil && !forNow(got.status) {
			return got, nil
		}
		select {
		case <-deadline:
			return got, fmt.Errorf("%s by %s is never answered: %d %s %w", c.id, c.door, got.status, got.text, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// asks makes a request whose answer is read into to, where that is not nil. Status 200 stands for all that is no refusal.
func (c *chatUser) asks(status int, to any, ask func() (chatAnswer, error)) {
	c.t.Helper()
	got, err := c.again(ask)
	if err == nil && to != nil {
		err = json.Unmarshal(got.text, to)
	}
	if err != nil || got.status != status && (status != http.StatusOK || got.status/100 != 2) {
		c.t.Fatalf("%s by %s: status %d, not %d: %s (%v)", c.id, c.door, got.status, status, got.text, err)
	}
}

// does makes a request by the user's door.
func (c *chatUser) does(status int, kind, room string, given fields) {
	c.t.Helper()
	c.asks(status, nil, func() (chatAnswer, error) { return c.try(kind, room, given) })
}

// calls makes one over HTTP, whatever the door.
func (c *chatUser) calls(status int, method, path string, body, to any) {
	c.t.Helper()
	c.asks(status, to, func() (chatAnswer, error) { return c.call(method, path, body) })
}

// chatMessage is a message as history has it.
type chatMessage struct {
	Seq                                 int64
	UserID, DisplayName, Text, ClientID string
	Time                                time.Time
	EditedAt                            *time.Time
	Deleted                             bool
}

// sends gives a message up, again and again with one clientId until that is answered, and returns what was.
func (c *chatUser) sends(room, text string) (made chatMessage, err error) {
	given := fields{"clientId": uuid.NewString(), "text": text}
	got, err := c.again(func() (chatAnswer, error) { return c.try("send", room, given) })
	if err == nil {
		err = json.Unmarshal(got.text, &made)
	}
	if err != nil || got.status/100 != 2 || made.Text != text || made.UserID != c.id || made.DisplayName != c.name ||
		made.ClientID != given["clientId"] || made.Seq < 1 || made.Time.IsZero() {
		return made, fmt.Errorf("%s by %s sends %.100q: %d %.500s: %w", c.id, c.door, text, got.status, got.text, err)
	}
	return made, nil
}

// says is sends for who must succeed.
func (c *chatUser) says(room, text string) chatMessage {
	c.t.Helper()
	made, err := c.sends(room, text)
	if err != nil {
		c.t.Fatal(err)
	}
	return made
}

// chatHistory is a part of a room's messages.
type chatHistory struct {
	Messages []chatMessage
	HasMore  bool
}

func (c *chatUser) history(room string, given fields) (part chatHistory) {
	c.t.Helper()
	c.asks(http.StatusOK, &part, func() (chatAnswer, error) { return c.try("history", room, given) })
	return part
}

// whole pages through all that the user may see of a room's messages, from the newest back.
func (c *chatUser) whole(room string, limit int) (all []chatMessage) {
	c.t.Helper()
	given := fields{"limit": limit}
	for {
		part := c.history(room, given)
		all = append(part.Messages, all...)
		if !part.HasMore {
			return all
		}
		if len(part.Messages) != limit {
			c.t.Fatalf("%s by %s: there is more, and a page has %d of %d messages", c.id, c.door, len(part.Messages), limit)
		}
		given["before"] = part.Messages[0].Seq
	}
}

// chatRoom is a room.
type chatRoom struct {
	ID, Name, Owner string
	Members         []struct{ UserID, DisplayName string }
	CreatedAt       time.Time
}

// opens makes a room.
func (c *chatUser) opens(name string, members ...string) (room chatRoom) {
	c.t.Helper()
	c.calls(http.StatusCreated, http.MethodPost, "/v2/rooms", fields{"name": name, "members": members}, &room)
	return room
}

func (c *chatUser) admits(room, user string) {
	c.t.Helper()
	c.calls(http.StatusOK, http.MethodPut, "/v2/rooms/"+room+"/members/"+user, nil, nil)
}

func (c *chatUser) removes(room, user string) {
	c.t.Helper()
	c.calls(http.StatusOK, http.MethodDelete, "/v2/rooms/"+room+"/members/"+user, nil, nil)
}

// chatPresence is a member as the others see it.
type chatPresence struct {
	UserID, DisplayName, Status string
	LastSeen                    *time.Time
}

// present asks who is there, by user.
func (c *chatUser) present(room string) map[string]chatPresence {
	c.t.Helper()
	var answer struct{ Users []chatPresence }
	c.calls(http.StatusOK, http.MethodGet, "/v2/rooms/"+room+"/users", nil, &answer)
	all := map[string]chatPresence{}
	for _, one := range answer.Users {
		all[one.UserID] = one
	}
	return all
}

// chatStats are a room's figures.
type chatStats struct{ ActiveConnections, OnlineUsers, TotalMessages, UnreadMessages int }

func (c *chatUser) stats(room string) (figures chatStats) {
	c.t.Helper()
	c.calls(http.StatusOK, http.MethodGet, "/v2/rooms/"+room+"/stats", nil, &figures)
	return figures
}
