package streams_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestSignalsGoOutTogether gives the members of two rooms a crowd's signals at once. Each stream is offered those of a room in
// one piece, and nobody that they themselves type.
func TestSignalsGoOutTogether(t *testing.T) {
	t.Parallel()
	l := open(t, pgtest.Database(t), streams.Options{})
	for i, user := range []string{"ann", "bob"} {
		for _, room := range []string{"q", "r"} {
			if _, err := l.appender.Change(t.Context(), turn{"1", fmt.Sprint("in", room, i), room, user, true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	pipes := map[string]*pipe{}
	for _, user := range []string{"ann", "bob"} {
		pipes[user] = l.subscribeAs(user, "1", streams.Filter{Services: chat}, streams.Start{})
		pipes[user].await(t, "ack")
	}
	offered := func(p *pipe) int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.offers
	}
	before := map[string]int{"ann": offered(pipes["ann"]), "bob": offered(pipes["bob"])}
	var signals []streams.Signal
	for _, kind := range []streams.SignalKind{streams.SignalPresence, streams.SignalTyping} {
		for i := range 100 {
			for _, room := range []string{"q", "r"} {
				signals = append(signals, streams.Signal{Kind: kind, Room: room, User: fmt.Sprint("user", i), Status: store.StatusOnline})
			}
		}
	}
	signals = append(signals, streams.Signal{Kind: streams.SignalTyping, Room: "r", User: "ann"})
	l.hub.Signal("1", signals)
	for user, p := range pipes {
		if got := offered(p) - before[user]; got > 2 {
			t.Errorf("%s was offered %d pieces for two rooms", user, got)
		}
		for _, one := range signals {
			frame := strings.TrimSuffix(string(lines{}.Signal(nil, one)), "\n")
			if told := slices.Contains(p.lines(), frame); told == (one.User == user) {
				t.Errorf("%s was told %q: %t", user, frame, told)
			}
		}
	}
}

// TestRosterIsTheJoiners has members join one after the other, whose streams are open already. Who was there before is told of
// nobody but them.
func TestRosterIsTheJoiners(t *testing.T) {
	t.Parallel()
	a := openParty(t, pgtest.Database(t), "a")
	a.admit(t, "r", "ann", "bob")
	ann := a.come("ann")
	a.come("bob")
	ann.sees(t, "r", "bob", "online")
	for i := range 4 {
		user := fmt.Sprint("user", i)
		joiner := a.come(user)
		joiner.await(t, "ack")
		a.admit(t, "r", user)
		for _, there := range []string{"ann", "bob", user} {
			joiner.sees(t, "r", there, "online")
		}
		ann.sees(t, "r", user, "online")
	}
	told := 0
	for _, frame := range ann.told() {
		if frame == "r bob online" {
			told++
		}
	}
	if told > 2 { // by the roster, and by the look that has found him
		t.Errorf("that bob is there was told %d times: %q", told, ann.told())
	}
}

// TestManyRooms has members of more rooms than one statement looks at as a whole come, leave rooms, and join them again, while all
// is looked at anew.
func TestManyRooms(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a := openParty(t, database, "a")
	const rooms = 120
	query(t, database, fmt.Sprintf(`insert into sluice.members (org, room, user_id, read, told)
		select '1', 'r' || r, u, 0, 0 from generate_series(1, %d) r, unnest('{ann,bob,cid}'::text[]) u`, rooms))
	query(t, database, fmt.Sprintf(`insert into sluice.memberships (org, room, user_id, from_seq, said_from)
		select '1', 'r' || r, u, 1, 0 from generate_series(1, %d) r, unnest('{ann,bob,cid}'::text[]) u`, rooms))
	ann, cid := a.come("ann"), a.come("cid")
	bob := a.come("bob")
	everywhere := func(p *pipe, user, status string) {
		t.Helper()
		for i := range rooms {
			p.sees(t, fmt.Sprint("r", i+1), user, status)
		}
	}
	everywhere(ann, "bob", "online")
	everywhere(bob, "cid", "online")
	for _, room := range []string{"r1", "r60", "r120"} {
		a.remove(t, room, "cid")
		query(t, database, `select pg_notify('sluice', '*')`)
		before := len(cid.told())
		a.admit(t, room, "cid")
		cid.wait(t, "a roster", func() bool { return slices.Contains(cid.told()[before:], room+" bob online") })
	}
	cid.close()
	everywhere(bob, "cid", "offline")
	everywhere(ann, "bob", "online")
}

// counting counts the signals that it frames.
type counting struct {
	lines
	framed *atomic.Int64
}

func (c counting) Signal(dst []byte, s streams.Signal) []byte {
	c.framed.Add(1)
	return c.lines.Signal(dst, s)
}

// TestRosterIsFramedOnce has all members of a room come at once, as after the end of another instance. What each is told of all is
// made for few of them.
func TestRosterIsFramedOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a := openParty(t, database, "a")
	const users = 100
	query(t, database, fmt.Sprintf(`insert into sluice.members (org, room, user_id, read, told)
		select '1', 'r', 'user' || n, 0, 0 from generate_series(1, %d) n`, users))
	query(t, database, fmt.Sprintf(`insert into sluice.memberships (org, room, user_id, from_seq, said_from)
		select '1', 'r', 'user' || n, 1, 0 from generate_series(1, %d) n`, users))
	var framed atomic.Int64
	come := func(user string) *pipe {
		p := new(pipe)
		a.hub.Subscribe(&streams.Subscription{
			Org: "1", User: user, Filter: streams.Filter{Services: chat}, Encoder: counting{framed: &framed}, Sink: p, Expires: time.Now().Add(time.Hour),
		})
		return p
	}
	for n := range users {
		come(fmt.Sprint("user", n+1))
	}
	first := a.come("user1")
	for n := range users {
		first.sees(t, "r", fmt.Sprint("user", n+1), "online")
	}
	framed.Store(0)
	for n := range users {
		come(fmt.Sprint("user", n+1)).sees(t, "r", "user1", "online")
	}
	if got := framed.Load(); got > 20*users { // anew where a look has come between
		t.Errorf("%d signals were framed for %d rosters of %d", got, users, users)
	}
}
