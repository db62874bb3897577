package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/store"
	"sluice/streams"
)

// chatting runs what rooms need of an instance that is served.
func chatting(d *door) {
	following(d)
	sharing := streams.NewSharing(d.events, d.blobs, d.instance, d.server.Log)
	if err := sharing.Start(context.Background()); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context){sharing.Run, d.rooms.Run, d.typing.Run, d.presence.Run} {
		running.Go(func() { run(ctx) })
	}
	d.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// as is the token of a user of org 1.
func as(t testing.TB, user string) string {
	return mint(t, Claims{User: user, DisplayName: "N. " + user})
}

// json asks with a JSON body, or with none.
func (d *door) json(method, path, token, body string) reply {
	d.t.Helper()
	if body == "" {
		return d.ask(method, path, token, "")
	}
	return d.ask(method, path, token, body, "Content-Type", "application/json")
}

// into reads an answer's body.
func (r reply) into(t testing.TB, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), to); err != nil {
		t.Fatalf("%d %q: %v", r.status, r.body, err)
	}
}

// makeRoom makes a room of a user's, and gives its path.
func (d *door) makeRoom(token string, members ...string) string {
	d.t.Helper()
	list, err := json.Marshal(members)
	if err != nil {
		d.t.Fatal(err)
	}
	got := d.json("POST", "/v2/rooms", token, fmt.Sprintf(`{"id":%q,"name":"R","members":%s}`, uuid.NewString(), list))
	got.wants(d.t, "POST /v2/rooms", http.StatusCreated)
	return got.header.Get("Location")
}

// says sends a message and gives what the server made of it.
func (d *door) says(room, token, clientID, text string) (m wireMessage) {
	d.t.Helper()
	body, err := json.Marshal(map[string]string{"clientId": clientID, "text": text})
	if err != nil {
		d.t.Fatal(err)
	}
	got := d.json("POST", room+"/messages", token, string(body))
	got.wants(d.t, "POST a message", http.StatusCreated)
	got.into(d.t, &m)
	return m
}

type wireHistory struct {
	Messages []wireMessage
	HasMore  bool
}

func (d *door) historyOf(room, token, query string) (h wireHistory) {
	d.t.Helper()
	got := d.ask("GET", room+"/messages?"+query, token, "")
	got.wants(d.t, "history", http.StatusOK)
	got.into(d.t, &h)
	return h
}

// TestRoomLife goes through everything that can be done with a room and its members, step by step.
func TestRoomLife(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	owner, ben, ada, boss := as(t, "owner"), as(t, "b/e n%"), as(t, "ada"), mint(t, Claims{User: "boss", Role: "ADMIN"})
	const room, benIn = "/v2/rooms/den.1:_-", "/v2/rooms/den.1:_-/members/b%2Fe%20n%25"
	made := d.json("POST", "/v2/rooms", owner, `{"id":"den.1:_-","name":"  The <den> ","members":["ada",5,"ada","owner",5]}`)
	made.wants(t, "create", 201, "Location", room)
	var r wireRoom
	made.into(t, &r)
	if want := []wireMember{{"owner", "N. owner"}, {"ada", ""}, {"5", ""}}; !reflect.DeepEqual(r.Members, want) || r.ID != "den.1:_-" || r.Name != "  The <den> " ||
		r.Owner != "owner" || time.Since(at(t, r.CreatedAt)).Abs() > time.Minute {
		t.Errorf("the room is %+v", r)
	}
	for i, one := range []struct {
		method, path, token, body string
		status                    int
		pairs                     []string
	}{
		{"POST", "/v2/rooms", ada, `{"id":"den.1:_-","name":"x"}`, 409, []string{"field", "id"}},
		{"GET", room, ada, "", 200, nil},
		{"HEAD", room, ada, "", 200, nil},
		{"GET", room, ben, "", 404, nil},
		{"GET", room, boss, "", 404, nil},
		{"PUT", benIn, ada, "", 403, nil},
		{"PUT", benIn, ben, "", 404, nil},
		{"DELETE", benIn, owner, "", 404, nil},
		{"PUT", benIn, owner, "", 204, nil},
		{"PUT", benIn, owner, "{}", 204, nil},
		{"GET", room, ben, "", 200, nil},
		{"PATCH", room, ben, `{"name":"mine"}`, 403, nil},
		{"PATCH", room, owner, `{"name":"ours"}`, 200, nil},
		{"PATCH", room, owner, `{"owner":"stranger"}`, 404, nil},
		{"PATCH", room, owner, `{"owner":"ada","name":"hers"}`, 200, nil},
		{"PATCH", room, owner, `{"name":"still mine"}`, 403, nil},
		{"DELETE", room + "/members/ada", owner, "", 403, nil},
		{"DELETE", room + "/members/owner", owner, "", 204, nil},
		{"GET", room, owner, "", 404, nil},
		{"DELETE", room + "/members/ada", ada, "", 204, nil}, // 5 owns it then
		{"PUT", room + "/members/boss", boss, "", 204, nil},
		{"GET", room, boss, "", 200, nil},
		{"DELETE", room, ben, "", 403, nil},
		{"DELETE", room, mint(t, Claims{User: "5"}), "", 204, nil},
		{"GET", room, boss, "", 404, nil},
		{"DELETE", room, boss, "", 404, nil},
		{"POST", "/v2/rooms", ada, `{"id":"den.1:_-","name":"again"}`, 409, []string{"field", "id"}},
	} {
		d.json(one.method, one.path, one.token, one.body).wants(t, fmt.Sprintf("%d: %s %s %s", i, one.method, one.path, one.body), one.status, one.pairs...)
	}
	var told []string
	for _, e := range d.logOf("1") {
		var news struct{ UserID, Name, Owner string }
		if err := json.Unmarshal(e.Data, &news); err != nil || e.EntityID != "den.1:_-" || e.EntityType != "room" || e.Service != "chat" {
			t.Errorf("%+v", e)
		}
		told = append(told, strings.TrimSpace(e.Type+" "+news.UserID+" by "+e.UserID+" "+news.Name+" "+news.Owner))
	}
	if want := []string{
		"member_added owner by owner", "member_added ada by owner", "member_added 5 by owner", "member_added b/e n% by owner",
		"room_updated owner by owner ours owner", "room_updated owner by owner hers ada", "member_removed owner by owner",
		"member_removed ada by ada", "room_updated ada by ada hers 5", "member_added boss by boss", "room_deleted 5 by 5",
	}; !reflect.DeepEqual(told, want) {
		t.Errorf("the log tells\n%s\ninstead of\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// at reads a time of the wire, which has milliseconds.
func at(t testing.TB, text string) time.Time {
	t.Helper()
	when, err := time.Parse(wireTime, text)
	if err != nil {
		t.Error(err)
	}
	return when
}

// TestRoomsOfMine lists rooms: one's own alone, each with its members by the names that they have now.
func TestRoomsOfMine(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	if got := d.ask("GET", "/v2/rooms", as(t, "ada"), ""); strings.TrimSpace(got.body) != `{"rooms":[]}` {
		t.Errorf("nobody's rooms are %s", got.body)
	}
	first, second := d.makeRoom(as(t, "ada"), "ben"), d.makeRoom(as(t, "ben"), "ada")
	d.makeRoom(as(t, "ben"))
	d.ask("GET", "/v2/rooms", mint(t, Claims{User: "ben", DisplayName: "\x01 Ben\u0085 " + strings.Repeat("\U0001F600", 200)}), "").wants(t, "with a new name", 200)
	var list struct{ Rooms []wireRoom }
	d.ask("GET", "/v2/rooms", as(t, "ada"), "").into(t, &list)
	if len(list.Rooms) != 2 || "/v2/rooms/"+list.Rooms[0].ID != first || "/v2/rooms/"+list.Rooms[1].ID != second {
		t.Fatalf("ada's rooms are %+v", list.Rooms)
	}
	if want := []wireMember{{"ada", "N. ada"}, {"ben", "Ben " + strings.Repeat("\U0001F600", 124)}}; !reflect.DeepEqual(list.Rooms[0].Members, want) {
		t.Errorf("the members are %+v", list.Rooms[0].Members)
	}
	var without wireRoom
	d.json("POST", "/v2/rooms", as(t, "ada"), `{"name":"x","id":null,"members":null}`).into(t, &without)
	if !roomID(without.ID) || len(without.Members) != 1 {
		t.Errorf("a room without an id is %+v", without)
	}
}

// TestRoomsRevealNothing compares what is answered about a room that there is with what is answered about one that there is not: to
// who is no member both are the same, whatever is asked.
func TestRoomsRevealNothing(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.messageAllowance = newAllowance(0, 0, "")
	owner, stranger := as(t, "owner"), as(t, "stranger")
	other := mint(t, Claims{Org: "2", User: "owner"})
	room := d.makeRoom(owner, "left")
	d.says(room, owner, "a", "secret")
	d.json("POST", "/v2/rooms", other, `{"id":"elsewhere","name":"x"}`).wants(t, "another org's", 201)
	gone := d.makeRoom(owner, "stranger")
	d.ask("DELETE", gone, owner, "").wants(t, "delete", 204)
	left := d.makeRoom(owner, "stranger")
	d.ask("DELETE", left+"/members/stranger", stranger, "").wants(t, "leave", 204)
	for _, one := range []struct{ method, path, body string }{
		{"GET", "", ""},
		{"PATCH", "", `{"name":"x"}`},
		{"PATCH", "", `{"owner":"stranger"}`},
		{"DELETE", "", ""},
		{"PUT", "/members/stranger", ""},
		{"PUT", "/members/owner", ""},
		{"DELETE", "/members/owner", ""},
		{"DELETE", "/members/stranger", ""},
		{"POST", "/messages", `{"clientId":"a","text":"x"}`},
		{"GET", "/messages", ""},
		{"GET", "/messages?after=0&limit=1", ""},
		{"PATCH", "/messages/1", `{"text":"x"}`},
		{"PATCH", "/messages/2", `{"text":"x"}`},
		{"DELETE", "/messages/1", ""},
		{"DELETE", "/messages/2", ""},
		{"POST", "/typing", ""},
		{"POST", "/read", `{"seq":1}`},
		{"POST", "/presence", `{"status":"away"}`},
		{"GET", "/users", ""},
		{"GET", "/stats", ""},
	} {
		var first reply
		for i, at := range []string{"/v2/rooms/nowhere", room, "/v2/rooms/elsewhere", gone, left, "/v2/rooms/%00", "/v2/rooms/a%2Fb", "/v2/rooms/ü", "/v2/rooms/" + strings.Repeat("x", 129)} {
			got := d.json(one.method, at+one.path, stranger, one.body)
			got.header.Del(requestIDHeader)
			got.header.Del("Date")
			if i == 0 {
				first = got
				got.wants(t, one.method+" "+one.path, 404)
			}
			if !reflect.DeepEqual(got, first) {
				t.Errorf("%s %s%s is answered with %d %s %v, and not with %d %s %v", one.method, at, one.path, got.status, got.body, got.header, first.status, first.body, first.header)
			}
		}
	}
	// An ADMIN changes a room without seeing it.
	boss := mint(t, Claims{User: "boss", Role: "ADMIN"})
	d.json("PATCH", room, boss, `{"name":"renamed"}`).wants(t, "an ADMIN renames", 200)
	for _, path := range []string{"", "/messages", "/users", "/stats"} {
		d.ask("GET", room+path, boss, "").wants(t, "an ADMIN who is no member", 404)
	}
	d.json("PATCH", room, mint(t, Claims{Org: "2", User: "boss", Role: "ADMIN"}), `{"name":"x"}`).wants(t, "another org's ADMIN", 404)
}

// TestRoomsOfOrgs has two orgs use the same ids for rooms, users and messages: neither sees the other's.
func TestRoomsOfOrgs(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	tokens := map[string]string{"1": mint(t, Claims{Org: "1", User: "u"}), "2": mint(t, Claims{Org: "2", User: "u"})}
	for _, org := range []string{"1", "2"} {
		d.json("POST", "/v2/rooms", tokens[org], `{"id":"same","name":"of `+org+`"}`).wants(t, "create", 201)
		if m := d.says("/v2/rooms/same", tokens[org], "same", "of "+org); m.Seq != 1 {
			t.Errorf("the first message of org %s is %d", org, m.Seq)
		}
	}
	for _, org := range []string{"1", "2"} {
		if h := d.historyOf("/v2/rooms/same", tokens[org], ""); len(h.Messages) != 1 || h.Messages[0].Text != "of "+org {
			t.Errorf("org %s reads %+v", org, h)
		}
	}
	service := mint(t, Claims{Org: "*", User: "u"})
	for _, query := range []string{"", "?orgId=", "?orgId=*", "?orgId=%00"} {
		d.ask("GET", "/v2/rooms"+query, service, "").wants(t, "a service token without its org", 400, "field", "orgId")
	}
	if h := d.historyOf("/v2/rooms/same", service, "orgId=2"); len(h.Messages) != 1 || h.Messages[0].Text != "of 2" {
		t.Errorf("the service reads %+v", h)
	}
	made := d.json("POST", "/v2/rooms?orgId=2", service, `{"name":"x"}`)
	made.wants(t, "a service's room", 201)
	d.ask("GET", made.header.Get("Location"), service, "").wants(t, "at its Location", 200)
	d.ask("GET", "/v2/rooms/same?orgId=2", tokens["1"], "").wants(t, "a token's own org", 200)
}

// TestRoomDoors asks at every path with tokens and pages that may not.
func TestRoomDoors(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user)
	narrow, cookie := mint(t, Claims{User: "u", Services: []string{"finance"}}), []string{"Cookie", tokenCookie + "=" + user}
	for _, one := range []struct {
		method, path string
		writes       bool
	}{
		{"POST", "/v2/rooms", true},
		{"GET", "/v2/rooms", false},
		{"GET", room, false},
		{"PATCH", room, true},
		{"DELETE", room, true},
		{"PUT", room + "/members/x", true},
		{"DELETE", room + "/members/x", true},
		{"POST", room + "/messages", true},
		{"GET", room + "/messages", false},
		{"PATCH", room + "/messages/1", true},
		{"DELETE", room + "/messages/1", true},
		{"POST", room + "/typing", true},
		{"POST", room + "/read", true},
		{"POST", room + "/presence", true},
		{"GET", room + "/users", false},
		{"GET", room + "/stats", false},
	} {
		what := one.method + " " + one.path
		d.ask(one.method, one.path, "", "").wants(t, what+" without a token", 401)
		d.ask(one.method, one.path, narrow, "").wants(t, what+" without the service", 403)
		if one.writes {
			d.ask(one.method, one.path, "", "", append(cookie, "Origin", "https://elsewhere.example")...).wants(t, what+" from elsewhere", 403)
			d.ask(one.method, one.path, "", "", cookie...).wants(t, what+" from nowhere", 403)
		} else {
			d.ask(one.method, one.path, "", "", cookie...).wants(t, what+" by cookie", 200)
		}
	}
	d.ask("POST", room+"/typing", "", "", append(cookie, "Origin", d.url)...).wants(t, "from an own page", 204)
	d.ask("POST", room+"/messages", user, `{"clientId":"a","text":"x"}`).wants(t, "untyped", 415)
	d.ask("POST", room+"/messages", user, strings.Repeat(" ", bodyLimit+1), "Content-Type", "application/json").wants(t, "huge", 413)
	d.ask("PUT", room, user, "").wants(t, "no method", 405, "Allow", "GET")
}

// TestRoomFields sends what is wrong with each field of each request, which is named.
func TestRoomFields(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user)
	d.says(room, user, "first", "x")
	d.server.messageAllowance, d.server.roomAllowance = newAllowance(0, 0, ""), newAllowance(0, 0, "")
	long, ids := strings.Repeat("x", 129), strings.TrimSuffix(strings.Repeat(`"a",`, 1001), ",")
	for _, one := range []struct {
		method, path, field string
		bodies              []string
	}{
		{"POST", "/v2/rooms", "name", []string{
			`{}`, `{"name":null}`, `{"name":""}`, `{"name":5}`, `{"name":"a\nb"}`, `{"name":"\u0085"}`, `{"name":"\u007f"}`, `{"name":"\ud800"}`,
			`{"name":"` + strings.Repeat("ü", 201) + `"}`, `{"name":["a"]}`, `{"name":"a","name":"a"}`,
		}},
		{"POST", "/v2/rooms", "id", []string{
			`{"name":"a","id":""}`, `{"name":"a","id":"."}`, `{"name":"a","id":".."}`, `{"name":"a","id":"a/b"}`, `{"name":"a","id":"a b"}`, `{"name":"a","id":"ü"}`,
			`{"name":"a","id":"` + long + `"}`, `{"name":"a","id":1.5}`, `{"name":"a","id":{}}`,
		}},
		{"POST", "/v2/rooms", "members", []string{
			`{"name":"a","members":{}}`, `{"name":"a","members":"a"}`, `{"name":"a","members":[null]}`, `{"name":"a","members":[""]}`, `{"name":"a","members":["a\u0000"]}`,
			`{"name":"a","members":["` + long + `"]}`, `{"name":"a","members":["a",["b"]]}`, `{"name":"a","members":["\udc00"]}`, `{"name":"a","members":[` + ids + `]}`,
		}},
		{"POST", "/v2/rooms", "owner", []string{`{"name":"a","owner":"u"}`}},
		{"POST", "/v2/rooms", "Name", []string{`{"Name":"a"}`}},
		{"POST", "/v2/rooms", "", []string{``, `[]`, `5`, `null`, `{`, `{"name":"a"} {}`, "{\"name\":\"\xff\"}", strings.Repeat("[", 600)}},
		{"PATCH", room, "name", []string{`{"name":null}`, `{"name":""}`, `{"name":"a\u0000"}`}},
		{"PATCH", room, "owner", []string{`{"owner":null}`, `{"owner":""}`, `{"owner":[]}`, `{"owner":"\ud800"}`}},
		{"PATCH", room, "id", []string{`{"id":"other"}`}},
		{"PATCH", room, "", []string{``, `{}`, `[]`}},
		{"PUT", room + "/members/x", "a", []string{`{"a":1}`}},
		{"POST", room + "/messages", "clientId", []string{
			`{"text":"x"}`, `{"text":"x","clientId":null}`, `{"text":"x","clientId":""}`, `{"text":"x","clientId":"` + long + `"}`, `{"text":"x","clientId":"a\n"}`,
			`{"text":"x","clientId":"\ud83d"}`, `{"text":"x","clientId":true}`,
		}},
		{"POST", room + "/messages", "text", []string{
			`{"clientId":"a"}`, `{"clientId":"a","text":null}`, `{"clientId":"a","text":""}`, `{"clientId":"a","text":5}`, `{"clientId":"a","text":{}}`, `{"clientId":"a","text":"a\u0000b"}`,
			`{"clientId":"a","text":"\ud83d"}`, `{"clientId":"a","text":"\ude00\ud83d"}`, `{"clientId":"a","text":"\ud83d\\ude00"}`, `{"clientId":"a","text":"\uD83Dx\uDE00"}`,
			`{"clientId":"a","text":"` + strings.Repeat("\U0001F600", 4001) + `"}`, `{"clientId":"a","text":"` + strings.Repeat(`\ud83d\ude00`, 4001) + `"}`,
		}},
		{"POST", room + "/messages", "seq", []string{`{"clientId":"a","text":"x","seq":1}`}},
		{"POST", room + "/messages", "room", []string{`{"clientId":"a","text":"x","room":"b"}`}},
		{"PATCH", room + "/messages/1", "text", []string{`{}`, `{"text":""}`, `{"text":"\u0000"}`, `{"text":"\udfff"}`}},
		{"PATCH", room + "/messages/1", "clientId", []string{`{"text":"x","clientId":"first"}`}},
		{"POST", room + "/typing", "room", []string{`{"room":"x"}`}},
		{"POST", room + "/read", "seq", []string{`{}`, `{"seq":null}`, `{"seq":-1}`, `{"seq":1.0}`, `{"seq":1e3}`, `{"seq":"1"}`, `{"seq":9223372036854775808}`}},
		{"POST", room + "/presence", "status", []string{`{}`, `{"status":null}`, `{"status":""}`, `{"status":"Online"}`, `{"status":1}`, `{"status":["away"]}`}},
	} {
		for _, body := range one.bodies {
			got := d.json(one.method, one.path, user, body)
			if what := fmt.Sprintf("%s %s %.120s", one.method, one.path, body); body == "" && one.field == "" {
				got.wants(t, what, 400)
			} else {
				got.wants(t, what, 400, "field", one.field)
			}
		}
	}
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=201": "limit", "limit=x": "limit", "limit=-1": "limit", "limit=1e1": "limit", "before=-1": "before", "before=x": "before",
		"after=%22": "after", "after=9223372036854775808": "after", "before=+1": "before", "after=01": "after", "limit=99999999999999999999": "limit",
	} {
		d.ask("GET", room+"/messages?"+query, user, "").wants(t, query, 400, "field", field)
	}
	for _, path := range []string{"0", "-1", "01", "1.0", "x", "9223372036854775808", "%31%20", "2"} {
		d.json("PATCH", room+"/messages/"+path, user, `{"text":"x"}`).wants(t, "message "+path, 404)
		d.ask("DELETE", room+"/messages/"+path, user, "").wants(t, "message "+path, 404)
	}
	for _, path := range []string{"%00", "%ff", strings.Repeat("x", 129)} {
		d.ask("PUT", room+"/members/"+path, user, "").wants(t, "member "+path, 404)
		d.ask("DELETE", room+"/members/"+path, user, "").wants(t, "member "+path, 404)
	}
	if h := d.historyOf(room, user, ""); len(h.Messages) != 1 || h.Messages[0].EditedAt != nil {
		t.Errorf("something of it was done: %+v", h)
	}
}

// TestRoomFull puts one more into a room than it takes.
func TestRoomFull(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, room, others := as(t, "u"), "/v2/rooms/full", make([]string, store.RoomMembers-1)
	for i := range others {
		others[i] = strconv.Itoa(i)
	}
	by := store.Actor{Org: "1", User: "u"}
	if _, err := d.rooms.Create(context.Background(), by, store.NewRoom{ID: "full", Name: "Full", Members: others}); err != nil {
		t.Fatal(err)
	}
	d.ask("PUT", room+"/members/more", user, "").wants(t, "one too many", 409)
	d.ask("PUT", room+"/members/u", user, "").wants(t, "one who is there", 204)
	var users struct{ Users []wireUser }
	d.ask("GET", room+"/users", user, "").into(t, &users)
	if len(users.Users) != store.RoomMembers {
		t.Errorf("the room has %d members", len(users.Users))
	}
}
