package streams

import (
	"time"

	"sluice/store"
)

// Poll makes a subscription one that is answered once: as soon as its filter admits something, or when it has waited
// long enough.
type Poll struct {
	Wait    time.Duration
	Echo    string // given back where there are no events
	Encoder PollEncoder

	// Before, where it is not nil, is told of the answer, which it must not keep, and of what sends it, which it has called
	// once, by anybody and at any time: with an error the poll is told to come back instead. It must not block.
	Before func(answer *Answer, send func(error))
}

// PollEncoder writes the answers of polls in one dialect. It holds no state of a poll: equal polls share an answer.
type PollEncoder interface {
	Name() string // tells dialects apart
	Most() int    // events of one answer
	Answer(dst []byte, answer *Answer) []byte
	Problem(dst []byte, problem StreamProblem) []byte
}

// Answer is what a poll is told. Without events and without a reset its time was over, or its scan went far enough.
type Answer struct {
	Events []*store.Event // they stay as they are
	Epoch  string         // of the events
	Cursor store.Cursor   // up to where the poll was served
	Reset  *Reset
	Passed time.Time // of the event at Cursor, where the scan went far enough and found nothing; else zero
	Echo   string    // Poll.Echo, where there are no events
}

const (
	pollBytes = 1 << 20 // about, of one answer, beyond its first event
	pollScan  = 10_000  // events that one poll looks at
)

// pollState is what a poll has beside a stream's. The tail's lock guards it.
type pollState struct {
	echo    string
	before  func(*Answer, func(error))
	timer   *time.Timer
	due     bool // its time is over: it is answered as soon as it has looked at what there is
	scanned int
}

// wait makes the subscriber a poll. The caller holds the tail's lock.
func (s *Subscriber) wait(poll *Poll) {
	state := &pollState{echo: poll.Echo, before: poll.Before, due: poll.Wait <= 0}
	s.poll = state
	s.tail.polls++
	wait := poll.Wait
	if state.due {
		wait = arrivalMost
	}
	state.timer = time.AfterFunc(wait, func() {
		t := s.tail
		t.mu.Lock()
		defer t.mu.Unlock()
		switch late := state.due; {
		case s.state == ended:
		case s.state == arriving, s.state == replaying && !late:
			state.due = true
			state.timer.Reset(arrivalMost) // for the database
		default:
			s.answer(Answer{Cursor: store.Cursor{Epoch: t.epoch, Seq: s.position()}})
		}
	})
}

// unwait is what the end of a poll takes back.
func (s *Subscriber) unwait() {
	s.tail.polls--
	s.poll.timer.Stop()
}

// answer ends a poll.
func (s *Subscriber) answer(a Answer) {
	a.Echo = s.poll.echo
	s.finish(NewPayload(256, func(dst []byte) []byte { return s.group.answers.Answer(dst, &a) }), &a)
}

// finish ends a poll with an answer whose bytes may be shared.
func (s *Subscriber) finish(p Payload, a *Answer) {
	s.tail.hub.metrics.bytes(s.sink.Transport()).Add(float64(len(p.Raw())))
	if s.poll.before == nil {
		s.end(p, EndAnswer)
		return
	}
	answers, sink := s.group.answers, s.sink
	s.tail.remove(s) // nothing else may answer it meanwhile
	s.poll.before(a, func(err error) {
		if err == nil {
			sink.End(p, EndAnswer)
			return
		}
		sink.End(NewPayload(256, func(dst []byte) []byte {
			return answers.Problem(dst, StreamProblem{Status: 503, Title: "The position cannot be kept for now", Retry: time.Second})
		}), EndLater)
	})
}

// judgePoll begins a poll whose cursor was just found: one without a position, and one whose position cannot be
// replayed, is answered at once.
func (t *tail) judgePoll(s *Subscriber, start *Subscription, reset Reset) {
	switch {
	case reset.Reason != "":
		s.answer(Answer{Cursor: reset.Latest, Reset: &reset})
	case start.Start.Kind == StartLive:
		s.answer(Answer{Cursor: reset.Latest})
	default:
		t.settle(s)
	}
}

// servePoll looks for what a poll's filter admits in consecutive events after its cursor. It is false once the poll was
// answered.
func (t *tail) servePoll(s *Subscriber, entries []*entry) bool {
	if most := pollScan - s.poll.scanned; len(entries) > most {
		entries = entries[:most]
	}
	found := batch{epoch: t.epoch, most: s.group.answers.Most(), limit: pollBytes}
	rest := found.gather(entries, s.admits)
	s.poll.scanned += len(entries) - len(rest)
	s.cursor = found.last
	if len(found.admitted) == 0 && s.poll.scanned < pollScan {
		return true
	}
	t.hub.metrics.delivered(found.admitted, s.sink.Transport(), 1)
	t.delivered += int64(len(found.admitted))
	a := t.found(&found, s.cursor)
	if len(a.Events) == 0 {
		a.Passed = entries[len(entries)-1].event.Time
	}
	s.answer(a)
	return false
}

// answerGroup answers every poll of a group with what was just read: one answer for all.
func (t *tail) answerGroup(g *group) {
	found := batch{epoch: t.epoch, most: g.answers.Most(), limit: pollBytes}
	at := t.pos
	if rest := found.gather(g.pending, func(*entry) bool { return true }); len(rest) > 0 {
		at = found.last
	}
	a := t.found(&found, at)
	shared := NewPayload(found.bytes+batchHead, func(dst []byte) []byte { return g.answers.Answer(dst, &a) })
	t.hub.metrics.delivered(found.admitted, g.live[0].sink.Transport(), len(g.live))
	t.delivered += int64(len(found.admitted) * len(g.live))
	for len(g.live) > 0 {
		g.live[len(g.live)-1].finish(shared, &a)
	}
}

// found makes an answer of what was gathered.
func (t *tail) found(b *batch, at int64) Answer {
	a := Answer{Events: make([]*store.Event, len(b.admitted)), Epoch: t.epoch, Cursor: store.Cursor{Epoch: t.epoch, Seq: at}}
	for i, e := range b.admitted {
		a.Events[i] = &e.event
	}
	return a
}
