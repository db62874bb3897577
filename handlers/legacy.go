package handlers

import (
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"sluice/streams"
)

// The old API (docs/protocol.md, "L"): long-polling endpoints, one for each service, whose clients say with a time what
// they have got. Each is a poll upon the log like any other, in a dialect of its own.

const (
	legacyTransport = "legacy"
	legacyWait      = 25 * time.Second // for an event
	legacyWindow    = 25 * time.Second // what a client without a position gets
	auditWindow     = 30 * time.Second
	lastEventLimit  = 64 // bytes of a lastEventId
)

// legacy are the routes of the old API, which are the same below /v1.
func (s *Server) legacy(router chi.Router) {
	router.Get("/{service}/realtime/subscribe", s.old(s.subscribeOld))
	router.Get("/guest-checkin/realtime/subscribe", s.old(s.guest(&guestV1)))
	router.Get("/guest-checkin/realtime/subscribe-v3", s.old(s.guest(&guestV3)))
	router.Get("/guest-checkin/audit-events/subscribe", s.old(s.audit))
	router.Get("/reports/realtime/poll", s.old(s.reports))
	router.Get("/finance/realtime/metrics", s.old(s.financeMetrics))
	router.Get("/finance/events/subscribe", s.old(func(http.ResponseWriter, *http.Request) error { return errOldGone }))
}

// subscribeOld is GET /{service}/realtime/subscribe.
func (s *Server) subscribeOld(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	service := chi.URLParam(r, "service")
	asked := oldAsked(r, service)
	encoder := &fullDialect
	switch bits, _ := s.Catalogue.Mask(service); {
	case bits == 0 || s.Catalogue.Own(service):
		return problem(http.StatusNotFound, "there is no service %q with an old endpoint", service)
	case service == "branding":
		asked.properties = nil
	case bits != s.Catalogue.Bit(service):
		encoder = &derivedDialect
	}
	sub, err := s.subscription(r.Context(), caller, asked)
	if err != nil {
		return err
	}
	if service == "guest" {
		sub.Filter.Without = auditPrefix
	}
	return s.parkSince(w, r, sub, encoder, legacyWindow)
}

// oldAsked is what a client of the old API wants to read.
func oldAsked(r *http.Request, service string) asked {
	query := r.URL.Query()
	asked := asked{org: query.Get("orgId"), services: []string{strings.Clone(service)}, properties: listed(query["propertyId"])}
	if len(asked.properties) == 1 && asked.properties[0] == "null" {
		asked.properties = nil
	}
	return asked
}

// oldSubscription checks what is asked for against the request's token.
func (s *Server) oldSubscription(r *http.Request, asked asked) (*streams.Subscription, error) {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return nil, err
	}
	return s.subscription(r.Context(), caller, asked)
}

// parkSince waits for what is younger than the request's lastEventId, or, without one, begins so far back.
func (s *Server) parkSince(w http.ResponseWriter, r *http.Request, sub *streams.Subscription, dialect *oldDialect, window time.Duration) error {
	since := strings.Clone(r.URL.Query().Get("lastEventId"))
	at, err := sinceOf(since)
	if err != nil {
		return err
	}
	sub.Start.Kind = streams.StartAt
	if since == "" {
		sub.Start.Cursor, err = s.Positions.PositionAgo(r.Context(), sub.Org, window)
	} else {
		sub.Start.Cursor, err = s.Positions.PositionAt(r.Context(), sub.Org, at)
	}
	if err != nil {
		return err
	}
	sub.Poll = &streams.Poll{Wait: s.Legacy.wait(), Echo: since, Encoder: dialect}
	return s.park(w, r, sub, legacyTransport)
}

// sinceOf reads a lastEventId, which may be missing. A plus sign that was not escaped has become a blank.
func sinceOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, strings.ToUpper(strings.ReplaceAll(text, " ", "+")))
	if err != nil || len(text) > lastEventLimit {
		return time.Time{}, invalid("lastEventId", "a time such as 2025-01-31T12:00:00.000Z is expected")
	}
	return at, nil
}

// reports is GET /reports/realtime/poll, which never had anything to tell.
func (s *Server) reports(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	if !caller.MayService("reports") {
		return problem(http.StatusForbidden, "the token does not allow the service %q", "reports")
	}
	w.Header().Set("Content-Type", "application/json")
	body := append(appendOldTime([]byte(`{"updates":[],"nextPollTime":`), time.Now().Add(3*time.Second)), '}')
	_, err = w.Write(body)
	return err
}

// financeMetrics is GET /finance/realtime/metrics: what of finance the caller could have been told lately. It was a window
// into all orgs' buffers once.
func (s *Server) financeMetrics(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.oldSubscription(r, oldAsked(r, "finance"))
	if err != nil {
		return err
	}
	sub.Start.Kind = streams.StartAt
	if sub.Start.Cursor, err = s.Positions.PositionAgo(r.Context(), sub.Org, legacyWindow); err != nil {
		return err
	}
	sub.Poll = &streams.Poll{Encoder: &financeCounts}
	return s.park(w, r, sub, legacyTransport)
}
