package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// ids makes n event ids, e0 and up.
func ids(n int) []string {
	made := make([]string, n)
	for i := range made {
		made[i] = "e" + strconv.Itoa(i)
	}
	return made
}

// TestCutAfterFive is the mission's own example (OUT-6): disconnect after 5, come back with 5, receive 6 onward.
func TestCutAfterFive(t *testing.T) {
	for _, via := range transports() {
		t.Run(via.name, func(t *testing.T) {
			p := serve(t, shared(t)...)
			all := admin(t, "1")
			s := p.open(via, all, "services=finance", "")
			s.wait("ack")
			for _, id := range ids(10) {
				p.mustPublish(all, event(id, ""))
			}
			if got := s.events(5); !slices.Equal(got, ids(10)[:5]) {
				t.Fatalf("before the cut: %v", got)
			}
			s.cut()
			if got := p.open(via, all, "services=finance", s.last).events(5); !slices.Equal(got, ids(10)[5:]) {
				t.Fatalf("after the cut: %v", got)
			}
		})
	}
}

// TestEveryCut cuts a filtered stream after each of its events and resumes it on the same instance, on another one
// that shares the database, and after a restart: each time with exactly the rest.
func TestEveryCut(t *testing.T) {
	flags := shared(t)
	a, b := serve(t, flags...), serve(t, flags...)
	all := admin(t, "1")
	var batch []map[string]any
	var admitted []string
	for i, id := range ids(60) {
		property := strconv.Itoa(i % 7) // the filter admits little: one in seven, and what concerns the whole org
		switch {
		case i%20 == 19:
			property = ""
			admitted = append(admitted, id)
		case property == "3":
			admitted = append(admitted, id)
		}
		batch = append(batch, event(id, property))
	}
	a.mustPublish(all, batch)
	manager := token(t, handlers.Claims{Org: "1", User: "2", Role: "MANAGER", Properties: []string{"3"}})
	check := func(t *testing.T, p *process, via transport) {
		for cut := range len(admitted) {
			s := p.open(via, manager, "cursor=earliest", "")
			if got := s.events(cut); !slices.Equal(got, admitted[:cut]) {
				t.Fatalf("cut %d: before: %v", cut, got)
			}
			if cut == 0 {
				s.wait("ack")
			}
			s.cut()
			rest := p.open(via, manager, "", s.last)
			if got := rest.events(len(admitted) - cut); !slices.Equal(got, admitted[cut:]) {
				t.Fatalf("cut %d: after: %v, not %v", cut, got, admitted[cut:])
			}
			rest.cut()
		}
	}
	for _, via := range transports() {
		t.Run("same instance/"+via.name, func(t *testing.T) { check(t, a, via) })
		t.Run("other instance/"+via.name, func(t *testing.T) { check(t, b, via) })
	}
	if err := a.stop(); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, a.errors)
	}
	a = serve(t, flags...)
	for _, via := range transports() {
		t.Run("after a restart/"+via.name, func(t *testing.T) { check(t, a, via) })
	}
}

// TestPublishHereReadThere publishes on one instance and reads on another, live.
func TestPublishHereReadThere(t *testing.T) {
	flags := shared(t)
	a, b := serve(t, flags...), serve(t, flags...)
	all := admin(t, "1")
	for _, via := range transports() {
		s := b.open(via, all, "", "")
		s.wait("ack")
		want := make([]string, 20)
		for i := range want {
			want[i] = fmt.Sprintf("%s-%d", via.name, i)
			a.mustPublish(all, event(want[i], "7"))
		}
		if got := s.events(len(want)); !slices.Equal(got, want) {
			t.Fatalf("%s: %v", via.name, got)
		}
		// The reader was ahead of nothing: its cursor is good on the instance that published, too.
		s.cut()
		a.mustPublish(all, event(via.name+"-last", "7"))
		if got := a.open(via, all, "", s.last).events(1); got[0] != via.name+"-last" {
			t.Fatalf("%s: after moving: %v", via.name, got)
		}
	}
}

// TestReadThereWhileLagging moves a reader to an instance that has not heard of what the other one has published: its
// LISTEN connection is silent. A cursor beyond what it has read is judged by the log, not by that (rule 10).
func TestReadThereWhileLagging(t *testing.T) {
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	a, b := serve(t, "--database-url="+database), serve(t, "--database-url="+link.URL)
	all := admin(t, "1")
	there := b.open(transports()[0], all, "", "")
	there.wait("ack")
	a.mustPublish(all, event("heard", ""))
	there.events(1)
	var want []string
	for i := range 20 {
		link.Swallow()
		id := strconv.Itoa(i)
		first := a.mustPublish(all, event(id+"-first", ""))
		a.mustPublish(all, event(id+"-second", ""))
		moved := b.open(transports()[i%2], all, "", first[0].Cursor)
		if got := moved.events(1); got[0] != id+"-second" {
			t.Fatalf("moved with %s: %v", first[0].Cursor, got)
		}
		moved.cut()
		want = append(want, id+"-first", id+"-second")
	}
	if got := there.events(len(want)); !slices.Equal(got, want) {
		t.Fatalf("the reader that stayed: %v", got)
	}
}

// TestResets asks for what cannot be replayed: each is told why, and follows on from the latest position.
func TestResets(t *testing.T) {
	p := serve(t, shared(t)...)
	all := admin(t, "1")
	answer := p.mustPublish(all, event("one", ""))
	epoch, _, _ := strings.Cut(answer[0].Cursor, "-")
	for _, via := range transports() {
		for _, c := range []struct{ name, lastID, reason string }{
			{"foreign epoch", "zzzz-1", "epoch"},
			{"future", epoch + "-999", "ahead"},
			{"past int64", epoch + "-9999999999999999999", "ahead"},
			{"malformed", "not a cursor", "malformed"},
			{"number", "17", "malformed"},
		} {
			t.Run(via.name+"/"+c.name, func(t *testing.T) {
				s := p.open(via, all, "", c.lastID)
				first, _ := s.next()
				if first.kind != "ack" || first.id != "" && first.id != c.lastID {
					t.Fatalf("the first frame is %+v", first)
				}
				reset, _ := s.next()
				var fields struct{ Reason, Oldest, Latest, Cursor string }
				if err := json.Unmarshal([]byte(reset.text), &fields); err != nil || reset.kind != "reset" {
					t.Fatalf("the second frame is %+v (%v)", reset, err)
				}
				if fields.Reason != c.reason || fields.Cursor != fields.Latest || reset.id != fields.Cursor {
					t.Fatalf("reset %s with the id %q", reset.text, reset.id)
				}
				p.mustPublish(all, event("", ""))
				after := s.wait("finance")
				if !strings.HasPrefix(after.id, epoch+"-") {
					t.Fatalf("after the reset: %+v", after)
				}
			})
		}
	}
}

// TestDerivedServices subscribes to derived services and their sources at once: each event comes once, under its own
// service's name.
func TestDerivedServices(t *testing.T) {
	p := serve(t, "--database-url="+pgtest.Database(t))
	all := admin(t, "1")
	s := p.open(transports()[0], all, "services=dashboard,analytics,finance&services=reports", "")
	s.wait("ack")
	for _, service := range []string{"finance", "branding", "tasks", "guest", "staff"} {
		p.mustPublish(all, map[string]any{"id": service, "service": service, "type": "x"})
	}
	for _, want := range []string{"finance", "tasks", "staff"} {
		one, _ := s.next()
		if one.kind != want || eventID(t, one) != want {
			t.Fatalf("%+v, not the event of %s", one, want)
		}
	}
}
