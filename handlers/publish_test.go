package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"sluice/store"
)

// committed is the answer to a publish.
type committed struct {
	Events []struct {
		ID, Cursor string
		Duplicate  bool
	}
}

func (d *door) mustPublish(token, body string) committed {
	d.t.Helper()
	got := d.publish(token, body)
	var answer committed
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != http.StatusCreated {
		d.t.Fatalf("%s: %d %s (%v)", body, got.status, got.body, err)
	}
	return answer
}

// TestPublish reads back from the log what the door took.
func TestPublish(t *testing.T) {
	d := openDoor(t)
	for i, c := range []struct {
		name, body string
		want       store.Event
	}{
		{
			"smallest", `{"service":"finance","type":"expense_added"}`,
			store.Event{Service: "finance", Type: "expense_added", Data: json.RawMessage(`{}`)},
		},
		{
			"all fields", `{"id":"a:1._-Z","orgId":"ORG","service":"guest","type":"t_1","propertyId":"7","entityType":"guest",
				"entityId":"42","userId":"u","data":{"a":1}}`,
			store.Event{
				ID: "a:1._-Z", Service: "guest", Type: "t_1", PropertyID: "7", EntityType: "guest", EntityID: "42",
				UserID: "u", Data: json.RawMessage(`{"a":1}`),
			},
		},
		{
			"numbers as ids", `{"id":12,"service":"tasks","type":"t","propertyId":7,"entityId":9007199254740993,"userId":-1}`,
			store.Event{
				ID: "12", Service: "tasks", Type: "t", PropertyID: "7", EntityID: "9007199254740993", UserID: "-1",
				Data: json.RawMessage(`{}`),
			},
		},
		{
			"null is absent", `{"id":null,"orgId":null,"service":"tasks","type":"t","propertyId":null,"entityType":null,
				"entityId":null,"userId":null,"data":null}`,
			store.Event{Service: "tasks", Type: "t", Data: json.RawMessage(`{}`)},
		},
		{
			"data as it came", "{\"service\":\"tasks\",\"type\":\"t\",\"data\": {\n\t\"b\" : 1.0 , \"a\":1e400,\r\n\"a\":[ ],\"ü\":\"\\u00e9 \\n\"}}",
			store.Event{Service: "tasks", Type: "t", Data: json.RawMessage(`{"b":1.0,"a":1e400,"a":[],"ü":"\u00e9 \n"}`)},
		},
		{
			"escapes of nothing and of half a pair in data", `{"service":"tasks","type":"t","data":{"a":"\u0000","b":"\ud800"}}`,
			store.Event{Service: "tasks", Type: "t", Data: json.RawMessage(`{"a":"\u0000","b":"\ud800"}`)},
		},
		{
			"labels of any script, 128 bytes", `{"service":"tasks","type":"t","propertyId":"` + strings.Repeat("ж", 64) + `"}`,
			store.Event{Service: "tasks", Type: "t", PropertyID: strings.Repeat("ж", 64), Data: json.RawMessage(`{}`)},
		},
		{
			"escaped names", `{"\u0073ervice":"tasks","type":"t"}`,
			store.Event{Service: "tasks", Type: "t", Data: json.RawMessage(`{}`)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			org := fmt.Sprint("org", i)
			answer := d.mustPublish(publisher(t, org), strings.ReplaceAll(c.body, "ORG", org))
			got := d.logOf(org)
			if len(got) != 1 || len(answer.Events) != 1 {
				t.Fatalf("%d events in the log, %d answered", len(got), len(answer.Events))
			}
			event := got[0]
			if answer.Events[0].ID != event.ID || answer.Events[0].Duplicate ||
				answer.Events[0].Cursor != (store.Cursor{Epoch: d.events.Epoch(), Seq: 1}).String() {
				t.Errorf("answered %+v for %+v", answer.Events[0], event)
			}
			if c.want.ID == "" {
				if made, err := uuid.Parse(event.ID); err != nil || made.Version() != 7 {
					t.Errorf("the id %q is no UUIDv7", event.ID)
				}
				c.want.ID = event.ID
			}
			c.want.Org, c.want.Seq, c.want.Time = org, 1, event.Time
			if !reflect.DeepEqual(event, c.want) {
				t.Errorf("in the log is\n%+v with %s, not\n%+v with %s", event, event.Data, c.want, c.want.Data)
			}
		})
	}
}

// TestPublishRefusals goes through everything that docs/protocol.md refuses. Nothing of it reaches the log.
func TestPublishRefusals(t *testing.T) {
	d := openDoor(t)
	event := func(more string) string { return `{"service":"finance","type":"t"` + more + `}` }
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		name, body string
		status     int
		field      string
	}{
		{"nothing", ``, 400, ""},
		{"no JSON", `{`, 400, ""},
		{"a string", `"finance"`, 400, ""},
		{"null", `null`, 400, ""},
		{"behind", event("") + `x`, 400, ""},
		{"two", event("") + event(""), 400, ""},
		{"behind a batch", `[` + event("") + `]]`, 400, ""},
		{"empty batch", `[]`, 400, ""},
		{"101 events", `[` + strings.Repeat(event("")+",", 100) + event("") + `]`, 400, ""},
		{"batch of numbers", `[1]`, 400, "events[0]"},
		{"batch of batches", `[[` + event("") + `]]`, 400, "events[0]"},
		{"unknown field", event(`,"Data":{}`), 400, "Data"},
		{"unknown field in a batch", `[` + event("") + `,` + event(`,"time":"now"`) + `]`, 400, "events[1].time"},
		{"twice", event(`,"id":"a","id":"a"`), 400, "id"},
		{"twice, escaped", event(`,"\u0069d":"a","id":"a"`), 400, "id"},
		{"twenty fields", `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1}`, 400, "a"},
		{"long name", `{"` + strings.Repeat("n", 5000) + `":1}`, 400, strings.Repeat("n", 128)},
		{"no service", `{"type":"t"}`, 400, "service"},
		{"null service", `{"service":null,"type":"t"}`, 400, "service"},
		{"no type", `{"service":"finance"}`, 400, "type"},
		{"unknown service", `{"service":"fun","type":"t"}`, 400, "service"},
		{"derived", `{"service":"dashboard","type":"t"}`, 400, "service"},
		{"the server's own", `{"service":"chat","type":"t"}`, 400, "service"},
		{"the server's own", `{"service":"documents","type":"t"}`, 400, "service"},
		{"type in capitals", `{"service":"finance","type":"T"}`, 400, "type"},
		{"type with a line", `{"service":"finance","type":"t\n"}`, 400, "type"},
		{"long type", `{"service":"finance","type":"` + long[:65] + `"}`, 400, "type"},
		{"empty id", event(`,"id":""`), 400, "id"},
		{"id with a space", event(`,"id":"a b"`), 400, "id"},
		{"long id", event(`,"id":"` + long + `"`), 400, "id"},
		{"fraction as id", event(`,"id":1.5`), 400, "id"},
		{"exponent as id", event(`,"entityId":1e3`), 400, "entityId"},
		{"truth as id", event(`,"userId":true`), 400, "userId"},
		{"object as id", event(`,"propertyId":{}`), 400, "propertyId"},
		{"long label", event(`,"entityType":"` + long + `"`), 400, "entityType"},
		{"long label by bytes", event(`,"entityType":"` + strings.Repeat("ж", 65) + `"`), 400, "entityType"},
		{"NUL in a label", event(`,"propertyId":"a\u0000"`), 400, "propertyId"},
		{"tab in a label", event(`,"userId":"a\tb"`), 400, "userId"},
		{"DEL in a label", event(`,"userId":"a` + "\x7f" + `"`), 400, "userId"},
		{"C1 in a label", event(`,"userId":"a\u0085"`), 400, "userId"},
		{"data a list", event(`,"data":[]`), 400, "data"},
		{"data a string", event(`,"data":"{}"`), 400, "data"},
		{"data broken", event(`,"data":{"a":}`), 400, ""},
		{"raw NUL", event(`,"data":{"a":"` + "\x00" + `"}`), 400, ""},
		{"not UTF-8", event(`,"data":{"a":"` + "\xff" + `"}`), 400, ""},
		{"too deep", event(`,"data":` + strings.Repeat(`{"a":`, 512) + `1` + strings.Repeat("}", 512)), 400, ""},
		{"data over 64 KiB", event(`,"data":{"a":"` + strings.Repeat("x", 64<<10) + `"}`), 413, "data"},
		{"over 1 MiB", `[` + strings.Repeat(" ", 1<<20) + `]`, 413, ""},
		{"another org", event(`,"orgId":"2"`), 403, "orgId"},
		{"any org", event(`,"orgId":"*"`), 403, "orgId"},
		{"last of a batch", `[` + event("") + `,` + event("") + `,` + event(`,"data":7`) + `]`, 400, "events[2].data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := d.publish(publisher(t, "1"), c.body)
			p := got.problem(t)
			if got.status != c.status || p.Field != c.field || p.Detail == "" {
				t.Errorf("%s\nwant %d for %q", got.body, c.status, c.field)
			}
			if got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Request-Id") == "" {
				t.Errorf("headers %v", got.header)
			}
		})
	}
	if events := d.logOf("1"); len(events) > 0 {
		t.Errorf("%d refused events are in the log, such as %+v", len(events), events[0])
	}
}

// TestPublishRights tells who may publish, and by what.
func TestPublishRights(t *testing.T) {
	d := openDoor(t)
	event := `{"service":"finance","type":"t"}`
	service := mint(t, Claims{Org: "*", User: "app", Scope: "publish"})
	for _, c := range []struct {
		name, token, body string
		headers           []string
		status            int
	}{
		{"no token", "", event, nil, 401},
		{"no scope", mint(t, Claims{Role: "ADMIN"}), event, nil, 403},
		{"another scope", mint(t, Claims{Role: "ADMIN", Scope: "admin publisher"}), event, nil, 403},
		{"two scopes", mint(t, Claims{Scope: "admin publish"}), event, nil, 201},
		{"not of the properties", mint(t, Claims{Role: "MANAGER", Properties: []string{"1"}, Scope: "publish"}), `{"service":"finance","type":"t","propertyId":"2"}`, nil, 201},
		{"allowed service", mint(t, Claims{Scope: "publish", Services: []string{"finance"}}), event, nil, 201},
		{"other service", mint(t, Claims{Scope: "publish", Services: []string{"tasks"}}), event, nil, 403},
		{"no service", mint(t, Claims{Scope: "publish", Services: []string{}}), event, nil, 403},
		{"own org named", publisher(t, "1"), `{"orgId":1,"service":"finance","type":"t"}`, nil, 201},
		{"service token", service, `{"orgId":"9","service":"finance","type":"t"}`, nil, 201},
		{"service token without org", service, event, nil, 400},
		{"service token for all", service, `{"orgId":"*","service":"finance","type":"t"}`, nil, 400},
		{"no content type", publisher(t, "1"), event, []string{"Content-Type", ""}, 415},
		{"form", publisher(t, "1"), event, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"text", publisher(t, "1"), event, []string{"Content-Type", "text/plain; x=application/json"}, 415},
		{"JSON with a charset", publisher(t, "1"), event, []string{"Content-Type", "Application/JSON; charset=utf-8"}, 201},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := append([]string{"Content-Type", "application/json"}, c.headers...)
			if got := d.ask(http.MethodPost, "/v2/events", c.token, c.body, headers...); got.status != c.status {
				t.Errorf("%d %s, want %d", got.status, got.body, c.status)
			}
		})
	}
	if events := d.logOf("9"); len(events) != 1 {
		t.Errorf("%d events in the org that the service token named", len(events))
	}
}

// TestPublishBatch keeps the order, answers duplicates with the first cursor, and takes a largest batch.
func TestPublishBatch(t *testing.T) {
	d := openDoor(t)
	token := publisher(t, "1")
	first := d.mustPublish(token, `[{"id":"b","service":"finance","type":"t"},{"id":"a","service":"guest","type":"t"}]`)
	again := d.mustPublish(token, `[{"id":"c","service":"finance","type":"t"},{"id":"a","service":"guest","type":"other"},{"id":"c","service":"finance","type":"t"}]`)
	var ids []string
	for _, event := range d.logOf("1") {
		ids = append(ids, event.ID)
	}
	if !slices.Equal(ids, []string{"b", "a", "c"}) {
		t.Errorf("the log has %v", ids)
	}
	if got := again.Events[1]; !got.Duplicate || got.Cursor != first.Events[1].Cursor {
		t.Errorf("the duplicate is answered %+v, the first was %+v", got, first.Events[1])
	}
	if a, b := again.Events[0], again.Events[2]; a.Duplicate || !b.Duplicate || a.Cursor != b.Cursor {
		t.Errorf("twice in one batch is answered %+v and %+v", a, b)
	}
	// 64 KiB of data to the byte, after white space is removed, and 1 MiB of body to the byte.
	full := `{ "a" : "` + strings.Repeat("x", 64<<10-len(`{"a":""}`)) + `"}`
	body := `{"service":"finance","type":"t","data":` + full + `}`
	d.mustPublish(token, body+strings.Repeat(" ", 1<<20-len(body)))
	d.mustPublish(token, `[`+strings.Repeat(`{"service":"finance","type":"t"},`, 99)+`{"service":"finance","type":"t"}]`)
	if got := len(d.logOf("1")); got != 104 {
		t.Errorf("%d events in the log", got)
	}
}

// TestPublishAway answers 503, and when to come back, where the log takes nothing.
func TestPublishAway(t *testing.T) {
	d := openDoor(t)
	d.appender.Close(context.Background())
	got := d.publish(publisher(t, "1"), `{"service":"finance","type":"t"}`)
	if got.problem(t); got.status != 503 || got.header.Get("Retry-After") != "1" {
		t.Errorf("%d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
}

// TestPublishSlowly closes a connection whose body does not come.
func TestPublishSlowly(t *testing.T) {
	d := openDoor(t)
	d.server.bodyTimeout = 50 * time.Millisecond
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v2/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n"+
		"Content-Length: 100\r\n\r\n{\"service\"", publisher(t, "1"))
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("the connection stays open: %v after %q", err, text)
	}
	if !bytes.HasPrefix(text, []byte("HTTP/1.1 408 ")) || !bytes.Contains(text, []byte("application/problem+json")) {
		t.Errorf("%s", text)
	}
}

// FuzzParseEvents holds what the door lets in against what the log and the encoders rely on.
func FuzzParseEvents(f *testing.F) {
	for _, seed := range []string{
		`{"service":"finance","type":"t"}`, `[{"service":"finance","type":"t","data":{"a":[1,{"b":"\u0000"}]}}]`,
		`{"id":12,"service":"guest","type":"t","propertyId":"é","data": { "x" : 1e9 }}`, `[]`, `{}`, `nul`, `{"data":{}`,
		`{"service":"finance","type":"t","userId":"\ud83d\ude00"}`, "{\"service\":\"tasks\",\"type\":\"t\",\"data\":{\"a\":\n1}}",
		`{"service":"finance","service":"guest","type":"t"}`, `{"service":"finance","type":"t"}{}`,
	} {
		f.Add([]byte(seed))
	}
	server := &Server{Catalogue: store.DefaultCatalogue()}
	caller := &Caller{Org: "1", User: "7", Scopes: []string{"publish"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !utf8.Valid(body) || depth(body) > depthLimit {
			return // readJSON has refused it
		}
		drafts, err := server.parseEvents(body, caller)
		if err != nil {
			if p := problemOf(err); p.Status != 400 && p.Status != 403 && p.Status != 413 || p.Detail == "" {
				t.Fatalf("%q is answered with %v", body, err)
			}
			return
		}
		if !json.Valid(body) || len(drafts) < 1 || len(drafts) > batchLimit {
			t.Fatalf("%d drafts of %q", len(drafts), body)
		}
		for _, draft := range drafts {
			if draft.Org != "1" || server.Catalogue.Bit(draft.Service) == 0 || !eventTypes.MatchString(draft.Type) || !eventIDs.MatchString(draft.ID) {
				t.Fatalf("%q became %+v", body, draft)
			}
			for _, one := range []string{draft.PropertyID, draft.EntityType, draft.EntityID, draft.UserID} {
				if !utf8.ValidString(one) || len(one) > labelLimit || strings.ContainsAny(one, "\x00\r\n\t\x7f") {
					t.Fatalf("%q has the label %q", body, one)
				}
			}
			if !json.Valid(draft.Data) || draft.Data[0] != '{' || len(draft.Data) > dataLimit || bytes.ContainsAny(draft.Data, "\r\n\t") {
				t.Fatalf("%q has the data %q", body, draft.Data)
			}
		}
	})
}
