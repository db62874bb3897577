package streams

import (
	"context"
	"math/rand/v2"
	"time"

	"sluice/store"
)

const (
	reauthBefore = 30 // seconds before a token ends that a stream is told to come back
	leeway       = 30 // seconds after a token's end that a stream may live
	drainRetry   = 3 * time.Second
)

// nextPing is when the first of the streams that are silent from now on is due, in seconds since 1970, rounded up. Each
// adds its own spread, or all that were given one event would ping at one moment.
func (h *Hub) nextPing() int64 {
	return time.Now().Add(h.options.Heartbeat*2/3 + time.Second - 1).Unix()
}

// newSpread draws the seconds between 2/3 and all of the heartbeat in which a stream pings; two are left for rounding up
// and for the tick.
func (h *Hub) newSpread() int64 {
	return rand.Int64N(max(1, int64(h.options.Heartbeat/3/time.Second)-1))
}

// tick looks after what time does to streams: pings, the ends of tokens, and tails that nobody reads.
func (h *Hub) tick() {
	for h.rest(min(time.Second, h.options.Heartbeat/10)) {
		for _, t := range h.all() {
			t.tick(time.Now())
		}
		h.sweep()
		h.settle()
	}
}

func (t *tail) tick(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveUp()
	t.tickMembers(now)
	for _, s := range append([]*Subscriber(nil), t.subscribers...) {
		seconds := now.Unix()
		switch {
		case seconds >= s.expiry+leeway:
			s.refuse(StreamProblem{Status: 401, Title: "The token has expired"}, EndDenied)
		case s.poll != nil:
		case s.state == arriving || s.state == blocked:
		case seconds >= s.expiry-reauthBefore && !s.warned:
			s.warned = true
			t.control(s, s.encode(func(e Encoder, dst []byte) []byte { return e.Retry(dst, RetryReauth, jitter(drainRetry)) }))
		case seconds >= s.quiet:
			at := store.Cursor{Epoch: t.epoch, Seq: s.position()}
			t.control(s, s.encode(func(e Encoder, dst []byte) []byte { return e.Ping(dst, Ping{Cursor: at, Time: now}) }))
		}
	}
}

// control offers a frame that is no event to a subscriber that is not blocked.
func (t *tail) control(s *Subscriber, p Payload) {
	at := s.position()
	if !s.offer(p) {
		s.leave()
		s.cursor = at
	}
}

// sweep forgets tails that nobody has read for a while.
func (h *Hub) sweep() {
	for _, t := range h.all() {
		t.mu.Lock()
		if len(t.subscribers) == 0 && !t.running && time.Since(t.used) > sweepAfter {
			t.swept = true
			for user := range t.members.byUser {
				h.attendance.Changed(t.org, user)
			}
			t.ring.drop(len(t.ring.entries))
		}
		swept := t.swept
		t.mu.Unlock()
		if swept {
			h.mu.Lock()
			if h.tails[t.org] == t {
				delete(h.tails, t.org)
			}
			h.mu.Unlock()
		}
	}
}

// Drain tells every stream to come back with its cursor, and ends it. The streams are spread over the first half of the
// time that ctx leaves, so that another instance does not get them all at once. It returns when all were told.
func (h *Hub) Drain(ctx context.Context) {
	h.drains.Store(true)
	list := h.everybody()
	pace := time.Duration(0)
	if deadline, ok := ctx.Deadline(); ok && len(list) > 100 {
		pace = time.Until(deadline) / time.Duration(2*len(list)/100+2)
	}
	for i, s := range list {
		if i%100 == 99 {
			h.rest(pace)
		}
		s.tail.mu.Lock()
		s.drain()
		s.tail.mu.Unlock()
	}
}

// drain ends a stream with the frame that asks to come back; a poll is answered with what it has.
func (s *Subscriber) drain() {
	switch {
	case s.state == ended:
	case s.poll == nil:
		s.end(s.encode(func(e Encoder, dst []byte) []byte { return e.Retry(dst, RetryDrain, jitter(drainRetry)) }), EndDrained)
	case s.state == arriving:
		s.refuse(StreamProblem{Status: 503, Title: "This instance is going away", Retry: time.Second}, EndLater)
	default:
		s.answer(Answer{Cursor: store.Cursor{Epoch: s.tail.epoch, Seq: s.position()}})
	}
}
