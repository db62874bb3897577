package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	posters    = 16               // connections to each instance that make rooms, and speak where there are no WebSockets
	quietFor   = time.Second      // without a frame of presence: everybody knows who is there
	quietMost  = 30 * time.Second // that this is waited for
	heardStall = 10 * time.Second // without a delivery
)

// crowd is the members of the rooms of a load. The i-th is in room i / members, and at instance i modulo their number.
type crowd struct {
	at             []*server
	org, name      string // the latter is in the ids of rooms, so that an org serves for many runs
	rooms, members int
	rate           int // messages a second
	duration       time.Duration
	door           door
	tokens         []string

	heard, answered, signals atomic.Int64
	change                   atomic.Pointer[change] // of presence, that the members look for
}

func (c *crowd) room(i int) string    { return fmt.Sprintf("%s-%d", c.name, i) }
func (c *crowd) user(i int) string    { return fmt.Sprintf("user-%d", i) }
func (c *crowd) visitor(i int) string { return fmt.Sprintf("visitor-%d", i) }

func (c *crowd) server(i int) *server { return c.at[i%len(c.at)] }

// total is how many messages the load has.
func (c *crowd) total() int64 { return max(1, int64(c.duration.Seconds()*float64(c.rate))) }

// speaker says who has the turn for the nth message, and in which room: the rooms in turn, and the members of each.
func (c *crowd) speaker(n int64) (user, room int) {
	room = int(n % int64(c.rooms))
	return room*c.members + int(n/int64(c.rooms)%int64(c.members)), room
}

// measure has everybody come, speak and hear, while visitors come and go.
func (c *crowd) measure(ctx context.Context) (o chatOutcome, err error) {
	if err := c.makeRooms(ctx); err != nil {
		return o, err
	}
	rs, err := newReaders()
	if err != nil {
		return o, err
	}
	defer rs.close()
	listeners := c.listeners()
	if err := c.enter(ctx, rs, listeners); err != nil {
		return o, err
	}
	before, err := c.cpu()
	if err != nil {
		return o, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.duration+quietMost)
	defer cancel()
	visits := c.visit(ctx)
	defer visits.end()
	started := time.Now()
	posted, err := c.speak(ctx, rs)
	if err != nil {
		return o, err
	}
	o.Messages = c.total()
	all, answers := o.Messages*int64(c.members), o.Messages-int64(posted.count)
	err = rs.wait(ctx, heardStall, func() bool { return c.heard.Load() >= all && c.answered.Load() >= answers }, func() error {
		return nil // what is missing is counted
	})
	if err != nil {
		return o, err
	}
	if o.changes, err = visits.end(); err != nil {
		return o, err
	}
	after, err := c.cpu()
	o.Name, o.CPU = "server", after-before
	o.take(rs)
	o.collect(c, rs, listeners, posted, started)
	return o, err
}

// collect adds up what members have heard since the load began, once the readers are closed.
func (o *chatOutcome) collect(c *crowd, rs *readers, listeners []*listener, answers histogram, started time.Time) {
	last := started.Add(c.duration)
	for _, one := range rs.all {
		if one.lastReceived.After(last) {
			last = one.lastReceived
		}
	}
	o.Seconds = last.Sub(started).Seconds()
	for _, one := range rs.loops {
		answers.merge(&one.answers)
		o.presence.merge(&one.presence)
	}
	o.AckP50, o.AckP99 = answers.quantile(.5), answers.quantile(.99)
	o.Deliveries = c.heard.Load()
	o.MicrosecondsCPU = float64(o.CPU.Nanoseconds()) / 1000 / float64(max(1, o.Deliveries))
	o.judge(c, listeners)
}

// cpu is what all instances have used.
func (c *crowd) cpu() (used time.Duration, err error) {
	for _, one := range c.at {
		now, err := one.usage()
		if err != nil {
			return 0, err
		}
		used += now.cpu
	}
	return used, nil
}

// makeRooms makes tokens for all, and has the first member of each room make it. The visitors are in the first one, too.
func (c *crowd) makeRooms(ctx context.Context) error {
	for i := range c.rooms * c.members {
		token, err := c.at[0].bearer(claimsOf(c.user(i)))
		if err != nil {
			return err
		}
		c.tokens = append(c.tokens, token)
	}
	tell := &progress{what: "rooms made", all: c.rooms}
	return c.post(ctx, int64(c.rooms), func(n int64) (*server, string, string, string) {
		room := int(n)
		var members []string
		for i := range c.members {
			members = append(members, c.user(room*c.members+i))
		}
		for i := range c.at {
			if room == 0 {
				members = append(members, c.visitor(i))
			}
		}
		body, _ := json.Marshal(map[string]any{"id": c.room(room), "name": c.room(room), "members": members}) // strings can be marshalled
		return c.server(room), c.tokens[room*c.members], "/v2/rooms", string(body)
	}, func(time.Duration) { tell.add(1) })
}

// post sends n requests, over a few connections to each instance, and tells how long each was waited for.
func (c *crowd) post(ctx context.Context, n int64, request func(n int64) (to *server, token, path, body string), done func(time.Duration)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var turn atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range posters {
		group.Go(func() {
			conns := map[*server]*publisher{}
			for ctx.Err() == nil {
				mine := turn.Add(1) - 1
				if mine >= n {
					break
				}
				to, token, path, body := request(mine)
				if conns[to] == nil {
					conns[to] = &publisher{server: to}
				}
				conns[to].token = token
				sent := time.Now()
				if err := conns[to].request(http.MethodPost, path, body, http.StatusCreated); err != nil {
					cancel(fmt.Errorf("POST %s: %w", path, err))
					break
				}
				mu.Lock()
				done(time.Since(sent))
				mu.Unlock()
			}
			for _, one := range conns {
				one.close()
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// enter opens a stream for each member, and waits until all know who is there.
func (c *crowd) enter(ctx context.Context, rs *readers, listeners []*listener) error {
	started := time.Now()
	tell := &progress{what: "members there", all: len(listeners)}
	for i, one := range listeners {
		at := c.server(i)
		if err := c.listen(ctx, rs, i, one, at, c.stream(at, c.tokens[i])); err != nil {
			return err
		}
		tell.add(1)
	}
	if err := rs.acknowledged(ctx, c.at[0]); err != nil {
		return err
	}
	connected := time.Since(started)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	signals, since := int64(-1), time.Now()
	for time.Since(since) < quietFor && time.Since(started) < connected+quietMost {
		select {
		case err := <-rs.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if now := c.signals.Load(); now != signals {
			signals, since = now, time.Now()
		}
	}
	fmt.Fprintf(os.Stderr, "%d members there in %s, and known to each other in %s, by %d frames\n", len(listeners),
		connected.Round(time.Millisecond), since.Sub(started).Round(time.Millisecond), signals)
	return nil
}

// listen opens the stream of the i-th member.
func (c *crowd) listen(ctx context.Context, rs *readers, i int, one *listener, from source, request []byte) error {
	r := &reader{index: i, heard: c.hears(one)}
	r.response.door, r.response.chat = c.door, true
	return rs.connect(ctx, r, from, request)
}

// stream asks for all rooms of a user.
func (c *crowd) stream(at *server, token string) []byte {
	return fmt.Appendf(nil, "GET /v2/realtime/stream?services=chat HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n",
		at.host, token, c.door.headers())
}

// hears is what a member does with the frames of their stream.
func (c *crowd) hears(m *listener) func(*loop, *frame) {
	return func(l *loop, f *frame) {
		switch f.kind {
		case kindEvent:
			if f.said.seq > 0 {
				m.hear(f.said)
				c.heard.Add(1)
			}
		case kindAnswer:
			_, stamp := sentAs(bytes.TrimPrefix(f.data, refField))
			l.answers.add(time.Duration(l.now.UnixNano() - stamp))
			c.answered.Add(1)
		case kindPresence:
			c.signals.Add(1)
			if one := c.change.Load(); one != nil && m.change < one.number && one.in(f.data) {
				m.change = one.number
				l.presence.add(l.now.Sub(one.since))
				one.seen.Add(1)
			}
		}
	}
}

// speak sends the load by the clock. The answers are those to POSTs; a WebSocket's come over its stream.
func (c *crowd) speak(ctx context.Context, rs *readers) (answers histogram, err error) {
	started := time.Now()
	await := func(n int64) {
		time.Sleep(time.Until(started.Add(time.Duration(n) * time.Second / time.Duration(c.rate))))
	}
	if c.door != doorWebSocket {
		return answers, c.post(ctx, c.total(), func(n int64) (*server, string, string, string) {
			await(n)
			user, room := c.speaker(n)
			body := fmt.Sprintf(`{"clientId":"%s","text":"%s"}`, clientID(n, time.Now()), words(n))
			return c.server(user), c.tokens[user], "/v2/rooms/" + c.room(room) + "/messages", body
		}, answers.add)
	}
	for n := range c.total() {
		await(n)
		select {
		case err := <-rs.failed:
			return answers, err
		case <-ctx.Done():
			return answers, ctx.Err()
		default:
		}
		user, room := c.speaker(n)
		id := clientID(n, time.Now())
		writeAll(rs.all[user].fd, clientFrame(fmt.Sprintf(`{"type":"send","ref":"%s","room":"%s","clientId":"%s","text":"%s"}`,
			id, c.room(room), id, words(n))))
	}
	return answers, nil
}

// progress tells on standard error how far a long work is, once a second at most.
type progress struct {
	what      string
	done, all int
	told      time.Time
}

func (p *progress) add(n int) {
	p.done += n
	if p.told.IsZero() {
		p.told = time.Now()
	}
	if time.Since(p.told) > time.Second {
		p.told = time.Now()
		fmt.Fprintf(os.Stderr, "%d of %d %s\n", p.done, p.all, p.what)
	}
}
