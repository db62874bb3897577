package streams

import (
	"errors"
	"math/rand/v2"
	"time"

	"sluice/store"
)

// Start is where a stream is to begin.
type Start struct {
	Kind   StartKind
	Cursor store.Cursor // of StartAt
}

// StartKind tells the ways to begin apart.
type StartKind uint8

// The ways to begin.
const (
	StartLive      StartKind = iota // at the log's head at the time of asking
	StartEarliest                   // at the oldest retained event
	StartAt                         // after a cursor
	StartMalformed                  // after something that is no cursor: a reset, then live
)

// Subscription is what a stream asks for. Subscribe keeps its strings, so they must not be parts of a request.
type Subscription struct {
	Org, User    string
	ConnectionID string
	Filter       Filter
	Services     []string // as the ack names them
	Start        Start
	Encoder      Encoder // of a stream
	Poll         *Poll   // nil: a stream
	Sink         Sink
	Expires      time.Time       // of the token
	Ticket       store.TicketUse // that opens it
}

// state is where a subscriber stands. Only a live one is offered what the tail has just read.
type state uint8

const (
	arriving  state = iota // waits for the next snapshot of the log, which judges where it starts
	live                   // its position is its tail's
	replaying              // behind the tail: replay serves it
	ahead                  // its cursor is beyond what this process has read
	blocked                // its sink is not done with what it was offered
	ended
)

// Subscriber is one open stream: a cursor, a filter, an encoder and a sink. Its tail's lock guards all of it.
type Subscriber struct {
	tail   *tail
	group  *group
	sink   Sink
	reader string  // Subscription.User, whose private events it is given
	member *member // nil: it has not asked for chat
	spread int64   // seconds that its pings come after the first of its group's

	start  *Subscription // until it is judged
	change *Subscription // what it asked for since, until settle gives it that
	poll   *pollState    // nil: a stream
	reset  ResetReason   // what the next judgement must tell, beside what it finds itself
	cursor int64         // valid unless live
	at     int           // in tail.subscribers
	crowd  *crowd        // that it is in; nil: none
	place  int           // there
	turn   int64         // while replaying: whose is lower has waited longer
	since  time.Time     // of its arrival, while arriving
	expiry int64         // of the token, in seconds since 1970
	quiet  int64         // when the next ping is due, in seconds since 1970
	state  state
	warned bool // the reauth frame was sent

	user *userStreams // guarded by Hub.mu; nil without a limit, and once it has left
	left bool         // guarded by Hub.mu

	ticket   string // guarded by Hub.mu; "": none
	replaced bool   // guarded by Hub.mu; a later use of its ticket was heard of
}

// Ready implements Owner: the sink has written everything it was offered.
func (s *Subscriber) Ready() {
	t := s.tail
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.state != blocked {
		return
	}
	t.unblock()
	s.state = replaying // until settle has found out
	t.settle(s)
}

// Gone implements Owner: the reader is no more.
func (s *Subscriber) Gone(why error) {
	t := s.tail
	if errors.Is(why, ErrStalled) {
		t.hub.metrics.Errors.WithLabelValues(errorTimeout).Inc()
	}
	t.mu.Lock()
	t.remove(s)
	t.mu.Unlock()
	t.hub.left(s)
}

// admits says whether the subscriber is to be given an event.
func (s *Subscriber) admits(e *entry) bool {
	if e.service == s.tail.hub.chat {
		return s.member != nil && s.group.filter.carries(e.service, &e.event) && s.carries(e.event.EntityID) &&
			s.member.saw(e.event.EntityID, e.event.Seq) && (e.message == 0 || s.member.reads(e.event.EntityID, e.message))
	}
	return s.group.filter.Admits(e.service, &e.event, s.reader)
}

// position is up to where the subscriber has been served.
func (s *Subscriber) position() int64 {
	if s.state == live {
		return s.tail.pos
	}
	return s.cursor
}

// offer hands a payload to the sink; where that is blocked then, so is the subscriber, at its present cursor.
func (s *Subscriber) offer(p Payload) bool {
	t := s.tail
	s.quiet = t.hub.nextPing() + s.spread
	t.hub.metrics.bytes(s.sink.Transport()).Add(float64(len(p.Raw())))
	return s.give(p)
}

// give is offer without what a round does once for a whole group.
func (s *Subscriber) give(p Payload) bool {
	if s.sink.Offer(p) {
		return true
	}
	s.tail.hub.metrics.Blocked.Inc()
	s.tail.blocked++
	s.state = blocked
	return false
}

// Change gives the stream other services and properties from where it stands, and answers with an ack that says where
// that is. Of the subscription it takes Filter, Services and ConnectionID.
func (s *Subscriber) Change(sub *Subscription) {
	t := s.tail
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.state == ended {
		return
	}
	s.change = sub
	if s.state == arriving || s.state == blocked {
		return // settle comes
	}
	at := s.position()
	s.leave()
	s.cursor, s.state = at, replaying
	t.settle(s)
}

// end closes the stream after a last payload, which may be nil.
func (s *Subscriber) end(last Payload, why Ending) {
	if s.state == ended {
		return
	}
	s.tail.remove(s)
	s.sink.End(last, why)
}

// refuse ends the stream with a problem, or answers the poll with it.
func (s *Subscriber) refuse(problem StreamProblem, why Ending) {
	if s.state == ended {
		return
	}
	s.end(NewPayload(256, func(dst []byte) []byte {
		if s.poll != nil {
			return s.group.answers.Problem(dst, problem)
		}
		return s.group.encoder.Problem(dst, problem)
	}), why)
}

// yield ends the stream, if there is one, for another's sake.
func (s *Subscriber) yield(problem StreamProblem) {
	if s == nil {
		return
	}
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	s.refuse(problem, EndLater)
}

// encode frames something that only this subscriber is sent.
func (s *Subscriber) encode(write func(Encoder, []byte) []byte) Payload {
	return NewPayload(256, func(dst []byte) []byte { return write(s.group.encoder, dst) })
}

// jitter spreads what many would do at once over the last third of a time.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/3+1))
}
