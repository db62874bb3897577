package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// socketClient is a WebSocket from the reader's side.
type socketClient struct {
	t    testing.TB
	conn net.Conn
	from io.Reader
}

// dialSocket opens a WebSocket; headers are pairs.
func (d *door) dialSocket(token, query string, headers ...string) *socketClient {
	d.t.Helper()
	c, err := d.tryDialSocket(token, query, headers...)
	if err != nil {
		d.t.Fatalf("dial %s: %v", query, err)
	}
	return c
}

func (d *door) tryDialSocket(token, query string, headers ...string) (*socketClient, error) {
	return d.tryDialPath(token, "/v2/realtime/stream?"+query, headers...)
}

func (d *door) tryDialPath(token, path string, headers ...string) (*socketClient, error) {
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP(header), TLSConfig: d.tls}
	conn, buffered, _, err := dialer.Dial(ctx, strings.Replace(d.url, "http", "ws", 1)+path)
	if err != nil {
		return nil, err
	}
	d.t.Cleanup(func() { conn.Close() })
	c := &socketClient{t: d.t, conn: conn, from: conn}
	if buffered != nil {
		ahead, _ := buffered.Peek(buffered.Buffered())
		c.from = io.MultiReader(bytes.NewReader(slices.Clone(ahead)), conn)
	}
	return c, nil
}

// raw sends bytes as they are.
func (c *socketClient) raw(bytes []byte) {
	c.t.Helper()
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(bytes); err != nil {
		c.t.Fatal(err)
	}
}

// masked is a frame as a client must send it.
func masked(f ws.Frame) []byte { return ws.MustCompileFrame(ws.MaskFrame(f)) }

// send sends a text message.
func (c *socketClient) send(message string) {
	c.t.Helper()
	c.raw(masked(ws.NewTextFrame([]byte(message))))
}

// frame reads one frame; ok is false at the connection's end.
func (c *socketClient) frame() (f ws.Frame, ok bool) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	header, err := ws.ReadHeader(c.from)
	if err == nil {
		f = ws.Frame{Header: header, Payload: make([]byte, min(header.Length, 8<<20))}
		_, err = io.ReadFull(c.from, f.Payload)
	}
	if err != nil {
		var timeout net.Error
		if ok := errors.As(err, &timeout); ok && timeout.Timeout() {
			c.t.Fatal("no frame comes, and no end")
		}
		return f, false
	}
	if f.Header.Masked || !f.Header.Fin {
		c.t.Fatalf("the server sent %+v", f.Header)
	}
	return f, true
}

// wireFrame is any frame of a stream as JSON.
type wireFrame struct {
	Type         string
	ConnectionID string `json:"connectionId"`
	Cursor       string
	Services     []string
	Transport    string
	Event        json.RawMessage
	Events       []json.RawMessage
	Status       int
	Detail       string
	Field        string
	Ref          json.RawMessage
	Result       json.RawMessage
	Reason       string
	RetryMs      int
}

// next reads one message.
func (c *socketClient) next() wireFrame {
	c.t.Helper()
	f, ok := c.frame()
	if !ok {
		c.t.Fatal("the WebSocket ended")
	}
	if f.Header.OpCode != ws.OpText {
		c.t.Fatalf("a frame of kind %x: %q", f.Header.OpCode, f.Payload)
	}
	var one wireFrame
	if err := json.Unmarshal(f.Payload, &one); err != nil {
		c.t.Fatalf("%q: %v", f.Payload, err)
	}
	return one
}

// expect reads one message of a type.
func (c *socketClient) expect(kind string) wireFrame {
	c.t.Helper()
	one := c.next()
	if one.Type != kind {
		c.t.Fatalf("%+v instead of %s", one, kind)
	}
	return one
}

// events reads n events, one by one or in batches, and checks that each frame's cursor is that of its last event.
func (c *socketClient) events(n int) (ids []string) {
	c.t.Helper()
	for len(ids) < n {
		one := c.next()
		list := one.Events
		switch one.Type {
		case "event":
			list = []json.RawMessage{one.Event}
		case "batch":
			if len(list) < 2 || len(list) > 100 {
				c.t.Fatalf("a batch of %d", len(list))
			}
		default:
			c.t.Fatalf("%+v after %d of %d events", one, len(ids), n)
		}
		for i, raw := range list {
			var e struct{ ID, Cursor string }
			if err := json.Unmarshal(raw, &e); err != nil {
				c.t.Fatalf("%s: %v", raw, err)
			}
			if i == len(list)-1 && e.Cursor != one.Cursor {
				c.t.Fatalf("the frame's cursor is %s, its last event's %s", one.Cursor, e.Cursor)
			}
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// closed reads up to the close frame, gives its code, and checks that the connection's end follows.
func (c *socketClient) closed() (code ws.StatusCode, before []wireFrame) {
	c.t.Helper()
	for {
		f, ok := c.frame()
		if !ok {
			c.t.Fatal("the connection ended without a close frame")
		}
		if f.Header.OpCode == ws.OpText {
			var one wireFrame
			if err := json.Unmarshal(f.Payload, &one); err != nil {
				c.t.Fatalf("%q: %v", f.Payload, err)
			}
			before = append(before, one)
		}
		if f.Header.OpCode != ws.OpClose {
			continue
		}
		code, _ = ws.ParseCloseFrameData(f.Payload)
		if _, more := c.frame(); more {
			c.t.Fatal("something comes after the close frame")
		}
		return code, before
	}
}

// TestWebSocketHandshake has the query ask, and the first message: both are acknowledged, before any event.
func TestWebSocketHandshake(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	for _, one := range []struct {
		query, message string
		services       []string
	}{
		{"services=finance,staff", "", []string{"finance", "staff"}},
		{"services=finance&services=staff&propertyId=null", "", []string{"finance", "staff"}},
		{"", `{"services":["finance","staff"],"propertyId":7,"version":1}`, []string{"finance", "staff"}},
		{"", `{"type":"subscribe","services":["tasks"],"cursor":null}`, []string{"tasks"}},
		{"", `{}`, d.server.Catalogue.Usual()},
	} {
		c := d.dialSocket(admin(t, "7"), one.query)
		if one.message != "" {
			c.send(one.message)
		}
		ack := c.expect("ack")
		if ack.Transport != "websocket" || ack.ConnectionID == "" || !slices.Equal(ack.Services, one.services) {
			t.Errorf("%s%s: %+v", one.query, one.message, ack)
		}
	}
}

// TestWebSocketBeginsBeforeItReads has clients that close at once, with a request on its way: it must find the stream.
func TestWebSocketBeginsBeforeItReads(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	request := "GET /v2/realtime/stream?services=finance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin(t, "7") +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
		string(masked(ws.NewTextFrame([]byte(`{"type":"subscribe","services":["tasks"]}`))))
	var clients, crowd sync.WaitGroup
	var enough atomic.Bool
	for range 8 {
		crowd.Go(func() { // so that a stream waits for the hub while it begins
			for !enough.Load() {
				d.server.Hub.Stats("1")
			}
		})
	}
	for range 20 {
		clients.Go(func() {
			for range 5 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.WriteString(conn, request)
				if err == nil {
					err = conn.(*net.TCPConn).CloseWrite()
				}
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				if _, readErr := io.Copy(io.Discard, conn); err != nil || errors.Is(readErr, os.ErrDeadlineExceeded) {
					t.Error(err, readErr)
				}
				conn.Close()
			}
		})
	}
	clients.Wait()
	enough.Store(true)
	crowd.Wait()
	eventually(t, patience, "a stream stays", func() bool { return d.server.Hub.Stats("1").Streams == 0 })
}

// TestWebSocketDelivers follows the log from a cursor, over single events and batches, small and large.
func TestWebSocketDelivers(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	want := d.append("1", 30, 100)
	c := d.dialSocket(admin(t, "7"), "cursor=earliest")
	c.expect("ack")
	if got := c.events(30); !slices.Equal(got, want) {
		t.Fatalf("replayed: %v", got)
	}
	for _, size := range []int{1, 40_000, 65_000} {
		if want, got := d.append("1", 3, size), c.events(3); !slices.Equal(got, want) {
			t.Fatalf("of %d bytes: %v instead of %v", size, got, want)
		}
	}
}

// TestWebSocketSubscribe changes what a stream carries, in place: a new ack says from where.
func TestWebSocketSubscribe(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	c := d.dialSocket(mint(t, Claims{Properties: []string{"3", "4"}}), "services=tasks&propertyId=3")
	first := c.expect("ack")
	other := d.dialSocket(admin(t, "other"), "services=finance")
	other.expect("ack")
	d.append("1", 2, 10)
	other.events(2) // this instance has read them, so they are behind the first one, too
	c.send(`{"type":"subscribe","services":["finance"]}`)
	second := c.expect("ack")
	if second.ConnectionID != first.ConnectionID || !slices.Equal(second.Services, []string{"finance"}) {
		t.Fatalf("%+v after %+v", second, first)
	}
	want := d.append("1", 2, 10)
	if got := c.events(2); !slices.Equal(got, want) {
		t.Fatalf("after the change: %v instead of %v", got, want)
	}
	c.send(`{"type":"subscribe","services":["finance"],"propertyId":"5","ref":"r1"}`)
	if p := c.expect("problem"); p.Status != http.StatusForbidden || string(p.Ref) != `"r1"` {
		t.Fatalf("a foreign property: %+v", p)
	}
	c.send(`{"type":"sing","ref":7}`)
	if p := c.expect("problem"); p.Status != http.StatusBadRequest || string(p.Ref) != "7" || p.Field != "type" {
		t.Fatalf("an unknown request: %+v", p)
	}
	if want, got := d.append("1", 1, 10), c.events(1); !slices.Equal(got, want) {
		t.Fatalf("after refused requests: %v instead of %v", got, want)
	}
	c.send(`{"type":"subscribe","services":["nothing"]}`)
	if code, before := c.closed(); code != ws.StatusPolicyViolation || len(before) != 1 || before[0].Field != "services" {
		t.Fatalf("without a ref: %d %+v", code, before)
	}
}

// TestWebSocketPing has pings answered, between the fragments of a message too, and the close frame.
func TestWebSocketPing(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	c := d.dialSocket(admin(t, "7"), "")
	c.raw(masked(ws.NewFrame(ws.OpText, false, []byte(`{"services":`))))
	c.raw(masked(ws.NewPingFrame([]byte("are you there"))))
	if f, ok := c.frame(); !ok || f.Header.OpCode != ws.OpPong || string(f.Payload) != "are you there" {
		t.Fatalf("%v %+v", ok, f)
	}
	rest := masked(ws.NewFrame(ws.OpContinuation, true, []byte(`["tasks"]}`)))
	for i := range rest { // a byte at a time
		c.raw(rest[i : i+1])
	}
	if ack := c.expect("ack"); !slices.Equal(ack.Services, []string{"tasks"}) {
		t.Fatalf("%+v", ack)
	}
	c.raw(masked(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "bye"))))
	if code, _ := c.closed(); code != ws.StatusNormalClosure {
		t.Fatalf("closed with %d", code)
	}
	eventually(t, patience, "the stream stays", func() bool { return d.server.Hub.Stats("1").Streams == 0 })
}

// TestWebSocketDrain ends with a drain frame and 1001.
func TestWebSocketDrain(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	c := d.dialSocket(admin(t, "7"), "services=finance")
	c.expect("ack")
	d.server.Hub.Drain(context.Background())
	code, before := c.closed()
	if code != ws.StatusGoingAway || len(before) != 1 || before[0].Type != "drain" || before[0].RetryMs <= 0 {
		t.Fatalf("%d %+v", code, before)
	}
	for _, query := range []string{"services=finance", ""} {
		_, err := d.tryDialSocket(admin(t, "7"), query)
		if refused := ws.StatusError(0); !errors.As(err, &refused) || refused != http.StatusServiceUnavailable {
			t.Errorf("after the drain, %q: %v", query, err)
		}
	}
}

// TestPollAndWebSocketEachWay has polls and WebSockets do where the connection cannot be owned what they do in clear text.
func TestPollAndWebSocketEachWay(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		if d.client.Transport.(*http.Transport).Protocols.HTTP2() || d.client.Transport.(*http.Transport).Protocols.UnencryptedHTTP2() {
			d.polls(t)
			return
		}
		d.polls(t)
		d.tls = d.client.Transport.(*http.Transport).TLSClientConfig.Clone()
		d.tls.NextProtos = nil
		c := d.dialSocket(admin(t, "7"), "")
		c.raw(masked(ws.NewPingFrame([]byte("early"))))
		if f, ok := c.frame(); !ok || f.Header.OpCode != ws.OpPong {
			t.Fatalf("%v %+v", ok, f)
		}
		c.send(`{"services":["finance"]}`)
		c.expect("ack")
		if want, got := d.append("1", 3, 40_000), c.events(3); !slices.Equal(got, want) {
			t.Fatalf("%v instead of %v", got, want)
		}
		c.send(`{"type":"subscribe","services":["tasks"]}`)
		c.expect("ack")
		c.raw(masked(ws.NewBinaryFrame(nil)))
		if code, _ := c.closed(); code != ws.StatusUnsupportedData {
			t.Fatalf("closed with %d", code)
		}
		drained := d.dialSocket(admin(t, "7"), "services=tasks")
		drained.expect("ack")
		d.server.Hub.Drain(context.Background())
		if code, before := drained.closed(); code != ws.StatusGoingAway || len(before) != 1 {
			t.Fatalf("%d %+v", code, before)
		}
	})
}

// polls has a poll wait and be answered where its connection cannot be owned.
func (d *door) polls(t *testing.T) {
	d.t = t
	at := d.poll(admin(t, "7"), "").Cursor
	parked := make(chan pollAnswered, 1)
	go func() { parked <- d.poll(admin(t, "7"), "wait=60&cursor="+at) }()
	eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
	want := d.append("1", 2, 100)
	a := <-parked
	for len(a.Events) < len(want) {
		a.Events = append(a.Events, d.poll(admin(t, "7"), "wait=60&cursor="+a.Cursor).Events...)
	}
	if !slices.Equal(a.ids(), want) {
		t.Fatalf("%+v instead of %v", a, want)
	}
}

// TestMessageLengths frames messages at each border of the header's length.
func TestMessageLengths(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		text := bytes.Repeat([]byte("x"), size)
		framed := message([]byte("before"), func(dst []byte) []byte { return append(dst, text...) })
		want := append([]byte("before"), ws.MustCompileFrame(ws.NewTextFrame(text))...)
		if !bytes.Equal(framed, want) {
			t.Errorf("%d bytes are framed wrongly: %s", size, fmt.Sprintf("%.40x", framed))
		}
	}
}
