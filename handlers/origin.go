package handlers

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// What pages of allowed origins may send and read beyond what any page may: the headers of streams, and those of resumable
// uploads in all their dialects.
var (
	uploadHeaders = []string{
		"Content-Digest", "Repr-Digest", "Want-Repr-Digest", "Content-Range", "Tus-Resumable", "Upload-Checksum", "Upload-Complete",
		"Upload-Concat", "Upload-Defer-Length", "Upload-Draft-Interop-Version", "Upload-Incomplete", "Upload-Length", "Upload-Limit", "Upload-Metadata",
		"Upload-Offset",
	}
	allowedHeaders = slices.Clip(append([]string{ // go-chi/cors appends to it
		"Authorization", "Content-Type", "Content-Disposition", "Last-Event-ID", requestIDHeader, "X-HTTP-Method-Override",
		"If-Match", "If-None-Match", "If-Range", "Range", "X-Upload-Content-Length", "X-Upload-Content-Type",
	}, uploadHeaders...))
	exposedHeaders = append([]string{
		requestIDHeader, "Retry-After", "Location", "ETag", "Range", "Upload-Expires", "Tus-Version", "Tus-Extension", "Tus-Max-Size",
		"Tus-Checksum-Algorithm", "Accept-Patch", "Accept-Ranges", "Content-Disposition",
	}, uploadHeaders...)
)

// checkOrigin checks that a request which changes something and is authenticated by a cookie comes from a page that
// may: the browser sends the cookie whoever made the page (docs/protocol.md, "Origins").
func (s *Server) checkOrigin(r *http.Request, caller *Caller) error {
	if !caller.ByCookie || s.ownOrigin(r) || s.allowsOrigin(r.Header.Get("Origin")) {
		return nil
	}
	return problem(http.StatusForbidden, "a write by cookie needs the Origin of this server or one of --allowed-origins")
}

// ownOrigin says whether the page that asks came from this server: its host and port are those that were asked for.
func (s *Server) ownOrigin(r *http.Request) bool {
	from, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && from.Host != "" && strings.EqualFold(from.Host, r.Host)
}

// allowsOrigin says whether pages of an origin may use the server: those allowed, and any of this machine in dev mode.
func (s *Server) allowsOrigin(origin string) bool {
	from, err := url.Parse(origin)
	if err != nil || from.Host == "" {
		return false // none, or "null": a page from nowhere
	}
	return s.Dev && loopbackName(from.Hostname()) || slices.ContainsFunc(s.AllowedOrigins, func(allowed string) bool {
		return strings.EqualFold(strings.TrimSuffix(allowed, "/"), origin)
	})
}

// checkSocketOrigin checks the page that a WebSocket comes from. Browsers let any page open one, cookies included, so one
// by cookie has to say where it comes from; and whoever says so must be one that may.
func (s *Server) checkSocketOrigin(r *http.Request, caller *Caller) error {
	origin := r.Header.Get("Origin")
	if origin == "" && !caller.ByCookie || s.ownOrigin(r) || s.allowsOrigin(origin) {
		return nil
	}
	return problem(http.StatusForbidden, "a WebSocket needs the Origin of this server or one of --allowed-origins")
}
