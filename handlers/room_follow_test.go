package handlers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// statusIn is what a member is shown as in a room.
func (d *door) statusIn(room, token, user string) string {
	d.t.Helper()
	var list struct{ Users []wireUser }
	d.ask("GET", room+"/users", token, "").into(d.t, &list)
	for _, one := range list.Users {
		if one.UserID == user {
			return string(one.Status)
		}
	}
	return ""
}

// hears reads up to a frame that has something in it.
func (c *socketClient) hears(what string) {
	c.t.Helper()
	for {
		f, ok := c.frame()
		if !ok {
			c.t.Fatalf("the WebSocket ends before %s", what)
		}
		if strings.Contains(string(f.Payload), what) {
			return
		}
	}
}

// meets reads up to the signal that a user is in a room.
func (c *socketClient) meets(room, user string) {
	c.t.Helper()
	c.hears(fmt.Sprintf(`"room":%q,"userId":%q,"displayName":"N. %s","status":"online"`, room, user, user))
}

// TestNarrowedPresence follows one room of two, and then the other in place: a user is in those rooms alone that the stream
// carries, and is told who is in a room that is added, as by a stream that begins. Properties narrow no room away.
func TestNarrowedPresence(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	chatting(d)
	user, other := mint(t, Claims{User: "u", DisplayName: "N. u", Properties: []string{"4"}}), as(t, "v")
	first, second := d.makeRoom(user, "v"), d.makeRoom(user, "v")
	id := func(room string) string { return strings.TrimPrefix(room, "/v2/rooms/") }
	v := d.dialSocket(other, "services=chat")
	v.meets(id(first), "v")
	c := d.dialSocket(user, "services=chat&propertyId=4&rooms="+id(first))
	c.meets(id(first), "v")
	v.meets(id(first), "u")
	for room, want := range map[string]string{first: "online", second: "offline"} {
		if got := d.statusIn(room, other, "u"); got != want {
			t.Errorf("u is %s where %s is right", got, want)
		}
	}
	d.says(first, other, "a", "here")
	c.hears(`"text":"here"`)
	c.send(fmt.Sprintf(`{"type":"subscribe","services":["chat"],"rooms":[%q]}`, id(second)))
	c.meets(id(second), "v")
	v.meets(id(second), "u")
	eventually(t, patience, "u is still in the room that was left out", func() bool { return d.statusIn(first, other, "u") == "offline" })
}

// TestNarrowedPoll has a user poll one of their rooms: they are there in that one alone.
func TestNarrowedPoll(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	chatting(d)
	user, other := as(t, "u"), as(t, "v")
	first, second := d.makeRoom(user, "v"), d.makeRoom(user, "v")
	d.ask("GET", "/v2/realtime/poll?services=chat&wait=0&rooms="+strings.TrimPrefix(first, "/v2/rooms/"), user, "").wants(t, "a poll", 200)
	eventually(t, patience, "u is not there", func() bool { return d.statusIn(first, other, "u") == "online" })
	if got := d.statusIn(second, other, "u"); got != "offline" {
		t.Errorf("in the room that was not polled u is %s", got)
	}
}

// TestTooManyRooms names one room more than may be followed, at every door.
func TestTooManyRooms(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := strings.TrimPrefix(d.makeRoom(user), "/v2/rooms/")
	most := room + strings.Repeat("&rooms="+room, roomsLimit) // each once
	d.ask("GET", "/v2/realtime/poll?services=chat&wait=0&rooms="+most, user, "").wants(t, "one room many times", 200)
	var names []string
	for i := range roomsLimit + 1 {
		names = append(names, fmt.Sprint(i))
	}
	for _, door := range []string{"poll", "stream"} {
		at := "/v2/realtime/" + door + "?services=chat&rooms="
		d.ask("GET", at+strings.Join(names, ","), user, "").wants(t, door, 400, "field", "rooms")
		d.ask("GET", at+strings.Join(names[1:], ","), user, "").wants(t, door+" of as many as may be", 404)
	}
	c := d.dialSocket(user, "services=finance")
	c.expect("ack")
	list, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	c.send(`{"type":"subscribe","ref":1,"services":["chat"],"rooms":` + string(list) + `}`)
	if one := c.expect("problem"); one.Status != 400 || one.Field != "rooms" {
		t.Errorf("%+v", one)
	}
}
