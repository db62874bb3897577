package streams

import "time"

// replay makes sure that those behind the ring are served. The caller holds mu.
func (t *tail) replay() {
	if !t.replays {
		t.replays = t.hub.start(t.runReplay)
	}
}

// runReplay serves those behind in turn: from the ring whoever it reaches back to, and the others from pages, each from
// where the one stands who has waited longest; whoever stands within a page is served from it. Few pages are read at once
// in the process, so that a crowd that comes back does not drown the database.
func (t *tail) runReplay() {
	for {
		t.mu.Lock()
		turn := t.behind.take()
		t.mu.Unlock()
		for _, s := range turn {
			t.mu.Lock() // for each anew: live subscribers do not wait for all of them
			if s.state == replaying && s.crowd == nil {
				if _, reached := t.ring.from(s.cursor); reached {
					t.settle(s)
				} else {
					t.behind.add(s)
				}
			}
			t.mu.Unlock()
		}
		t.mu.Lock()
		if len(t.behind) == 0 || t.hub.ctx.Err() != nil {
			t.replays = false
			t.mu.Unlock()
			return
		}
		next := t.behind[0]
		for _, s := range t.behind {
			if s.turn < next.turn {
				next = s
			}
		}
		after, epoch := next.cursor, t.epoch
		_, reached := t.ring.from(after)
		t.mu.Unlock()
		if !reached && !t.readPage(after, epoch) {
			t.hub.rest(100 * time.Millisecond)
		}
	}
}

// readPage serves those within one page of the store. It is false where the log says nothing about them for now.
func (t *tail) readPage(after int64, epoch string) bool {
	select {
	case t.hub.reads <- struct{}{}:
	case <-t.hub.ctx.Done():
		return true
	}
	page, err := t.hub.log.Page(t.hub.ctx, t.org, after, time.Time{}, replayEvents)
	<-t.hub.reads
	if err != nil {
		t.hub.metrics.Errors.WithLabelValues(errorRead).Inc()
		return false
	}
	t.hub.metrics.Pages.Inc()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case page.Epoch != t.epoch || epoch != t.epoch:
		// Another incarnation: the tail's own page tells everyone.
		t.wanted = true
		t.work()
		return false
	case len(page.Events) == 0 || page.Events[0].Seq != after+1:
		t.expire(after)
	default:
		t.servePage(entriesOf(page.Events, t.hub.catalogue), after)
	}
	return true
}

// expire resets those at a position that cannot be replayed any more: what follows it was trimmed.
func (t *tail) expire(after int64) {
	for _, s := range t.behind.take() {
		if s.cursor == after {
			t.restart(s, ResetExpired)
		} else {
			t.behind.add(s)
		}
	}
	t.wanted = true
	t.work()
}

// servePage serves everyone behind who stands within a page.
func (t *tail) servePage(entries []*entry, after int64) {
	// The page may be ahead of the tail. Nobody is served beyond that: a live subscriber stands where its tail does, and
	// would be given the same again.
	for len(entries) > 0 && entries[len(entries)-1].event.Seq > t.pos {
		entries = entries[:len(entries)-1]
	}
	end := after + int64(len(entries))
	for _, s := range t.behind.take() {
		switch {
		case s.cursor < after || s.cursor >= end:
			t.behind.add(s)
		case t.serve(s, entries[s.cursor-after:]):
			t.settle(s)
		}
	}
}
