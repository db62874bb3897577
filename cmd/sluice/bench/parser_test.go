package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// everyKind is a stream with every kind of frame, and with what is none: comments, retry, an event whose data speaks of
// stamps and frames.
const everyKind = "retry: 1500\n\n" +
	": padding padding\n\n" +
	"event: ack\nid: e1-7\ndata: {\"cursor\":\"e1-7\"}\n\n" +
	"event: finance\nid: e1-8\ndata: {\"type\":\"expense_added\",\"data\":{\"t\":1700000000000000001}}\n\n" +
	"event: tasks\nid: e1-9\ndata: {\"data\":{\"s\":\"event: reset\"}}\n\n" +
	"event: ping\nid: e1-9\ndata: {\"time\":\"x\"}\n\n" +
	"data: {\"data\":{\"t\":3}}\n\n" +
	"event: reauth\ndata: {\"retryMs\":1}\n\n" +
	"event: drain\ndata: {\"retryMs\":2}\n\n" +
	"event: problem\ndata: {\"status\":429}\n\n" +
	"event: reset\nid: e2-0\ndata: {\"reason\":\"epoch\"}\n\n"

var frames = []string{
	"ack 7 0 {\"cursor\":\"e1-7\"}", "event 8 1700000000000000001 ", "event 9 0 ", "ping 9 0 {\"time\":\"x\"}", "event -1 3 ",
	"reauth -1 0 {\"retryMs\":1}", "drain -1 0 {\"retryMs\":2}", "problem -1 0 {\"status\":429}", "reset 0 0 {\"reason\":\"epoch\"}",
}

var kindNames = map[kind]string{
	kindEvent: "event", kindAck: "ack", kindPing: "ping", kindReset: "reset", kindProblem: "problem", kindDrain: "drain", kindReauth: "reauth",
}

// read feeds pieces and describes the frames that come of them.
func read(r *response, pieces ...string) (seen []string, err error) {
	for _, piece := range pieces {
		err = r.feed([]byte(piece), func(f *frame) {
			text := ""
			if f.kind != kindEvent {
				text = string(f.data)
			}
			seen = append(seen, fmt.Sprintf("%s %d %d %s", kindNames[f.kind], f.seq, f.stamp, text))
		})
		if err != nil {
			return seen, err
		}
	}
	return seen, nil
}

const (
	chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	plainHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
)

// inChunks frames a text as chunks of random sizes, some with an extension, some with capital digits.
func inChunks(random *rand.Rand, text string) string {
	var made strings.Builder
	for len(text) > 0 {
		n := 1 + random.IntN(min(len(text), 60))
		size := strconv.FormatInt(int64(n), 16)
		switch random.IntN(3) {
		case 0:
			size = "0" + strings.ToUpper(size)
		case 1:
			size += ";name=fade"
		}
		made.WriteString(size + "\r\n" + text[:n] + "\r\n")
		text = text[n:]
	}
	return made.String()
}

// TestParserCuts reads one response whole, cut in two at every byte, and byte by byte, chunked in many ways and not at
// all: the frames are the same every time.
func TestParserCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	responses := []string{plainHead + everyKind, chunkedHead + fmt.Sprintf("%x\r\n%s\r\n", len(everyKind), everyKind)}
	for range 10 {
		responses = append(responses, chunkedHead+inChunks(random, everyKind))
	}
	for n, text := range responses {
		splits := [][]string{{text}, strings.Split(text, "")}
		for at := 1; at < len(text); at++ {
			splits = append(splits, []string{text[:at], text[at:]})
		}
		for _, pieces := range splits {
			got, err := read(&response{stamps: true}, pieces...)
			if err != nil || !slices.Equal(got, frames) {
				t.Fatalf("response %d in %d pieces, the first of %d bytes: %q (%v)", n, len(pieces), len(pieces[0]), got, err)
			}
		}
	}
}

// TestParserStamps looks for no stamp where none is wanted.
func TestParserStamps(t *testing.T) {
	got, err := read(&response{}, plainHead, "event: finance\nid: e-1\ndata: {\"data\":{\"t\":5}}\n\n")
	if err != nil || !slices.Equal(got, []string{"event 1 0 "}) {
		t.Errorf("%q (%v)", got, err)
	}
}

// TestParserEnds tells that a chunked body has ended in good order.
func TestParserEnds(t *testing.T) {
	got, err := read(&response{}, chunkedHead+"1c\r\nevent: drain\ndata: {\"a\":1}\n\n\r\n", "0\r\n\r\n")
	if !errors.Is(err, errOver) || !slices.Equal(got, []string{`drain -1 0 {"a":1}`}) {
		t.Errorf("%q (%v)", got, err)
	}
}

// TestParserRefusals gives what no server should send: an error each, and no memory without bound.
func TestParserRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		pieces []string
		says   string
	}{
		"another status": {[]string{"HTTP/1.1 401 Unauthor", "ized\r\nA: b\r\n\r\n{\"status\":401}\n"}, "HTTP/1.1 401 Unauthorized {\"status\":401}"},
		"endless head":   {slices.Repeat([]string{strings.Repeat("x", 1000)}, 20), "head"},
		"endless line":   {append([]string{plainHead}, slices.Repeat([]string{strings.Repeat("x", 10000)}, 30)...), "line is longer"},
		"no size":        {[]string{chunkedHead, "event: finance\n"}, "size of a chunk"},
		"endless size":   {[]string{chunkedHead, strings.Repeat("f", 40)}, "size of a chunk"},
	} {
		if _, err := read(&response{}, c.pieces...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSeqOf reads cursors.
func TestSeqOf(t *testing.T) {
	for cursor, want := range map[string]int64{"e1-7": 7, "a-0": 0, "zz-9223372036854775807": 1<<63 - 1, "e1": -1, "e1-": -1, "": -1} {
		if got := seqOf([]byte(cursor)); got != want {
			t.Errorf("%q is at %d, not at %d", cursor, got, want)
		}
	}
}

// TestExplain says what to do about a reader that failed.
func TestExplain(t *testing.T) {
	refusal := func(status, body string) error { return &refused{status: "HTTP/1.1 " + status, body: body} }
	for _, c := range []struct {
		err  error
		says []string
	}{
		{refusal("401 Unauthorized", "4f\r\n{\"title\":\"Unauthorized\",\"status\":401,\"detail\":\"the token has expired\"}\n\r\n"), []string{"the token has expired", "--data", "--token"}},
		{refusal("403 Forbidden", "{}"), []string{"403", "ADMIN"}},
		{refusal("429 Too Many Requests", "{}"), []string{"--max-streams-per-user 0"}},
		{&ended{kind: kindProblem, data: `{"title":"Too Many Requests","status":429,"detail":"no more"}`}, []string{"429 Too Many Requests: no more", "--max-streams-per-org 0"}},
		{&ended{kind: kindReset, data: `{"reason":"expired"}`}, []string{"reset", "expired"}},
		{&ended{kind: kindDrain}, []string{"drains"}},
		{closedBy(nil), []string{"closed it", "its log"}},
	} {
		got := explainStream(3, c.err).Error()
		for _, want := range append(c.says, "reader 3: ") {
			if !strings.Contains(got, want) {
				t.Errorf("%q does not say %q", got, want)
			}
		}
	}
}
