package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/tmaxmax/go-sse"
)

// chatClient keeps connections for as many users as a test has.
var chatClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}

// read opens the user's door once, and reads until it closes.
func (c *chatUser) read(ctx context.Context, at, cursor string) error {
	query := c.query
	if cursor != "" {
		query += "&cursor=" + cursor
	}
	switch c.door {
	case "socket":
		return c.readSocket(ctx, at, "", cursor)
	case "socket and POST":
		return c.readSocket(ctx, at, "?"+query, "")
	case "poll and POST":
		return c.readPolls(ctx, at)
	case "ndjson and POST":
		return c.readBody(ctx, at+c.path+"?"+query, "application/x-ndjson", c.readLines)
	}
	return c.readBody(ctx, at+c.path+"?"+query, "text/event-stream", c.readSSE)
}

// readBody reads what answers a GET. What is refused for good is wrong.
func (c *chatUser) readBody(ctx context.Context, from, accept string, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Accept", accept)
	response, err := chatClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return read(response.Body)
	}
	text, _ := io.ReadAll(response.Body)
	if forNow(response.StatusCode) {
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	return c.fail("%s: %s", response.Status, text)
}

// forNow says whether a refusal may be another answer a moment later.
func forNow(status int) bool { return status == http.StatusTooManyRequests || status >= 502 }

func (c *chatUser) readLines(from io.Reader) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		if err := c.take(line); err != nil {
			return err
		}
	}
}

func (c *chatUser) readSSE(from io.Reader) error {
	for one, err := range sse.Read(from, &sse.ReadConfig{MaxEventSize: 1 << 20}) {
		if err != nil {
			return err
		}
		text := fmt.Appendf(nil, `{"type":"event","cursor":%q,"event":%s}`, one.LastEventID, one.Data)
		switch {
		case one.Type == "ack" || one.Type == "ping":
			text = fmt.Appendf(nil, `{"type":%q,"cursor":%q}`, one.Type, one.LastEventID)
		case one.Type != "chat":
			text = fmt.Appendf(nil, `{"type":%q,%s`, one.Type, strings.TrimPrefix(one.Data, "{"))
		}
		if err := c.take(text); err != nil {
			return err
		}
	}
	return io.EOF
}

// readPolls asks again and again.
func (c *chatUser) readPolls(ctx context.Context, at string) error {
	for {
		c.mu.Lock()
		query := c.query
		if c.cursor != "" {
			query += "&cursor=" + c.cursor
		}
		c.mu.Unlock()
		err := c.readBody(ctx, at+"/v2/realtime/poll?wait=20&"+query, "application/json", func(from io.Reader) error {
			text, err := io.ReadAll(from)
			if err != nil {
				return err
			}
			return c.take(text)
		})
		if err != nil {
			return err
		}
	}
}

// chatSocket is a WebSocket that requests go up through.
type chatSocket struct {
	conn net.Conn

	mu   sync.Mutex
	asks map[string]chan chatAnswer // guarded by mu: by ref; nil: it has ended
}

// chatAnswer is what a request came to. Over a WebSocket, ok is 200.
type chatAnswer struct {
	status int
	text   []byte
}

// readSocket opens a WebSocket. Without a query the first message says what is asked for, and requests go up through it, too.
func (c *chatUser) readSocket(ctx context.Context, at, query, cursor string) error {
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer " + c.token}}}
	conn, buffered, _, err := dialer.Dial(ctx, strings.Replace(at, "http", "ws", 1)+c.path+query)
	var status ws.StatusError
	if errors.As(err, &status) && !forNow(int(status)) {
		return c.fail("%v", err)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var from io.Reader = conn
	if buffered != nil {
		from = buffered
	}
	up := &chatSocket{conn: conn, asks: map[string]chan chatAnswer{}}
	defer up.end()
	if query == "" {
		values, _ := url.ParseQuery(c.query)
		hello := map[string]any{"services": []string{"chat"}, "version": 1}
		if rooms := values.Get("rooms"); rooms != "" {
			hello["rooms"] = strings.Split(rooms, ",")
		}
		if cursor != "" {
			hello["cursor"] = cursor
		}
		if err := up.write(hello); err != nil {
			return err
		}
		c.mu.Lock()
		c.up = up
		c.mu.Unlock()
	}
	for {
		text, err := wsutil.ReadServerText(readWriter{from, conn})
		if err != nil {
			return err
		}
		if err := c.take(text); err != nil {
			return err
		}
	}
}

type readWriter struct {
	io.Reader
	io.Writer
}

func (s *chatSocket) write(message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ws.WriteFrame(s.conn, ws.MaskFrame(ws.NewTextFrame(text)))
}

// answered gives an answer to whoever waits for it.
func (s *chatSocket) answered(frame chatFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := chatAnswer{http.StatusOK, frame.Result}
	if frame.Type == "problem" {
		answer.status, _ = strconv.Atoi(string(frame.Status))
	}
	if asked, waits := s.asks[frame.Ref]; waits {
		asked <- answer
		delete(s.asks, frame.Ref)
	}
}

// end tells all who wait that no answer comes.
func (s *chatSocket) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.asks {
		close(one)
	}
	s.asks = nil
}

var errGone = errors.New("the connection is gone")

// ask sends a request and waits for what answers it.
func (s *chatSocket) ask(ref string, message map[string]any) (chatAnswer, error) {
	answer := make(chan chatAnswer, 1)
	s.mu.Lock()
	if s.asks == nil {
		s.mu.Unlock()
		return chatAnswer{}, errGone
	}
	s.asks[ref] = answer
	s.mu.Unlock()
	if err := s.write(message); err != nil {
		return chatAnswer{}, err
	}
	select {
	case got, ok := <-answer:
		if !ok {
			return got, errGone
		}
		return got, nil
	case <-time.After(patience):
		return chatAnswer{}, fmt.Errorf("nothing answers %v", message)
	}
}

// call makes a request over HTTP.
func (c *chatUser) call(method, path string, body any) (chatAnswer, error) {
	c.mu.Lock()
	at := c.to[0]
	c.mu.Unlock()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return chatAnswer{}, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, at+path, bytes.NewReader(text))
	if err != nil {
		return chatAnswer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := chatClient.Do(request)
	if err != nil {
		c.next(at, err)
		return chatAnswer{}, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	if ctx.Err() != nil {
		return chatAnswer{response.StatusCode, text}, c.fail("%s %s never ends: %s %s", method, path, response.Status, text)
	}
	if err != nil {
		c.next(at, err)
	}
	return chatAnswer{response.StatusCode, text}, err
}
