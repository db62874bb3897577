package handlers

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

const (
	oneRoom    = "/v2/rooms/{id}"
	oneMember  = oneRoom + "/members/{user}"
	oneMessage = oneRoom + "/messages/{seq}"
)

// roomCall is a call of a room: what it is asked with, and what is wrong with it; "": it has no body that could be.
type roomCall struct{ method, path, body, wrong string }

var roomCalls = []roomCall{
	{"POST", "/v2/rooms", `{"name":"x"}`, `{}`},
	{"GET", "/v2/rooms", "", ""},
	{"GET", oneRoom, "", ""},
	{"PATCH", oneRoom, `{"name":"S"}`, `{}`},
	{"PUT", oneMember, "", `{"a":1}`},
	{"DELETE", oneMember, "", ""},
	{"POST", oneRoom + "/messages", `{"clientId":"a","text":"x"}`, `{}`},
	{"GET", oneRoom + "/messages", "", ""},
	{"PATCH", oneMessage, `{"text":"y"}`, `{}`},
	{"DELETE", oneMessage, "", ""},
	{"POST", oneRoom + "/typing", "", `{"a":1}`},
	{"POST", oneRoom + "/read", `{"seq":1}`, `{}`},
	{"POST", oneRoom + "/presence", `{"status":"away"}`, `{}`},
	{"GET", oneRoom + "/users", "", ""},
	{"GET", oneRoom + "/stats", "", ""},
	{"DELETE", oneRoom, "", ""},
}

// keepsRoom asks a call of the room r at a door, and holds the answer against the document.
func (c *contract) keepsRoom(d *door, call roomCall, token, body string, headers ...string) {
	c.t.Helper()
	if headers == nil && body != "" {
		headers = []string{"Content-Type", "application/json"}
	}
	c.keeps(call.method, call.path, d.ask(call.method, call.at(), token, body, headers...))
}

func (one roomCall) at() string {
	return strings.NewReplacer("{id}", "r", "{user}", "w", "{seq}", "1").Replace(one.path)
}

// rooms holds every answer of the doors of rooms against the document.
func (c *contract) rooms() {
	c.t.Helper()
	database, directory := pgtest.Database(c.t), c.t.TempDir()
	d := openDoorOn(c.t, database, directory, withHub(streams.Options{MaxStreamsPerOrg: 1}))
	following(d)
	user, service := as(c.t, "u"), mint(c.t, Claims{Org: "*", User: "u"})
	narrow := mint(c.t, Claims{User: "u", Services: []string{"tasks"}})
	d.server.messageAllowance = newAllowance(0, 0, "")
	c.keeps("POST", "/v2/rooms", d.json("POST", "/v2/rooms", user, `{"id":"r","name":"R","members":["v"]}`))
	c.keeps("POST", "/v2/rooms", d.json("POST", "/v2/rooms", user, `{"id":"r","name":"R"}`))
	c.keeps("POST", "/v2/rooms", d.json("POST", "/v2/rooms?orgId=1", service, `{"id":"s","name":"S"}`))
	c.roomStreams(d, user, narrow)
	c.roomsLater(database, directory, user)
	for _, call := range roomCalls {
		for _, token := range []string{narrow, "", service, as(c.t, "stranger"), as(c.t, "v"), user} {
			c.keepsRoom(d, call, token, call.body)
		}
		if call.wrong != "" {
			c.keepsRoom(d, call, user, call.wrong)
			c.keepsRoom(d, call, user, call.wrong, "Content-Type", "text/plain")
			c.keepsRoom(d, call, user, strings.Repeat(" ", bodyLimit+1))
		}
		if call.method == http.MethodGet {
			c.keeps("HEAD", call.path, d.ask("HEAD", call.at(), user, ""))
		}
	}
	c.keeps("POST", oneRoom+"/messages", d.json("POST", "/v2/rooms/s/messages", user, `{"clientId":"a","text":"x"}`)) // of another room
	for _, path := range []string{"/v2/realtime/stream", "/v2/realtime/poll"} {
		c.keeps("GET", path, d.ask("GET", path+"?services=chat&rooms=nowhere", user, ""))
	}
	others := make([]string, store.RoomMembers)
	for i := range others {
		others[i] = strconv.Itoa(i)
	}
	if _, err := d.rooms.Create(context.Background(), store.Actor{Org: "1", User: "u"}, store.NewRoom{ID: "full", Name: "F", Members: others}); err != nil {
		c.t.Fatal(err)
	}
	c.keeps("PUT", oneMember, d.ask("PUT", "/v2/rooms/full/members/w", user, ""))
}

// roomStreams holds what is said before the stream of a room, or instead of it.
func (c *contract) roomStreams(d *door, user, narrow string) {
	c.t.Helper()
	const path, at = oneRoom + "/stream", "/v2/rooms/r/stream"
	upgrade := []string{
		"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==",
	}
	for _, headers := range [][]string{{"Accept", eventStream}, {"Accept", ndjsonType}, upgrade} {
		c.keeps("GET", path, d.heads(at, user, headers...))
		d.await("1", 0, 0)
	}
	c.keeps("HEAD", path, d.ask("HEAD", at, user, ""))
	upgrade[5] = "12"
	c.keeps("GET", path, d.ask("GET", at, user, "", upgrade...))
	c.keeps("GET", path, d.ask("GET", at, user, "", "Accept", "text/html"))
	for _, one := range [][2]string{{at, ""}, {at, narrow}, {at + "?services=chat", user}, {"/v2/rooms/nowhere/stream", user}} {
		c.keeps("GET", path, d.ask("GET", one[0], one[1], ""))
	}
	open := d.stream(d.client, user)
	d.await("1", 1, 0)
	c.keeps("GET", path, d.ask("GET", at, user, "", "Accept", ndjsonType))
	open.Body.Close()
	d.await("1", 0, 0)
}

// roomsLater holds what is said at doors that are in a hurry, that have had enough, that are broken, and whose database is gone.
func (c *contract) roomsLater(database, directory, user string) {
	c.t.Helper()
	var doors []*door
	for range 4 {
		doors = append(doors, openDoorOn(c.t, database, directory))
	}
	hasty, limited, broken, away := doors[0], doors[1], doors[2], doors[3]
	hasty.server.bodyTimeout = 20 * time.Millisecond
	limited.server.messageAllowance, limited.server.roomAllowance = newAllowance(1, 0, ""), newAllowance(1, 0, "")
	broken.server.Rooms = nil
	away.events.Close()
	for _, call := range append(roomCalls, roomCall{method: "GET", path: oneRoom + "/stream"}) {
		if call.wrong != "" {
			c.keeps(call.method, call.path, hasty.slowly(call.method, call.at(), user, "Content-Type", "application/json"))
		}
		if changes := strings.Contains(call.path, "/messages") || call.path == "/v2/rooms" || call.path == oneRoom || call.path == oneMember; changes && call.method != "GET" {
			c.keepsRoom(limited, call, user, call.body)
		}
		c.keepsRoom(broken, call, user, call.body)
		c.keepsRoom(away, call, user, call.body)
	}
}

// TestRoomBodies has the server refuse what the document's schemas refuse, and take what they take.
func TestRoomBodies(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	d := openDoor(t)
	d.server.messageAllowance, d.server.roomAllowance = newAllowance(0, 0, ""), newAllowance(0, 0, "")
	user := as(t, "u")
	room := d.makeRoom(user, "v")
	d.says(room, user, "first", "x")
	long := strings.Repeat("x", 129)
	for _, one := range []struct {
		method, path, schema string
		good, bad            []string
	}{
		{
			"POST", "/v2/rooms", "RoomDraft",
			[]string{`{"name":"ü"}`, `{"name":"` + strings.Repeat("\U0001F600", 200) + `","id":null,"members":null}`, `{"name":"a","id":5,"members":[5,"a"]}`},
			[]string{`{}`, `{"name":""}`, `{"name":5}`, `{"name":"\n"}`, `{"name":"a","id":""}`, `{"name":"a","id":".."}`, `{"name":"a","members":["\n"]}`, `{"name":"a","b":1}`},
		},
		{"PATCH", room, "RoomUpdate", []string{`{"name":"a"}`, `{"owner":"v"}`}, []string{`{"name":"a","id":"b"}`, `{"name":null}`, `{}`}},
		{
			"POST", room + "/messages", "MessageDraft",
			[]string{`{"clientId":5,"text":"\n"}`, `{"clientId":"a","text":"` + strings.Repeat("\U0001F600", 4000) + `"}`},
			[]string{
				`{"text":"a"}`, `{"clientId":"a"}`, `{"clientId":"a","text":""}`, `{"clientId":"a","text":"\u0000"}`, `{"clientId":"` + long + `","text":"a"}`,
				`{"clientId":"a","text":"` + strings.Repeat("\U0001F600", 4001) + `"}`, `{"clientId":"a","text":"a","c":1}`,
			},
		},
		{"PATCH", room + "/messages/1", "MessageUpdate", []string{`{"text":"<b>"}`}, []string{`{}`, `{"text":5}`, `{"text":"a","clientId":"a"}`}},
		{"POST", room + "/read", "ReadMark", []string{`{"seq":0}`, `{"seq":1}`, `{"seq":99}`}, []string{`{}`, `{"seq":-1}`, `{"seq":"1"}`, `{"seq":1.5}`}},
		{"POST", room + "/presence", "Presence", []string{`{"status":"online"}`, `{"status":"offline"}`}, []string{`{}`, `{"status":"busy"}`, `{"status":null}`}},
	} {
		schema := c.schema(one.schema)
		for _, body := range slices.Concat(one.good, one.bad) {
			err, status := fits(schema, []byte(body)), d.json(one.method, one.path, user, body).status
			if good := slices.Contains(one.good, body); (err == nil) != good || (status < 300) != good || !good && status != http.StatusBadRequest {
				t.Errorf("%s %s %.100s: the schema says %v, the server %d", one.method, one.path, body, err, status)
			}
		}
	}
}
