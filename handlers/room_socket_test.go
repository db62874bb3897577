package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"

	"sluice/store"
	"sluice/streams"
)

// answerTo reads up to the answer to a request, over events and signals.
func (c *socketClient) answerTo(ref string) (one wireFrame) {
	c.t.Helper()
	for {
		f, ok := c.frame()
		if !ok || f.Header.OpCode != ws.OpText {
			c.t.Fatalf("the WebSocket ends before the answer to %s: %q", ref, f.Payload)
		}
		if kind := kindOfFrame(c.t, f.Payload, "type"); kind != "ok" && kind != "problem" {
			continue
		}
		if err := json.Unmarshal(f.Payload, &one); err != nil || string(one.Ref) != ref {
			c.t.Fatalf("%.300s instead of the answer to %s: %v", f.Payload, ref, err)
		}
		return one
	}
}

// TestRoomRequests asks everything over a WebSocket, with a ref and without, and holds what comes of it against what HTTP says.
func TestRoomRequests(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	chatting(d)
	user := as(t, "u")
	room := d.makeRoom(user, "v")
	id := strings.TrimPrefix(room, "/v2/rooms/")
	c := d.dialSocket(user, "services=chat")
	c.expect("ack")
	other := d.dialSocket(as(t, "v"), "services=chat&rooms="+id)
	other.expect("ack")
	c.send(fmt.Sprintf(`{"type":"send","ref":"a \"ref\"","room":%q,"clientId":"c1","text":"<i>\ud83d\ude00</i>"}`, id))
	var m wireMessage
	if err := json.Unmarshal(c.answerTo(`"a \"ref\""`).Result, &m); err != nil || m.Text != "<i>\U0001F600</i>" || m.Seq != 1 || m.UserID != "u" || m.ClientID != "c1" {
		t.Fatalf("%+v %v", m, err)
	}
	if again := d.says(room, user, "c1", "another"); !reflect.DeepEqual(again, m) {
		t.Errorf("HTTP says %+v, the WebSocket said %+v", again, m)
	}
	c.send(fmt.Sprintf(`{"type":"send","room":%q,"clientId":2,"text":"two"}`, id)) // of which nothing is answered
	c.send(fmt.Sprintf(`{"type":"history","room":%q,"ref":5,"limit":1,"before":null}`, id))
	answer := c.answerTo("5")
	var h, same wireHistory
	if err := json.Unmarshal(answer.Result, &h); err != nil || answer.Type != "ok" {
		t.Fatalf("%+v %v", answer, err)
	}
	if d.ask("GET", room+"/messages?limit=1", user, "").into(t, &same); len(h.Messages) != 1 || !h.HasMore || h.Messages[0].Seq != 2 || !reflect.DeepEqual(h, same) {
		t.Errorf("%+v, and over HTTP %+v", h, same)
	}
	for i, one := range []string{`"type":"typing"`, `"type":"read","seq":2`, `"type":"presence","status":"away"`} {
		c.send(fmt.Sprintf(`{%s,"room":%q,"ref":%d}`, one, id, i))
		if answer := c.answerTo(strconv.Itoa(i)); answer.Type != "ok" || string(answer.Result) != "null" {
			t.Errorf("%s: %+v", one, answer)
		}
		c.send(fmt.Sprintf(`{%s,"room":%q}`, one, id))
	}
	seen := map[string]bool{}
	for !seen["typing"] || !seen["away"] || !seen["read"] || !seen["message_created"] {
		f, ok := other.frame()
		if !ok {
			t.Fatalf("the other's stream ends after %v", seen)
		}
		for _, kind := range []string{`"typing"`, `"away"`, `"read"`, `"message_created"`} {
			seen[strings.Trim(kind, `"`)] = seen[strings.Trim(kind, `"`)] || strings.Contains(string(f.Payload), kind)
		}
	}
	var stats wireStats
	if d.ask("GET", room+"/stats", user, "").into(t, &stats); stats.TotalMessages != 2 || stats.UnreadMessages != 0 || stats.ActiveConnections < 1 {
		t.Errorf("%+v", stats)
	}
}

// TestRoomRequestsRefused asks what is refused: it costs the request alone, with a ref and without, unless it is malformed and has none.
func TestRoomRequestsRefused(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.messageAllowance = newAllowance(0, 0, "")
	user := as(t, "u")
	room, foreign := strings.TrimPrefix(d.makeRoom(user), "/v2/rooms/"), strings.TrimPrefix(d.makeRoom(as(t, "v")), "/v2/rooms/")
	d.says("/v2/rooms/"+room, user, "taken", "x")
	second := strings.TrimPrefix(d.makeRoom(user), "/v2/rooms/")
	c := d.dialSocket(user, "services=finance")
	c.expect("ack")
	for request, status := range map[string]int{
		`"type":"send","room":"nowhere","clientId":"a","text":"x"`:            404,
		`"type":"send","room":"a/b","clientId":"a","text":"x"`:                404,
		`"type":"send","room":"` + foreign + `","clientId":"a","text":"x"`:    404,
		`"type":"send","room":"` + second + `","clientId":"taken","text":"x"`: 409,
		`"type":"typing","room":"nowhere"`:                                    404,
		`"type":"read","room":"nowhere","seq":1`:                              404,
		`"type":"presence","room":"nowhere","status":"away"`:                  404,
		`"type":"history","room":"` + foreign + `"`:                           404,
	} {
		c.send("{" + request + `,"ref":"r"}`)
		if one := c.next(); one.Type != "problem" || one.Status != status || string(one.Ref) != `"r"` {
			t.Errorf("%s: %+v", request, one)
		}
		c.send("{" + request + "}")
		if one := c.next(); one.Type != "problem" || one.Status != status || string(one.Ref) != "null" {
			t.Errorf("%s without a ref: %+v", request, one)
		}
	}
	for request, field := range map[string]string{
		`"type":"send"`: "room",
		`"type":"send","room":null,"clientId":"a","text":"x"`:                                                    "room",
		`"type":"send","room":["a"],"clientId":"a","text":"x"`:                                                   "room",
		`"type":"send","room":"` + room + `","text":"x"`:                                                         "clientId",
		`"type":"send","room":"` + room + `","clientId":"a"`:                                                     "text",
		`"type":"send","room":"` + room + `","clientId":"a","text":"\ud800"`:                                     "text",
		`"type":"send","room":"` + room + `","clientId":"a","text":"\u0000"`:                                     "text",
		`"type":"send","room":"` + room + `","clientId":"a","text":"` + strings.Repeat("\U0001F600", 4001) + `"`: "text",
		`"type":"send","room":"` + room + `","clientId":"a","text":"x","seq":1`:                                  "seq",
		`"type":"typing","room":"` + room + `","status":"away"`:                                                  "status",
		`"type":"read","room":"` + room + `"`:                                                                    "seq",
		`"type":"presence","room":"` + room + `","status":"busy"`:                                                "status",
		`"type":"history","room":"` + room + `","limit":201`:                                                     "limit",
		`"type":"history","room":"` + room + `","after":-1`:                                                      "after",
		`"type":"edit","room":"` + room + `"`:                                                                    "type",
	} {
		c.send("{" + `"ref":1,` + request + "}")
		if one := c.next(); one.Type != "problem" || one.Status != 400 || one.Field != field {
			t.Errorf("%.80s: %+v", request, one)
		}
		ends := d.dialSocket(user, "services=finance")
		ends.expect("ack")
		ends.send("{" + request + "}")
		if code, before := ends.closed(); code != ws.StatusPolicyViolation || len(before) != 1 || before[0].Status != 400 || before[0].Ref != nil {
			t.Errorf("%.80s without a ref: %d %+v", request, code, before)
		}
	}
	if h := d.historyOf("/v2/rooms/"+room, user, ""); len(h.Messages) != 1 {
		t.Errorf("something was said: %+v", h)
	}
}

// TestRoomRequestsRights asks before the handshake, with a token that lacks the service, and with one that is of no org.
func TestRoomRequestsRights(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := strings.TrimPrefix(d.makeRoom(user), "/v2/rooms/")
	early := d.dialSocket(user, "")
	early.send(`{"type":"send","ref":1,"room":"` + room + `","clientId":"early","text":"x"}`)
	if one := early.next(); one.Type != "problem" || one.Status != 400 || one.Field != "type" {
		t.Errorf("before the handshake: %+v", one)
	}
	early.send(`{"type":"send","room":"` + room + `","clientId":"early","text":"x"}`)
	if code, _ := early.closed(); code != ws.StatusPolicyViolation {
		t.Errorf("before the handshake: %d", code)
	}
	narrow := d.dialSocket(mint(t, Claims{User: "u", Services: []string{"finance"}}), "services=finance")
	narrow.expect("ack")
	narrow.send(`{"type":"send","ref":1,"room":"` + room + `","clientId":"narrow","text":"x"}`)
	if one := narrow.next(); one.Status != http.StatusForbidden {
		t.Errorf("without the service: %+v", one)
	}
	service := d.dialSocket(mint(t, Claims{Org: "*", User: "u"}), "services=finance&orgId=1")
	service.expect("ack")
	service.send(`{"type":"history","ref":1,"room":"` + room + `"}`)
	if one := service.next(); one.Type != "ok" {
		t.Errorf("a service in its stream's org: %+v", one)
	}
	if h := d.historyOf("/v2/rooms/"+room, user, ""); len(h.Messages) != 0 {
		t.Errorf("something was said: %+v", h)
	}
}

// fillRoom has a user say n texts of the greatest size.
func (d *door) fillRoom(room string, n int) {
	d.t.Helper()
	text := strings.Repeat("\U0001F600", textLimit)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			_, err := d.rooms.Send(context.Background(), store.Actor{Org: "1", User: "u"}, strings.TrimPrefix(room, "/v2/rooms/"), "f"+strconv.Itoa(i), text)
			if err != nil {
				d.t.Error(err)
			}
		})
	}
	group.Wait()
}

// TestLargeHistory asks for megabytes several times at once where the connection cannot be owned: each answer comes whole and in its
// turn.
func TestLargeHistory(t *testing.T) {
	t.Parallel()
	const way = "HTTP/1.1 over TLS"
	theseWays(t, map[string]func(*httptest.Server){way: over[way]}, func(t *testing.T, d *door) {
		d.t = t
		d.tls = d.client.Transport.(*http.Transport).TLSClientConfig.Clone()
		d.tls.NextProtos = nil
		user := as(t, "u")
		room := d.makeRoom(user)
		d.fillRoom(room, historyMost)
		c := d.dialSocket(user, "services=finance")
		c.expect("ack")
		const requests = 2
		var pipelined []byte
		for i := range requests {
			request := fmt.Sprintf(`{"type":"history","ref":%d,"limit":200,"room":%q}`, i, strings.TrimPrefix(room, "/v2/rooms/"))
			pipelined = append(pipelined, masked(ws.NewTextFrame([]byte(request)))...)
		}
		c.raw(pipelined)
		want := strings.Repeat("\U0001F600", textLimit)
		for i := range requests {
			var h wireHistory
			if err := json.Unmarshal(c.answerTo(strconv.Itoa(i)).Result, &h); err != nil || len(h.Messages) != historyMost {
				t.Fatalf("the answer %d has %d messages: %v", i, len(h.Messages), err)
			}
			for at, m := range h.Messages {
				if m.Seq != int64(at+1) || m.Text != want {
					t.Fatalf("the message %d of the answer %d is %d, of %d bytes", at, i, m.Seq, len(m.Text))
				}
			}
		}
	})
}

// TestHistoryHoldsUpRequests looks at what is carried out while a large answer waits for its reader: nothing, until that reads.
func TestHistoryHoldsUpRequests(t *testing.T) {
	t.Parallel()
	const said = 60
	d := openDoor(t)
	following(d)
	reader := as(t, "reader")
	room := d.makeRoom(as(t, "u"), "reader")
	d.fillRoom(room, said)
	id := strings.TrimPrefix(room, "/v2/rooms/")
	c := d.dialSocket(reader, "services=finance")
	c.expect("ack")
	var pipelined []byte
	for i := range 3 {
		for _, request := range []string{
			fmt.Sprintf(`{"type":"history","ref":"h%d","limit":200,"room":%q}`, i, id), fmt.Sprintf(`{"type":"read","ref":"r%d","seq":%d,"room":%q}`, i, i+1, id),
		} {
			pipelined = append(pipelined, masked(ws.NewTextFrame([]byte(request)))...)
		}
	}
	c.raw(pipelined)
	unread := func() int64 {
		var stats wireStats
		d.ask("GET", room+"/stats", reader, "").into(t, &stats)
		return stats.UnreadMessages
	}
	eventually(t, patience, "the reader is not blocked", func() bool {
		d.append("1", 1, 10)
		return d.server.Hub.Stats("1").Blocked == 1
	})
	for range 30 { // requests that were read would be carried out meanwhile
		if n := unread(); n != said {
			t.Fatalf("%d are unread while the first answer waits", n)
		}
	}
	for i := range 3 {
		for _, ref := range []string{"h", "r"} {
			if one := c.answerTo(fmt.Sprintf(`"%s%d"`, ref, i)); one.Type != "ok" {
				t.Fatalf("%+v", one)
			}
		}
	}
	if n := unread(); n != said-3 {
		t.Errorf("%d are unread in the end", n)
	}
}

// TestPeerLeavesWhileItAsks has peers send and vanish in all ways, with answers of all sizes on their way: nothing is left of them,
// and what was said was said once or not at all.
func TestPeerLeavesWhileItAsks(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user)
	d.fillRoom(room, 50)
	d.server.messageAllowance = newAllowance(0, 0, "")
	id := strings.TrimPrefix(room, "/v2/rooms/")
	for i := range 12 {
		c := d.dialSocket(user, "services=chat")
		c.expect("ack")
		c.send(fmt.Sprintf(`{"type":"send","ref":1,"room":%q,"clientId":"v%d","text":"x"}`, id, i))
		for range 5 {
			c.send(fmt.Sprintf(`{"type":"history","ref":2,"limit":200,"room":%q}`, id))
		}
		switch plain := c.conn.(*net.TCPConn); i % 3 {
		case 0:
			_ = plain.SetLinger(0) // a reset
			plain.Close()
		case 1:
			plain.CloseWrite() // and reads nothing
		case 2:
			plain.Close()
		}
	}
	eventually(t, patience, "a WebSocket is left", func() bool { return d.server.Hub.Stats("1").Streams == 0 })
	said := map[string]int{}
	for _, m := range d.historyOf(room, user, "limit=200&after=50").Messages {
		said[m.ClientID]++
	}
	for clientID, n := range said {
		if n != 1 {
			t.Errorf("%s was said %d times", clientID, n)
		}
	}
	if len(said) != 12 {
		t.Logf("%d of 12 were said", len(said))
	}
	if strings.Contains(d.log.String(), "level=ERROR") {
		t.Error(d.log.String())
	}
}

// TestPipelined sends requests of all kinds at once: their answers come in the order sent.
func TestPipelined(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := strings.TrimPrefix(d.makeRoom(user), "/v2/rooms/")
	c := d.dialSocket(user, "services=chat")
	c.expect("ack")
	var pipelined []byte
	const n = 15
	for i := range n {
		for k, request := range []string{
			fmt.Sprintf(`"type":"send","clientId":"p%d","text":"%d"`, i, i), `"type":"typing"`, `"type":"history","limit":1`, fmt.Sprintf(`"type":"read","seq":%d`, i),
		} {
			pipelined = append(pipelined, masked(ws.NewTextFrame(fmt.Appendf(nil, `{%s,"room":%q,"ref":%d}`, request, room, 4*i+k)))...)
		}
	}
	c.raw(pipelined)
	for i := range 4 * n {
		answer := c.answerTo(strconv.Itoa(i))
		var h wireHistory
		if i%4 == 2 {
			if err := json.Unmarshal(answer.Result, &h); err != nil || len(h.Messages) != 1 || h.Messages[0].Text != strconv.Itoa(i/4) {
				t.Errorf("the history after %d is %+v", i/4, h)
			}
		}
		if answer.Type != "ok" {
			t.Fatalf("%+v", answer)
		}
	}
}

// TestNothingAfterTheEnd has a WebSocket ended by the server, whose peer goes on sending: nothing of that is said.
func TestNothingAfterTheEnd(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withHub(streams.Options{MaxStreamsPerUser: 1}))
	user := as(t, "u")
	room := d.makeRoom(user)
	c := d.dialSocket(user, "services=finance")
	c.expect("ack")
	newer := d.dialSocket(user, "services=finance") // which takes its place
	newer.expect("ack")
	for {
		f, ok := c.frame()
		if !ok {
			t.Fatal("no close frame")
		}
		if f.Header.OpCode == ws.OpClose {
			break
		}
	}
	for i := range 3 {
		c.raw(masked(ws.NewTextFrame(fmt.Appendf(nil, `{"type":"send","clientId":"late%d","text":"x","room":%q}`, i, strings.TrimPrefix(room, "/v2/rooms/")))))
	}
	if _, more := c.frame(); more {
		t.Error("something comes after the close frame")
	}
	for range 50 { // what was read would be said meanwhile
		if h := d.historyOf(room, user, ""); len(h.Messages) > 0 {
			t.Fatalf("it was said: %+v", h)
		}
	}
}

// TestRoomStream follows one room by its own path, in all encodings.
func TestRoomStream(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	chatting(d)
	user := as(t, "u")
	room, other := d.makeRoom(user), d.makeRoom(user)
	d.says(other, user, "o", "elsewhere")
	d.says(room, user, "a", "here")
	for _, path := range []string{"?services=chat", "?rooms=x", "?propertyId=7"} {
		d.ask("GET", room+"/stream"+path, user, "").wants(t, path, 400)
		d.ask("GET", room+"/stream"+path, "", "").wants(t, path+" without a token", 401)
	}
	for _, path := range []string{"/v2/rooms/nowhere", "/v2/rooms/a%2Cb", "/v2/rooms/%2E%2E", "/v2/rooms/" + strings.Repeat("x", 129)} {
		d.ask("GET", path+"/stream", user, "").wants(t, path, 404)
		d.ask("GET", path+"/stream", "", "").wants(t, path+" without a token", 401)
	}
	d.ask("GET", room+"/stream", as(t, "stranger"), "").wants(t, "a stranger", 404)
	d.ask("GET", room+"/stream", mint(t, Claims{User: "u", Services: []string{"finance"}}), "").wants(t, "without the service", 403)
	d.ask("GET", room+"/stream?cursor=x", user, "").wants(t, "a wrong cursor", 400)
	d.ask("GET", room+"/stream", user, "", "Accept", "text/html").wants(t, "another encoding", 406)
	d.ask("HEAD", room+"/stream", user, "").wants(t, "HEAD", 200, "Content-Type", eventStream)
	var ticket struct{ Ticket string }
	d.ask("POST", "/v2/tickets", user, "").into(t, &ticket)
	c, err := d.tryDialPath("", room+"/stream?cursor=earliest&ticket="+ticket.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	if ack := c.expect("ack"); !slices.Equal(ack.Services, []string{"chat"}) {
		t.Errorf("%+v", ack)
	}
	texts := ""
	for !strings.Contains(texts, `"text":"here"`) {
		f, ok := c.frame()
		if !ok {
			t.Fatal("the stream ends")
		}
		texts += string(f.Payload)
	}
	for kind, accept := range map[string]string{"sse": eventStream, "ndjson": ndjsonType} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, "GET", d.url+room+"/stream?cursor=earliest", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+user)
		request.Header.Set("Accept", accept)
		response, err := d.client.Do(request)
		if err != nil || response.Header.Get("Content-Type") != accept {
			t.Fatalf("%s: %v %v", kind, response, err)
		}
		defer response.Body.Close()
		buffer, n := make([]byte, 64<<10), 0
		for got := 0; !strings.Contains(string(buffer[:n]), `"text":"here"`); n += got {
			if got, err = response.Body.Read(buffer[n:]); err != nil {
				t.Fatalf("%s: %v after %s", kind, err, buffer[:n])
			}
		}
		texts += string(buffer[:n])
	}
	if strings.Contains(texts, "elsewhere") {
		t.Errorf("another room is carried: %s", texts)
	}
}
