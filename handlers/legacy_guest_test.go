package handlers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"sluice/store"
	"sluice/streams"
)

// TestGuestClient has two users and two properties drain the same events, each its own, over instances.
func TestGuestClient(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	following(d)
	one, two := admin(t, "7"), mint(t, Claims{User: "8", Properties: []string{"3"}})
	const path = "/v1/guest-checkin/realtime/subscribe"
	readers := map[string]string{path: one, path + "-v3": two, path + "-v3?propertyId=3": one}
	for path, token := range readers { // the first poll starts at now
		if a := d.old(token, path); len(a.Events) > 0 {
			t.Fatalf("%+v", a)
		}
	}
	event := func(n, property int) string {
		return fmt.Sprintf(`{"service":"guest","type":"guest_created","propertyId":%d,"entityId":%d,"data":{"n":"%d"}}`, property, n, n)
	}
	for n := range 450 {
		d.publishAll(event(n, 3+n%2))
	}
	for path, token := range readers {
		step := 2
		if path == "/v1/guest-checkin/realtime/subscribe" {
			step = 1
		}
		for next := 0; next < 450; {
			a := d.old(token, path)
			if len(a.Events) == 0 {
				t.Fatalf("%s has nothing after %d", path, next)
			}
			for _, e := range a.Events {
				if e.Metadata.N != fmt.Sprint(next) {
					t.Fatalf("%s has %s, not %d", path, e.Metadata.N, next)
				}
				next += step
			}
		}
		if a := d.old(token, path); len(a.Events) > 0 {
			t.Fatalf("%s repeats %+v", path, a)
		}
	}
	d.publishAll(event(450, 3))
	if r := d.ask(http.MethodHead, path, one, ""); r.status != http.StatusOK {
		t.Fatalf("HEAD is %d", r.status)
	}
	if a := d.old(one, path); len(a.Events) != 1 {
		t.Fatalf("after HEAD: %+v", a)
	}
}

// TestGuestWaits answers a guest poll that waits over every kind of connection, its position committed first.
func TestGuestWaits(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		token := admin(t, "7")
		parked := make(chan oldAnswer, 1)
		go func() { parked <- d.old(token, "/guest-checkin/realtime/subscribe") }()
		eventually(t, patience, "the poll does not wait", func() bool { return d.server.Hub.Stats("1").Polls == 1 })
		drafts := []store.Draft{made("1", ""), made("1", ""), made("1", "")}
		drafts[0].Service, drafts[0].Type = "guest", "audit_viewed"
		drafts[2].Service, drafts[2].Type = "guest", "guest_created"
		if _, err := d.appender.Append(context.Background(), drafts); err != nil {
			t.Fatal(err)
		}
		if a := <-parked; len(a.Events) != 1 || a.Events[0].EventType != "guest_created" {
			t.Fatalf("%+v", a)
		}
		at, _, err := d.events.Position(context.Background(), store.Reader{Org: "1", User: "7"})
		if err != nil || at.Seq != 3 {
			t.Errorf("it stands at %v (%v)", at, err)
		}
	}, func(d *door) { d.server.Legacy.Wait = time.Hour })
}

// failingPositions are those of a real store that says of a commit that it failed: before it was tried, or although it was
// made.
type failingPositions struct {
	*store.Store
	fail chan bool // one for each commit: true where it is made
}

func (f failingPositions) KeepPositions(ctx context.Context, list []store.Position) error {
	if <-f.fail {
		if err := f.Store.KeepPositions(ctx, list); err != nil {
			return err
		}
	}
	return errors.New("so it is said")
}

// TestGuestUnkept has the position of an answer not be committed: the client is told to come back, and gets what it was not
// given. Where it was committed after all, that is gone, as with an answer that was lost on its way.
func TestGuestUnkept(t *testing.T) {
	t.Parallel()
	failing := failingPositions{fail: make(chan bool, 1)}
	var kept *streams.Positions
	d := openDoor(t, quick, func(d *door) {
		failing.Store = d.events
		kept, d.server.Positions = d.server.Positions, streams.NewPositions(failing)
	})
	following(d)
	const path = "/guest-checkin/realtime/subscribe-v3"
	d.old(admin(t, "7"), path)
	for _, made := range []bool{false, true} {
		d.publishAll(`{"service":"guest","type":"guest_created"}`)
		failing.fail <- made
		r := d.ask(http.MethodGet, path, admin(t, "7"), "")
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Fatalf("%d %s", r.status, r.body)
		}
		r.problem(t)
		if made {
			continue
		}
		failing.fail <- true
		if r := d.ask(http.MethodGet, path, admin(t, "7"), ""); r.status != http.StatusServiceUnavailable {
			t.Fatalf("what was not kept is not given again: %d %s", r.status, r.body)
		}
	}
	kept.Close()
	if a := d.old(admin(t, "7"), path); len(a.Events) > 0 {
		t.Fatalf("%+v", a)
	}
}
