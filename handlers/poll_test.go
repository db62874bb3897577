package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pollAnswered is a poll's answer as a client reads it.
type pollAnswered struct {
	Events []struct{ ID, Cursor, Service, PropertyID string }
	Cursor string
	Reset  *struct{ Reason, Oldest, Latest, Cursor string }
}

func (a pollAnswered) ids() (ids []string) {
	for _, e := range a.Events {
		ids = append(ids, e.ID)
	}
	return ids
}

func (d *door) poll(token, query string) pollAnswered {
	d.t.Helper()
	r := d.ask(http.MethodGet, "/v2/realtime/poll?"+query, token, "")
	var a pollAnswered
	if err := json.Unmarshal([]byte(r.body), &a); r.status != http.StatusOK || err != nil || a.Cursor == "" {
		d.t.Fatalf("poll %s: %d %s", query, r.status, r.body)
	}
	return a
}

// TestPoll follows a log by polls alone: none lost, none twice, at most 100 an answer.
func TestPoll(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	first := d.poll(admin(t, "7"), "")
	if len(first.Events) > 0 || first.Reset != nil {
		t.Fatalf("without a cursor: %+v", first)
	}
	want := d.append("1", 250, 100)
	var got []string
	at := first.Cursor
	for len(got) < len(want) {
		a := d.poll(admin(t, "7"), "wait=20&cursor="+at)
		if len(a.Events) == 0 || len(a.Events) > 100 {
			t.Fatalf("%d events after %d", len(a.Events), len(got))
		}
		got, at = append(got, a.ids()...), a.Cursor
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d events are not those %d", len(got), len(want))
	}
	if a := d.poll(admin(t, "7"), "wait=0&cursor="+at); len(a.Events) > 0 || a.Cursor != at {
		t.Fatalf("at the head: %+v", a)
	}
	parked := make(chan pollAnswered, 1)
	go func() { parked <- d.poll(admin(t, "7"), "wait=60&cursor="+at) }()
	eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
	want = d.append("1", 1, 100)
	if a := <-parked; !slices.Equal(a.ids(), want) {
		t.Fatalf("a poll that waited has %+v", a)
	}
	if stats := d.server.Hub.Stats("1"); stats.Polls != 0 || stats.Streams != 0 {
		t.Fatalf("%+v stay", stats)
	}
}

// TestPollAtOnce has a poll that does not wait look at what no process has in memory.
func TestPollAtOnce(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	want := d.append("1", 3, 10)
	if a := d.poll(admin(t, "7"), "wait=0&cursor=earliest"); !slices.Equal(a.ids(), want) {
		t.Fatalf("%+v, not %q", a, want)
	}
}

// TestPollFilters has a poll woken only by what its filter admits, and its cursor pass what it does not.
func TestPollFilters(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	of3 := mint(t, Claims{Properties: []string{"3"}})
	at := d.poll(of3, "").Cursor
	parked := make(chan pollAnswered, 1)
	go func() { parked <- d.poll(of3, "wait=60&cursor="+at) }()
	eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
	event := func(id, property string) string {
		return fmt.Sprintf(`{"id":%q,"service":"finance","type":"expense_added","propertyId":%q}`, id, property)
	}
	if r := d.publish(publisher(t, "1"), "["+event("foreign", "4")+"]"); r.status != 201 {
		t.Fatal(r.body)
	}
	if a := d.poll(admin(t, "7"), "wait=20&cursor="+at); !slices.Equal(a.ids(), []string{"foreign"}) {
		t.Fatalf("%+v", a)
	}
	if polls := d.server.Hub.Stats("1").Polls; polls != 1 {
		t.Fatalf("%d polls wait after an event that the filter refuses", polls)
	}
	if r := d.publish(publisher(t, "1"), "["+event("own", "3")+"]"); r.status != 201 {
		t.Fatal(r.body)
	}
	if a := <-parked; !slices.Equal(a.ids(), []string{"own"}) {
		t.Fatalf("%+v", a)
	}
	passed := d.poll(of3, "wait=1&cursor="+at)
	if a := d.poll(of3, "wait=1&cursor="+passed.Cursor); len(a.Events) > 0 || a.Cursor != passed.Cursor {
		t.Fatalf("%+v after %+v", a, passed)
	}
}

// TestPollResets says what cannot be replayed.
func TestPollResets(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	d.append("1", 3, 10)
	at := d.poll(admin(t, "7"), "").Cursor
	epoch, _, _ := strings.Cut(at, "-")
	for cursor, reason := range map[string]string{"zz-1": "epoch", epoch + "-99": "ahead"} {
		a := d.poll(admin(t, "7"), "wait=60&cursor="+cursor)
		if a.Reset == nil || a.Reset.Reason != reason || a.Cursor != at || a.Reset.Latest != at || a.Reset.Cursor != at {
			t.Errorf("%s: %+v", cursor, a)
		}
	}
	if a := d.poll(admin(t, "7"), "cursor=earliest"); len(a.Events) != 3 {
		t.Errorf("from the earliest: %+v", a)
	}
}

// TestPollRefusals lists what a poll may not ask for.
func TestPollRefusals(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for query, status := range map[string]int{
		"wait=-1": 400, "wait=1e9": 400, "wait=60.5": 400, "wait=x": 400, "wait=NaN": 400, "wait=Inf": 400,
		"cursor=x": 400, "services=none": 400, "rooms=1": 400, "propertyId=1,2": 400,
	} {
		if r := d.ask(http.MethodGet, "/v2/realtime/poll?"+query, admin(t, "7"), ""); r.status != status {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		} else {
			r.problem(t)
		}
	}
	few := mint(t, Claims{Services: []string{"tasks"}, Properties: []string{"1"}})
	for _, query := range []string{"services=finance", "propertyId=2"} {
		if r := d.ask(http.MethodGet, "/v2/realtime/poll?"+query, few, ""); r.status != http.StatusForbidden {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
	if r := d.ask(http.MethodGet, "/v2/realtime/poll", "", ""); r.status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", r.status)
	}
}

// TestPollConnection has one connection carry poll after poll, closed ones forgotten, and bytes sent too early not lost.
func TestPollConnection(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	at := d.poll(admin(t, "7"), "").Cursor
	request := func(headers string) string {
		return "GET /v2/realtime/poll?wait=60&cursor=" + at + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin(t, "7") +
			"\r\n" + headers + "\r\n"
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := io.WriteString(conn, request("")); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
		d.append("1", 1, 10)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		head, length := readHead(t, conn)
		if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || strings.Contains(head, "Connection: close") {
			t.Fatalf("answered with %q", head)
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(conn, body); err != nil {
			t.Fatal(err)
		}
		var a pollAnswered
		if err := json.Unmarshal(body, &a); err != nil || len(a.Events) != 1 {
			t.Fatalf("%s: %v", body, err)
		}
		at = a.Cursor
	}
	if _, err := io.WriteString(conn, request("")); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
	conn.Close()
	eventually(t, patience, "a poll stays whose client has left", func() bool { return d.server.Hub.Stats("1").Polls == 0 })
}

// TestPollConnectionThatIsNotKept has a poll with a body, whose bytes must not become a request, and one that a drain answers.
func TestPollConnectionThatIsNotKept(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	at := d.poll(admin(t, "7"), "").Cursor
	for _, one := range []struct {
		headers string
		end     func(net.Conn)
	}{
		{"Content-Length: 33\r\n", func(conn net.Conn) {
			if _, err := io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: x\r\n"[:33]); err != nil {
				t.Error(err)
			}
			d.append("1", 1, 10)
		}},
		{"", func(net.Conn) { d.server.Hub.Drain(context.Background()) }},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /v2/realtime/poll?wait=60&cursor="+at+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+
			admin(t, "7")+"\r\n"+one.headers+"\r\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
		d.poll(admin(t, "7"), "") // judged no sooner than the one that waits
		one.end(conn)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		head, _ := readHead(t, conn)
		if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(head, "Connection: close\r\n") {
			t.Errorf("with %q answered with %q", one.headers, head)
		}
		at = strings.Split(at, "-")[0] + "-1" // the event
	}
}

// TestPollOutlivesNoToken tells a poll whose token ends while it waits what every 401 tells.
func TestPollOutlivesNoToken(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	at := d.poll(admin(t, "7"), "").Cursor
	ending := mint(t, Claims{Role: "ADMIN", Expires: time.Now().Add(2*time.Second - tokenLeeway)})
	r := d.ask(http.MethodGet, "/v2/realtime/poll?wait=60&cursor="+at, ending, "")
	if r.problem(t); r.status != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") != challenge {
		t.Fatalf("%d %v %s", r.status, r.header, r.body)
	}
}

// TestPollWithoutWaiting asks a hub whose memory holds nothing of the log, as after a start.
func TestPollWithoutWaiting(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	want := d.append("1", 150, 100)
	at, got := "earliest", []string(nil)
	for range 3 {
		a := d.poll(admin(t, "7"), "wait=0&cursor="+at)
		got, at = append(got, a.ids()...), a.Cursor
	}
	if !slices.Equal(got, want) {
		t.Fatalf("three polls have %d of %d events", len(got), len(want))
	}
}

// readHead reads a response's head a byte at a time, so that nothing of the body is taken.
func readHead(t *testing.T, conn net.Conn) (head string, length int) {
	t.Helper()
	var text []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(text), "\r\n\r\n") {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		text = append(text, one[0])
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "Content-Length: "); found {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return string(text), length
}
