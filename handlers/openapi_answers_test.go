package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/store"
	"sluice/streams"
)

// heads asks for an answer that may go on for ever, and takes its status and headers.
func (d *door) heads(path, token string, headers ...string) reply {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := d.client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	response.Body.Close()
	return reply{status: response.StatusCode, header: response.Header}
}

// slowly sends a body that does not come.
func (d *door) slowly(method, path, token string, headers ...string) reply {
	d.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 90\r\n", method, path, token)
	for i := 0; i < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	fmt.Fprint(conn, text+"\r\n{")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var body json.RawMessage
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		d.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(body)}
}

// defective is an appender with a defect.
type defective struct{}

func (defective) Append(context.Context, []store.Draft) ([]store.Appended, error) {
	return nil, errors.New("a defect")
}

// unheard are the answers of the document that cannot be provoked from outside; a defect is one of them everywhere else than
// behind defective.
var unheard = []string{
	"GET /v2/realtime/metrics 500", "GET /v2/realtime/poll 500", "GET /v2/realtime/stream 500", "POST /v2/tickets 500",
	"POST /v2/tickets 503", // the database does not answer
	"GET /v2/uploads/{id}/progress 500", "GET /v2/uploads/{id}/content 500", "POST /v2/uploads/{id}/links 500",
	"GET /v2/uploads/{id}/content 503", "POST /v2/uploads/{id}/links 503",
}

// TestOpenAPIAnswers provokes every answer that the document lists, and holds it against its description.
func TestOpenAPIAnswers(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	d := openDoor(t, withHub(streams.Options{MaxStreamsPerOrg: 1}))
	following(d)
	app, user, service := publisher(t, "1"), admin(t, "7"), mint(t, Claims{Org: "*"})
	narrow := mint(t, Claims{Services: []string{"tasks"}})
	json1 := []string{"Content-Type", "application/json"}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, one := range []struct{ path, token string }{
			{"/openapi.yaml", ""},
			{"/healthz/live", ""},
			{"/healthz/ready", ""},
			{"/v2/realtime/metrics", ""},
			{"/v2/realtime/metrics", service},
			{"/v2/realtime/metrics", user},
			{"/v2/realtime/metrics?orgId=1", service},
			{"/v2/realtime/transport", ""},
			{"/v2/realtime/transport", user},
			{"/migration", ""},
			{"/v2/realtime/poll", ""},
			{"/v2/realtime/poll", user},
			{"/v2/realtime/poll?wait=-1", user},
			{"/v2/realtime/poll?services=finance", narrow},
			{"/v2/realtime/stream", ""},
			{"/v2/realtime/stream?cursor=x", user},
			{"/v2/realtime/stream?services=finance", narrow},
		} {
			c.keeps(method, one.path, d.ask(method, one.path, one.token, ""))
		}
		c.keeps(method, "/v2/realtime/stream", d.ask(method, "/v2/realtime/stream", user, "", "Accept", "text/html"))
	}
	c.keeps("GET", "/openapi.yaml", d.ask("GET", "/openapi.yaml", "", "", "If-None-Match", d.ask("GET", "/openapi.yaml", "", "").header.Get("ETag")))
	event := `{"id":"a","service":"finance","type":"t","propertyId":"ü","entityType":"e","entityId":1,"userId":"u","data":{"a":1}}`
	for _, one := range []struct {
		token, body string
		headers     []string
	}{
		{app, event, json1},
		{app, event, json1}, // a duplicate
		{app, "[" + event + `,{"service":"tasks","type":"t","id":"b"}]`, json1},
		{app, `[{"service":"finance","type":"t"},{"service":"finance"}]`, json1},
		{app, `{"service":"finance","type":"t","data":{"a":"` + strings.Repeat("x", dataLimit) + `"}}`, json1},
		{app, strings.Repeat(" ", bodyLimit+1), json1},
		{app, event, nil},
		{user, event, json1},
		{"", event, json1},
	} {
		c.keeps("POST", "/v2/events", d.ask("POST", "/v2/events", one.token, one.body, one.headers...))
	}
	for _, query := range []string{"cursor=earliest", "cursor=a-1", "cursor=earliest&services=tasks"} {
		c.keeps("GET", "/v2/realtime/poll", d.ask("GET", "/v2/realtime/poll?"+query, user, ""))
	}
	over := mint(t, Claims{Expires: time.Now().Add(-25 * time.Second)}) // within the leeway, and no longer while the poll waits
	head := d.poll(user, "").Cursor
	expired := d.ask("GET", "/v2/realtime/poll?wait=60&cursor="+head, over, "")
	if c.keeps("GET", "/v2/realtime/poll", expired); expired.status != 401 {
		t.Errorf("a poll whose token ends is answered with %d", expired.status)
	}
	c.streamHeads(d, user)
	c.tickets(d)
	c.uploadsRead()
	c.old(d)
	c.uploads()
	c.rooms()
	c.elsewhere(d)
	c.away(app, user)
	if missing := slices.DeleteFunc(c.missing(), func(one string) bool {
		return slices.Contains(unheard, one) || strings.HasSuffix(one, "500") && !strings.Contains(one, "/v2/") // the old API's
	}); len(missing) > 0 {
		t.Errorf("no answer was heard for %s: have this test ask for them, or take them out of %s", strings.Join(missing, ", "), openAPIName)
	}
}

// streamHeads holds what stands before a stream against the document, and what is said where the org has its one stream.
func (c *contract) streamHeads(d *door, token string) {
	c.t.Helper()
	const path = "/v2/realtime/stream"
	upgrade := []string{
		"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Protocol", oldProtocol,
		"Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==",
	}
	for _, headers := range [][]string{{"Accept", eventStream}, {"Accept", ndjsonType}, upgrade} {
		c.keeps("GET", path, d.heads(path+"?services=finance", token, headers...))
		d.await("1", 0, 0)
		c.keeps("HEAD", path, d.ask("HEAD", path, token, "", headers[:2]...))
	}
	upgrade[5] = "12"
	c.keeps("GET", path, d.ask("GET", path, token, "", upgrade...))
	open := d.stream(d.client, token)
	defer open.Body.Close()
	d.await("1", 1, 0)
	c.keeps("GET", path, d.ask("GET", path, token, "", "Accept", ndjsonType))
	c.keeps("GET", path, d.ask("GET", path, token, "", "Accept", eventStream))
}

// tickets holds what is said of tickets against the document.
func (c *contract) tickets(d *door) {
	c.t.Helper()
	const path = "/v2/tickets"
	kind := []string{"Content-Type", "application/json"}
	user := mint(c.t, Claims{User: "of tickets"})
	c.keeps("POST", path, d.ask("POST", path, "", ""))
	c.keeps("POST", path, d.ask("POST", path, user, "{}", kind...))
	c.keeps("POST", path, d.ask("POST", path, user, `{"a":1}`, kind...))
	c.keeps("POST", path, d.ask("POST", path, user, "{}"))
	c.keeps("POST", path, d.ask("POST", path, "", "", "Cookie", tokenCookie+"="+user))
	eventually(c.t, patience, "tickets without end", func() bool {
		got := d.ask("POST", path, user, "")
		c.keeps("POST", path, got)
		return got.status == http.StatusTooManyRequests
	})
}

// oldPaths are those of the old API, each as the document names it and as it is asked for.
var oldPaths = [][2]string{
	{"/{service}/realtime/subscribe", "/tasks/realtime/subscribe"},
	{"/guest-checkin/realtime/subscribe", "/guest-checkin/realtime/subscribe"},
	{"/guest-checkin/realtime/subscribe-v3", "/guest-checkin/realtime/subscribe-v3"},
	{"/guest-checkin/audit-events/subscribe", "/guest-checkin/audit-events/subscribe"},
	{"/reports/realtime/poll", "/reports/realtime/poll"},
	{"/finance/realtime/metrics", "/finance/realtime/metrics"},
	{"/finance/events/subscribe", "/finance/events/subscribe"},
}

// old holds the old API against the document: with events and without, retired in each way, and while the instance drains.
func (c *contract) old(d *door) {
	c.t.Helper()
	all := mint(c.t, Claims{User: "of old", Role: "ADMIN", Scope: "publish"})
	other := mint(c.t, Claims{User: "of old", Services: []string{"staff"}})
	retired := func(mode LegacyMode) *door {
		return openDoor(c.t, func(d *door) {
			d.server.Legacy = Legacy{
				Mode: func() LegacyMode { return mode }, Sunset: time.Now().Add(time.Hour), Wait: time.Millisecond,
			}
		})
	}
	soon, deprecated, gone := retired(LegacyOn), retired(LegacyDeprecated), retired(LegacyGone)
	drained := openDoor(c.t)
	drained.server.Hub.Drain(context.Background())
	for _, service := range []string{"tasks", "finance", "guest"} {
		for _, kind := range []string{"t", "audit_t"} {
			soon.mustPublish(all, fmt.Sprintf(`{"service":%q,"type":%q,"propertyId":7,"entityId":"x","entityType":"e","userId":5}`, service, kind))
		}
	}
	for _, version := range []string{"", "/v1"} {
		for _, one := range oldPaths {
			path := version + one[0]
			for _, asked := range []struct {
				of           *door
				token, query string
			}{
				{soon, all, ""},
				{soon, "", ""},
				{soon, other, ""},
				{soon, all, "?lastEventId=x"},
				{soon, all, "?lastEventId=2026-01-01T00:00:00Z"},
				{deprecated, all, ""},
				{gone, all, ""},
				{drained, all, ""},
			} {
				c.keeps("GET", path, asked.of.ask("GET", version+one[1]+asked.query, asked.token, ""))
			}
		}
		c.keeps("GET", version+"/{service}/realtime/subscribe", soon.ask("GET", version+"/nothing/realtime/subscribe", all, ""))
	}
	reader := mint(c.t, Claims{User: "of guest", Role: "ADMIN"})
	for range 2 { // the first one starts at now
		c.keeps("GET", "/v1/guest-checkin/realtime/subscribe-v3", soon.ask("GET", "/v1/guest-checkin/realtime/subscribe-v3", reader, ""))
		soon.mustPublish(all, `{"service":"guest","type":"t","entityId":1,"entityType":"e","propertyId":7}`)
	}
	got := soon.ask("GET", "/v1/guest-checkin/realtime/subscribe-v3", reader, "")
	if c.keeps("GET", "/v1/guest-checkin/realtime/subscribe-v3", got); !strings.Contains(got.body, "eventType") {
		c.t.Errorf("there are no events of guests: %s", got.body)
	}
}

// elsewhere holds the answers of no operation against their descriptions.
func (c *contract) elsewhere(d *door) {
	c.t.Helper()
	for _, one := range []struct{ method, path, name string }{
		{"GET", "/nowhere", "NotFound"},
		{"GET", "/v2/nowhere", "NotFound"},
		{"DELETE", "/v2/events", "MethodNotAllowed"},
		{"POST", "/healthz/live", "MethodNotAllowed"},
	} {
		response := c.doc.Components.Responses[one.name]
		if response == nil {
			c.t.Fatalf("%s has no response %s", openAPIName, one.name)
		}
		c.answers(one.method+" "+one.path, response.Value, d.ask(one.method, one.path, "", ""), true)
	}
}

// away holds the answers of servers that do not serve for now against the document.
func (c *contract) away(app, user string) {
	c.t.Helper()
	const path = "/v2/events"
	event := `{"service":"finance","type":"t"}`
	broken := openDoor(c.t, func(d *door) {
		d.server.Appender = defective{}
		d.server.Checks = []Check{{"broken", func(context.Context) error { return errors.New("is broken") }}}
	})
	c.keeps("POST", path, broken.publish(app, event))
	c.keeps("GET", "/healthz/ready", broken.ask("GET", "/healthz/ready", "", ""))
	broken.server.bodyTimeout = 50 * time.Millisecond
	c.keeps("POST", path, broken.slowly("POST", path, app, "Content-Type", "application/json"))

	limited := openDoor(c.t, func(d *door) { d.server.PublishRate = 1 })
	eventually(c.t, patience, "no limit of publishing", func() bool {
		got := limited.publish(app, event)
		c.keeps("POST", path, got)
		return got.status == http.StatusTooManyRequests
	})

	drained := openDoor(c.t, func(d *door) { d.server.Draining = func() bool { return true } })
	drained.appender.Close(context.Background())
	drained.server.Hub.Drain(context.Background())
	c.keeps("POST", path, drained.publish(app, event))
	for _, path := range []string{"/v2/realtime/poll", "/v2/realtime/stream", "/healthz/ready"} {
		c.keeps("GET", path, drained.ask("GET", path, user, ""))
		c.keeps("GET", path, drained.ask("GET", path, user, "", "Accept", eventStream))
	}
}

// TestOpenAPIBodies publishes what the document shows, and has the server refuse what its schemas refuse.
func TestOpenAPIBodies(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	d := openDoor(t)
	content := c.doc.Paths.Value("/v2/events").Post.RequestBody.Value.Content["application/json"]
	for name, example := range content.Examples {
		text, err := json.Marshal(example.Value.Value)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.publish(publisher(t, "1"), string(text)); got.status != http.StatusCreated {
			t.Errorf("the example %s is refused with %s", name, got.body)
		}
	}
	long := strings.Repeat("x", 129)
	for body, good := range map[string]bool{
		`{"service":"finance","type":"t"}`:                                                  true,
		`{"service":"finance","type":"t","id":5,"orgId":1,"userId":-5,"entityId":null}`:     true,
		`{"service":"finance","type":"t","id":null,"orgId":"","propertyId":"","data":null}`: true,
		`[{"service":"finance","type":"t","propertyId":"ü\"\\"}]`:                           true,
		`[]`:                               false,
		`5`:                                false,
		`{"service":"finance"}`:            false,
		`{"type":"t"}`:                     false,
		`{"service":null,"type":"t"}`:      false,
		`{"service":"finance","type":"T"}`: false,
		`{"service":"finance","type":5}`:   false,
		`{"service":"finance","type":"t","id":""}`:                                                           false,
		`{"service":"finance","type":"t","id":"ü"}`:                                                          false,
		`{"service":"finance","type":"t","id":"` + long + `"}`:                                               false,
		`{"service":"finance","type":"t","id":1.5}`:                                                          false,
		`{"service":"finance","type":"t","userId":true}`:                                                     false,
		`{"service":"finance","type":"t","userId":"` + long + `"}`:                                           false,
		`{"service":"finance","type":"t","entityId":"\n"}`:                                                   false,
		`{"service":"finance","type":"t","entityType":"\u0085"}`:                                             false,
		`{"service":"finance","type":"t","data":[]}`:                                                         false,
		`{"service":"finance","type":"t","data":"{}"}`:                                                       false,
		`{"service":"finance","type":"t","cursor":"a-1"}`:                                                    false,
		`{"service":"finance","type":"t","Type":"t"}`:                                                        false,
		`[{"service":"finance","type":"t"},[]]`:                                                              false,
		"[" + strings.Repeat(`{"service":"finance","type":"t"},`, 100) + `{"service":"finance","type":"t"}]`: false,
	} {
		err := fits(content.Schema, []byte(body))
		got := d.publish(publisher(t, "1"), body)
		if (err == nil) != good || (got.status == http.StatusCreated) != good || !good && got.status != http.StatusBadRequest {
			t.Errorf("%s: the schema says %v, the server %d %s", body, err, got.status, got.body)
		}
	}
}

// TestOpenAPIMessages sends over a WebSocket what the document shows, and what its schemas refuse.
func TestOpenAPIMessages(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	d := openDoor(t)
	for _, name := range []string{"Handshake", "Subscribe"} {
		query := map[string]string{"Handshake": "", "Subscribe": "services=tasks"}[name]
		schema := c.schema(name)
		messages := map[string]bool{
			`{"type":"nothing"}`:                       false,
			`{"type":"subscribe","services":"tasks"}`:  false,
			`{"type":"subscribe","services":[true]}`:   false,
			`{"type":"subscribe","propertyId":[7]}`:    false,
			`{"type":"subscribe","version":2}`:         false,
			`{"type":"subscribe","since":"yesterday"}`: false,
			`{"type":"subscribe","ref":{}}`:            false,
			`{"type":"subscribe","cursor":"x"}`:        false,
			`[]`:                                       false,
			`{"type":"subscribe","services":null,"propertyId":null,"version":1,"ref":5}`: true,
		}
		for _, example := range schema.Value.Examples {
			text, err := json.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			messages[string(text)] = true
		}
		for message, good := range messages {
			socket := d.dialSocket(admin(t, "7"), query)
			if query != "" {
				socket.expect("ack")
			}
			socket.send(message)
			answered := socket.next().Type
			if err := fits(schema, []byte(message)); (err == nil) != good || (answered == "problem") == good {
				t.Errorf("%s %s: the schema says %v, the server %s", name, message, err, answered)
			}
			socket.conn.Close()
		}
	}
}
