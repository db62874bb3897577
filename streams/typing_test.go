package streams_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
)

// TestTyping has members type on two instances, more often than is told. The others of the room are told once in two seconds,
// and neither they themselves nor anybody else.
func TestTyping(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	a.admit(t, "r", "ann", "bob")
	a.admit(t, "q", "cid", "bob")
	ann, bob, cid := a.come("ann"), b.come("bob"), b.come("cid")
	ann.sees(t, "r", "bob", "online") // all have begun
	cid.sees(t, "q", "bob", "online")
	bob.sees(t, "r", "ann", "online")
	types := func(on *party, user, room string) error {
		return on.signals.Typing(t.Context(), store.Actor{Org: "1", User: user, Name: "Zoë\n" + user}, room)
	}
	for user, room := range map[string]string{"cid": "r", "ann": "nowhere", "eve": "q"} {
		if err := types(a, user, room); !errors.Is(err, store.ErrNoRoom) {
			t.Errorf("%s in %s: %v", user, room, err)
		}
	}
	heard := overhear(t, database, "!typing ")
	frames := func(p *pipe) (count int) {
		for _, line := range p.lines() {
			if strings.HasPrefix(line, "typing r bob") {
				count++
			}
		}
		return count
	}
	began := time.Now()
	for frames(ann) < 3 { // what one client may ask in four seconds
		for _, on := range []*party{a, b} {
			if err := types(on, "bob", "r"); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(began) > patience {
			t.Fatal("nobody is told: ", ann.lines())
		}
	}
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("three signals in %v", took)
	}
	if got := len(heard()); got > 8 {
		t.Errorf("%d notifications of one user", got)
	}
	for _, p := range []*pipe{bob, cid} {
		if slices.ContainsFunc(p.lines(), func(line string) bool { return strings.HasPrefix(line, "typing") }) {
			t.Errorf("told were: %q", p.lines())
		}
	}
}

// TestTypingTogether has a hundred members type at once: few notifications say so.
func TestTypingTogether(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	query(t, database, `insert into sluice.members (org, room, user_id, read, told)
		select '1', 'r', 'user' || n, 0, 0 from generate_series(1, 100) n`)
	b.admit(t, "r", "ann")
	ann := b.come("ann")
	ann.sees(t, "r", "ann", "online")
	heard := overhear(t, database, "!typing ")
	began := time.Now()
	for i := range 100 {
		if err := a.signals.Typing(t.Context(), store.Actor{Org: "1", User: fmt.Sprint("user", i+1)}, "r"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		ann.await(t, fmt.Sprintf("typing r user%d ", i+1))
	}
	if got, most := len(heard()), int(time.Since(began)/(100*time.Millisecond))+2; got > most {
		t.Errorf("%d notifications in %v", got, time.Since(began))
	}
}

// TestTypingTooLate has somebody type while the database is away: what could be told only long after is not.
func TestTypingTooLate(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	b := openParty(t, link.URL, "b")
	b.admit(t, "r", "ann", "bob")
	ann := b.come("ann")
	ann.sees(t, "r", "ann", "online")
	heard := overhear(t, database, "!typing ")
	link.Away()
	b.typing.Tell(store.Typing{Org: "1", Room: "r", User: "bob", Name: "late"})
	<-time.After(6 * time.Second) // longer than it says anything
	link.Back()
	eventually(t, "the database does not come back", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return b.events.ProbeListen(ctx) == nil
	})
	b.typing.Tell(store.Typing{Org: "1", Room: "r", User: "cid"})
	ann.await(t, "typing r cid")
	if got := heard(); slices.ContainsFunc(got, func(payload string) bool { return strings.Contains(payload, "bob") }) {
		t.Errorf("notified was %q", got)
	}
}
