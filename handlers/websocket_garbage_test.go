package handlers

import (
	"bytes"
	"errors"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// TestWebSocketGarbage sends what no client may: each is refused with its code, and a neighbour is not disturbed.
func TestWebSocketGarbage(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	neighbour := d.dialSocket(admin(t, "neighbour"), "services=finance")
	neighbour.expect("ack")
	open := runtime.NumGoroutine()
	var flood []byte
	for range 2000 {
		flood = append(flood, masked(ws.NewPingFrame([]byte("ping")))...)
	}
	reserved := ws.NewTextFrame([]byte("{}"))
	reserved.Header.Rsv = 4
	for name, one := range map[string]struct {
		bytes []byte
		code  ws.StatusCode
	}{
		"not masked":           {ws.MustCompileFrame(ws.NewTextFrame([]byte("{}"))), ws.StatusProtocolError},
		"garbage":              {bytes.Repeat([]byte{0xff}, 300), ws.StatusProtocolError},
		"reserved bit":         {masked(reserved), ws.StatusProtocolError},
		"fragmented control":   {masked(ws.NewFrame(ws.OpPing, false, nil)), ws.StatusProtocolError},
		"large control":        {masked(ws.NewPingFrame(make([]byte, 126))), ws.StatusProtocolError},
		"continuation of none": {masked(ws.NewFrame(ws.OpContinuation, true, nil)), ws.StatusProtocolError},
		"binary":               {masked(ws.NewBinaryFrame([]byte("{}"))), ws.StatusUnsupportedData},
		"not UTF-8":            {masked(ws.NewTextFrame([]byte{'"', 0xff, '"'})), ws.StatusInvalidFramePayloadData},
		"too big":              {masked(ws.NewTextFrame(make([]byte, 65537)))[:20], ws.StatusMessageTooBig},
		"too big in fragments": {
			append(masked(ws.NewFrame(ws.OpText, false, make([]byte, 65000))), masked(ws.NewFrame(ws.OpContinuation, true, make([]byte, 1000)))...),
			ws.StatusMessageTooBig,
		},
		"not JSON":          {masked(ws.NewTextFrame([]byte("hello"))), ws.StatusPolicyViolation},
		"an array":          {masked(ws.NewTextFrame([]byte("[]"))), ws.StatusPolicyViolation},
		"an unknown field":  {masked(ws.NewTextFrame([]byte(`{"service":"finance"}`))), ws.StatusPolicyViolation},
		"another version":   {masked(ws.NewTextFrame([]byte(`{"version":2}`))), ws.StatusPolicyViolation},
		"a bad cursor":      {masked(ws.NewTextFrame([]byte(`{"cursor":"x"}`))), ws.StatusPolicyViolation},
		"a foreign service": {masked(ws.NewTextFrame([]byte(`{"services":["none"]}`))), ws.StatusPolicyViolation},
		"a flood of pings":  {flood, ws.StatusPolicyViolation},
		"a bad close":       {masked(ws.NewCloseFrame([]byte{1})), ws.StatusProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.dialSocket(admin(t, "7"), "")
			c.t = t
			c.raw(one.bytes)
			code, before := c.closed()
			if code != one.code {
				t.Errorf("closed with %d instead of %d: %+v", code, one.code, before)
			}
			if code == ws.StatusPolicyViolation && !strings.Contains(name, "flood") && (len(before) != 1 || before[0].Status != 400) {
				t.Errorf("no problem was told: %+v", before)
			}
		})
	}
	if want, got := d.append("1", 1, 10), neighbour.events(1); !slices.Equal(got, want) {
		t.Errorf("the neighbour has %v instead of %v", got, want)
	}
	eventually(t, patience, "goroutines stay", func() bool { return runtime.NumGoroutine() <= open+2 })
}

// TestWebSocketRefusals are told in HTTP, before the upgrade.
func TestWebSocketRefusals(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for _, one := range []struct {
		token, query string
		headers      []string
		status       int
	}{
		{"garbage", "", nil, 401},
		{admin(t, "7"), "services=none", nil, 400},
		{admin(t, "7"), "cursor=x", nil, 400},
		{admin(t, "7"), "rooms=1", nil, 400},
		{mint(t, Claims{Services: []string{"tasks"}}), "services=finance", nil, 403},
		{admin(t, "7"), "", []string{"Origin", "https://elsewhere.example"}, 403},
		{admin(t, "7"), "", []string{"Origin", "null"}, 403},
	} {
		_, err := d.tryDialSocket(one.token, one.query, one.headers...)
		var status ws.StatusError
		if !errors.As(err, &status) || int(status) != one.status {
			t.Errorf("%s %v: %v instead of %d", one.query, one.headers, err, one.status)
		}
	}
	own, _ := url.Parse(d.url)
	d.dialSocket(admin(t, "7"), "services=tasks", "Origin", "http://"+own.Host).expect("ack")
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	if r := d.ask("GET", "/v2/realtime/stream", admin(t, "7"), "", upgrade[4:]...); r.status != 426 || !strings.Contains(r.body, "proxy") {
		t.Errorf("a handshake that was stripped: %d %s", r.status, r.body)
	}
	if r := d.ask("GET", "/v2/realtime/stream", admin(t, "7"), "", append(upgrade, "Sec-WebSocket-Version", "8")...); r.status != 426 || r.header.Get("Upgrade") != "websocket" ||
		r.header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("an old version: %d %v", r.status, r.header)
	}
}

// TestWebSocketUnread has a client send requests and read nothing: its answers are bounded, and it is read no further.
func TestWebSocketUnread(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) { d.server.WriteTimeout = time.Second })
	following(d)
	c := d.dialSocket(admin(t, "7"), "services=finance")
	c.expect("ack")
	d.block("1")
	c.send(`{"type":"subscribe","services":["finance","tasks"]}`) // while blocked
	eventually(t, patience, "a reader that takes nothing is not closed", func() bool {
		d.append("1", 1, 60_000) // what the kernel still takes for it
		return d.server.Hub.Stats("1").Streams == 0
	})
}

// TestWebSocketVanishes has clients close in every rude way: nothing of them stays.
func TestWebSocketVanishes(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for name, leave := range map[string]func(*socketClient){
		"close":      func(c *socketClient) { c.conn.Close() },
		"half-close": func(c *socketClient) { _ = c.conn.(*net.TCPConn).CloseWrite() },
		"reset":      func(c *socketClient) { _ = c.conn.(*net.TCPConn).SetLinger(0); c.conn.Close() },
	} {
		for _, query := range []string{"", "services=finance"} {
			c := d.dialSocket(admin(t, "7"), query)
			if query != "" {
				c.expect("ack")
			}
			leave(c)
			eventually(t, patience, name+": the stream stays", func() bool {
				d.server.sockets.mu.Lock()
				defer d.server.sockets.mu.Unlock()
				return d.server.Hub.Stats("1").Streams == 0 && len(d.server.sockets.sinks) == 0
			})
		}
	}
}

// TestWebSocketSilence ends WebSockets whose first message does not come within 10 s, whatever else they send.
func TestWebSocketSilence(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	began := time.Now()
	var silent []*socketClient
	for _, bytes := range [][]byte{
		nil,
		masked(ws.NewFrame(ws.OpText, false, []byte(`{"services":`))),
		masked(ws.NewTextFrame([]byte(`{}`)))[:3],
		masked(ws.NewPingFrame(nil)),
	} {
		c := d.dialSocket(admin(t, "7"), "")
		c.raw(bytes)
		silent = append(silent, c)
	}
	for i, c := range silent {
		if code, before := c.closed(); code != ws.StatusPolicyViolation || len(before) != 0 {
			t.Errorf("client %d: closed with %d after %+v", i, code, before)
		}
	}
	if took := time.Since(began); took < handshakePatience {
		t.Errorf("closed after %v", took)
	}
}

// TestRudeClientsLeaveNothing opens each door many times and leaves it in the worst way: no goroutine and no descriptor stays.
// It runs alone, for it counts what the process has.
func TestRudeClientsLeaveNothing(t *testing.T) {
	d := openDoor(t)
	following(d)
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	d.dialSocket(admin(t, "7"), "services=finance").conn.Close() // what is made once, is made
	head := d.poll(admin(t, "7"), "").Cursor
	d.await("1", 0, 0)
	d.client.CloseIdleConnections()
	goroutines, open := runtime.NumGoroutine(), descriptors()
	poll := "GET /v2/realtime/poll?wait=60&cursor=" + head + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin(t, "7") + "\r\n\r\n"
	for i := range 60 {
		var conn *net.TCPConn
		if i%3 == 0 {
			plain, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			conn = plain.(*net.TCPConn)
			if _, err := conn.Write([]byte(poll)); err != nil {
				t.Fatal(err)
			}
		} else {
			c := d.dialSocket(admin(t, "7"), []string{"", "services=finance"}[i%3-1])
			c.raw([][]byte{{0x81}, bytes.Repeat([]byte{0xff}, 300)}[i%2])
			conn = c.conn.(*net.TCPConn)
		}
		if i%4 == 0 {
			_ = conn.SetLinger(0)
		}
		conn.Close()
	}
	eventually(t, patience, "something of them stays", func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && descriptors() <= open+2 && d.server.Hub.Stats("1").Polls == 0
	})
}
