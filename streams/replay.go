package streams

import "time"

// replay makes sure that those behind the ring are served. The caller holds mu.
func (t *tail) replay() {
	if !t.replays && t.hub.ctx.Err() == nil {
		t.replays = true
		t.hub.group.Go(t.runReplay)
	}
}

// runReplay reads one page after another, each from where the hindmost stands; whoever stands within it is served
// from the same page. Few pages are read at once in the process, so that a crowd that comes back does not drown the
// database.
func (t *tail) runReplay() {
	for {
		t.mu.Lock()
		if len(t.behind) == 0 || t.hub.ctx.Err() != nil {
			t.replays = false
			t.mu.Unlock()
			return
		}
		after := t.behind[0].cursor
		for _, s := range t.behind {
			after = min(after, s.cursor)
		}
		epoch := t.epoch
		t.mu.Unlock()

		select {
		case t.hub.reads <- struct{}{}:
		case <-t.hub.ctx.Done():
			continue
		}
		page, err := t.hub.log.Page(t.hub.ctx, t.org, after, time.Time{}, replayEvents)
		<-t.hub.reads
		if err != nil {
			t.hub.metrics.Errors.WithLabelValues(errorRead).Inc()
			t.hub.rest(200 * time.Millisecond)
			continue
		}
		t.hub.metrics.Pages.Inc()
		t.mu.Lock()
		switch {
		case page.Epoch != t.epoch || epoch != t.epoch:
			// Another incarnation: the tail's own page tells everyone.
			t.wanted = true
			t.work()
			t.mu.Unlock()
			t.hub.rest(20 * time.Millisecond)
			continue
		case len(page.Events) == 0 || page.Events[0].Seq != after+1:
			t.expire(after)
		default:
			t.servePage(entriesOf(page.Events, t.hub.catalogue), after)
		}
		t.mu.Unlock()
	}
}

// expire resets those at a position that cannot be replayed any more: what follows it was trimmed.
func (t *tail) expire(after int64) {
	for _, s := range append([]*Subscriber(nil), t.behind...) {
		if s.cursor == after {
			t.restart(s, ResetExpired)
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
	if len(entries) == 0 {
		return
	}
	end := entries[len(entries)-1].event.Seq
	for _, s := range append([]*Subscriber(nil), t.behind...) {
		if s.cursor < after || s.cursor >= end || s.state != replaying {
			continue
		}
		t.behind = remove(t.behind, s)
		if t.serve(s, entries[s.cursor-after:]) {
			t.place(s)
		}
	}
}
