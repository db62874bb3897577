package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"

	"sluice/store"
)

const (
	frameLimit  = 4 << 20          // bytes of one frame; an event is far smaller
	firstFrame  = time.Minute      // the longest silence before ack has told the heartbeat
	steadyAfter = 5 * time.Second  // a stream that held this long was no failure
	longestWait = 10 * time.Minute // of what a server may ask us to wait
)

type tailCmd struct {
	clientFlags
	User     string   `default:"sluice-tail" help:"User of the token that is made."`
	Services []string `placeholder:"NAME,…" help:"Services to follow; all if not given."`
	Property string   `placeholder:"ID" help:"Only this property's events, and org-wide ones."`
	Rooms    []string `placeholder:"ID,…" help:"Only these rooms of the service chat; all of the user's if not given."`
	Cursor   string   `placeholder:"CURSOR" help:"Begin after this cursor, or at the earliest event kept; none: at what comes now."`
	JSON     bool     `name:"json" xor:"form" help:"Events as the server sends them, one a line (the default)."`
	Pretty   bool     `xor:"form" help:"Events as lines to read."`
}

// Help shows examples.
func (tailCmd) Help() string {
	return `Events go to standard output, what happens to the stream to standard error. The stream is opened again whenever
it ends, where it was left: nothing is missed and nothing printed twice. Only a refusal ends it.

Examples:
  sluice tail --pretty
  sluice tail --services finance,tasks --property 7 --cursor earliest
  sluice tail --user ben --services chat --rooms reception --pretty
  sluice tail --cursor earliest | jq -r 'select(.type == "expense_added") | .data.amount'`
}

// Run follows the log until ctx ends.
func (c *tailCmd) Run(ctx context.Context) error {
	t, err := c.tailing(os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return t.run(ctx)
}

// tailing is a subscription over any number of connections. It is used by one goroutine.
type tailing struct {
	command *tailCmd
	client  *http.Client
	out     io.Writer
	notes   io.Writer
	pauses  pauses
	cursor  string        // of the last frame that was taken whole: where the next connection begins
	retry   time.Duration // the last `retry:` of the server
	said    string        // the last failure told, so that an outage is told once
	slack   time.Duration // beyond two heartbeats, before silence means a dead connection
}

func (c *tailCmd) tailing(out, notes io.Writer) (*tailing, error) {
	if _, err := store.ParseCursor(c.Cursor); err != nil && c.Cursor != "" && c.Cursor != "earliest" {
		return nil, fmt.Errorf("--cursor %q: %w, or earliest", c.Cursor, err)
	}
	if _, err := c.endpoint("", nil); err != nil {
		return nil, err
	}
	return &tailing{
		command: c, client: newClient(), out: out, notes: notes,
		pauses: pauses{least: 200 * time.Millisecond, most: 5 * time.Second}, slack: 5 * time.Second,
	}, nil
}

func (t *tailing) note(format string, args ...any) {
	fmt.Fprintf(t.notes, "sluice: "+format+"\n", args...)
}

// comeBack ends a connection that is to be opened again.
type comeBack struct {
	why   string
	after time.Duration // at least; 0: what the back-off says
}

func (c *comeBack) Error() string { return c.why }

// final ends the subscription.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// run opens one connection after the other, until ctx ends or the server refuses.
func (t *tailing) run(ctx context.Context) error {
	for {
		began := time.Now()
		err := t.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var last *final
		if errors.As(err, &last) {
			return last.error
		}
		if time.Since(began) >= steadyAfter {
			t.pauses.tries = 0
		}
		pause := t.pauses.next()
		var back *comeBack
		var refused *refusal
		if errors.As(err, &back) {
			pause = max(pause, back.after)
		} else if errors.As(err, &refused) {
			pause = max(pause, refused.RetryAfter)
		}
		if err == nil {
			err = errors.New("the stream ended")
		}
		if text := t.command.explain(err).Error(); text != t.said {
			t.said = text
			t.note("%s; again in %s", text, pause.Round(100*time.Millisecond))
		}
		if !rest(ctx, pause) {
			return nil
		}
	}
}

// query is what the stream is asked for with. The cursor of the command line counts until the server has given one.
func (t *tailing) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{
		"services": strings.Join(t.command.Services, ","), "rooms": strings.Join(t.command.Rooms, ","), "propertyId": t.command.Property, "cursor": t.command.Cursor,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if !t.command.minted() && t.command.Org != "" {
		query.Set("orgId", t.command.Org)
	}
	if t.cursor != "" {
		query.Del("cursor")
	}
	return query
}

// connect follows one connection to its end; nil is an orderly one. The client below would reconnect by itself, but
// not after an orderly end and not for ever, so here it makes one request.
func (t *tailing) connect(ctx context.Context) error {
	address, err := t.command.endpoint("/v2/realtime/stream", t.query())
	if err != nil {
		return &final{err}
	}
	bearer, err := t.command.bearer(t.command.User, "")
	if err != nil {
		return &final{err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := sse.NewClient(address, sse.ClientMaxBufferSize(frameLimit))
	client.Connection = t.client
	client.ReconnectStrategy = &backoff.StopBackOff{}
	client.ResponseValidator = func(_ *sse.Client, response *http.Response) error {
		return t.command.validate(response)
	}
	client.Headers["Authorization"] = "Bearer " + bearer
	if t.cursor != "" {
		client.LastEventID.Store([]byte(t.cursor))
	}
	one := &connection{tailing: t, cancel: cancel, silence: firstFrame}
	// A connection that went dead without a word is noticed by its missing pings.
	one.watch = time.AfterFunc(one.silence, func() { cancel(&comeBack{why: "nothing comes any more"}) })
	defer one.stop()
	err = client.SubscribeRawWithContext(ctx, func(message *sse.Event) {
		// What was read before the connection was given up is not taken: the next one brings it again.
		if ctx.Err() == nil {
			one.take(message)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// validate lets a stream pass. What is wrong with the request itself, and a token that is refused, will not get
// better by asking again.
func (c *tailCmd) validate(response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		refused := readRefusal(response)
		switch refused.Status {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
			return &final{c.explain(refused)}
		}
		return refused
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "text/event-stream" {
		response.Body.Close()
		return &comeBack{why: fmt.Sprintf("%s answers with %s, not with a stream; is it Sluice?", c.URL, cmp.Or(kind, "nothing"))}
	}
	return nil
}

// connection is one response of the server's.
type connection struct {
	tailing *tailing
	cancel  context.CancelCauseFunc
	silence time.Duration
	watch   *time.Timer
	renew   *time.Timer // set by reauth
}

func (c *connection) stop() {
	c.watch.Stop()
	if c.renew != nil {
		c.renew.Stop()
	}
}

// take judges one frame. The client below hands on comments as frames without data, gives a frame without an id that
// of the one before, and at the end of a stream hands on half a frame as if it were whole: so a frame counts only if
// its JSON is whole, and the cursor is the one in there.
func (c *connection) take(message *sse.Event) {
	t := c.tailing
	c.watch.Reset(c.silence)
	if ms, err := strconv.ParseInt(string(message.Retry), 10, 64); err == nil {
		t.retry = bounded(ms)
	}
	if len(message.Data) == 0 {
		return
	}
	whole := false
	switch kind := string(message.Event); kind {
	case "ack":
		whole = c.ack(message)
	case "ping":
		whole = c.moved(message.Data)
		t.pauses.tries = 0
	case "reset":
		whole = c.reset(message.Data)
	case "typing", "presence":
		whole = c.signal(kind, message.Data)
	case "reauth", "drain", "problem":
		whole = c.goodbye(kind, message.Data)
	default:
		whole = c.event(message.Data)
	}
	if !whole {
		c.cancel(&comeBack{why: "a frame came that is not whole"})
	}
}

// moved advances the cursor to the frame's.
func (c *connection) moved(text []byte) bool {
	var frame struct{ Cursor string }
	if json.Unmarshal(text, &frame) != nil || frame.Cursor == "" {
		return false
	}
	c.tailing.cursor = frame.Cursor
	return true
}

func (c *connection) ack(message *sse.Event) bool {
	var frame struct {
		ConnectionID, Cursor string
		Services             []string
		HeartbeatMs          int64
	}
	if json.Unmarshal(message.Data, &frame) != nil {
		return false
	}
	// Without an id of its own a reset follows: a connection that ends before it must ask with the old cursor again.
	if frame.Cursor == string(message.ID) {
		c.tailing.cursor = frame.Cursor
	}
	if frame.HeartbeatMs > 0 {
		c.silence = 2*bounded(frame.HeartbeatMs) + c.tailing.slack
		c.watch.Reset(c.silence)
	}
	c.tailing.said = ""
	c.tailing.note("connected to %s: %s from %s (connection %s)", c.tailing.command.URL, strings.Join(frame.Services, ", "),
		frame.Cursor, frame.ConnectionID)
	return true
}

// signal notes what is told of a member and is no event.
func (c *connection) signal(kind string, text []byte) bool {
	var frame struct{ Room, UserID, Status string }
	if json.Unmarshal(text, &frame) != nil {
		return false
	}
	what := "types"
	if kind == "presence" {
		what = "is " + frame.Status
	}
	c.tailing.note("%s %s in %s", frame.UserID, what, frame.Room)
	return true
}

func (c *connection) reset(text []byte) bool {
	var frame struct{ Reason, Oldest, Latest string }
	if json.Unmarshal(text, &frame) != nil || !c.moved(text) {
		return false
	}
	c.tailing.note("reset (%s): what was asked for cannot be replayed; the log begins at %s, and this goes on from %s",
		frame.Reason, frame.Oldest, frame.Latest)
	return true
}

// goodbye takes the frames after which the server lets go of us.
func (c *connection) goodbye(kind string, text []byte) bool {
	var frame struct {
		RetryMs int64
		refusal
		Status int
	}
	if json.Unmarshal(text, &frame) != nil {
		return false
	}
	switch kind {
	case "drain":
		c.cancel(&comeBack{why: "the server drains", after: bounded(frame.RetryMs)})
	case "problem":
		frame.refusal.Status = frame.Status
		c.cancel(&comeBack{why: frame.refusal.Error(), after: c.tailing.retry})
	case "reauth":
		if !c.tailing.command.minted() {
			c.tailing.note("the token ends, and the stream with it; start again with a new --token")
			break
		}
		// The stream goes on until the moment that the server chose for us, and then with a new token.
		c.renew = time.AfterFunc(bounded(frame.RetryMs), func() { c.cancel(&comeBack{why: "the token ends"}) })
	}
	return true
}

// event prints an event. The cursor moves after that: an event that could not be printed is not counted as seen.
func (c *connection) event(text []byte) bool {
	var frame struct{ Service, Cursor string }
	if json.Unmarshal(text, &frame) != nil {
		return false
	}
	if frame.Service == "" {
		return true // a frame of a later server, which is no event
	}
	if frame.Cursor == "" {
		return false
	}
	if err := c.tailing.print(text); err != nil {
		c.cancel(&final{err})
		return true
	}
	c.tailing.cursor = frame.Cursor
	c.tailing.pauses.tries = 0
	return true
}

// bounded reads a number of milliseconds, not trusting it.
func bounded(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), longestWait.Milliseconds())) * time.Millisecond
}

// print writes an event as one line.
func (t *tailing) print(text []byte) error {
	var row bytes.Buffer
	if t.command.Pretty {
		if err := pretty(&row, text); err != nil {
			return err
		}
	} else if err := json.Compact(&row, text); err != nil {
		return err
	}
	row.WriteByte('\n')
	_, err := t.out.Write(row.Bytes())
	return err
}

// pretty writes an event for people: when, what, where, by whom and the rest.
func pretty(row *bytes.Buffer, text []byte) error {
	var event struct {
		ID, Cursor, OrgID, Service, Type, PropertyID, EntityType, EntityID, UserID string

		Time time.Time
		Data json.RawMessage
	}
	if err := json.Unmarshal(text, &event); err != nil {
		return err
	}
	fmt.Fprintf(row, "%s  %-24s", event.Time.UTC().Format("15:04:05.000"), event.Service+"/"+event.Type)
	if event.PropertyID != "" {
		fmt.Fprintf(row, "  property %s", event.PropertyID)
	}
	if event.EntityType != "" || event.EntityID != "" {
		fmt.Fprintf(row, "  %s %s", cmp.Or(event.EntityType, "entity"), event.EntityID)
	}
	if event.UserID != "" {
		fmt.Fprintf(row, "  by %s", event.UserID)
	}
	row.WriteString("  ")
	if len(event.Data) > 0 {
		if err := json.Compact(row, event.Data); err != nil {
			return err
		}
		row.WriteString("  ")
	}
	row.WriteString(event.Cursor)
	return nil
}
