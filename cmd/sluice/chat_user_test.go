package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/handlers"
	"sluice/store"
)

// chatDoors are the ways into a room: how what happens comes down, and how requests go up.
var chatDoors = []string{"socket", "socket and POST", "sse and POST", "ndjson and POST", "poll and POST"}

// signals says whether typing and presence come through a door.
func signals(door string) bool { return door != "poll and POST" }

// chatEvent is an event of a room as its members are given it.
type chatEvent struct {
	ID, Cursor, OrgID, Service, Type, EntityType, EntityID, UserID, Time string

	Data struct {
		Room, UserID, DisplayName, Text, ClientID, Name, Owner string
		Seq                                                    int64
	}
}

// says is what an event tells, in one line. Of a room it does not say who has changed it.
func (e chatEvent) says() string {
	parts := []string{e.Type}
	if strings.HasPrefix(e.Type, "room_") {
		e.Data.UserID = ""
	}
	if e.Data.Seq != 0 {
		parts = append(parts, fmt.Sprint(e.Data.Seq))
	}
	for _, one := range []string{e.Data.UserID, e.Data.Text, e.Data.Name, e.Data.Owner} {
		if one != "" {
			parts = append(parts, one)
		}
	}
	return strings.Join(parts, " ")
}

// chatSignal is a typing or presence frame.
type chatSignal struct {
	Type, Room, UserID, DisplayName, Status string

	LastSeen *time.Time
}

// chatFrame is any frame of a stream, or a poll's answer.
type chatFrame struct {
	chatSignal

	Cursor string
	Event  *chatEvent
	Events []chatEvent
	Reset  any
	Ref    string
	Status json.RawMessage // of presence a text, of a problem a number
	Result json.RawMessage
}

// chatUser is somebody with a door: they come back with their cursor whenever it closes, to the next instance where one is
// gone, until the test ends or they leave.
type chatUser struct {
	t                    testing.TB
	org, id, name, token string
	door, path, query    string
	leaves               context.CancelFunc
	left                 chan struct{} // closed with the last connection

	mu      sync.Mutex
	to      []string           // guarded by mu: URLs of instances; the one in use is first
	cut     context.CancelFunc // guarded by mu: of the connection of now
	up      *chatSocket        // guarded by mu: where requests go up; nil: there is none yet
	acked   int                // guarded by mu: connections, or answers of polls
	drained int                // guarded by mu: drain frames
	cursor  string             // guarded by mu: "" before the first
	at      int64              // guarded by mu: the position of cursor
	log     []chatEvent        // guarded by mu: what came
	signals []chatSignal       // guarded by mu
	wrong   []string           // guarded by mu: what must not be
	ended   error              // guarded by mu: the last connection that was not cut
}

// chatPlace is where a conversation takes place: an org of its own, at instances or what stands before them.
type chatPlace struct {
	t   testing.TB
	org string
	to  []string
}

// user makes one who has no door open: for requests alone.
func (p chatPlace) user(id, door string, claims ...func(*handlers.Claims)) *chatUser {
	c := handlers.Claims{Org: p.org, User: id, Role: "MANAGER", DisplayName: "The " + id}
	for _, change := range claims {
		change(&c)
	}
	return &chatUser{
		t: p.t, org: p.org, id: id, name: c.DisplayName, token: token(p.t, c), door: door,
		to: slices.Clone(p.to), path: "/v2/realtime/stream", query: "services=chat",
	}
}

// from has the user begin at another one of the place's instances.
func (c *chatUser) from(nth int) *chatUser {
	nth %= len(c.to)
	c.to = append(slices.Clone(c.to[nth:]), c.to[:nth]...)
	return c
}

// rooms narrows what the user is given.
func (c *chatUser) rooms(rooms ...string) *chatUser {
	c.query = "services=chat&rooms=" + strings.Join(rooms, ",")
	return c
}

// since has the user begin at a cursor.
func (c *chatUser) since(cursor string) *chatUser {
	c.cursor, c.at = cursor, position(c.t, cursor)
	return c
}

// come opens the door, and waits until it is open.
func (c *chatUser) come() *chatUser {
	c.t.Helper()
	c.enter()
	c.await("the door opens", func() bool { return c.acked > 0 })
	return c
}

// enter opens the door.
func (c *chatUser) enter() {
	ctx, leaves := context.WithCancel(context.Background())
	c.leaves, c.left = leaves, make(chan struct{})
	c.t.Cleanup(c.leave)
	go func() {
		defer close(c.left)
		for ctx.Err() == nil {
			now, cut := context.WithCancel(ctx)
			c.mu.Lock()
			c.cut = cut
			at, cursor := c.to[0], c.cursor
			c.mu.Unlock()
			err := c.read(now, at, cursor)
			if now.Err() == nil {
				c.next(at, err)
			}
			cut()
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
}

// next goes to the next instance, where the one that was in use is gone.
func (c *chatUser) next(from string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to[0] == from {
		c.to = append(c.to[1:], from)
	}
	c.ended = why
}

// leave closes the door for good.
func (c *chatUser) leave() {
	c.leaves()
	<-c.left
}

// cuts breaks the connection of now; the user comes back.
func (c *chatUser) cuts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut()
}

// moves has the user go on elsewhere.
func (c *chatUser) moves(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = []string{to}
	c.cut()
}

// position is the sequence of a cursor.
func position(t testing.TB, cursor string) int64 {
	t.Helper()
	at, err := store.ParseCursor(cursor)
	if err != nil {
		t.Fatal(err)
	}
	return at.Seq
}

// await waits for something about the user, which is looked at under its lock, and fails where something is wrong with it.
func (c *chatUser) await(what string, happens func() bool) {
	c.t.Helper()
	c.within(2*patience, what, happens)
}

func (c *chatUser) within(most time.Duration, what string, happens func() bool) {
	c.t.Helper()
	deadline := time.After(most)
	for {
		c.mu.Lock()
		happened, wrong, why := happens(), c.wrong, c.ended
		log := c.log[max(0, len(c.log)-5):]
		c.mu.Unlock()
		if len(wrong) > 0 {
			c.t.Fatalf("%s by %s: %q", c.id, c.door, wrong)
		}
		if happened {
			return
		}
		select {
		case <-deadline:
			c.t.Fatalf("%s by %s: not within %s: %s; the last events are %+v; the last connection ended with %v", c.id, c.door, most, what, log, why)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// until waits until the last event is of a message with this text, and returns all.
func (c *chatUser) until(text string) []chatEvent {
	c.t.Helper()
	c.await("the message "+text, func() bool { return len(c.log) > 0 && c.log[len(c.log)-1].Data.Text == text })
	return c.seen()
}

func (c *chatUser) seen() []chatEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// hears waits for exactly these events beyond the ones that it has heard of so far.
func (c *chatUser) hears(heard *int, want ...string) {
	c.t.Helper()
	c.await(fmt.Sprintf("%q", want), func() bool { return len(c.log) >= *heard+len(want) })
	got := c.seen()[*heard:]
	for i, one := range got {
		if i >= len(want) || one.says() != want[i] {
			c.t.Fatalf("%s by %s hears %q, not %q", c.id, c.door, said(got), want)
		}
	}
	*heard += len(want)
}

func said(events []chatEvent) (list []string) {
	for _, one := range events {
		list = append(list, one.says())
	}
	return list
}

// take judges one frame, or one answer of a poll. An error ends the connection.
func (c *chatUser) take(text []byte) error {
	var frame chatFrame
	if err := json.Unmarshal(text, &frame); err != nil {
		return c.fail("%.300q: %v", text, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case frame.Ref != "":
		c.up.answered(frame)
		return nil
	case frame.Type == "typing" || frame.Type == "presence":
		_ = json.Unmarshal(frame.Status, &frame.chatSignal.Status)
		c.signals = append(c.signals, frame.chatSignal)
		return nil
	case frame.Type == "drain" || frame.Type == "reauth":
		c.drained++
		return fmt.Errorf("%s", text)
	case frame.Type == "reset" || frame.Reset != nil || frame.Type == "problem" || frame.Cursor == "":
		c.wrong = append(c.wrong, string(text))
		return fmt.Errorf("%s", text)
	case frame.Event != nil:
		frame.Events = []chatEvent{*frame.Event}
	}
	for _, event := range frame.Events {
		seq, err := store.ParseCursor(event.Cursor)
		if err != nil || seq.Seq <= c.at || event.Service != "chat" || event.EntityType != "room" || event.Data.Room != event.EntityID || event.OrgID != c.org {
			c.wrong = append(c.wrong, fmt.Sprintf("after %s: %+v (%v)", c.cursor, event, err))
		}
		c.log, c.cursor, c.at = append(c.log, event), event.Cursor, seq.Seq
	}
	seq, err := store.ParseCursor(frame.Cursor)
	if err != nil || seq.Seq < c.at || frame.Type == "batch" && seq.Seq > c.at {
		c.wrong = append(c.wrong, fmt.Sprintf("after %s: %s", c.cursor, text))
	}
	c.cursor, c.at = frame.Cursor, seq.Seq
	if frame.Type == "ack" || frame.Type == "" {
		c.acked++
	}
	return nil
}

// fail notes what must not be.
func (c *chatUser) fail(format string, args ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := fmt.Errorf(format, args...)
	c.wrong = append(c.wrong, err.Error())
	return err
}
