package main

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// ticket asks an instance for one.
func (p *process) ticket(token string) string {
	p.t.Helper()
	request, err := http.NewRequest(http.MethodPost, p.url+"/v2/tickets", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var made struct{ Ticket string }
	if err == nil {
		err = json.Unmarshal(text, &made)
	}
	if err != nil || response.StatusCode != http.StatusCreated {
		p.t.Fatalf("%s %s %v", response.Status, text, err)
	}
	return made.Ticket
}

// TestTicketAgain opens one URL again and again, on two instances in turn and over both sinks, as an EventSource does whose
// connections break: each stream goes on where the last one was, and takes its place.
func TestTicketAgain(t *testing.T) {
	database := pgtest.Database(t)
	instances := []*process{serve(t, "--database-url="+database), serve(t, "--database-url="+database)}
	all := admin(t, "1")
	query := "services=finance&ticket=" + instances[0].ticket(token(t, handlers.Claims{Org: "1", User: "7", Role: "ADMIN"}))
	var want, got []string
	var before *stream
	last := ""
	for i := range 12 {
		s := instances[i%3%2].open(transports()[i%2], "", query, last)
		if before != nil {
			if one := before.wait("problem"); !strings.Contains(one.text, "409") {
				t.Fatalf("use %d ends the one before with %s", i, one.text)
			}
			if _, ok := before.next(); ok {
				t.Fatal("the replaced stream goes on")
			}
		}
		id := "event-" + string(rune('a'+i))
		want = append(want, id)
		instances[(i+1)%2].mustPublish(all, event(id, ""))
		if i%4 == 2 {
			s.wait("ack") // it leaves the event to the next
		} else {
			got = append(got, s.events(len(want)-len(got))...)
		}
		before, last = s, s.last
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v instead of %v", got, want)
	}
}

// TestTicketRace opens one ticket at many places at once: one stream stays.
func TestTicketRace(t *testing.T) {
	database := pgtest.Database(t)
	instances := []*process{serve(t, "--database-url="+database), serve(t, "--database-url="+database)}
	query := "services=finance&ticket=" + instances[0].ticket(admin(t, "1"))
	var mu sync.Mutex
	var open []*stream
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			s, err := instances[i%2].tryOpen(transports()[i/2%2], "", query, "")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, s)
		})
	}
	group.Wait()
	ended := 0
	alive := make(chan *stream, len(open))
	for _, s := range open {
		go func() {
			for one := range s.frames {
				if one.kind == "problem" {
					alive <- nil
					return
				}
				if one.kind == "finance" {
					break
				}
			}
			alive <- s
		}()
	}
	for ended < len(open)-1 {
		select {
		case s := <-alive:
			if s != nil {
				t.Fatal("a stream ends or delivers while others are to be replaced")
			}
			ended++
		case <-time.After(patience):
			t.Fatalf("%d of %d streams were replaced", ended, len(open)-1)
		}
	}
	deadline := time.After(patience)
	for {
		instances[1].mustPublish(admin(t, "1"), event("", "")) // again, for the stream may begin after the last one
		select {
		case s := <-alive:
			if s == nil {
				t.Error("no stream stays")
			}
			return
		case <-deadline:
			t.Fatal("the last stream does not deliver")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestTicketUnheard has an instance hear nothing while a ticket is used elsewhere: it makes good for that with its next
// LISTEN connection.
func TestTicketUnheard(t *testing.T) {
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	deaf, other := serve(t, "--database-url="+link.URL), serve(t, "--database-url="+database)
	query := "services=finance&ticket=" + other.ticket(admin(t, "1"))
	old := deaf.open(transports()[0], "", query, "")
	old.wait("ack")
	if n := link.Swallow(); n != 1 {
		t.Fatalf("%d LISTEN connections, not one", n)
	}
	other.open(transports()[0], "", query, "").wait("ack")
	if one := old.wait("problem"); !strings.Contains(one.text, "409") {
		t.Error(one.text)
	}
}
