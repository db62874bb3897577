package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	batchEvents = 100     // the server's limit of events in a request
	batchBytes  = 1 << 20 // and of its body
	tryTimeout  = 10 * time.Second
)

type publishCmd struct {
	clientFlags
	Service string `arg:"" optional:"" help:"Service, such as finance; none or - reads JSON lines from standard input."`
	Type    string `arg:"" optional:"" help:"Type, such as expense_added."`
	Payload string `arg:"" optional:"" name:"data-json" help:"Data of the event: a JSON object."`

	Property   string        `placeholder:"ID" help:"Property that the event concerns; none: org-wide."`
	EntityType string        `name:"entity-type" placeholder:"TYPE" help:"Kind of thing that it concerns."`
	EntityID   string        `name:"entity-id" placeholder:"ID" help:"Id of that thing."`
	User       string        `placeholder:"ID" help:"User that caused the event."`
	ID         string        `name:"id" placeholder:"ID" help:"The event's own id: publishing it again publishes it once."`
	Timeout    time.Duration `default:"30s" help:"Give up when the server has not confirmed for this long."`
}

// Help shows examples.
func (publishCmd) Help() string {
	return `Prints a line for each event once it is in the log: its cursor, its id, and "duplicate" where the log had the
id already. Ids are made before the first try, so that trying again never publishes twice.

Examples:
  sluice publish finance expense_added '{"amount": 120.5}' --property 7
  sluice publish guest guest_created '{"name": "Ada"}' --entity-type guest --entity-id 42 --id booking-42
  sluice publish < events.jsonl

A line of standard input is an event as POST /v2/events takes it:
  {"service": "finance", "type": "expense_added", "propertyId": "7", "data": {"amount": 120.5}}`
}

// Run publishes one event, or the lines of standard input.
func (c *publishCmd) Run(ctx context.Context) error {
	p, err := c.publisher(os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	if c.Service != "" && c.Service != "-" {
		return p.one(ctx)
	}
	if c.Type != "" || c.Property != "" || c.EntityType != "" || c.EntityID != "" || c.User != "" || c.ID != "" {
		return errors.New("lines of standard input carry their own type, property, entity, user and id: leave those flags out")
	}
	if terminal(os.Stdin) {
		fmt.Fprintln(os.Stderr, "sluice: reading events from standard input, one JSON object a line; Ctrl-D ends it")
	}
	p.progress = terminal(os.Stderr) && !terminal(os.Stdout)
	return p.lines(ctx, os.Stdin)
}

// publisher sends batches to one server. It is used by one goroutine.
type publisher struct {
	command   *publishCmd
	url       string
	client    *http.Client
	pauses    pauses // what every batch begins with
	out       *bufio.Writer
	notes     io.Writer
	published int
	progress  bool
	began     time.Time
	shown     time.Time // when progress was last shown
}

func (c *publishCmd) publisher(out, notes io.Writer) (*publisher, error) {
	address, err := c.endpoint("/v2/events", nil)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &publisher{
		command: c, url: address, client: newClient(), out: bufio.NewWriter(out), notes: notes, began: now, shown: now,
		pauses: pauses{least: 100 * time.Millisecond, most: 2 * time.Second},
	}, nil
}

// line is one event to be published: its JSON with an id in it, and where it came from.
type line struct {
	number int
	id     string
	made   bool // the id was made here
	body   []byte
}

// one publishes the event that the command line describes.
func (p *publisher) one(ctx context.Context) error {
	c := p.command
	if c.Type == "" {
		return fmt.Errorf("what is the type? `sluice publish %s TYPE [DATA-JSON]`, with a type such as expense_added", c.Service)
	}
	if c.Payload != "" && !object([]byte(c.Payload)) {
		return fmt.Errorf("%s is not a JSON object such as '{\"amount\": 120.5}'", c.Payload)
	}
	event := struct {
		ID         string          `json:"id"`
		OrgID      string          `json:"orgId,omitempty"`
		Service    string          `json:"service"`
		Type       string          `json:"type"`
		PropertyID string          `json:"propertyId,omitempty"`
		EntityType string          `json:"entityType,omitempty"`
		EntityID   string          `json:"entityId,omitempty"`
		UserID     string          `json:"userId,omitempty"`
		Data       json.RawMessage `json:"data,omitempty"`
	}{
		ID: c.ID, OrgID: c.actsFor(), Service: c.Service, Type: c.Type, PropertyID: c.Property, EntityType: c.EntityType,
		EntityID: c.EntityID, UserID: c.User, Data: json.RawMessage(c.Payload),
	}
	one := line{id: c.ID, made: c.ID == ""}
	if one.made {
		one.id = uuid.Must(uuid.NewV7()).String()
		event.ID = one.id
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // data stays as it was written
	if err := encoder.Encode(event); err != nil {
		return err
	}
	one.body = bytes.TrimSpace(body.Bytes())
	err := p.send(ctx, []line{one})
	var unsure *unconfirmed
	if errors.As(err, &unsure) {
		return fmt.Errorf("%w; it may be in the log all the same: publish it again with --id %s, which publishes it once", err, one.id)
	}
	return err
}

// actsFor is the org that events name: only a service's token needs it.
func (c *publishCmd) actsFor() string {
	if c.minted() {
		return ""
	}
	return c.Org
}

// lines publishes what comes, in order. While one batch is under way the next gathers, so that a slow source is
// published line by line and a fast one in full batches. Every line before a bad one is published, none after.
func (p *publisher) lines(ctx context.Context, in io.Reader) error {
	source := make(chan line, batchEvents)
	var failed error // written before source is closed
	go func() {
		defer close(source)
		failed = p.command.readLines(ctx, in, source)
	}()
	var held *line // did not fit into the batch before
	for {
		batch := []line{}
		if held == nil {
			select {
			case first, ok := <-source:
				if !ok {
					return p.at(failed)
				}
				held = &first
			case <-ctx.Done():
				return p.at(errors.New("interrupted"))
			}
		}
		batch = append(batch, *held)
		batch, held = gather(batch, source)
		if err := p.sendLines(ctx, batch); err != nil {
			return p.at(err)
		}
	}
}

// gather adds what is there already, up to the limits of a request; held is what did not fit.
func gather(batch []line, source <-chan line) (full []line, held *line) {
	size := len(batch[0].body) + len("[]")
	for len(batch) < batchEvents {
		select {
		case next, ok := <-source:
			if !ok {
				return batch, nil
			}
			if size += len(next.body) + len(","); size > batchBytes {
				return batch, &next
			}
			batch = append(batch, next)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// at adds to an error how far publishing came.
func (p *publisher) at(err error) error {
	switch {
	case err == nil:
		return nil
	case p.published == 0:
		return fmt.Errorf("%w; nothing was published before it", err)
	case p.published == 1:
		return fmt.Errorf("%w; the 1 event before it was published", err)
	}
	return fmt.Errorf("%w; the %d events before it were published", err, p.published)
}

var fieldIndex = regexp.MustCompile(`^events\[(\d+)\]`)

// sendLines sends a batch. Where the server refuses one event of it, which refuses all, those before it are sent.
func (p *publisher) sendLines(ctx context.Context, batch []line) error {
	err := p.send(ctx, batch)
	first, last := batch[0].number, batch[len(batch)-1].number
	var unsure *unconfirmed
	if errors.As(err, &unsure) {
		return fmt.Errorf("lines %d to %d: %w; they may be in the log all the same", first, last, err)
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		return err
	}
	bad := 0
	if match := fieldIndex.FindStringSubmatch(refused.Field); match != nil {
		bad, _ = strconv.Atoi(match[1])
	} else if len(batch) > 1 {
		return fmt.Errorf("lines %d to %d: %w", first, last, err)
	}
	if bad >= len(batch) {
		return err
	}
	if bad > 0 {
		if earlier := p.sendLines(ctx, batch[:bad]); earlier != nil {
			return earlier
		}
	}
	return fmt.Errorf("line %d: %w", batch[bad].number, err)
}

// readLines reads events until the end, a bad line or the end of ctx.
func (c *publishCmd) readLines(ctx context.Context, in io.Reader, to chan<- line) error {
	number := 0
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), batchBytes)
	for lines.Scan() {
		number++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		one, err := c.readLine(text)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		one.number = number
		select {
		case to <- one:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d: longer than 1 MiB", number+1)
	}
	return lines.Err()
}

// readLine checks that a line is an object and puts an id into it where it has none. Everything else is the server's
// to judge; the bytes stay as they are.
func (c *publishCmd) readLine(text []byte) (line, error) {
	if !utf8.Valid(text) {
		return line{}, errors.New("not UTF-8")
	}
	if !object(text) {
		return line{}, errors.New("not a JSON object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return line{}, err
	}
	one := line{}
	added := ""
	switch id, found := fields["id"]; {
	case !found:
		one.id, one.made = uuid.Must(uuid.NewV7()).String(), true
		added = `"id":"` + one.id + `",`
	case string(id) == "null":
		return line{}, errors.New("the id is null: leave it out to have one made")
	case json.Unmarshal(id, &one.id) != nil:
		one.id = string(id) // a number stands for its digits
	}
	if _, found := fields["orgId"]; !found && c.actsFor() != "" {
		org, _ := json.Marshal(c.actsFor()) // a string always has a form
		added += `"orgId":` + string(org) + `,`
	}
	if len(fields) == 0 && added != "" {
		added = added[:len(added)-1]
	}
	one.body = append(append([]byte("{"), added...), text[1:]...)
	if len(one.body) > batchBytes {
		return line{}, errors.New("longer than 1 MiB")
	}
	return one, nil
}

// object says whether a text is a JSON object.
func object(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && text[0] == '{' && json.Valid(text)
}

// unconfirmed says that events were sent, or may have been, and no answer came.
type unconfirmed struct {
	last error
	over time.Duration // how long it was tried; 0: interrupted
}

func (u *unconfirmed) Error() string {
	if u.over == 0 {
		return "interrupted before the server confirmed: " + u.last.Error()
	}
	return fmt.Sprintf("not confirmed within %s: %v", u.over, u.last)
}

func (u *unconfirmed) Unwrap() error { return u.last }

// send publishes one batch and prints what was answered. A connection that fails and an answer that says "later" are
// tried again with the same ids, until the time is over; anything else is the error.
func (p *publisher) send(ctx context.Context, batch []line) error {
	body := batch[0].body
	if len(batch) > 1 {
		parts := make([][]byte, len(batch))
		for i, one := range batch {
			parts[i] = one.body
		}
		body = append(append([]byte("["), bytes.Join(parts, []byte(","))...), ']')
	}
	within, cancel := context.WithTimeout(ctx, p.command.Timeout)
	defer cancel()
	pauses := p.pauses
	for {
		answer, err := p.try(within, body, len(batch))
		if err == nil {
			return p.print(batch, answer)
		}
		err = p.command.explain(err)
		var refused *refusal
		if errors.As(err, &refused) && !refused.temporary() || errors.Is(err, errToken) {
			return err
		}
		pause := pauses.next()
		if refused != nil {
			pause = max(pause, refused.RetryAfter)
		}
		if pauses.tries == 1 {
			fmt.Fprintf(p.notes, "sluice: %v; trying again for %s\n", err, p.command.Timeout)
		}
		// A pause that ends after the time is not worth waiting for.
		if end, _ := within.Deadline(); time.Until(end) < pause || !rest(within, pause) {
			if ctx.Err() != nil {
				return &unconfirmed{last: err}
			}
			return &unconfirmed{last: err, over: p.command.Timeout}
		}
	}
}

// receipt is what the server answers for one event.
type receipt struct {
	ID        string `json:"id"`
	Cursor    string `json:"cursor"`
	Duplicate bool   `json:"duplicate"`
}

var errToken = errors.New("no token")

// try posts once.
func (p *publisher) try(ctx context.Context, body []byte, events int) ([]receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	bearer, err := p.command.bearer("sluice-publish", "publish")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+bearer)
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return nil, readRefusal(response)
	}
	// An answer that is cut leaves us as much in doubt as none: the events are there, their cursors are not.
	var answer struct {
		Events []receipt `json:"events"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the answer cannot be read: %w", err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10)) // what is read to its end leaves its connection to the next
	if len(answer.Events) != events {
		return nil, fmt.Errorf("the answer tells of %d events, and %d were sent", len(answer.Events), events)
	}
	return answer.Events, nil
}

// print writes a line for each event. A duplicate whose id was made here is our own earlier try that arrived after
// all, which is nobody's concern.
func (p *publisher) print(batch []line, answer []receipt) error {
	p.published += len(batch)
	for i, one := range answer {
		fmt.Fprintf(p.out, "%s %s", one.Cursor, one.ID)
		if one.Duplicate && !batch[i].made {
			p.out.WriteString(" duplicate")
		}
		p.out.WriteByte('\n')
	}
	if now := time.Now(); p.progress && now.Sub(p.shown) >= time.Second {
		p.shown = now
		fmt.Fprintf(p.notes, "sluice: %d events published, %.0f a second\n", p.published, float64(p.published)/now.Sub(p.began).Seconds())
	}
	return p.out.Flush()
}

// terminal says whether a file is one.
func terminal(file *os.File) bool {
	stat, err := file.Stat()
	return err == nil && stat.Mode()&os.ModeCharDevice != 0
}
