package doctor

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// The doors that a stream is had through.
const (
	sse       = "sse"
	ndjson    = "ndjson"
	webSocket = "websocket"
)

// most is the number of bytes that are read of one stream.
const most = 64 << 20

// errSilent is what comes of waiting for something that does not come.
var errSilent = errors.New("nothing came")

// frame is what a doctor looks at of a frame.
type frame struct {
	Type, Title, Detail string

	HeartbeatMs int64
	at          time.Time // of its arrival
}

// stream is a subscription: open, or not yet, or no longer.
type stream struct {
	door       string
	began      time.Time
	cancel     context.CancelFunc
	frames     chan frame
	heartbeat  time.Duration // told by ack
	heard      time.Time     // when the last frame came
	compressed string        // how; written before the first frame is sent
	err        error         // why it ended; written before frames is closed, as the next
	ended      time.Time
}

// open asks for a stream. Whatever comes of it comes out of its frames. origin may be empty.
func (x *exam) open(ctx context.Context, door string, query url.Values, token, origin string) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{door: door, began: time.Now(), cancel: cancel, frames: make(chan frame, 64)}
	go func() {
		defer close(s.frames)
		defer cancel()
		s.err = s.run(ctx, x, query, token, origin)
		s.ended = time.Now()
	}()
	return s
}

func (s *stream) close() {
	s.cancel()
	for range s.frames { // until it has ended
	}
}

// run reads the stream to its end.
func (s *stream) run(ctx context.Context, x *exam, query url.Values, token, origin string) error {
	request, err := x.request(ctx, http.MethodGet, "/v2/realtime/stream", query, token)
	if err != nil {
		return err
	}
	client, expected, read := x.any, http.StatusOK, s.readSSE
	switch s.door {
	case sse:
		request.Header.Set("Accept", "text/event-stream")
	case ndjson:
		request.Header.Set("Accept", "application/x-ndjson")
		read = s.readLines
	case webSocket:
		client, expected, read = x.old, http.StatusSwitchingProtocols, s.readSocket
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "websocket")
		request.Header.Set("Sec-WebSocket-Version", "13")
		request.Header.Set("Sec-WebSocket-Key", "c2x1aWNlIGRvY3RvciAgIA==")
	}
	if s.door != webSocket {
		request.Header.Set("Accept-Encoding", "gzip") // as browsers do
	}
	if origin != "" {
		request.Header.Set("Origin", origin)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// The client lets go of a connection that has become a WebSocket, and ends it with no context any more.
	defer context.AfterFunc(ctx, func() { response.Body.Close() })()
	if response.StatusCode != expected {
		return refusedBy(response)
	}
	from := io.LimitReader(response.Body, most)
	if s.compressed = response.Header.Get("Content-Encoding"); s.compressed == "gzip" {
		if from, err = gzip.NewReader(from); err != nil {
			return err
		}
	}
	return read(ctx, bufio.NewReader(from))
}

// send hands a frame on; one that is no JSON ends the stream.
func (s *stream) send(ctx context.Context, kind string, text []byte) error {
	one := frame{at: time.Now()}
	if err := json.Unmarshal(text, &one); err != nil {
		return fmt.Errorf("a frame is not whole: %w", err)
	}
	if kind != "" {
		one.Type = kind
	}
	select {
	case s.frames <- one:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stream) readSSE(ctx context.Context, from *bufio.Reader) error {
	kind := "event"
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		switch name {
		case "":
			kind = "event"
		case "event":
			kind = value
		case "data":
			if err := s.send(ctx, kind, []byte(value)); err != nil {
				return err
			}
		}
	}
}

func (s *stream) readLines(ctx context.Context, from *bufio.Reader) error {
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return err
		}
		if line = strings.TrimSpace(line); line != "" {
			if err := s.send(ctx, "", []byte(line)); err != nil {
				return err
			}
		}
	}
}

func (s *stream) readSocket(ctx context.Context, from *bufio.Reader) error {
	for {
		header, err := ws.ReadHeader(from)
		if err != nil {
			return err
		}
		if header.Length > most {
			return errors.New("a frame is too large")
		}
		payload := make([]byte, header.Length)
		if _, err := io.ReadFull(from, payload); err != nil {
			return err
		}
		switch header.OpCode {
		case ws.OpText:
			if err := s.send(ctx, "", payload); err != nil {
				return err
			}
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return fmt.Errorf("closed with %d %s", code, reason)
		}
	}
}

// ack waits for the first frame.
func (s *stream) ack(within time.Duration) (after time.Duration, err error) {
	one, err := s.next(time.After(within))
	if err != nil {
		return 0, err
	}
	if one.Type != "ack" {
		return 0, fmt.Errorf("the first frame is %s: %s %s", one.Type, one.Title, one.Detail)
	}
	s.heartbeat = time.Duration(one.HeartbeatMs) * time.Millisecond
	return one.at.Sub(s.began), nil
}

// next waits for one frame: errSilent where the time is over, or else why the stream has ended.
func (s *stream) next(over <-chan time.Time) (frame, error) {
	select {
	case one, more := <-s.frames:
		if !more {
			return frame{}, s.err
		}
		s.heard = one.at
		return one, nil
	case <-over:
		return frame{}, errSilent
	}
}

// refusal is an answer other than the one asked for.
type refusal struct {
	Status        int `json:"-"`
	Title, Detail string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("%d %s", r.Status, r.Title)
	if r.Detail != "" {
		text += ": " + r.Detail
	}
	return text
}

// status gives that of a refusal; 0: it is another error.
func status(err error) int {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

// problemType is what Sluice's refusals are.
const problemType = "application/problem+json"

// refusedBy reads Sluice's own problem, or says who else answers.
func refusedBy(response *http.Response) *refusal {
	refused := &refusal{}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if kind != problemType || err != nil || json.Unmarshal(text, refused) != nil {
		refused.Detail = "not an answer of Sluice's"
		if server := response.Header.Get("Server"); server != "" {
			refused.Detail += " but of " + server
		}
		if to := response.Header.Get("Location"); to != "" {
			refused.Detail += ", which sends us to " + to
		}
	}
	refused.Status = response.StatusCode
	if refused.Title == "" {
		refused.Title = http.StatusText(response.StatusCode)
	}
	return refused
}
