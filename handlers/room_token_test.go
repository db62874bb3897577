package handlers

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// TestTokenEndsBeforeTheHandshake has a token end while its WebSocket still waits for the handshake: it is good for nothing any more.
func TestTokenEndsBeforeTheHandshake(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	room := d.makeRoom(as(t, "u"))
	d.says(room, as(t, "u"), "a", "x")
	over := time.Now().Add(2 * time.Second).Truncate(time.Second)
	c := d.dialSocket(mint(t, Claims{User: "u", Expires: over.Add(-tokenLeeway)}), "")
	<-time.After(time.Until(over) + time.Millisecond)
	c.send(`{"services":["chat"],"cursor":"earliest"}`)
	c.send(fmt.Sprintf(`{"type":"send","ref":1,"room":%q,"clientId":"b","text":"y"}`, strings.TrimPrefix(room, "/v2/rooms/")))
	code, before := c.closed()
	if code != ws.StatusPolicyViolation || len(before) != 1 || before[0].Status != http.StatusUnauthorized {
		t.Errorf("it ends with %d after %+v", code, before)
	}
	if h := d.historyOf(room, as(t, "u"), ""); len(h.Messages) != 1 {
		t.Errorf("it was said: %+v", h)
	}
}

// TestTokenEndsWithAStreamOpen has a token end while its WebSocket has a stream: what is asked for after that is not done, be the
// stream's own end late by up to a second.
func TestTokenEndsWithAStreamOpen(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	room := d.makeRoom(as(t, "u"))
	say := func(id string) string {
		return fmt.Sprintf(`{"type":"send","ref":1,"room":%q,"clientId":%q,"text":"y"}`, strings.TrimPrefix(room, "/v2/rooms/"), id)
	}
	over := time.Now().Add(3 * time.Second).Truncate(time.Second)
	c := d.dialSocket(mint(t, Claims{User: "u", Expires: over.Add(-tokenLeeway)}), "services=chat")
	c.expect("ack")
	c.send(say("before"))
	c.hears(`"type":"ok"`)
	<-time.After(time.Until(over) + time.Millisecond)
	c.send(say("after"))
	if code, _ := c.closed(); code != ws.StatusPolicyViolation {
		t.Errorf("it ends with %d", code)
	}
	if h := d.historyOf(room, as(t, "u"), ""); len(h.Messages) != 1 || h.Messages[0].ClientID != "before" {
		t.Errorf("what was said is %+v", h)
	}
}
