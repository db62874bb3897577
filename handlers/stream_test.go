package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestNegotiation asks for the stream in every way of the protocol's table.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for accept, want := range map[string]string{
		"": eventStream, "*/*": eventStream, "text/*": eventStream, "text/event-stream": eventStream,
		"application/x-ndjson": ndjsonType, "application/*": ndjsonType,
		"application/x-ndjson, */*;q=0.1":                          ndjsonType,
		"application/x-ndjson, */*":                                ndjsonType,
		"application/x-ndjson;q=0.1, */*":                          eventStream,
		"application/x-ndjson, text/event-stream":                  eventStream,
		"application/x-ndjson;q=0.9, text/event-stream;q=0.8":      ndjsonType,
		"text/html, application/x-ndjson;q=0, text/event-stream":   eventStream,
		"text/html, application/json":                              "",
		"text/event-stream;q=0":                                    "",
		"*/*;q=0":                                                  "",
		"text/event-stream;q=0, application/x-ndjson;q=0, */*;q=1": "",
	} {
		headers := []string{"Accept", accept}
		r := d.ask(http.MethodHead, "/v2/realtime/stream", admin(t, "7"), "", headers...)
		if want == "" {
			if r.status != http.StatusNotAcceptable {
				t.Errorf("%q: %d", accept, r.status)
			}
			continue
		}
		if r.status != http.StatusOK || r.header.Get("Content-Type") != want || r.header.Get("X-Accel-Buffering") != "no" {
			t.Errorf("%q: %d %v instead of %s", accept, r.status, r.header, want)
		}
	}
	if streams := d.server.Hub.Stats("1").Streams; streams != 0 {
		t.Errorf("HEAD has opened %d streams", streams)
	}
}

// TestNDJSON follows the log line by line, in chunks and, over HTTP/1.0, without.
func TestNDJSON(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	want := d.append("1", 30, 100)
	for _, pad := range []string{"", "&pad=1"} {
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v2/realtime/stream?cursor=earliest"+pad, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", ndjsonType)
		request.Header.Set("Authorization", "Bearer "+admin(t, "7"))
		response, err := d.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(response.TransferEncoding, []string{"chunked"}) {
			t.Errorf("encoded as %v", response.TransferEncoding)
		}
		lines := bufio.NewReader(response.Body)
		if pad != "" {
			if blank, err := lines.ReadString('\n'); err != nil || len(blank) != padding+1 || strings.TrimSpace(blank) != "" {
				t.Errorf("padded with %q: %v", blank, err)
			}
		}
		if got := readLines(t, lines, len(want)); !slices.Equal(got, want) {
			t.Errorf("%v instead of %v", got, want)
		}
		more := d.append("1", 2, 65_000)
		want = append(want, more...)
		if got := readLines(t, lines, 2); !slices.Equal(got, more) {
			t.Errorf("live: %v instead of %v", got, more)
		}
		if pad != "" {
			d.server.Hub.Drain(ctx)
			rest, err := io.ReadAll(lines)
			if err != nil || !strings.HasPrefix(string(rest), `{"type":"drain","retryMs":`) {
				t.Errorf("ended with %q: %v", rest, err)
			}
		}
		cancel()
		response.Body.Close()
	}
}

// readLines reads n events, past an ack.
func readLines(t *testing.T, lines *bufio.Reader, n int) (ids []string) {
	t.Helper()
	for len(ids) < n {
		text, err := lines.ReadBytes('\n')
		var one wireFrame
		if err == nil {
			err = json.Unmarshal(text, &one)
		}
		if err != nil {
			t.Fatalf("after %d of %d: %q: %v", len(ids), n, text, err)
		}
		list := one.Events
		switch one.Type {
		case "ack":
			if one.Transport != "ndjson" {
				t.Fatalf("%s", text)
			}
			continue
		case "event":
			list = []json.RawMessage{one.Event}
		}
		for _, raw := range list {
			var e struct{ ID string }
			if err := json.Unmarshal(raw, &e); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.ID)
		}
	}
	return ids
}
