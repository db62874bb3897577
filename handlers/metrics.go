package handlers

import "net/http"

// orgMetrics is the body of GET /v2/realtime/metrics: what this instance carries at this moment. Other instances have
// figures of their own.
type orgMetrics struct {
	OrgID          string `json:"orgId,omitempty"` // absent: all orgs together
	Orgs           int    `json:"orgs"`            // that somebody listens to here
	ActiveStreams  int    `json:"activeStreams"`
	BlockedStreams int    `json:"blockedStreams"` // whose readers take nothing just now
	RingEvents     int    `json:"ringEvents"`     // held in memory for readers to come
}

// metrics is GET /v2/realtime/metrics: the caller's own org; for the operator, a service token with the scope admin, all
// of them, or the one that ?orgId= names. Another service token names its org.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	org := caller.Org
	if caller.AnyOrg {
		org = r.URL.Query().Get("orgId")
		if org == "*" || !label(org) || org == "" && !caller.May("admin") {
			return invalid("orgId", "a service token names the org that it acts for")
		}
	}
	stats := s.Hub.Stats(org)
	return answer(w, http.StatusOK, orgMetrics{
		OrgID: org, Orgs: stats.Orgs, ActiveStreams: stats.Streams, BlockedStreams: stats.Blocked, RingEvents: stats.RingEvents,
	})
}
