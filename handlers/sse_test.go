package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	r3labs "github.com/r3labs/sse/v2"
	gosse "github.com/tmaxmax/go-sse"
	"pgregory.net/rapid"

	"sluice/store"
	"sluice/streams"
)

// wireEvent is an event as a reader knows it.
type wireEvent struct {
	ID         string          `json:"id"`
	Cursor     string          `json:"cursor"`
	Org        string          `json:"orgId"`
	Service    string          `json:"service"`
	Type       string          `json:"type"`
	PropertyID string          `json:"propertyId"`
	EntityType string          `json:"entityType"`
	EntityID   string          `json:"entityId"`
	UserID     string          `json:"userId"`
	Time       string          `json:"time"`
	Data       json.RawMessage `json:"data"`
}

const testEpoch = "0abc"

// wireOf is what the protocol says that an event is to a reader.
func wireOf(e *store.Event) wireEvent {
	return wireEvent{
		e.ID, fmt.Sprintf("%s-%d", testEpoch, e.Seq), e.Org, e.Service, e.Type, e.PropertyID,
		e.EntityType, e.EntityID, e.UserID, e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Data,
	}
}

// hostile are texts, all of them UTF-8, as at the door, that tear frames and strings where they are not quoted.
var hostile = rapid.OneOf(
	rapid.String(),
	rapid.SampledFrom([]string{
		"", `"`, `\`, `\"`, "\r", "\n", "\r\n", "\n\n", "\ndata: x", "a\n\nevent: b\ndata: {}\n\n", "\x00", "\x1f", "\x7f", "\u0085",
		"\u2028", "\u2029", "\ufeff", "\ufffd", "😀", "é", "</script>", "%0a", `\u000a`, "data: ", ": ", strings.Repeat("a", 128),
	}),
)

// documents are JSON objects as the door lets them in: without white space between tokens, and otherwise as published.
var documents = rapid.Custom(func(t *rapid.T) json.RawMessage {
	var text strings.Builder
	text.WriteByte('{')
	for i := range rapid.IntRange(0, 4).Draw(t, "members") {
		if i > 0 {
			text.WriteString(rapid.SampledFrom([]string{",", " ,\n", ",\r\n\t"}).Draw(t, "between"))
		}
		name, _ := json.Marshal(hostile.Draw(t, "name"))
		text.Write(name)
		text.WriteString(rapid.SampledFrom([]string{":", ":\n", ": "}).Draw(t, "colon"))
		value, _ := json.Marshal(hostile.Draw(t, "value"))
		text.WriteString(rapid.SampledFrom([]string{
			string(value), "[\n" + string(value) + "\r]", "1E400", "-0", "12345678901234567890.10", "null", "true", `{"":{}}`,
			`"\u0000\ud800\/"`, "\"raw \u2028\u2029\u0085 text\"",
		}).Draw(t, "shape"))
	}
	text.WriteByte('}')
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(text.String())); err != nil {
		t.Fatal(err)
	}
	return compact.Bytes()
})

var hostileEvents = rapid.Custom(func(t *rapid.T) store.Event {
	return store.Event{
		Org: hostile.Draw(t, "org"), Seq: rapid.Int64Range(1, 1<<62).Draw(t, "seq"),
		Time:    time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "time")),
		ID:      rapid.StringMatching(`[A-Za-z0-9._:-]{1,128}`).Draw(t, "id"),
		Service: rapid.SampledFrom(store.DefaultCatalogue().Stored()).Draw(t, "service"),
		Type:    rapid.StringMatching(`[a-z][a-z0-9_]{0,20}`).Draw(t, "type"), PropertyID: hostile.Draw(t, "property"),
		EntityType: hostile.Draw(t, "entity type"), EntityID: hostile.Draw(t, "entity"), UserID: hostile.Draw(t, "user"),
		Data: documents.Draw(t, "data"),
	}
})

// checkEvent holds what a reader got against an event.
func checkEvent(t rapid.TB, e *store.Event, kind, id, data string) {
	t.Helper()
	want := wireOf(e)
	var got wireEvent
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if kind != e.Service || id != want.Cursor || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Fatalf("%+v is read as %s %s %+v", want, kind, id, got)
	}
	for _, field := range []struct{ name, value string }{
		{"orgId", e.Org}, {"propertyId", e.PropertyID}, {"entityType", e.EntityType}, {"entityId", e.EntityID}, {"userId", e.UserID},
	} {
		if field.value == "" && strings.Contains(data[:len(data)-len(e.Data)], `"`+field.name+`":`) {
			t.Fatalf("%s stands in %q though there is none", field.name, data)
		}
	}
}

// TestEventsSurviveFraming frames any events one after the other, and reads them with a parser that is not ours.
func TestEventsSurviveFraming(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(hostileEvents, 1, 4).Draw(t, "events")
		var text []byte
		for i := range events {
			before := len(text)
			text = sse{}.Event(text, &events[i], testEpoch)
			frame := text[before:]
			if bytes.ContainsRune(frame, '\r') || bytes.Count(frame, []byte("\n")) != 4 || !bytes.HasSuffix(frame, []byte("\n\n")) {
				t.Fatalf("the frame is not three lines and an empty one: %q", frame)
			}
		}
		n := 0
		for event, err := range parsed(text) {
			if err != nil || n == len(events) {
				t.Fatalf("after %d of %d events: %+v, %v", n, len(events), event, err)
			}
			checkEvent(t, &events[n], event.Type, event.LastEventID, event.Data)
			n++
		}
		if n != len(events) {
			t.Fatalf("%d of %d events are read from %q", n, len(events), text)
		}
	})
}

// parsed reads with github.com/tmaxmax/go-sse.
func parsed(text []byte) func(func(gosse.Event, error) bool) {
	return gosse.Read(bytes.NewReader(text), &gosse.ReadConfig{MaxEventSize: 1 << 20})
}

// TestEventsSurviveAnotherReader has the client that `sluice tail` is built on read some of them over HTTP.
func TestEventsSurviveAnotherReader(t *testing.T) {
	var events []store.Event
	var text []byte
	for seed := range 200 {
		events = append(events, hostileEvents.Example(seed))
		text = sse{}.Event(text, &events[seed], testEpoch)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write(text)
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := r3labs.NewClient(server.URL, r3labs.ClientMaxBufferSize(1<<20))
	client.Connection.Transport = &http.Transport{DisableKeepAlives: true}
	n := 0
	_ = client.SubscribeRawWithContext(ctx, func(event *r3labs.Event) {
		if n < len(events) {
			checkEvent(t, &events[n], string(event.Event), string(event.ID), string(event.Data))
		}
		if n++; n == len(events) {
			cancel()
		}
	})
	if n < len(events) {
		t.Errorf("%d of %d events were read", n, len(events))
	}
}

// TestFrames writes out every frame that is no event.
func TestFrames(t *testing.T) {
	at := store.Cursor{Epoch: "e", Seq: 7}
	ack := streams.Ack{
		ConnectionID: "c\"\n", Cursor: at, Resumable: true, Services: []string{"finance", "tasks"}, Heartbeat: 30 * time.Second,
		Transport: "sse",
	}
	alone := ack
	alone.Resumable, alone.Services = false, nil
	for want, got := range map[string][]byte{
		"event: ack\nid: e-7\ndata: {\"connectionId\":\"c\\\"\\u000a\",\"cursor\":\"e-7\",\"services\":[\"finance\",\"tasks\"]," +
			"\"heartbeatMs\":30000,\"transport\":\"sse\"}\n\n": sse{}.Ack(nil, ack),
		"event: ack\ndata: {\"connectionId\":\"c\\\"\\u000a\",\"cursor\":\"e-7\",\"services\":[],\"heartbeatMs\":30000," +
			"\"transport\":\"sse\"}\n\n": sse{}.Ack(nil, alone),
		"event: ping\nid: e-7\ndata: {\"cursor\":\"e-7\",\"time\":\"2026-01-02T03:04:05.678Z\"}\n\n": sse{}.Ping(nil,
			streams.Ping{Cursor: at, Time: time.Date(2026, 1, 2, 4, 4, 5, 678_999_999, time.FixedZone("", 3600))}),
		"event: reset\nid: e-7\ndata: {\"reason\":\"ahead\",\"oldest\":\"e-2\",\"latest\":\"e-7\",\"cursor\":\"e-7\"}\n\n": sse{}.Reset(nil,
			streams.Reset{Reason: streams.ResetAhead, Oldest: store.Cursor{Epoch: "e", Seq: 2}, Latest: at}),
		"retry: 1500\nevent: reauth\ndata: {\"retryMs\":1500}\n\n": sse{}.Retry(nil, streams.RetryReauth, 1500*time.Millisecond),
		"retry: 0\nevent: drain\ndata: {\"retryMs\":0}\n\n":        sse{}.Retry(nil, streams.RetryDrain, 0),
		"retry: 60000\nevent: problem\ndata: {\"type\":\"about:blank\",\"title\":\"T\\u000d\",\"status\":429,\"detail\":\"d\"}\n\n": sse{}.Problem(nil,
			streams.StreamProblem{Status: 429, Title: "T\r", Detail: "d", Retry: time.Minute}),
		"event: problem\ndata: {\"type\":\"about:blank\",\"title\":\"T\",\"status\":503}\n\n": sse{}.Problem(nil,
			streams.StreamProblem{Status: 503, Title: "T"}),
	} {
		if string(got) != want {
			t.Errorf("%q is not %q", got, want)
		}
		_, data, _ := strings.Cut(strings.TrimSuffix(string(got), "\n\n"), "data: ")
		if !json.Valid([]byte(data)) {
			t.Errorf("%q is no JSON", data)
		}
	}
}

// TestFramesAppend has every method leave alone what stands before its frame, which is how one payload holds many.
func TestFramesAppend(t *testing.T) {
	event := hostileEvents.Example(1)
	for i, write := range []func(dst []byte) []byte{
		func(dst []byte) []byte { return sse{}.Event(dst, &event, testEpoch) },
		func(dst []byte) []byte { return sse{}.Ack(dst, streams.Ack{}) },
		func(dst []byte) []byte { return sse{}.Ping(dst, streams.Ping{}) },
		func(dst []byte) []byte { return sse{}.Reset(dst, streams.Reset{}) },
		func(dst []byte) []byte { return sse{}.Retry(dst, streams.RetryDrain, time.Second) },
		func(dst []byte) []byte { return sse{}.Problem(dst, streams.StreamProblem{Retry: time.Second}) },
	} {
		if alone, behind := write(nil), write([]byte("before")); !slices.Equal(behind, append([]byte("before"), alone...)) {
			t.Errorf("method %d makes %q of %q", i, behind, alone)
		}
	}
}

// TestStringsAreQuoted holds the quoting of labels against encoding/json.
func TestStringsAreQuoted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(hostile, func(s string) []byte { return []byte(s) })).Draw(t, "text"))
		quoted := appendString(nil, text)
		var back string
		if err := json.Unmarshal(quoted, &back); err != nil {
			t.Fatalf("%q: %v", quoted, err)
		}
		if back != string([]rune(text)) { // each byte that is no UTF-8 is one replacement character
			t.Fatalf("%q comes back as %q", text, back)
		}
		if bytes.ContainsAny(quoted, "\r\n\x00") {
			t.Fatalf("%q tears a frame", quoted)
		}
	})
}
