package streams

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/store"
)

// Why a stream may not be had for now.
var (
	ErrOrgLimit  = errors.New("the org has as many streams as it may have on this instance")
	ErrHubDrains = errors.New("the instance is going away")
)

// Options are the settings of the live end; docs/protocol.md has them as flags.
type Options struct {
	RingMemory        int64 // bytes, of all rings
	BatchWindow       time.Duration
	BatchMax          int // events in one write
	Heartbeat         time.Duration
	MaxStreamsPerUser int // 0: no limit
	MaxStreamsPerOrg  int // 0: no limit

	// OnRegression is told that a log is shorter than what was read of it in that same epoch; it may block.
	OnRegression func(org, epoch string)
}

const (
	sweepAfter  = 30 * time.Second // an empty tail is kept for readers that come back
	settleAfter = 2 * time.Second  // of quiet after many have left, before memory is given back
	settleCount = 500
	readsAtOnce = 4 // pages for those behind
)

// Hub is the logs that somebody on this process listens to. It is safe for concurrent use.
type Hub struct {
	log       Log
	catalogue *store.Catalogue
	options   Options
	metrics   *Metrics
	chat      uint64 // the bit of store.ChatService

	attendance Attendance

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	group  sync.WaitGroup // everything that runs
	reads  chan struct{}  // held while a page is read for those behind

	ringBytes atomic.Int64
	leavers   atomic.Int64 // since memory was given back
	lastLeft  atomic.Int64 // when the last one left, in nanoseconds since 1970
	drains    atomic.Bool
	rotating  atomic.Bool

	mu     sync.Mutex                 // never held while a tail's lock is waited for
	closed bool                       // guarded by mu: nothing is started any more
	tails  map[string]*tail           // guarded by mu
	users  map[[2]string]*userStreams // guarded by mu; by org and user

	tickets tickets // guarded by mu
}

// userStreams are the open streams of one user, oldest first.
type userStreams struct {
	key  [2]string
	open []*Subscriber // guarded by Hub.mu
}

// NewHub makes a hub upon a log. Close ends it.
func NewHub(log Log, catalogue *store.Catalogue, options Options, metrics *Metrics) *Hub {
	ctx, cancel := context.WithCancel(context.Background())
	h := &Hub{
		log: log, catalogue: catalogue, options: options, metrics: metrics, ctx: ctx, cancel: cancel,
		chat: catalogue.Bit(store.ChatService), attendance: nobody{}, reads: make(chan struct{}, readsAtOnce), tails: map[string]*tail{}, users: map[[2]string]*userStreams{},
		tickets: newTickets(),
	}
	h.group.Go(h.tick)
	return h
}

// Close ends everything that runs. Streams that are still open are ended without a word.
func (h *Hub) Close() {
	h.drains.Store(true)
	h.cancel()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	for _, s := range h.everybody() {
		s.tail.mu.Lock()
		s.end(nil, EndDrained)
		s.tail.mu.Unlock()
	}
	h.group.Wait()
}

// Full says whether a stream of org may not be had for now, so that a door can refuse it before it answers.
func (h *Hub) Full(org string) error {
	if h.Draining() {
		return ErrHubDrains
	}
	if h.options.MaxStreamsPerOrg == 0 {
		return nil
	}
	t := h.known(org)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.subscribers)-t.polls >= h.options.MaxStreamsPerOrg {
		h.metrics.Errors.WithLabelValues(errorLimit).Inc()
		return ErrOrgLimit
	}
	return nil
}

// Draining says whether the instance is going away: nothing is opened any more.
func (h *Hub) Draining() bool { return h.drains.Load() }

// Subscribe opens a stream: its ack comes over the sink as soon as the log was read. The user's oldest stream gives way
// where there are too many. Polls count for no limit of streams: they are requests that wait.
func (h *Hub) Subscribe(sub *Subscription) *Subscriber {
	s := &Subscriber{sink: sub.Sink, reader: sub.User, start: sub, expiry: sub.Expires.Unix(), spread: h.newSpread()}
	t := h.join(s, sub)
	replaced := h.present(s, sub.Ticket) // first: whoever is replaced gives up a place
	oldest := h.enlist(s, sub)
	t.mu.Lock()
	switch {
	case s.state == ended:
	case h.drains.Load():
		s.drain()
	case h.options.MaxStreamsPerOrg > 0 && s.poll == nil && len(t.subscribers)-t.polls > h.options.MaxStreamsPerOrg:
		// Full let it pass, as it did others at the same moment.
		h.metrics.Errors.WithLabelValues(errorLimit).Inc()
		s.refuse(StreamProblem{Status: 429, Title: "Too many streams", Detail: ErrOrgLimit.Error(), Retry: 5 * time.Second}, EndLater)
	default:
		t.arrive(s)
		t.work()
	}
	t.mu.Unlock()
	replaced.yield(usedAnew)
	if oldest != nil {
		h.metrics.Errors.WithLabelValues(errorLimit).Inc()
		oldest.yield(StreamProblem{
			Status: 429, Title: "Too many streams", Detail: "a newer stream of this user took its place", Retry: time.Minute,
		})
	}
	return s
}

// join puts the subscriber into the org's tail. The sink knows its owner before anybody else can find the subscriber and
// end it.
func (h *Hub) join(s *Subscriber, sub *Subscription) *tail {
	for {
		h.mu.Lock()
		t := h.tails[sub.Org]
		if t == nil {
			t = &tail{hub: h, org: sub.Org, ring: ring{total: &h.ringBytes}, used: time.Now()}
			h.tails[sub.Org] = t
		}
		h.mu.Unlock()
		t.mu.Lock()
		if t.swept {
			t.mu.Unlock()
			continue // the sweep is about to take it out of the map
		}
		s.tail, s.at, s.state, s.since = t, len(t.subscribers), arriving, time.Now()
		t.subscribers = append(t.subscribers, s)
		if sub.Poll != nil {
			s.wait(sub.Poll)
		}
		s.group = t.groups.join(sub)
		t.enter(s)
		h.metrics.Streams.WithLabelValues(sub.Sink.Transport()).Inc()
		sub.Sink.Start(s)
		t.mu.Unlock()
		return t
	}
}

// enlist counts the stream among its user's, and names the one that has to yield.
func (h *Hub) enlist(s *Subscriber, sub *Subscription) (oldest *Subscriber) {
	if h.options.MaxStreamsPerUser == 0 || s.poll != nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.left || s.replaced {
		return nil
	}
	key := [2]string{sub.Org, sub.User}
	user := h.users[key]
	if user == nil {
		user = &userStreams{key: key}
		h.users[key] = user
	}
	s.user = user
	user.open = append(user.open, s)
	if len(user.open) > h.options.MaxStreamsPerUser {
		oldest = user.open[0]
		h.delist(oldest)
	}
	return oldest
}

// left takes a stream from its user's, and notes that memory may be had back.
func (h *Hub) left(s *Subscriber) {
	h.leavers.Add(1)
	h.lastLeft.Store(time.Now().UnixNano())
	h.mu.Lock()
	defer h.mu.Unlock()
	s.left = true
	h.tickets.close(s)
	h.delist(s)
}

// delist counts a stream no more among its user's. The caller holds mu.
func (h *Hub) delist(s *Subscriber) {
	user := s.user
	if user == nil {
		return
	}
	s.user = nil
	user.open = slices.DeleteFunc(user.open, func(one *Subscriber) bool { return one == s })
	if len(user.open) == 0 {
		delete(h.users, user.key)
	}
}

// start runs work until the hub's end; false when that has come.
func (h *Hub) start(work func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.group.Go(work)
	}
	return !h.closed
}

func (h *Hub) all() []*tail {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*tail, 0, len(h.tails))
	for _, t := range h.tails {
		list = append(list, t)
	}
	return list
}

func (h *Hub) everybody() []*Subscriber {
	var list []*Subscriber
	for _, t := range h.all() {
		t.mu.Lock()
		list = append(list, t.subscribers...)
		t.mu.Unlock()
	}
	return list
}

// Orgs lists the logs in use.
func (h *Hub) Orgs() []string {
	list := h.all()
	orgs := make([]string, len(list))
	for i, t := range list {
		orgs[i] = t.org
	}
	return orgs
}

// known is the tail of an org; nil: nobody listens to it here.
func (h *Hub) known(org string) *tail {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tails[org]
}

func (h *Hub) wakeBy(source, org string, seq int64) {
	if t := h.known(org); t != nil {
		h.metrics.Wakes.WithLabelValues(source).Inc()
		t.wake(seq)
	}
}

// WakeAll says that anything may have been missed. It does not block.
func (h *Hub) WakeAll() {
	for _, t := range h.all() {
		h.metrics.Wakes.WithLabelValues(wokenByAll).Inc()
		t.wake(0)
	}
}

// EpochChanged says which epoch the store has seen; tails of another one read again. It does not block.
func (h *Hub) EpochChanged(epoch string) {
	h.start(func() {
		for _, t := range h.all() {
			t.mu.Lock()
			if t.epoch != "" && t.epoch != epoch {
				t.wanted = true
				t.work()
			}
			t.mu.Unlock()
		}
	})
}

// regressed tells, once at a time, that a log has gone back.
func (h *Hub) regressed(org, epoch string) {
	if h.options.OnRegression == nil || !h.rotating.CompareAndSwap(false, true) {
		return
	}
	h.start(func() {
		defer h.rotating.Store(false)
		h.options.OnRegression(org, epoch)
	})
}

// rest waits; false when the hub has ended.
func (h *Hub) rest(d time.Duration) bool {
	if d <= 0 {
		return h.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

// trimRings drops the events of the least recently used tails until all rings fit their budget. It holds no lock of
// the caller's.
func (h *Hub) trimRings() {
	for h.ringBytes.Load() > h.options.RingMemory {
		var oldest *tail
		var used time.Time
		for _, t := range h.all() {
			t.mu.Lock()
			if len(t.ring.entries) > 0 && (oldest == nil || t.used.Before(used)) {
				oldest, used = t, t.used
			}
			t.mu.Unlock()
		}
		if oldest == nil {
			return
		}
		oldest.mu.Lock()
		oldest.ring.drop((len(oldest.ring.entries) + 1) / 2)
		oldest.mu.Unlock()
	}
}

// settle gives memory back to the system after a storm of streams has left.
func (h *Hub) settle() {
	if h.leavers.Load() < settleCount || time.Since(time.Unix(0, h.lastLeft.Load())) < settleAfter {
		return
	}
	h.leavers.Store(0)
	runtime.GC() // what pools hold survives the first collection
	debug.FreeOSMemory()
}

// Stats is what the hub knows of an org, or, for "", of all.
type Stats struct {
	Orgs, Streams, Blocked int
	Polls                  int // that wait
	RingEvents             int
	Delivered              int64 // events times readers, of the logs in use
}

// Stats counts.
func (h *Hub) Stats(org string) Stats {
	tails := h.all()
	if org != "" {
		tails = slices.DeleteFunc(tails, func(t *tail) bool { return t.org != org })
	}
	var stats Stats
	for _, t := range tails {
		t.mu.Lock()
		stats.Orgs++
		stats.Streams += len(t.subscribers) - t.polls
		stats.Polls += t.polls
		stats.Blocked += t.blocked
		stats.RingEvents += len(t.ring.entries)
		stats.Delivered += t.delivered
		t.mu.Unlock()
	}
	return stats
}
