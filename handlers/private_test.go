package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/store"
)

// privateEvents are for everybody, for one user, or end a test, in the order of the log.
var privateEvents = []struct{ id, property, audience string }{
	{"a", "1", ""},
	{"b", "9", "u1"},
	{"c", "", ""},
	{"d", "1", "u2"},
	{"e", "1", "u1"},
	{"f", "2", ""},
	{"g", "", "u3"},
	{"h", "9", ""},
	{"end", "", ""},
}

// privateReaders are three users and an admin, some of whom ask for one property alone, with what they get.
func privateReaders(t *testing.T) (readers []privateReader) {
	user := func(name, property string) string {
		return mint(t, Claims{User: name, Role: "MANAGER", Properties: []string{property}})
	}
	return []privateReader{
		{user("u1", "1"), "", "a b c e end"},
		{user("u2", "1"), "", "a c d end"},
		{user("u3", "2"), "", "c f g end"},
		{user("u1", "1"), "propertyId=1&", "a c e end"},
		{user("u2", "2"), "propertyId=2&", "c f end"},
		{user("u3", "1"), "services=tasks,finance&", "a c g end"},
		{admin(t, "boss"), "", "a b c d e f g h end"},
		{admin(t, "boss"), "propertyId=1&", "a c d e g end"},
		{admin(t, "u1"), "propertyId=2&", "c f g end"},
	}
}

type privateReader struct{ token, query, want string }

// privately reads up to the end of the test's events through a door.
type privately func(d *door, reader privateReader, query string, begun func()) []string

func overSSE(d *door, reader privateReader, query string, begun func()) (ids []string) {
	request, err := http.NewRequest(http.MethodGet, d.url+"/v2/realtime/stream?"+reader.query+query, nil)
	if err != nil {
		d.t.Error(err)
		return nil
	}
	request.Header.Set("Authorization", "Bearer "+reader.token)
	response, err := d.client.Do(request)
	if err != nil {
		d.t.Error(err)
		return nil
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for len(ids) == 0 || ids[len(ids)-1] != "end" {
		if !lines.Scan() {
			d.t.Errorf("the stream ends after %q", ids)
			return ids
		}
		if lines.Text() == "event: ack" {
			begun()
		}
		var one struct{ ID string }
		data, found := strings.CutPrefix(lines.Text(), "data: ")
		if found && json.Unmarshal([]byte(data), &one) == nil && one.ID != "" {
			ids = append(ids, one.ID)
		}
	}
	return ids
}

func overWebSocket(d *door, reader privateReader, query string, begun func()) (ids []string) {
	c := d.dialSocket(reader.token, reader.query+query)
	if reader.query+query == "" {
		c.send(`{}`)
	}
	c.expect("ack")
	begun()
	for len(ids) == 0 || ids[len(ids)-1] != "end" {
		one := c.next()
		for _, raw := range append(one.Events, one.Event) {
			var e struct{ ID string }
			if raw != nil && json.Unmarshal(raw, &e) == nil {
				ids = append(ids, e.ID)
			}
		}
	}
	return ids
}

func overPolls(d *door, reader privateReader, query string, begun func()) (ids []string) {
	if query == "" {
		query = "cursor=" + d.poll(reader.token, reader.query).Cursor
	}
	begun()
	for len(ids) == 0 || ids[len(ids)-1] != "end" {
		a := d.poll(reader.token, reader.query+"wait=20&"+query)
		ids, query = append(ids, a.ids()...), "cursor="+a.Cursor
	}
	return ids
}

// TestPrivateEventsThroughEveryDoor gives each reader exactly its own events in order, live and replayed, over SSE, WebSocket
// and polls, and in the old API.
func TestPrivateEventsThroughEveryDoor(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	following(d)
	doors := map[string]privately{"SSE": overSSE, "WebSocket": overWebSocket, "polls": overPolls}
	readers := privateReaders(t)
	read := func(query string, publish func()) {
		var reading, beginning sync.WaitGroup
		for name, through := range doors {
			for _, reader := range readers {
				beginning.Add(1)
				begun := sync.OnceFunc(beginning.Done)
				reading.Go(func() {
					defer begun()
					if got := strings.Join(through(d, reader, query, begun), " "); got != reader.want {
						t.Errorf("%s, %q, %q: %q, not %q", name, query, reader.query, got, reader.want)
					}
				})
			}
		}
		beginning.Wait()
		publish()
		reading.Wait()
	}
	read("", func() {
		for _, one := range privateEvents {
			_, err := d.appender.Append(context.Background(), []store.Draft{{Event: store.Event{
				Org: "1", ID: one.id, Service: "finance", Type: "x", PropertyID: one.property, Audience: one.audience, Data: json.RawMessage(`{}`),
			}}})
			if err != nil {
				t.Error(err)
			}
		}
	})
	read("cursor=earliest", func() {})
	for _, reader := range readers {
		got := d.old(reader.token, "/finance/realtime/subscribe?"+reader.query).ids()
		if !slices.Equal(got, strings.Fields(reader.want)) {
			t.Errorf("the old API, %q: %q, not %q", reader.query, got, reader.want)
		}
	}
	if body := d.ask(http.MethodGet, "/v2/realtime/poll?cursor=earliest", admin(t, "7"), "").body; strings.Contains(body, "u1") {
		t.Errorf("the wire tells whom an event is for: %s", body)
	}
}
