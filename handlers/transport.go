package handlers

import "net/http"

// transport is GET /v2/realtime/transport: what the caller's org should use now. Everybody is within the rollout while it
// is 100 %.
func (s *Server) transport(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.Auth.Caller(r); err != nil {
		return err
	}
	return s.answer(w, http.StatusOK, struct {
		Transport      string `json:"transport"`
		Reason         string `json:"reason"`
		RolloutPercent int    `json:"rolloutPercent"`
	}{"stream", "percentage", 100})
}
