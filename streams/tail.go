package streams

import (
	"context"
	"sync"
	"time"

	"sluice/store"
)

const (
	pageEvents   = 1000                  // of one read by a tail
	replayEvents = 500                   // of one read for those behind it
	restMost     = 50 * time.Millisecond // between two rounds of a busy tail
	arrivalMost  = 10 * time.Second      // that a new stream waits for the database
)

// tail is the live end of one org's log: the newest events, and everybody here who reads them.
//
// It runs only while there is work. Its position is how far the log was read; live subscribers stand there, too.
type tail struct {
	hub *Hub
	org string

	mu          sync.Mutex
	epoch       string        // guarded by mu, as all below; "" before the first page
	pos         int64         // the newest event read
	head        int64         // the newest event that any page has told of
	posTime     time.Time     // its time; zero where it is not known
	ring        ring          // ends at pos
	groups      groups        //
	members     members       //
	subscribers []*Subscriber // all but the ended
	polls       int           // of them
	arrivals    crowd         // to be judged by the next page whose reading begins
	behind      crowd         // to be served by replay
	turns       int64         // given to those behind
	ahead       crowd         // further than this process has read: live once it gets there
	wanted      bool          // the log may have grown
	running     bool          // run is at it
	replays     bool          // replay is at it
	used        time.Time     // when somebody last read, for the ring budget and the sweep
	swept       bool          // it is not in the hub any more, and nothing wakes it
	blocked     int           // of the subscribers
	delivered   int64         // events times readers
}

// wake says that the log may have reached seq; 0: it is not known how far.
func (t *tail) wake(seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq == 0 || seq > t.pos || t.epoch == "" {
		t.wanted = true
		t.work()
	}
}

// work makes sure that run is at it. The caller holds mu.
func (t *tail) work() {
	if !t.running && !t.swept {
		t.running = t.hub.start(t.run)
	}
}

// run reads and delivers until there is nothing to do. After a round that took long it rests as long: what gathers
// meanwhile goes out in fewer, larger writes, which costs readers and us less.
func (t *tail) run() {
	pause := 20 * time.Millisecond
	for {
		if !t.hub.rest(t.hub.options.BatchWindow) {
			return
		}
		started := time.Now()
		t.mu.Lock()
		if !t.wanted && len(t.arrivals) == 0 || t.hub.ctx.Err() != nil {
			t.running = false
			t.mu.Unlock()
			return
		}
		judged := t.arrivals.take()
		t.wanted = false
		strangers := t.strangers(judged)
		after, since := t.pos, t.posTime
		if t.epoch == "" {
			after = 1<<63 - 1 // nothing but head and floor
		}
		t.mu.Unlock()

		page, err := t.hub.log.Page(t.hub.ctx, t.org, after, since, pageEvents)
		var known []store.Membership
		if err == nil && len(strangers) > 0 {
			known, err = t.hub.log.Memberships(t.hub.ctx, t.org, strangers)
		}
		t.mu.Lock()
		if err == nil {
			t.meet(strangers, known)
		}
		good := err == nil && t.apply(page, after, judged)
		if !good {
			t.wanted = true
			t.postpone(judged)
			if err != nil {
				t.hub.metrics.Errors.WithLabelValues(errorRead).Inc()
			}
			t.giveUp()
		}
		t.mu.Unlock()
		t.hub.trimRings()
		if good {
			pause = 20 * time.Millisecond
			t.hub.rest(min(time.Since(started), restMost))
			continue
		}
		t.hub.rest(pause)
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// giveUp ends the arrivals that have waited too long for the database; they come back, here or elsewhere.
func (t *tail) giveUp() {
	for _, s := range append([]*Subscriber(nil), t.arrivals...) {
		if time.Since(s.since) > arrivalMost {
			s.refuse(StreamProblem{Status: 503, Title: "The log cannot be read for now", Retry: jitter(3 * time.Second)}, EndLater)
		}
	}
}

// apply takes a page that was read after the tail's position, and judges the arrivals by it. It is false where the page
// says nothing that can be used, so that it must be read again.
func (t *tail) apply(page store.Page, after int64, judged []*Subscriber) bool {
	if len(t.subscribers) > 0 {
		t.used = time.Now()
	}
	switch {
	case t.epoch == "":
		t.epoch, t.pos, t.head = page.Epoch, page.Head, page.Head
	case page.Epoch != t.epoch:
		// Another incarnation. What the page says was asked with a position and a time of the one before: it is read
		// again from nothing, and judges everybody then.
		t.forget(ResetEpoch)
		t.epoch, t.pos, t.head, t.posTime, t.wanted = "", 0, 0, time.Time{}, true
		t.postpone(judged)
		return true
	case page.Head < t.head:
		// The log is shorter than it was: an older copy. Only another epoch can tell everyone.
		t.hub.metrics.Errors.WithLabelValues(errorGoneBack).Inc()
		t.hub.regressed(t.org, page.Epoch)
		return false
	case len(page.Events) > 0 && page.Events[0].Seq != after+1, len(page.Events) == 0 && page.Head > after:
		t.hub.metrics.Errors.WithLabelValues(errorHole).Inc()
		t.forget(ResetExpired)
		t.pos, t.posTime = page.Head, time.Time{}
		judged = append(judged, t.arrivals.take()...)
	case len(page.Events) > 0:
		last := &page.Events[len(page.Events)-1]
		t.hub.metrics.WakeLag.Observe(since(last.Time))
		entries := entriesOf(page.Events, t.hub.catalogue)
		t.follow(entries)
		apart := t.apart(entries)
		t.pos, t.posTime = last.Seq, last.Time
		t.deliver(entries)
		t.ring.append(entries)
		for _, s := range apart {
			t.settle(s)
		}
	}
	t.head = page.Head
	t.wanted = t.wanted || t.pos < page.Head // the page was full
	for _, s := range judged {
		switch {
		case s.state != arriving:
		case t.stranger(s): // it came, or all was forgotten, after their memberships were read
			t.arrivals.add(s)
		default:
			t.judge(s, page)
		}
	}
	for _, s := range t.ahead.take() {
		t.settle(s)
	}
	return true
}

// postpone leaves arrivals to the next page; some may have gone meanwhile.
func (t *tail) postpone(judged []*Subscriber) {
	for _, s := range judged {
		if s.state == arriving {
			t.arrivals.add(s)
		}
	}
}

// forget drops what was read and makes everybody an arrival that is to be reset.
func (t *tail) forget(reason ResetReason) {
	t.ring.drop(len(t.ring.entries))
	t.forgetMembers()
	for _, s := range t.subscribers {
		if s.state != arriving {
			t.restart(s, reason)
		}
	}
}

// restart makes a subscriber an arrival that is to be reset. One that is blocked finishes first.
func (t *tail) restart(s *Subscriber, reason ResetReason) {
	s.reset = reason
	if s.state != blocked {
		t.arrive(s)
	}
}

func (t *tail) arrive(s *Subscriber) {
	s.leave()
	s.state, s.since = arriving, time.Now()
	t.arrivals.add(s)
}

// judge decides by a snapshot where an arrival starts, and tells it.
func (t *tail) judge(s *Subscriber, page store.Page) {
	reason := s.reset
	start := s.start
	if start == nil && reason == "" { // it goes on where it stands: only its change had to wait
		s.state = replaying
		t.settle(s)
		return
	}
	s.reset, s.start, s.cursor = "", nil, page.Head
	if start != nil && reason == "" {
		switch at := start.Start; {
		case at.Kind == StartMalformed:
			reason = ResetMalformed
		case at.Kind == StartEarliest:
			s.cursor = page.Floor
		case at.Kind == StartAt && at.Cursor.Epoch != page.Epoch:
			reason = ResetEpoch
		case at.Kind == StartAt && at.Cursor.Seq > page.Head:
			reason = ResetAhead
		case at.Kind == StartAt && at.Cursor.Seq < page.Floor:
			reason = ResetExpired
		case at.Kind == StartAt:
			s.cursor = at.Cursor.Seq
		}
	}
	latest := store.Cursor{Epoch: page.Epoch, Seq: page.Head}
	oldest := store.Cursor{Epoch: page.Epoch, Seq: page.Floor}
	if reason != "" {
		t.hub.metrics.Resets.WithLabelValues(string(reason)).Inc()
	}
	if s.poll != nil {
		s.state = replaying
		t.judgePoll(s, start, Reset{Reason: reason, Oldest: oldest, Latest: latest})
		return
	}
	first := s.encode(func(e Encoder, dst []byte) []byte {
		if start != nil {
			dst = e.Ack(dst, t.ack(s, start, page.Epoch, reason == ""))
		}
		if reason != "" {
			dst = e.Reset(dst, Reset{Reason: reason, Oldest: oldest, Latest: latest})
		}
		return t.roster(dst, s, e)
	})
	s.state = replaying
	if s.offer(first) {
		t.settle(s)
	}
}

// ack says where a stream starts and what it carries.
func (t *tail) ack(s *Subscriber, asked *Subscription, epoch string, resumable bool) Ack {
	return Ack{
		ConnectionID: asked.ConnectionID, Cursor: store.Cursor{Epoch: epoch, Seq: s.cursor}, Resumable: resumable,
		Services: asked.Services, Heartbeat: t.hub.options.Heartbeat, Transport: s.sink.Transport(),
	}
}

// change gives a subscriber what it has asked for since it began. It is false when the sink is blocked.
func (t *tail) change(s *Subscriber) bool {
	asked := s.change
	s.change = nil
	asked.Encoder = s.group.encoder
	t.exit(s)
	t.groups.leave(s.group)
	s.group = t.groups.join(asked)
	t.enter(s)
	return s.offer(s.encode(func(e Encoder, dst []byte) []byte {
		return t.roster(e.Ack(dst, t.ack(s, asked, t.epoch, true)), s, e)
	}))
}

// settle finds where a subscriber belongs that can take more. One that is behind is served from the ring at once, but
// not without end: replay goes on with it in turn with the others.
func (t *tail) settle(s *Subscriber) {
	if s.reset != "" {
		t.arrive(s)
		t.wanted = true
		t.work()
		return
	}
	if s.change != nil && t.stranger(s) {
		t.arrive(s)
		t.work()
		return
	}
	if s.change != nil && !t.change(s) {
		return
	}
	if s.cursor < t.pos {
		if entries, ok := t.ring.from(s.cursor); ok && !t.serve(s, entries) {
			return
		}
	}
	switch {
	case s.cursor < t.pos:
		t.turns++
		s.state, s.turn = replaying, t.turns
		t.behind.add(s)
		t.replay()
	case s.poll != nil && s.poll.due:
		s.answer(Answer{Cursor: store.Cursor{Epoch: t.epoch, Seq: s.cursor}})
	case s.cursor > t.pos:
		s.state = ahead
		t.ahead.add(s)
	default:
		s.state = live
		s.group.live.add(s)
	}
}

// servedAtOnce is how many bytes one subscriber is offered before others have their turn.
const servedAtOnce = 1 << 20

// serve offers one subscriber what its filter admits of consecutive events after its cursor, and moves the cursor; not
// always to the end. It is false when the sink is blocked, or a poll was answered.
func (t *tail) serve(s *Subscriber, entries []*entry) bool {
	if s.poll != nil {
		return t.servePoll(s, entries)
	}
	next := batch{encoder: s.group.encoder, epoch: t.epoch, most: t.hub.options.BatchMax, limit: payloadBytes}
	for served := 0; len(entries) > 0 && served < servedAtOnce; served += next.bytes {
		entries = next.gather(entries, s.admits)
		s.cursor = next.last
		if len(next.admitted) == 0 {
			continue
		}
		t.hub.metrics.delivered(next.admitted, s.sink.Transport(), 1)
		t.delivered += int64(len(next.admitted))
		if !s.offer(next.payload()) {
			return false
		}
	}
	return true
}

// deliver offers what was just read to everybody live, a group at a time.
func (t *tail) deliver(entries []*entry) {
	var touched []*group
	for _, e := range entries {
		if e.service == t.hub.chat {
			continue // everybody whom it is for was taken apart
		}
		t.groups.concerned(&e.event, func(g *group) {
			if len(g.live) == 0 || !g.filter.carries(e.service, &e.event) {
				return
			}
			if len(g.pending) == 0 {
				touched = append(touched, g)
			}
			g.pending = append(g.pending, e)
		})
	}
	for _, g := range touched {
		if g.encoder != nil {
			t.deliverGroup(g)
		} else {
			t.answerGroup(g)
		}
		g.pending = nil
	}
	for _, e := range entries {
		t.hub.metrics.Latency.Observe(since(e.event.Time))
	}
}

// apart takes those live subscribers out of their groups, where the tail stands, to whom events among the next ones may be
// given and not to the whole group: private ones, and those of rooms. They are settled once the ring has these events. One
// walk over all does for what is private.
func (t *tail) apart(entries []*entry) (apart []*Subscriber) {
	take := func(s *Subscriber) {
		s.leave()
		s.cursor, s.state = t.pos, replaying
		apart = append(apart, s)
	}
	var audiences map[string]bool
	for _, e := range entries {
		if e.service == t.hub.chat {
			t.addressed(e, take)
			continue
		}
		if e.event.Audience == "" {
			continue
		}
		if audiences == nil {
			audiences = map[string]bool{}
		}
		audiences[e.event.Audience] = true
	}
	if audiences == nil {
		return apart
	}
	for _, s := range t.subscribers {
		if s.state == live && audiences[s.reader] && !s.group.filter.sharesPrivate() {
			take(s)
		}
	}
	return apart
}

func (t *tail) deliverGroup(g *group) {
	next := batch{encoder: g.encoder, epoch: t.epoch, most: t.hub.options.BatchMax, limit: payloadBytes}
	for rest := g.pending; len(rest) > 0 && len(g.live) > 0; {
		rest = next.gather(rest, func(*entry) bool { return true })
		payload := next.payload()
		served := next.last
		if len(rest) == 0 {
			served = t.pos
		}
		transport := g.live[0].sink.Transport()
		t.hub.metrics.delivered(next.admitted, transport, len(g.live))
		t.delivered += int64(len(next.admitted) * len(g.live))
		t.hub.metrics.bytes(transport).Add(float64(len(payload.Raw()) * len(g.live)))
		quiet := t.hub.nextPing()
		for at := len(g.live) - 1; at >= 0; at-- {
			s := g.live[at]
			s.quiet = quiet + s.spread
			if !s.give(payload) {
				s.leave() // fills its place with one that was served already
				s.cursor = served
			}
		}
	}
}

// remove forgets a subscriber wherever it stands. The caller holds mu.
func (t *tail) remove(s *Subscriber) {
	if s.state == ended {
		return
	}
	if s.state == blocked {
		t.unblock()
	}
	s.leave()
	s.state = ended
	last := len(t.subscribers) - 1
	t.subscribers[s.at] = t.subscribers[last]
	t.subscribers[s.at].at = s.at
	t.subscribers[last] = nil
	t.subscribers = t.subscribers[:last]
	t.exit(s)
	t.groups.leave(s.group)
	if s.poll != nil {
		s.unwait()
	}
	t.used = time.Now()
	t.hub.metrics.Streams.WithLabelValues(s.sink.Transport()).Dec()
}

func (t *tail) unblock() {
	t.blocked--
	t.hub.metrics.Blocked.Dec()
}

// since is the seconds since a time of the database's clock, which may be ahead of ours.
func since(at time.Time) float64 { return max(0, time.Since(at).Seconds()) }

// Log is the part of the store that tails read; its contract is that of store.Store.
type Log interface {
	Memberships(ctx context.Context, org string, users []string) ([]store.Membership, error)
	Page(ctx context.Context, org string, after int64, since time.Time, limit int) (store.Page, error)
}
