package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sluice/store"
	"sluice/streams"
)

// TestRequestID keeps a client's own id where it is sane, and makes one else.
func TestRequestID(t *testing.T) {
	d := openDoor(t)
	for _, c := range []struct {
		given string
		kept  bool
	}{
		{"abc-1.2_Z", true},
		{strings.Repeat("a", 64), true},
		{"", false},
		{strings.Repeat("a", 65), false},
		{"a b", false},
		{`"><script>`, false},
	} {
		t.Run(c.given, func(t *testing.T) {
			got := d.ask(http.MethodGet, "/nowhere", "", "", "X-Request-Id", c.given)
			id := got.header.Get("X-Request-Id")
			if (id == c.given) != c.kept || !sane.MatchString(id) {
				t.Errorf("%q", id)
			}
			if !strings.Contains(d.log.String(), "id="+id) {
				t.Errorf("the log does not speak of %s", id)
			}
		})
	}
}

// TestRoutes answers what there is not with problems, and forbids caches to keep the API's answers.
func TestRoutes(t *testing.T) {
	d := openDoor(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
		cache        string
	}{
		{"GET", "/nowhere", 404, "", ""},
		{"GET", "/v2/nowhere", 404, "", "no-store"},
		{"GET", "/v1/nowhere", 404, "", "no-store"},
		{"GET", "/v2/events", 405, "POST", "no-store"},
		{"DELETE", "/v2/events", 405, "POST", "no-store"},
		{"POST", "/v2/realtime/stream", 405, "GET", "no-store"},
		{"POST", "/healthz/live", 405, "GET", ""},
		{"GET", "/", 404, "", ""},
		{"GET", "/static/page.js", 404, "", ""},
		{"GET", "/metrics", 404, "", ""},
		{"GET", "/debug/pprof/", 404, "", ""},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			got := d.ask(c.method, c.path, "", "")
			got.problem(t)
			if got.status != c.status || got.header.Get("Allow") != c.allow || got.header.Get("Cache-Control") != c.cache {
				t.Errorf("%d, Allow %q, Cache-Control %q", got.status, got.header.Get("Allow"), got.header.Get("Cache-Control"))
			}
		})
	}
}

// TestPanic turns a defect into a 500 that tells nothing, and tells the log everything.
func TestPanic(t *testing.T) {
	text := new(logText)
	s := &Server{Log: slog.New(slog.NewTextHandler(text, nil))}
	serving := httptest.NewServer(s.identify(s.recoverPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic("the secret of the house")
	}))))
	defer serving.Close()
	response, err := serving.Client().Get(serving.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 500 || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	id := response.Header.Get("X-Request-Id")
	if logged := text.String(); !strings.Contains(logged, "the secret of the house") || !strings.Contains(logged, id) {
		t.Errorf("the log says %q", logged)
	}
}

// TestProblemOf gives every error below its status, and no client the words of one.
func TestProblemOf(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		later  bool
		level  slog.Level
	}{
		{errors.New("the secret of the house"), 500, false, slog.LevelError},
		{fmt.Errorf("%w: the secret of the house", store.ErrRefused), 400, false, slog.LevelDebug},
		{fmt.Errorf("%w: the secret of the house", store.ErrUnavailable), 503, true, slog.LevelWarn},
		{errors.Join(streams.ErrUnavailable, errors.New("the secret of the house")), 503, true, slog.LevelWarn},
		{streams.ErrOverloaded, 503, true, slog.LevelWarn},
		{streams.ErrDraining, 503, true, slog.LevelWarn},
		{streams.ErrHubDrains, 503, true, slog.LevelWarn},
		{fmt.Errorf("the secret of the house: %w", context.Canceled), 503, true, slog.LevelDebug},
		{context.DeadlineExceeded, 503, true, slog.LevelWarn},
		{&http.MaxBytesError{Limit: 7}, 413, false, slog.LevelDebug},
		{fmt.Errorf("the secret of the house: %w", problem(418, "short and stout")), 418, false, slog.LevelDebug},
		{&Problem{Type: "about:blank", Title: "T", Status: 503, cause: errors.New("the secret of the house")}, 503, false, slog.LevelWarn},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			text := new(logText)
			s := &Server{Log: slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug}))}
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/path?access_token=hidden", nil)
			s.serve(func(http.ResponseWriter, *http.Request) error { return c.err })(w, r)
			if w.Code != c.status || (w.Header().Get("Retry-After") != "") != c.later {
				t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("internals leave: %s", w.Body)
			}
			if logged := text.String(); !strings.Contains(logged, "level="+c.level.String()) || strings.Contains(logged, "hidden") {
				t.Errorf("the log says %q", logged)
			}
		})
	}
}

// TestDevHost refuses names that are not this machine's: a page elsewhere could be given one that points here.
func TestDevHost(t *testing.T) {
	dev := openDoor(t, func(d *door) { d.server.Dev = true })
	plain := openDoor(t)
	for host, status := range map[string]int{
		"localhost": 200, "localhost:1": 200, "LOCALHOST:8080": 200, "127.0.0.1": 200, "127.9.9.9:80": 200, "[::1]:8080": 200, "[::1]": 200,
		"evil.example": 421, "evil.example:8080": 421, "localhost.evil.example": 421, "10.0.0.1": 421, "127.0.0.1.evil.example:80": 421,
	} {
		if got := dev.ask(http.MethodGet, "/healthz/live", "", "", "Host", host); got.status != status {
			t.Errorf("dev, %s: %d, want %d", host, got.status, status)
		}
		if got := plain.ask(http.MethodGet, "/healthz/live", "", "", "Host", host); got.status != 200 {
			t.Errorf("%s: %d", host, got.status)
		}
	}
}

// TestAdmin gives figures to everybody who reaches the listener, and profiles to this machine alone.
func TestAdmin(t *testing.T) {
	d := openDoor(t)
	admin := d.server.AdminRoutes()
	for _, c := range []struct {
		path, from, host string
		status           int
	}{
		{"/metrics", "127.0.0.1:1", "localhost:9180", 200},
		{"/metrics", "10.0.0.1:1", "sluice.internal:9180", 200},
		{"/debug/pprof/", "127.0.0.1:1", "127.0.0.1:9180", 200},
		{"/debug/pprof/heap", "[::1]:1", "localhost:9180", 200},
		{"/debug/pprof/cmdline", "10.0.0.1:1", "localhost:9180", 403},
		{"/debug/pprof/", "10.0.0.1:1", "localhost:9180", 403},
		{"/debug/pprof/", "127.0.0.1:1", "rebound.example:9180", 421},
		{"/nothing", "127.0.0.1:1", "localhost:9180", 404},
	} {
		r, w := httptest.NewRequest(http.MethodGet, c.path, nil), httptest.NewRecorder()
		r.RemoteAddr, r.Host = c.from, c.host
		admin.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s from %s: %d, want %d", c.path, c.from, w.Code, c.status)
		}
		if w.Header().Get(requestIDHeader) == "" || c.status > 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %v", c.path, w.Header())
		}
		if c.path == "/metrics" && !strings.Contains(w.Body.String(), "\nsluice_active_streams") {
			t.Errorf("%.200s", w.Body)
		}
	}
}
