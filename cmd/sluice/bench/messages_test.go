package bench

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// everyMessage is a stream of JSON frames of every kind, events alone and several at once.
var everyMessage = []string{
	`{"type":"ack","cursor":"e1-7"}`,
	`{"type":"event","cursor":"e1-8","event":{"id":"a","cursor":"e1-8","data":{"t":1700000000000000001}}}`,
	`{"type":"batch","cursor":"e1-10","events":[{"id":"b","cursor":"e1-9","data":{"t":5}},{"id":"c","cursor":"e1-10","data":{"t":6}}]}`,
	`{"type":"ping","cursor":"e1-10","time":"x"}`,
	`{"type":"reauth","retryMs":1}`,
	`{"type":"drain","retryMs":2}`,
	`{"type":"problem","status":429}`,
	`{"type":"reset","reason":"epoch","cursor":"e2-0"}`,
}

var messageFrames = []string{
	"ack 7 0 " + everyMessage[0], "event 8 1700000000000000001 ", "event 9 5 ", "event 10 6 ", "ping 10 0 " + everyMessage[3],
	"reauth -1 0 " + everyMessage[4], "drain -1 0 " + everyMessage[5], "problem -1 0 " + everyMessage[6], "reset 0 0 " + everyMessage[7],
}

// TestMessageCuts reads NDJSON and a WebSocket whole, cut in two at every byte, and byte by byte.
func TestMessageCuts(t *testing.T) {
	long := everyMessage[2] + strings.Repeat(" ", 1<<16) // a length of eight bytes
	lines := strings.Repeat(" ", 100) + "\n" + strings.Join(everyMessage, "\n") + "\n"
	socket := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
	for _, one := range everyMessage {
		socket += string(textFrame(one))
	}
	for _, c := range []struct {
		door door
		text string
	}{
		{doorNDJSON, plainHead + lines},
		{doorNDJSON, chunkedHead + fmt.Sprintf("%x\r\n%s\r\n", len(lines), lines)},
		{doorWebSocket, socket},
	} {
		splits := [][]string{{c.text}, strings.Split(c.text, "")}
		for at := 1; at < len(c.text); at++ {
			splits = append(splits, []string{c.text[:at], c.text[at:]})
		}
		for _, pieces := range splits {
			got, err := read(&response{door: c.door, stamps: true}, pieces...)
			if err != nil || !slices.Equal(got, messageFrames) {
				t.Fatalf("%s in %d pieces, the first of %d bytes: %q (%v)", c.door, len(pieces), len(pieces[0]), got, err)
			}
		}
	}
	text := socket + string(textFrame(long)) + string(textFrame(everyMessage[1]))
	for at := len(socket); at < len(text); at += 97 {
		got, err := read(&response{door: doorWebSocket, stamps: true}, text[:at], text[at:])
		if want := slices.Concat(messageFrames, messageFrames[2:4], messageFrames[1:2]); err != nil || !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %q (%v)", at, got, err)
		}
	}
}

// TestWebSocketRefused gives what no server should send a reader.
func TestWebSocketRefused(t *testing.T) {
	head := "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	for name, c := range map[string]struct{ bytes, says string }{
		"no upgrade":  {"HTTP/1.1 200 OK\r\n\r\n", "200 OK"},
		"a fragment":  {head + "\x01\x01x", "begins with 0x1"},
		"much":        {head + "\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00", "bytes"},
		"much, later": {head + "\x81", "bytes"},
	} {
		r := &response{door: doorWebSocket}
		_, err := read(r, c.bytes)
		if err == nil && name == "much, later" {
			_, err = read(r, "\x7f\x00\x00", "\x00\x01\x00\x00\x00\x00")
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read(&response{door: doorWebSocket}, head+"\x88\x02\x03\xe8"); !errors.Is(err, errOver) {
		t.Errorf("a close frame: %v", err)
	}
}

// TestShortBatch refuses a frame that does not end where its cursor says: an event is missing from it.
func TestShortBatch(t *testing.T) {
	for _, text := range []string{
		`{"type":"batch","cursor":"e1-3","events":[{"id":"a","cursor":"e1-1"},{"id":"b","cursor":"e1-2"}]}`,
		`{"type":"event","cursor":"e1-3","event":{"id":"a","cursor":"e1-1"}}`,
		`{"type":"event","cursor":"e1-3"}`,
	} {
		for one, bytes := range map[door]string{doorNDJSON: chunk(text + "\n"), doorWebSocket: string(textFrame(text))} {
			if got, err := read(&response{door: one}, one.greeting(), bytes); err == nil || !strings.Contains(err.Error(), "cursor 3 ends") {
				t.Errorf("%s: %q (%v)", one, got, err)
			}
		}
	}
}

// TestFloorWrites has the floor's bytes read like the server's.
func TestFloorWrites(t *testing.T) {
	for _, one := range []door{doorSSE, doorNDJSON, doorWebSocket} {
		text := one.greeting() + string(one.write(0, 1)) + string(one.write(1, 100))
		got, err := read(&response{door: one}, text)
		if err != nil || len(got) != 102 || got[0][:6] != "ack 0 " || got[1] != "event 1 0 " || got[101] != "event 101 0 " {
			t.Errorf("%s: %d frames (%v): %.200q", one, len(got), err, got)
		}
	}
}

// BenchmarkParser compares what reading costs the client, door by door: bytes of batches of a hundred events.
func BenchmarkParser(b *testing.B) {
	for _, one := range []door{doorSSE, doorNDJSON, doorWebSocket} {
		b.Run(string(one), func(b *testing.B) {
			r := &response{door: one}
			if err := r.feed([]byte(one.greeting()), func(*frame) {}); err != nil {
				b.Fatal(err)
			}
			piece := bytes.Repeat(one.write(0, 100), 8)
			events := 0
			b.SetBytes(int64(len(piece)))
			for b.Loop() {
				if err := r.feed(piece, func(*frame) { events++ }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
}
