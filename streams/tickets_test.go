package streams_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// present opens a stream of the user's by a use of a ticket; 0: without one.
func (l *live) present(use int64) *pipe {
	p := new(pipe)
	sub := &streams.Subscription{
		Org: "1", User: "u", Filter: everything, Encoder: lines{}, Sink: p, Expires: time.Now().Add(time.Hour),
	}
	if use > 0 {
		sub.Ticket = store.TicketUse{Ticket: "7e", Number: use}
	}
	l.hub.Subscribe(sub)
	return p
}

func (p *pipe) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// TestTicketAtLimit has a ticket used anew by a user who has all the streams that there may be: the place that the earlier use
// gives up is the newer one's, and nobody else has to go, whether the notification of it comes before the stream or after.
func TestTicketAtLimit(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{MaxStreamsPerUser: 2})
	other, last := l.present(0), l.present(1)
	for use := int64(2); use < 12; use++ {
		if use%2 == 0 {
			l.hub.TicketUsed(store.TicketUse{Ticket: "7e", Number: use})
		}
		next := l.present(use)
		last.wait(t, "the earlier use stays", last.over)
		if use == 5 { // an earlier use comes late, and takes nobody's place
			if late := l.present(4); !late.over() {
				t.Fatal("an earlier use takes the place of a later one")
			}
		}
		last = next
	}
	last.await(t, "ack")
	if other.over() || last.over() || slices.Contains(other.lines(), "problem 429") {
		t.Errorf("who had nothing to do with it: %q; the newest: %q", other.lines(), last.lines())
	}
	third := l.present(0)
	other.wait(t, "the limit does not hold", other.over)
	if last.over() || third.over() {
		t.Error("more than the oldest have to go")
	}
}

// absent is a store that answers no query of the notifier's until it is there.
type absent struct {
	*store.Store
	there        atomic.Bool
	heads, asked atomic.Int64 // queries that failed
}

func (a *absent) Heads(ctx context.Context, orgs []string) (store.Heads, error) {
	if !a.there.Load() {
		a.heads.Add(1)
		return store.Heads{}, store.ErrUnavailable
	}
	return a.Store.Heads(ctx, orgs)
}

func (a *absent) TicketUses(ctx context.Context, tickets []string) ([]store.TicketUse, error) {
	if !a.there.Load() {
		a.asked.Add(1)
		return nil, store.ErrUnavailable
	}
	return a.Store.TicketUses(ctx, tickets)
}

// TestTicketUseMissed has a ticket used anew elsewhere while nothing is heard, and the database not say so when the LISTEN
// connection is made: the stream ends once the database answers again.
func TestTicketUseMissed(t *testing.T) {
	t.Parallel()
	m := openMetered(t, pgtest.Database(t), streams.Options{RingMemory: 1 << 20})
	digest, err := hex.DecodeString("7e")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.events.KeepTicket(t.Context(), digest, []byte(`{}`), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	p := m.present(1)
	p.await(t, "ack")
	for range 2 {
		if _, _, err := m.events.UseTicket(t.Context(), digest, false); err != nil {
			t.Fatal(err)
		}
	}
	database := &absent{Store: m.events}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		streams.NewNotifier(database, m.hub, slog.New(slog.DiscardHandler)).Run(ctx)
		close(ended)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	eventually(t, "nothing is asked", func() bool { return database.heads.Load() > 0 && database.asked.Load() > 0 })
	if p.over() {
		t.Fatal("the stream ended before anything was known")
	}
	database.there.Store(true)
	p.wait(t, "the earlier use stays", p.over)
}
