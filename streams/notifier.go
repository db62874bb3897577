package streams

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/store"
)

// Poller is the part of the store that heals what notifications lose; its contract is that of store.Store.
type Poller interface {
	NewListener(to store.Notified) *store.Listener
	TicketUses(ctx context.Context, tickets []string) ([]store.TicketUse, error)
	Heads(ctx context.Context, orgs []string) (store.Heads, error)
}

const (
	pollEvery = time.Second
	pingEvery = 2 * time.Second
)

// Notifier wakes the hub: at once by notifications on one LISTEN connection, and once a second by a query over all
// logs in use, since a notification is a hint that may be lost.
type Notifier struct {
	log    Poller
	hub    *Hub
	logger *slog.Logger

	// Wanted is told of uploads that an instance wants to write. It must not block; nil: nobody writes any here.
	Wanted func(upload, by string)

	// Queued is told that there is a document to be read. It must not block; nil: nobody reads any here.
	Queued func()

	// Present is told that who of an org's users is there may have changed, no user named: whoever of them; Missed, that
	// something of that may not have been heard. They must not block; nil: nobody asks here.
	Present func(org string, users []string)
	Missed  func()

	// Typed is told who types. It must not block; nil: nobody asks here.
	Typed func(list []store.Typing)
}

// NewNotifier makes a notifier; Run runs it.
func NewNotifier(log Poller, hub *Hub, logger *slog.Logger) *Notifier {
	return &Notifier{log: log, hub: hub, logger: logger}
}

// Run wakes the hub until ctx ends; it leaves nothing running.
func (n *Notifier) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { n.listen(ctx) })
	group.Go(func() { n.poll(ctx) })
}

// listen drains the notifications. It never waits for the connection: pq blocks in Listen while no server answers,
// and in Ping while more notifications are queued than its channel holds, so both run beside this loop.
func (n *Notifier) listen(ctx context.Context) {
	listener := n.log.NewListener(store.Notified{
		Grown:   func(org string, seq int64) { n.hub.wakeBy(wokenByNotify, org, seq) },
		WakeAll: n.wakeAll,
		Used:    n.hub.TicketUsed,
		Wanted: func(upload, by string) {
			if n.Wanted != nil {
				n.Wanted(upload, by)
			}
		},
		Queued: func() {
			if n.Queued != nil {
				n.Queued()
			}
		},
		Present: func(org string, users []string) {
			if n.Present != nil {
				n.Present(org, users)
			}
		},
		Typed: func(list []store.Typing) {
			if n.Typed != nil {
				n.Typed(list)
			}
		},
	})
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() {
		for ctx.Err() == nil {
			if err := listener.Start(); err == nil {
				return
			}
		}
	})
	pings := make(chan struct{}, 1)
	beside.Go(func() {
		for range pings {
			// A ping that fails closes the connection, and the listener makes another.
			_ = listener.Ping()
		}
	})
	defer close(pings)
	closed := make(chan struct{})
	beside.Go(func() {
		<-ctx.Done()
		listener.Close()
		close(closed)
	})
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-closed:
			return
		case notification, open := <-listener.C:
			if !open {
				<-closed
				return
			}
			listener.Tell(notification)
		case <-ticker.C:
			select {
			case pings <- struct{}{}:
			default: // the last one still waits for its answer
			}
		}
	}
}

// wakeAll makes good for whatever was not heard.
func (n *Notifier) wakeAll() {
	n.hub.WakeAll()
	if n.Missed != nil {
		n.Missed()
	}
	n.hub.start(func() {
		tickets := n.hub.ticketsOpen()
		if len(tickets) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(n.hub.ctx, appendAttempt)
		defer cancel()
		uses, err := n.log.TicketUses(ctx, tickets)
		if err != nil {
			n.logger.Warn("whether tickets were used anew cannot be found out", "err", err)
		}
		for _, use := range uses {
			n.hub.TicketUsed(use)
		}
	})
}

// poll compares the logs in use with what their tails have read.
func (n *Notifier) poll(ctx context.Context) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		heads, err := n.log.Heads(ctx, n.hub.Orgs())
		if err != nil {
			if !failing && ctx.Err() == nil {
				n.logger.Warn("the database does not answer", "err", err)
			}
			failing = true
			continue
		}
		if failing {
			n.logger.Info("the database answers again")
			n.wakeAll()
			failing = false
		}
		n.hub.EpochChanged(heads.Epoch)
		for org, seq := range heads.Of {
			n.hub.wakeBy(wokenByPoll, org, seq)
		}
	}
}
