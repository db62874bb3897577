package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/store"
)

// TestReady names every check, tells no cause, and lets one that fails fail the whole.
func TestReady(t *testing.T) {
	var failing, draining atomic.Bool
	d := openDoor(t, func(d *door) {
		d.server.Draining = draining.Load
		d.server.Checks = []Check{
			{"database", d.events.Ready},
			{"other", func(context.Context) error {
				if failing.Load() {
					return errors.New("the secret of the house")
				}
				return nil
			}},
		}
	})
	expect := func(status int, want readiness) {
		t.Helper()
		var got reply
		eventually(t, patience, fmt.Sprintf("not %d", status), func() bool { // an outcome is told for a second
			got = d.ask(http.MethodGet, "/healthz/ready", "", "")
			return got.status == status && (len(want.Checks) != 2 || strings.Count(got.body, "failed") == strings.Count(fmt.Sprint(want.Checks), "failed"))
		})
		var outcome readiness
		if err := json.Unmarshal([]byte(got.body), &outcome); err != nil || got.status != status ||
			outcome.Status != want.Status || len(outcome.Checks) != len(want.Checks) {
			t.Fatalf("%d %s (%v)", got.status, got.body, err)
		}
		for name, state := range want.Checks {
			if outcome.Checks[name] != state {
				t.Errorf("%s is %q, want %q", name, outcome.Checks[name], state)
			}
		}
	}
	expect(200, readiness{"ready", map[string]string{"database": "ok", "other": "ok"}})
	failing.Store(true)
	expect(503, readiness{"not ready", map[string]string{"database": "ok", "other": "failed"}})
	if !strings.Contains(d.log.String(), "the secret of the house") {
		t.Error("the log is not told why")
	}
	d.events.Close()
	expect(503, readiness{"not ready", map[string]string{"database": "failed", "other": "failed"}})
	draining.Store(true)
	expect(503, readiness{"not ready", map[string]string{"drain": "draining"}})
	if got := d.ask(http.MethodGet, "/healthz/live", "", ""); got.status != 200 {
		t.Errorf("a process that drains is not alive: %d", got.status)
	}
	if got := d.ask(http.MethodHead, "/healthz/live", "", ""); got.status != 200 || got.body != "" {
		t.Errorf("HEAD: %d %q", got.status, got.body)
	}
}

// TestReadyShared runs the checks once for those who ask while they run, and for a second after.
func TestReadyShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		s := &Server{
			Log: slog.New(slog.DiscardHandler), Draining: func() bool { return false },
			Checks: []Check{{"slow", func(context.Context) error {
				runs.Add(1)
				<-time.After(time.Second)
				return nil
			}}},
		}
		ask := func() {
			w := httptest.NewRecorder()
			if err := s.ready(w, httptest.NewRequest(http.MethodGet, "/healthz/ready", nil)); err != nil || w.Code != 200 {
				t.Errorf("%d %s (%v)", w.Code, w.Body, err)
			}
		}
		for round := range int32(2) {
			var group sync.WaitGroup
			for range 9 {
				group.Go(ask)
			}
			group.Wait()
			ask() // at once: it is told the same
			if got := runs.Load(); got != round+1 {
				t.Errorf("%d runs after %d rounds", got, round+1)
			}
			<-time.After(probedFor)
		}
	})
}

// TestOrgMetrics tells a caller of its own org, and the operator of all.
func TestOrgMetrics(t *testing.T) {
	d := openDoor(t)
	for _, c := range []struct {
		name, token, query string
		status             int
		org                string
	}{
		{"own", mint(t, Claims{}), "", 200, "1"},
		{"another's is not to be had", mint(t, Claims{}), "?orgId=2", 200, "1"},
		{"admin of an org", mint(t, Claims{Role: "ADMIN", Scope: "admin"}), "?orgId=2", 200, "1"},
		{"service", mint(t, Claims{Org: "*"}), "?orgId=2", 200, "2"},
		{"service without org", mint(t, Claims{Org: "*"}), "", 400, ""},
		{"operator", mint(t, Claims{Org: "*", Scope: "admin"}), "", 200, ""},
		{"nobody", "", "", 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := d.ask(http.MethodGet, "/v2/realtime/metrics"+c.query, c.token, "")
			var body struct {
				OrgID         string
				ActiveStreams *int
			}
			if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != c.status {
				t.Fatalf("%d %s (%v)", got.status, got.body, err)
			}
			if got.status == 200 && (body.OrgID != c.org || body.ActiveStreams == nil) {
				t.Errorf("%s", got.body)
			}
		})
	}
}

// TestCatalogueInForce keeps what the instance that started last has brought, to the byte.
func TestCatalogueInForce(t *testing.T) {
	d := openDoor(t)
	ctx := context.Background()
	for _, text := range []string{
		`{"services":[{"name":"one"},{"name":"two","sources":["one"]}]}`,
		`{ "services" : [ {"name":"two"}, {"name":"own","own":true} ] }`,
	} {
		catalogue, err := store.ParseCatalogue([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the same one again changes nothing
			if err := d.events.KeepCatalogue(ctx, catalogue); err != nil {
				t.Fatal(err)
			}
			if kept, err := d.events.CatalogueInForce(ctx); err != nil || kept != catalogue.Document() {
				t.Errorf("%q (%v), want %q", kept, err, catalogue.Document())
			}
		}
	}
}
