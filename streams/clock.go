package streams

import (
	"context"
	"time"

	"sluice/store"
)

const (
	reauthBefore = 30 // seconds before a token ends that a stream is told to come back
	leeway       = 30 // seconds after a token's end that a stream may live
	drainRetry   = 3 * time.Second
)

// nextPing is when a stream that is silent from now on is due, in seconds since 1970.
func (h *Hub) nextPing() int64 { return time.Now().Add(jitter(h.options.Heartbeat)).Unix() }

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
	for _, s := range append([]*Subscriber(nil), t.subscribers...) {
		seconds := now.Unix()
		switch {
		case seconds >= s.expiry+leeway:
			s.end(nil)
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
	h.mu.Lock()
	defer h.mu.Unlock()
	for org, t := range h.tails {
		t.mu.Lock()
		if len(t.subscribers) == 0 && !t.running && time.Since(t.used) > sweepAfter {
			t.ring.drop(len(t.ring.entries))
			delete(h.tails, org)
		}
		t.mu.Unlock()
	}
}

// Drain tells every stream to come back with its cursor, and ends it. The streams are spread over the first half of the
// time that ctx leaves, so that another instance does not get them all at once; it returns when all have left.
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
		if s.state == blocked {
			s.end(nil)
		} else {
			s.end(s.drain())
		}
		s.tail.mu.Unlock()
	}
}

// drain is the frame that asks to come back.
func (s *Subscriber) drain() Payload {
	return s.encode(func(e Encoder, dst []byte) []byte { return e.Retry(dst, RetryDrain, jitter(drainRetry)) })
}
