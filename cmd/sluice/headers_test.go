package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// headersAhead begins an HTTP/2 connection and on it a request whose header block does not end: preface, empty SETTINGS, and
// HEADERS with the method GET.
const headersAhead = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x01\x00\x00\x00\x01\x82"

// TestHugeHeaders sends 100 MB of headers in each way there is: a refusal comes early, nothing of them is kept, and a
// neighbour is not disturbed.
func TestHugeHeaders(t *testing.T) {
	p := serve(t, append(shared(t), "--dev")...)
	all := admin(t, "1")
	neighbour := p.open(transports()[0], all, "", "")
	neighbour.wait("ack")
	before := p.heap()
	line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"
	for name, part := range map[string]string{
		"many":         line,
		"one":          strings.Repeat("x", 1000),
		"continuation": "\x00\x03\xe8\x09\x00\x00\x00\x00\x01" + strings.Repeat("x", 1000), // more of the block
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		start := "GET /v2/realtime/stream HTTP/1.1\r\nHost: localhost\r\nX-First: "
		if name == "continuation" {
			start = headersAhead
		}
		answered := make(chan string, 1)
		go func() {
			text, _ := io.ReadAll(bufio.NewReader(conn)) // what came before a reset counts
			answered <- string(text)
		}()
		sent := 0
		_, err = io.WriteString(conn, start)
		for err == nil && sent < 100<<20 {
			var n int
			n, err = io.WriteString(conn, part)
			sent += n
		}
		if err == nil {
			t.Errorf("%s: all %d bytes were taken", name, sent)
		}
		if text := <-answered; name != "continuation" && !strings.HasPrefix(text, "HTTP/1.1 431 ") {
			t.Errorf("%s: answered %q", name, text)
		}
		conn.Close()
	}
	if grown := int64(p.heap()) - int64(before); grown > 8<<20 {
		t.Errorf("%d bytes are kept of them", grown)
	}
	p.mustPublish(all, event("after", ""))
	if got := neighbour.events(1); got[0] != "after" {
		t.Error(got)
	}
}
