package handlers

import (
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/google/uuid"
)

const requestIDHeader = "X-Request-Id"

var sane = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives every response the id under which the log speaks of its request: the client's own where it is sane.
// It also forbids caches to keep what the API says.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(requestIDHeader)
		if !sane.MatchString(id) {
			id = uuid.NewString()
		}
		w.Header().Set(requestIDHeader, id)
		if path := r.URL.Path; strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/") || strings.HasPrefix(path, "/upload/") {
			w.Header().Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}

// recoverPanics turns a defect of ours into a 500 for one client instead of an end for all.
func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch cause := recover(); cause {
			case nil:
			case http.ErrAbortHandler:
				panic(cause)
			default:
				s.Log.Error("panic", "id", w.Header().Get(requestIDHeader), "path", r.URL.Path, "cause", cause,
					"stack", string(debug.Stack()))
				problemOf(nil).write(w)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// ownHostOnly refuses requests that name a host which is not this machine: a page elsewhere whose name was made to point
// here would get the demo token of dev mode, or profiles.
func (s *Server) ownHostOnly(next http.Handler) http.Handler {
	return s.guard(next, func(r *http.Request) error {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if !loopbackName(host) {
			return problem(http.StatusMisdirectedRequest, "only localhost is served here, not %q", r.Host)
		}
		return nil
	})
}

// loopbackOnly refuses clients on other machines.
func (s *Server) loopbackOnly(next http.Handler) http.Handler {
	return s.guard(next, func(r *http.Request) error {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if !loopbackName(host) {
			return problem(http.StatusForbidden, "profiles are for this machine only")
		}
		return nil
	})
}

// guard lets through what check has nothing against.
func (s *Server) guard(next http.Handler, check func(*http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := check(r)
		if err == nil {
			next.ServeHTTP(w, r)
			return
		}
		s.serve(func(http.ResponseWriter, *http.Request) error { return err })(w, r)
	})
}

func loopbackName(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
