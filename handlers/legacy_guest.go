package handlers

import (
	"net/http"
	"strings"

	"sluice/store"
	"sluice/streams"
)

// auditPrefix begins the types that the audit endpoint has and the guest endpoints leave out.
const auditPrefix = "audit_"

// guest is GET /guest-checkin/realtime/subscribe and subscribe-v3. Their clients say with nothing what they have got, so it
// is remembered for each user and property.
func (s *Server) guest(dialect *oldDialect) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		asked := oldAsked(r, "guest")
		sub, err := s.oldSubscription(r, asked)
		if err != nil {
			return err
		}
		sub.Filter.Without = auditPrefix
		sub.Poll = &streams.Poll{Wait: s.Legacy.wait(), Encoder: dialect}
		if !dialect.now {
			sub.Poll.Echo = strings.Clone(r.URL.Query().Get("lastEventId"))
		}
		if err := s.resume(r, sub, asked.properties); err != nil {
			return err
		}
		return s.park(w, r, sub, legacyTransport)
	}
}

// resume starts a poll where its reader stands, and has the answer wait until it is committed where the reader stands then.
// If we stop before that, the next poll gets the same again; if after, the answer was on its way.
func (s *Server) resume(r *http.Request, sub *streams.Subscription, properties []string) error {
	reader := store.Reader{Org: sub.Org, User: sub.User}
	if len(properties) == 1 {
		reader.Property = properties[0]
	}
	at, stale, err := s.Positions.Position(r.Context(), reader)
	if err != nil {
		return err
	}
	sub.Start = streams.Start{Kind: streams.StartAt, Cursor: at}
	sub.Poll.Before = func(a *streams.Answer, send func(error)) {
		if len(a.Events) == 0 && a.Reset == nil && a.Passed.IsZero() && !stale {
			send(nil) // it may stay where it is
			return
		}
		s.Positions.Keep(store.Position{Reader: reader, Cursor: a.Cursor}, send)
	}
	return nil
}

// audit is GET /guest-checkin/audit-events/subscribe.
func (s *Server) audit(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.oldSubscription(r, oldAsked(r, "guest"))
	if err != nil {
		return err
	}
	sub.Filter.Prefix = auditPrefix
	return s.parkSince(w, r, sub, &auditDialect, auditWindow)
}
