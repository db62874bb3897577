package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bookkeeper takes POST /v2/events as the server does: it keeps ids, and refuses events of the type "bad" with their
// index. What it does before that is up to each test.
type bookkeeper struct {
	t      *testing.T
	before func(request int, w http.ResponseWriter) (answered bool)

	mu       sync.Mutex
	ids      []string      // guarded by mu: in the log's order
	requests [][]string    // guarded by mu: the ids of each
	events   []labels      // guarded by mu: as they came
	headers  []http.Header // guarded by mu
	longest  int           // guarded by mu: bytes of a body
}

type labels struct {
	ID, OrgID, Service, Type, PropertyID, EntityType, EntityID, UserID string

	Data json.RawMessage
}

// asked gives the ids of each request so far. One that its publisher has given up may still be on its way.
func (b *bookkeeper) asked() [][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

func (b *bookkeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if r.Context().Err() != nil {
		return // the publisher has given up
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v2/events" {
		b.t.Errorf("%s %s (%v)", r.Method, r.URL, err)
		return
	}
	var events []labels
	if text[0] == '{' {
		text = slices.Concat([]byte("["), text, []byte("]"))
	}
	if err := json.Unmarshal(text, &events); err != nil {
		b.t.Errorf("body %q: %v", text, err)
		return
	}
	asked := make([]string, len(events))
	for i, one := range events {
		asked[i] = one.ID
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.longest = max(b.longest, len(text))
	b.requests, b.headers = append(b.requests, asked), append(b.headers, r.Header)
	if b.before != nil && b.before(len(b.requests), w) {
		return
	}
	for i, one := range events {
		if one.Type == "bad" {
			problem(w, 400, fmt.Sprintf("events[%d].type", i))
			return
		}
	}
	b.events = append(b.events, events...)
	answer := struct {
		Events []receipt `json:"events"`
	}{}
	for _, id := range asked {
		place := slices.Index(b.ids, id)
		duplicate := place >= 0
		if !duplicate {
			b.ids = append(b.ids, id)
			place = len(b.ids) - 1
		}
		answer.Events = append(answer.Events, receipt{ID: id, Cursor: fmt.Sprintf("e-%d", place+1), Duplicate: duplicate})
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(answer)
}

// problem answers as the server does when it refuses.
func problem(w http.ResponseWriter, status int, field string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"about:blank","title":%q,"status":%d,"detail":"the detail","field":%q}`, http.StatusText(status), status, field)
}

// publishing gives a publisher for a bookkeeper, and what it writes.
func publishing(t *testing.T, b *bookkeeper, command publishCmd) (p *publisher, out, notes *bytes.Buffer) {
	t.Helper()
	b.t = t
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	command.URL, command.JWTSecret = server.URL, testSecret
	if command.Timeout == 0 {
		command.Timeout = patience
	}
	out, notes = new(bytes.Buffer), new(bytes.Buffer)
	p, err := command.publisher(out, notes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.client.CloseIdleConnections)
	return p, out, notes
}

// TestPublishOne sends what the command line says, data byte for byte.
func TestPublishOne(t *testing.T) {
	b := &bookkeeper{}
	p, out, notes := publishing(t, b, publishCmd{
		Service: "finance", Type: "expense_added", Payload: `{"z": 1.50, "a": "<ü>"}`, Property: "7", EntityType: "expense",
		EntityID: "42", User: "9", ID: "mine",
	})
	for range 2 {
		if err := p.one(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "e-1 mine\ne-1 mine duplicate\n" || notes.Len() > 0 {
		t.Fatalf("printed %q, noted %q", out, notes)
	}
	got := b.events[0]
	if string(got.Data) != `{"z":1.50,"a":"<ü>"}` {
		t.Errorf("data is %s", got.Data)
	}
	got.Data = nil
	want := labels{
		ID: "mine", Service: "finance", Type: "expense_added", PropertyID: "7", EntityType: "expense", EntityID: "42", UserID: "9",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v was sent, not %+v", got, want)
	}
	if !strings.HasPrefix(b.headers[0].Get("Authorization"), "Bearer eyJ") || b.headers[0].Get("Content-Type") != "application/json" {
		t.Errorf("the headers are %v", b.headers[0])
	}
}

// TestPublishTriesAgain lets the first try be committed and its answer cut off, the second be put off: the third is
// the same event.
func TestPublishTriesAgain(t *testing.T) {
	b := &bookkeeper{}
	b.before = func(request int, w http.ResponseWriter) bool {
		switch request {
		case 1:
			b.ids = append(b.ids, b.requests[0]...)
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, "")
			return true
		}
		return false
	}
	p, out, notes := publishing(t, b, publishCmd{Service: "finance", Type: "expense_added"})
	began := time.Now()
	if err := p.one(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.asked()) != 3 || b.asked()[0][0] != b.asked()[1][0] || b.asked()[1][0] != b.asked()[2][0] {
		t.Fatalf("the tries carried the ids %v", b.asked())
	}
	if len(b.ids) != 1 || out.String() != "e-1 "+b.ids[0]+"\n" {
		t.Fatalf("printed %q; the log has %v", out, b.ids)
	}
	if waited := time.Since(began); waited < time.Second {
		t.Errorf("Retry-After: 1 was kept for %s", waited)
	}
	if strings.Count(notes.String(), "trying again") != 1 {
		t.Errorf("noted %q", notes)
	}
}

// TestPublishGivesUp says that the event may be there, and how to make sure.
func TestPublishGivesUp(t *testing.T) {
	b := &bookkeeper{before: func(_ int, w http.ResponseWriter) bool {
		problem(w, http.StatusServiceUnavailable, "")
		return true
	}}
	p, out, _ := publishing(t, b, publishCmd{Service: "finance", Type: "expense_added", Timeout: 400 * time.Millisecond})
	err := p.one(t.Context())
	var unsure *unconfirmed
	if !errors.As(err, &unsure) || !strings.Contains(err.Error(), "--id "+b.asked()[0][0]) || out.Len() > 0 {
		t.Fatalf("printed %q: %v", out, err)
	}
	if len(b.asked()) < 2 {
		t.Errorf("it was tried %d times", len(b.asked()))
	}
}

// TestPublishRefused shows title, detail and field, and does not try again.
func TestPublishRefused(t *testing.T) {
	for status, says := range map[int]string{
		400: "400 Bad Request: the detail (service)", 401: "is it the server's?", 403: "403 Forbidden", 500: "500 Internal",
	} {
		b := &bookkeeper{before: func(_ int, w http.ResponseWriter) bool {
			problem(w, status, "service")
			return true
		}}
		p, _, _ := publishing(t, b, publishCmd{Service: "finance", Type: "expense_added"})
		err := p.one(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) || len(b.asked()) != 1 {
			t.Errorf("%d, tried %d times: %v", status, len(b.asked()), err)
		}
	}
}

// TestPublishNowhere names the server that does not answer, and what to do.
func TestPublishNowhere(t *testing.T) {
	_, notes, status := outcome(t, sluice("publish", "finance", "expense_added", "--url", "http://"+freePort(t),
		"--jwt-secret", testSecret, "--timeout", "300ms"))
	if status != 1 || !strings.Contains(notes, "connection refused; is it running?") {
		t.Fatalf("status %d: %s", status, notes)
	}
	for says, args := range map[string][]string{
		"not a server's address": {"finance", "expense_added", "--url", "127.0.0.1:8080"},
		"what is the type":       {"finance"},
		"not a JSON object":      {"finance", "expense_added", "[1]"},
		"leave those flags out":  {"-", "--property", "7"},
		"make run":               {"finance", "expense_added", "--data", t.TempDir()},
	} {
		_, notes, status := outcome(t, sluice(append([]string{"publish"}, args...)...))
		if status != 1 || !strings.Contains(notes, says) {
			t.Errorf("%v: status %d: %s", args, status, notes)
		}
	}
}

// TestPublishLines reads more than a request may carry: nothing is lost, doubled or out of order.
func TestPublishLines(t *testing.T) {
	var in strings.Builder
	var want []string
	for i := range 1001 {
		id := fmt.Sprintf("event-%d", i)
		want = append(want, id)
		fmt.Fprintf(&in, "%s{\"id\": %q, \"service\": \"finance\", \"type\": \"x\"}\r\n\n", strings.Repeat(" ", i%3), id)
	}
	b := &bookkeeper{}
	p, out, _ := publishing(t, b, publishCmd{})
	if err := p.lines(t.Context(), strings.NewReader(in.String())); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.ids, want) {
		t.Fatalf("the log has %d events: %v", len(b.ids), b.ids)
	}
	for _, one := range b.asked() {
		if len(one) > batchEvents {
			t.Fatalf("a request carried %d events", len(one))
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) || lines[1000] != "e-1001 event-1000" {
		t.Errorf("printed %d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}

// TestPublishLongLines keeps requests within what the server takes: all lines wait while the first one is under way,
// and go out in the fewest requests that carry them.
func TestPublishLongLines(t *testing.T) {
	var in strings.Builder
	for i := range 60 {
		fmt.Fprintf(&in, "{\"id\":\"%d\",\"service\":\"finance\",\"type\":\"x\",\"data\":{\"s\":%q}}\n", i, strings.Repeat("x", 60<<10))
	}
	read := make(chan bool)
	b := &bookkeeper{before: func(int, http.ResponseWriter) bool {
		<-read
		return false
	}}
	p, _, _ := publishing(t, b, publishCmd{})
	source := io.MultiReader(strings.NewReader(in.String()), &atEnd{then: func() { close(read) }})
	if err := p.lines(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if len(b.ids) != 60 || b.longest > batchBytes || b.longest < batchBytes-(64<<10) {
		t.Errorf("%d events arrived; the longest body has %d bytes", len(b.ids), b.longest)
	}
	if len(b.asked()) > 6 {
		t.Errorf("they took %d requests", len(b.asked()))
	}
}

// atEnd is an empty reader that calls then when it is reached. The lines before it are on their way by then, but for
// the last few in the scanner's buffer.
type atEnd struct{ then func() }

func (a *atEnd) Read([]byte) (int, error) {
	a.then()
	return 0, io.EOF
}

// TestGather fills batches from what is there, and no further.
func TestGather(t *testing.T) {
	source := make(chan line, 3*batchEvents)
	for number := range 2*batchEvents + 50 {
		source <- line{number: number, body: []byte("{}")}
	}
	for _, want := range []int{100, 100, 50} {
		batch, held := gather([]line{<-source}, source)
		if len(batch) != want || held != nil {
			t.Fatalf("%d lines and %v, not %d", len(batch), held, want)
		}
	}
}

// TestPublishSlowLines publishes a line while the next one has not come.
func TestPublishSlowLines(t *testing.T) {
	arrived := make(chan bool, 8)
	b := &bookkeeper{before: func(int, http.ResponseWriter) bool {
		arrived <- true
		return false
	}}
	p, _, _ := publishing(t, b, publishCmd{})
	in, source := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- p.lines(t.Context(), in) }()
	for range 3 {
		fmt.Fprintln(source, `{"service":"finance","type":"x"}`)
		select {
		case <-arrived:
		case <-time.After(patience):
			t.Fatal("the line waits for the next one")
		}
	}
	source.Close()
	if err := <-ended; err != nil || len(b.ids) != 3 {
		t.Fatalf("%d events: %v", len(b.ids), err)
	}
}

// TestPublishBadLine publishes all before a bad line and nothing after, whoever finds it bad.
func TestPublishBadLine(t *testing.T) {
	good := `{"service":"finance","type":"x"}` + "\n"
	for name, bad := range map[string]string{
		"not JSON": `{"service":`, "not an object": `["x"]`, "not UTF-8": "{\"service\":\"\xff\"}",
		"no id": `{"id":null}`, "refused": `{"service":"finance","type":"bad"}`, "too long": `{"a":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := &bookkeeper{}
			p, out, _ := publishing(t, b, publishCmd{})
			err := p.lines(t.Context(), strings.NewReader(strings.Repeat(good, 3)+bad+"\n"+good))
			if err == nil || !strings.HasPrefix(err.Error(), "line 4: ") || !strings.HasSuffix(err.Error(), "the 3 events before it were published") {
				t.Errorf("%.200v", err)
			}
			if len(b.ids) != 3 || strings.Count(out.String(), "\n") != 3 {
				t.Errorf("%d events were published and %q printed", len(b.ids), out)
			}
		})
	}
}

// TestReadLine puts an id where there is none and leaves every other byte alone.
func TestReadLine(t *testing.T) {
	service := publishCmd{}
	service.Token, service.Org = "a service's", "3"
	plain := publishCmd{}
	for _, c := range []struct {
		name        string
		command     *publishCmd
		given, want string // ID stands for the one that is made
		made        bool
	}{
		{"none", &plain, `{ "data": {"n": 1.0} }`, `{"id":"ID", "data": {"n": 1.0} }`, true},
		{"empty", &plain, `{}`, `{"id":"ID"}`, true},
		{"given", &plain, `{"id":"mine"}`, `{"id":"mine"}`, false},
		{"number", &plain, `{"id":17}`, `{"id":17}`, false},
		{"other case", &plain, `{"ID":"x"}`, `{"id":"ID","ID":"x"}`, true},
		{"org added", &service, `{"id":"mine"}`, `{"orgId":"3","id":"mine"}`, false},
		{"org given", &service, `{"orgId":"4"}`, `{"id":"ID","orgId":"4"}`, true},
		{"both added", &service, `{}`, `{"id":"ID","orgId":"3"}`, true},
	} {
		one, err := c.command.readLine([]byte(c.given))
		if err != nil || one.made != c.made || !json.Valid(one.body) {
			t.Errorf("%s: %+v (%v)", c.name, one, err)
		}
		if got := strings.ReplaceAll(string(one.body), one.id, "ID"); c.made && got != c.want || !c.made && string(one.body) != c.want {
			t.Errorf("%s: %s, not %s", c.name, one.body, c.want)
		}
	}
}
