package handlers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"sluice/store"
)

// ticketRate bounds what one user asks for in a second.
const ticketRate = 20

// Tickets is the part of the store that keeps tickets; its contract is that of store.Store.
type Tickets interface {
	KeepTicket(ctx context.Context, digest, caller []byte, ends time.Time) (until time.Time, err error)
	UseTicket(ctx context.Context, digest []byte, once bool) (caller []byte, use store.TicketUse, err error)
}

// ticket is POST /v2/tickets (docs/protocol.md, "Identity"): what opens a stream where headers cannot be sent.
func (s *Server) ticket(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	if err := s.checkOrigin(r, caller); err != nil {
		return err
	}
	if !time.Now().Before(caller.Expires) { // within the leeway
		return problem(http.StatusUnauthorized, "the token has expired, and so would the ticket")
	}
	if err := s.ticketAllowance.take(caller.Org, caller.User); err != nil {
		return err
	}
	if err := s.noFields(w, r); err != nil {
		return err
	}
	caller.ByCookie = false // a ticket is sent by whoever was given it, and by nobody else's page
	kept, err := json.Marshal(caller)
	if err != nil {
		return err
	}
	ticket := rand.Text() + rand.Text()
	digest := sha256.Sum256([]byte(ticket))
	until, err := s.Tickets.KeepTicket(r.Context(), digest[:], kept, caller.Expires)
	if err != nil {
		return ticketsAway(err)
	}
	return s.answer(w, http.StatusCreated, map[string]string{"ticket": ticket, "expiresAt": until.UTC().Format(wireTime)})
}

// noFields reads a body that may be missing and has no fields.
func (s *Server) noFields(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	body, err := readJSON(w, r, s.bodyTimeout)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return problem(http.StatusBadRequest, "the body is not a JSON object")
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	if len(names) > 0 {
		return invalid(slices.Min(names), "there is no such field")
	}
	return nil
}

// reader says who asks for a stream: by a ticket, which this uses, or else as for anything.
func (s *Server) reader(r *http.Request) (*Caller, store.TicketUse, error) {
	ticket := r.URL.Query().Get("ticket")
	if ticket == "" || r.Header.Get("Authorization") != "" {
		caller, err := s.Auth.Caller(r)
		return caller, store.TicketUse{}, err
	}
	if r.Method != http.MethodGet {
		return nil, store.TicketUse{}, problem(http.StatusUnauthorized, "a ticket is for GET alone")
	}
	digest := sha256.Sum256([]byte(ticket))
	kept, use, err := s.Tickets.UseTicket(r.Context(), digest[:], upgrades(r.Header))
	if errors.Is(err, store.ErrNoTicket) {
		return nil, use, problem(http.StatusUnauthorized, "the ticket is not good: it is unknown, too old, or used up; POST /v2/tickets gives another")
	}
	if err != nil {
		return nil, use, ticketsAway(err)
	}
	caller := new(Caller)
	return caller, use, json.Unmarshal(kept, caller)
}

// ticketsAway says what it means for tickets that the database does not answer: no events are concerned.
func ticketsAway(err error) error {
	if !errors.Is(err, store.ErrUnavailable) {
		return err
	}
	p := later("the database does not answer, so no ticket can be made or looked at for now")
	p.cause = err
	return p
}
