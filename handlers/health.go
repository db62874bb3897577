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

// live answers that the process runs.
func (s *Server) live(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, map[string]string{"status": "ok", "version": s.Version})
}

// ready answers whether requests should be sent here: every check by its name, 503 where one fails. What failed is
// told to the log; a stranger is told only which.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	status, checks := http.StatusOK, map[string]string{}
	if s.Draining() {
		status, checks["drain"] = http.StatusServiceUnavailable, "draining"
	} else {
		for _, check := range s.Checks {
			checks[check.Name] = "ok"
			if err := check.Run(ctx); err != nil {
				s.Log.Warn("not ready", "check", check.Name, "err", err)
				status, checks[check.Name] = http.StatusServiceUnavailable, "failed"
			}
		}
	}
	words := map[int]string{http.StatusOK: "ready", http.StatusServiceUnavailable: "not ready"}
	return answer(w, status, map[string]any{"status": words[status], "checks": checks})
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
	return answer(w, http.StatusOK, map[string]any{
		"orgId": org, "activeStreams": stats.Streams, "blockedStreams": stats.Blocked, "ringEvents": stats.RingEvents,
		"orgs": stats.Orgs, "eventsDelivered": stats.Delivered, "time": time.Now().UTC().Format(wireTime),
	})
}
