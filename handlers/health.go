package handlers

import (
	"context"
	"net/http"
	"time"
)

// Check is one condition of readiness.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// checkTimeout bounds all checks of one request together.
const checkTimeout = 4 * time.Second

// probedFor is how long an outcome is told again.
const probedFor = time.Second

type probed struct {
	outcome readiness
	at      time.Time
}

// live answers that the process runs.
func (s *Server) live(w http.ResponseWriter, _ *http.Request) error {
	return s.answer(w, http.StatusOK, map[string]string{"status": "ok", "version": s.Version})
}

// ready answers whether requests should be sent here: every check by its name, 503 where one fails. What failed is
// told to the log; a stranger is told only which.
//
// At drain it fails without asking anything, so that load balancers turn away before streams do.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	if s.Draining() {
		return s.answer(w, http.StatusServiceUnavailable, readiness{"not ready", map[string]string{"drain": "draining"}})
	}
	// Whoever asks needs no token: those who ask at once share one answer, so that they cannot keep the database busy.
	// An answer is good for a second: each of them costs the database some queries and a notification.
	shared, _, _ := s.probes.Do("", func() (any, error) {
		if known := s.probed; time.Since(known.at) < probedFor {
			return known, nil
		}
		s.probed = probed{s.probe(context.WithoutCancel(r.Context())), time.Now()}
		return s.probed, nil
	})
	outcome := shared.(probed).outcome
	status := http.StatusOK
	if outcome.Status != "ready" {
		status = http.StatusServiceUnavailable
	}
	return s.answer(w, status, outcome)
}

// readiness is the answer of GET /healthz/ready; every check is "ok" or "failed".
type readiness struct {
	Status string            `json:"status"` // ready, not ready
	Checks map[string]string `json:"checks"`
}

func (s *Server) probe(ctx context.Context) readiness {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	outcome := readiness{"ready", map[string]string{}}
	for _, check := range s.Checks {
		outcome.Checks[check.Name] = "ok"
		if err := check.Run(ctx); err != nil {
			s.Log.WarnContext(ctx, "not ready", "check", check.Name, "err", err)
			outcome.Status, outcome.Checks[check.Name] = "not ready", "failed"
		}
	}
	return outcome
}

// metrics is GET /v2/realtime/metrics: what this instance has for the caller's org, or for all where an operator asks.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	org := caller.Org
	if caller.AnyOrg {
		org = r.URL.Query().Get("orgId")
		if org == "" && !caller.May("admin") {
			return invalid("orgId", "a service token without the scope admin names the org")
		}
	}
	stats := s.Hub.Stats(org)
	return s.answer(w, http.StatusOK, map[string]any{
		"orgId": org, "activeStreams": stats.Streams, "blockedStreams": stats.Blocked, "ringEvents": stats.RingEvents,
		"orgs": stats.Orgs, "eventsDelivered": stats.Delivered, "time": time.Now().UTC().Format(wireTime),
	})
}
