package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/handlers"
)

// oldAnswer is an answer of the old API.
type oldAnswer struct {
	Events []struct {
		EventID  string
		Metadata struct{ ID string }
	}
	LastEventID string
}

// old asks an endpoint of the old API once.
func (p *process) old(token, path string) (a oldAnswer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return a, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s: %s (%v)", response.Status, text, err)
	}
	return a, json.Unmarshal(text, &a)
}

// TestOldClientOutlivesKills has an old client follow the log of an org over two instances that are killed in turn while
// events are published: by the time of its last event alone it misses nothing, and gets nothing twice.
func TestOldClientOutlivesKills(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	addresses := []string{freePort(t), freePort(t)}
	start := func(i int) *process { return serve(t, append(flags, "--listen="+addresses[i])...) }
	instances := []*process{start(0), start(1)}
	const count = 300
	var want []string
	for i := range count {
		want = append(want, fmt.Sprint("e", i))
	}
	done := make(chan []string, 1)
	urls := []*process{instances[0], instances[1]} // their addresses stay
	user := admin(t, "1")
	go func() {
		var got []string
		at := "2000-01-01T00:00:00Z"
		for turn := 0; len(got) < count && !t.Failed(); turn++ {
			a, err := urls[turn%2].old(user, "/v1/finance/realtime/subscribe?lastEventId="+at)
			if err != nil {
				continue // to the other one
			}
			for _, e := range a.Events {
				got = append(got, e.EventID)
			}
			at = a.LastEventID
		}
		done <- got
	}()
	for i := 0; i < count; i += 10 {
		var batch []map[string]any
		for _, id := range want[i : i+10] {
			batch = append(batch, event(id, ""))
		}
		instances[(i/50+1)%2].mustPublish(user, batch)
		if i%50 == 40 {
			victim := i / 50 % 2
			instances[victim].kill()
			instances[victim] = start(victim)
		}
	}
	select {
	case got := <-done:
		if !slices.Equal(got, want) {
			t.Errorf("%d events are not those %d: %q", len(got), count, got)
		}
	case <-time.After(2 * patience):
		t.Error("the client does not get all events")
	}
}

// TestGuestPositionOutlivesKills kills instances under guest polls that wait. A first poll has promised its client all that
// comes after it, and every answer that it is not repeated: another instance, and one that comes back, keep both.
func TestGuestPositionOutlivesKills(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	one, two := serve(t, flags...), serve(t, flags...)
	db, err := sqlx.Open("postgres", strings.TrimPrefix(flags[0], "--database-url="))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	user := token(t, handlers.Claims{Org: "1", User: "g", Properties: []string{"7"}})
	guest := func(id string) map[string]any {
		made := event(id, "7")
		made["service"], made["type"] = "guest", "guest_created"
		return made
	}
	const path = "/v1/guest-checkin/realtime/subscribe-v3?propertyId=7"
	expect := func(p *process, want ...string) {
		t.Helper()
		var got []string
		for len(got) < len(want) {
			a, err := p.old(user, path)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range a.Events {
				got = append(got, e.Metadata.ID)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, not %q", got, want)
		}
	}
	one.mustPublish(admin(t, "1"), guest("before"))
	var parked sync.WaitGroup
	parked.Go(func() {
		if a, err := one.old(user, path); err == nil && len(a.Events) > 0 {
			t.Errorf("the first poll is answered with %+v", a)
		}
	})
	deadline := time.After(patience)
	for stands := 0; stands == 0; {
		if err := db.Get(&stands, `select count(*) from sluice.positions where user_id = 'g'`); err != nil {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatal("the first poll is not remembered")
		case <-time.After(5 * time.Millisecond):
		}
	}
	one.kill()
	parked.Wait()
	two.mustPublish(admin(t, "1"), []map[string]any{guest("a"), event("other", "7"), guest("b")})
	expect(two, "a", "b")
	two.mustPublish(admin(t, "1"), guest("c"))
	expect(two, "c")
	two.kill()
	three := serve(t, flags...)
	three.mustPublish(admin(t, "1"), guest("d"))
	expect(three, "d")
}
