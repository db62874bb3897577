package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/handlers"
)

// mover reads a log from a cursor through one door after another.
type mover struct {
	p      *process
	client http.Client
	trusts *tls.Config // where p has TLS
	proto  string      // of the last answer over HTTP
	token  string
	query  string
	cursor string
	ids    []string
}

// doors are the ways to read some events more, at least one where enough are there, and move the cursor.
var doors = map[string]func(f *mover, ctx context.Context, most int) error{
	"sse": func(f *mover, ctx context.Context, most int) error {
		return f.readStream(ctx, "text/event-stream", most)
	},
	"ndjson": func(f *mover, ctx context.Context, most int) error {
		return f.readStream(ctx, "application/x-ndjson", most)
	},
	"websocket": (*mover).readSocket,
	"poll":      func(f *mover, ctx context.Context, _ int) error { return f.readPoll(ctx) },
}

// read goes through a door once, and gives up when a test has waited long enough.
func (f *mover) read(door string, most int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return doors[door](f, ctx, most)
}

// request asks for what comes after the cursor.
func (f *mover) request(ctx context.Context, path, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.p.url+path+"&"+f.query+"&cursor="+f.cursor, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+f.token)
	request.Header.Set("Accept", accept)
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	f.proto = response.Proto
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, errors.New(response.Status)
	}
	return response, nil
}

// readPoll asks once.
func (f *mover) readPoll(ctx context.Context) error {
	response, err := f.request(ctx, "/v2/realtime/poll?wait=20", "application/json")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return f.take(text)
}

// take reads one JSON frame or a poll's answer.
func (f *mover) take(text []byte) error {
	var one struct {
		Type, Cursor string
		Event        *struct{ ID string }
		Events       []struct{ ID string }
		Reset        any
	}
	if err := json.Unmarshal(text, &one); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	switch {
	case one.Cursor == "" || one.Type == "reset" || one.Reset != nil:
		return fmt.Errorf("unexpected: %s", text)
	case one.Event != nil:
		f.ids = append(f.ids, one.Event.ID)
	}
	for _, event := range one.Events {
		f.ids = append(f.ids, event.ID)
	}
	f.cursor = one.Cursor
	return nil
}

// readStream reads events of a stream over HTTP and leaves it in the middle.
func (f *mover) readStream(ctx context.Context, accept string, most int) error {
	response, err := f.request(ctx, "/v2/realtime/stream?", accept)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	var id, kind string
	for read := 0; read < most; {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		text = bytes.TrimSpace(text)
		value, isData := bytes.CutPrefix(text, []byte("data: "))
		before := len(f.ids)
		switch {
		case accept == "application/x-ndjson":
			if len(text) > 0 { // else padding
				err = f.take(text)
			}
		case bytes.HasPrefix(text, []byte("id: ")):
			id = string(text[len("id: "):])
		case bytes.HasPrefix(text, []byte("event: ")):
			kind = string(text[len("event: "):])
		case isData && (kind == "ack" || kind == "ping"):
			err = f.take(fmt.Appendf(nil, `{"cursor":%q}`, id))
		case isData && kind == "finance":
			err = f.take(fmt.Appendf(nil, `{"cursor":%q,"event":%s}`, id, value))
		case isData:
			err = fmt.Errorf("unexpected: %s %s", kind, value)
		}
		if err != nil {
			return err
		}
		read += len(f.ids) - before
	}
	return nil
}

// readSocket reads events of a WebSocket; half of the time it asks by the first message.
func (f *mover) readSocket(ctx context.Context, most int) error {
	query := f.query + "&cursor=" + f.cursor
	asked := rand.N(2) == 0
	if asked {
		query = ""
	}
	dialer := ws.Dialer{TLSConfig: f.trusts, Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer " + f.token}}}
	conn, buffered, _, err := dialer.Dial(ctx, strings.Replace(f.p.url, "http", "ws", 1)+"/v2/realtime/stream?"+query)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var from io.Reader = conn
	if buffered != nil {
		from = buffered
	}
	if asked {
		message := fmt.Sprintf(`{"services":["finance"],"cursor":%q}`, f.cursor)
		if err := ws.WriteFrame(conn, ws.MaskFrame(ws.NewTextFrame([]byte(message)))); err != nil {
			return err
		}
	}
	for start := len(f.ids); len(f.ids)-start < most; {
		header, err := ws.ReadHeader(from)
		if err != nil {
			return err
		}
		payload := make([]byte, header.Length)
		if _, err := io.ReadFull(from, payload); err != nil {
			return err
		}
		if err := f.take(payload); err != nil {
			return err
		}
	}
	return nil
}

// TestMovingBetweenDoors drives a filtered reader through all doors of two instances in random order, with one cursor, while
// events are published: it ends with exactly the log, in order.
func TestMovingBetweenDoors(t *testing.T) {
	flags := shared(t)
	instances := []*process{serve(t, flags...), serve(t, flags...)}
	all := admin(t, "1")
	manager := token(t, handlers.Claims{Org: "1", User: "2", Role: "MANAGER", Properties: []string{"3"}})
	first := instances[0].mustPublish(all, event("first", "3"))[0].Cursor
	const rounds, each = 40, 10
	var want []string
	published := make(chan struct{})
	go func() {
		defer close(published)
		for round := range rounds {
			var batch []map[string]any
			for i := range each {
				batch = append(batch, event(fmt.Sprintf("e%d-%d", round, i), strconv.Itoa(i%4)))
			}
			if _, err := instances[round%2].publish(all, batch); err != nil {
				t.Error(err)
			}
		}
	}()
	for round := range rounds {
		for i := range each {
			if i%4 == 3 {
				want = append(want, fmt.Sprintf("e%d-%d", round, i))
			}
		}
	}
	names := []string{"ndjson", "poll", "sse", "websocket"}
	f := &mover{token: manager, query: "services=finance", cursor: first}
	used := map[string]int{}
	for moves := 0; len(f.ids) < len(want); moves++ {
		if moves > 10*len(want) {
			t.Fatalf("%d of %d events after %d moves", len(f.ids), len(want), moves)
		}
		name := names[rand.N(len(names))]
		used[name]++
		f.p = instances[rand.N(2)]
		err := f.read(name, min(1+rand.N(8), len(want)-len(f.ids)))
		if err != nil {
			t.Fatalf("%s at %s, %d of %d events: %v", name, f.cursor, len(f.ids), len(want), err)
		}
	}
	if !slices.Equal(f.ids, want) {
		t.Fatalf("%v\ninstead of\n%v", f.ids, want)
	}
	<-published
	t.Logf("moves: %v", used)
}
