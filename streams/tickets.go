package streams

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"sluice/store"
)

// usesKnown is how many tickets are remembered whose newest use came before the stream that it replaces was here.
const usesKnown = 10_000

// usedAnew ends the stream of an earlier use. Its page may be open still: were it to come back at once, the two would take
// each other's place for ever.
var usedAnew = StreamProblem{
	Status: 409, Title: "Conflict", Detail: "the ticket was used for a newer stream", Retry: time.Minute,
}

// tickets are the streams that were opened by one. The hub's lock guards them.
type tickets struct {
	open map[string]ticketStream
	uses *lru.Cache[string, int64] // the newest that were heard of
}

type ticketStream struct {
	use    int64
	stream *Subscriber
}

func newTickets() tickets {
	uses, err := lru.New[string, int64](usesKnown)
	if err != nil {
		panic(err) // the size is not positive
	}
	return tickets{map[string]ticketStream{}, uses}
}

// heard notes a use and gives the stream of an earlier one, which has to end; nil: there is none here.
func (t *tickets) heard(use store.TicketUse) *Subscriber {
	if newest, _ := t.uses.Get(use.Ticket); newest < use.Number {
		t.uses.Add(use.Ticket, use.Number)
	}
	one := t.open[use.Ticket]
	if one.use >= use.Number {
		return nil
	}
	delete(t.open, use.Ticket)
	return one.stream
}

// close forgets the stream of a ticket.
func (t *tickets) close(s *Subscriber) {
	if t.open[s.ticket].stream == s {
		delete(t.open, s.ticket)
	}
}

// present makes s the stream of a ticket, and gives the one that has to end: that of an earlier use, or s, where a later one
// was heard of already; nil: none.
func (h *Hub) present(s *Subscriber, use store.TicketUse) *Subscriber {
	if use.Ticket == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.left {
		return nil
	}
	if newest, _ := h.tickets.uses.Get(use.Ticket); newest > use.Number {
		s.replaced = true
		return s
	}
	replaced := h.heard(use)
	s.ticket = use.Ticket
	h.tickets.open[use.Ticket] = ticketStream{use.Number, s}
	return replaced
}

// heard notes a use, and takes the stream of an earlier one from its user's: it is about to end. The caller holds mu.
func (h *Hub) heard(use store.TicketUse) *Subscriber {
	replaced := h.tickets.heard(use)
	if replaced != nil {
		replaced.replaced = true
		h.delist(replaced)
	}
	return replaced
}

// TicketUsed ends the stream of an earlier use, wherever the newer one was opened. It does not block.
func (h *Hub) TicketUsed(use store.TicketUse) {
	h.mu.Lock()
	replaced := h.heard(use)
	h.mu.Unlock()
	if replaced != nil {
		h.start(func() { replaced.yield(usedAnew) })
	}
}

// ticketsOpen lists the tickets of the streams that are open.
func (h *Hub) ticketsOpen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]string, 0, len(h.tickets.open))
	for ticket := range h.tickets.open {
		list = append(list, ticket)
	}
	return list
}
