package streams_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"sluice/store"
	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// party is an instance with all that knows who is there.
type party struct {
	live
	typing  *streams.Typing
	signals *streams.RoomSignals
	leave   func() // ends it in order
}

func openParty(t testing.TB, database, name string) *party {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var p party
	var err error
	if p.events, err = store.Open(ctx, store.Options{URL: database, Migrate: true, Connections: 6}); err != nil {
		t.Fatal(err)
	}
	disk, err := blobs.OpenDisk(t.TempDir(), blobs.SyncNone)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	metrics := streams.NewMetrics(prometheus.NewRegistry(), store.DefaultCatalogue())
	p.hub = streams.NewHub(p.events, store.DefaultCatalogue(), streams.Options{RingMemory: 1 << 20, BatchMax: 100, Heartbeat: time.Hour}, metrics)
	p.appender = streams.NewAppender(p.events, metrics)
	sharing := streams.NewSharing(p.events, disk, name, log)
	if err := sharing.Start(ctx); err != nil {
		t.Fatal(err)
	}
	presence := streams.NewPresence(p.events, p.hub, name, log)
	p.typing = streams.NewTyping(p.events, p.hub, log)
	notifier := streams.NewNotifier(p.events, p.hub, log)
	notifier.Present, notifier.Missed, notifier.Typed = presence.Present, presence.Missed, p.typing.Typed
	p.signals = streams.NewRoomSignals(p.events, presence, p.typing)
	var running, sharings sync.WaitGroup
	for _, run := range []func(context.Context){notifier.Run, presence.Run, p.typing.Run} {
		running.Go(func() { run(ctx) })
	}
	shares, unshare := context.WithCancel(context.Background())
	sharings.Go(func() { sharing.Run(shares) })
	p.leave = sync.OnceFunc(func() {
		p.hub.Close()
		p.appender.Close(ctx)
		cancel()
		running.Wait()
		unshare()
		sharings.Wait()
		p.events.Close()
	})
	t.Cleanup(p.leave)
	return &p
}

// place is a turn that the table of members has, too.
type place struct{ turn }

func (c place) Apply(ctx context.Context, tx *sqlx.Tx) ([]store.Draft, error) {
	text := `delete from sluice.members where org = $1 and room = $2 and user_id = $3`
	if c.begins {
		text = `insert into sluice.members (org, room, user_id, read, told) values ($1, $2, $3, 0, 0)`
	}
	if _, err := tx.ExecContext(ctx, text, c.org, c.room, c.user); err != nil {
		return nil, err
	}
	return c.turn.Apply(ctx, tx)
}

// admit makes users members of a room, remove does the contrary.
func (p *party) admit(t testing.TB, room string, users ...string)  { p.turn(t, true, room, users) }
func (p *party) remove(t testing.TB, room string, users ...string) { p.turn(t, false, room, users) }

func (p *party) turn(t testing.TB, begins bool, room string, users []string) {
	t.Helper()
	for _, user := range users {
		if _, err := p.appender.Change(t.Context(), place{turn{"1", rand.Text(), room, user, begins}}); err != nil {
			t.Fatal(err)
		}
	}
}

// come opens a stream of a user that carries all of their rooms.
func (p *party) come(user string) *pipe {
	return p.subscribeAs(user, "1", streams.Filter{Services: chat}, streams.Start{})
}

// told are the frames of presence that came over a stream, in order.
func (p *pipe) told() (frames []string) {
	for _, line := range p.lines() {
		if frame, is := strings.CutPrefix(line, "presence "); is {
			frames = append(frames, frame)
		}
	}
	return frames
}

// sees waits until what a stream was told last of a user in a room is a status. It does not wait for the look at everything that
// heals what was not told.
func (p *pipe) sees(t rapid.TB, room, user, status string) {
	t.Helper()
	began := time.Now()
	p.wait(t, fmt.Sprintf("%s is not %s in %s", user, status, room), func() bool {
		return p.last(room, user) == status || time.Since(began) > 20*time.Second
	})
	if last := p.last(room, user); last != status {
		t.Fatalf("%s is not %s in %s: %q", user, status, room, p.told())
	}
}

func (p *pipe) last(room, user string) (status string) {
	for _, frame := range p.told() {
		if of, is := strings.CutPrefix(frame, room+" "+user+" "); is {
			status = of
		}
	}
	return status
}

// close closes a stream as its client does.
func (p *pipe) close() { p.End(nil, streams.EndDrained) }

// TestTwoTabs has a user open two streams on two instances. They are there until the second one is closed; nobody who is
// no member is told anything.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	a.admit(t, "r", "ann", "bob")
	a.admit(t, "q", "cid", "bob")
	ann, cid := a.come("ann"), b.come("cid")
	ann.sees(t, "r", "ann", "online")
	tabs := []*pipe{a.come("bob"), b.come("bob")}
	for _, tab := range tabs {
		tab.sees(t, "r", "ann", "online")
	}
	ann.sees(t, "r", "bob", "online")
	cid.sees(t, "q", "bob", "online")
	tabs[0].close()
	// What is written after it is seen: by then the first tab's end would have been.
	eventually(t, "the row is there", func() bool {
		return count(t, database, `select count(*) from sluice.presence where user_id = 'bob'`) == 1
	})
	bea := b.come("bea")
	b.admit(t, "r", "bea")
	ann.sees(t, "r", "bea", "online")
	if slices.Contains(ann.told(), "r bob offline") || slices.Contains(cid.told(), "q bob offline") {
		t.Errorf("bob is gone although a tab is open: %q, %q", ann.told(), cid.told())
	}
	tabs[1].close()
	ann.sees(t, "r", "bob", "offline")
	cid.sees(t, "q", "bob", "offline")
	bea.sees(t, "r", "bob", "offline")
	for _, frame := range cid.told() {
		if !strings.HasPrefix(frame, "q ") {
			t.Errorf("cid, who is no member, was told %q", frame)
		}
	}
}

// count asks a database for one number.
func count(t testing.TB, database, query string) (n int) {
	t.Helper()
	db, err := sqlx.Open("postgres", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Get(&n, query); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRoster has members join whose streams are open already, and streams begin: each is told who is there, and of those who
// were removed nothing.
func TestRoster(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	a.admit(t, "r", "ann", "bob", "eve")
	a.admit(t, "q", "cid", "dan")
	ann, _, cid, dan := a.come("ann"), b.come("bob"), b.come("cid"), b.come("dan")
	ann.sees(t, "r", "bob", "online")
	cid.sees(t, "q", "dan", "online")
	b.admit(t, "r", "cid")
	cid.sees(t, "r", "ann", "online")
	cid.sees(t, "r", "bob", "online")
	ann.sees(t, "r", "cid", "online")
	a.remove(t, "r", "bob")
	a.admit(t, "r", "dan")
	dan.sees(t, "r", "ann", "online")
	dan.sees(t, "r", "cid", "online")
	ann.sees(t, "r", "dan", "online")
	eve := a.come("eve")
	for _, user := range []string{"ann", "cid", "dan", "eve"} {
		eve.sees(t, "r", user, "online")
	}
	for _, p := range []*pipe{dan, eve} {
		if got := p.told(); slices.ContainsFunc(got, func(frame string) bool { return strings.HasPrefix(frame, "r bob") }) {
			t.Errorf("bob was removed, and still is there: %q", got)
		}
	}
}

// TestStatus has a member choose what they are shown as: it is told to the others of that room alone, and lasts while the
// member is there.
func TestStatus(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	a.admit(t, "r", "ann", "bob", "eve")
	a.admit(t, "q", "ann", "bob")
	set := func(user, room string, status store.Status) error {
		return a.signals.SetStatus(t.Context(), store.Actor{Org: "1", User: user}, room, status)
	}
	ann, bob := a.come("ann"), b.come("bob")
	ann.sees(t, "r", "bob", "online")
	ann.sees(t, "q", "bob", "online")
	for _, one := range []struct {
		status store.Status
		seen   string
	}{{store.StatusAway, "away"}, {store.StatusOffline, "offline"}, {store.StatusAway, "away"}} {
		if err := set("bob", "r", one.status); err != nil {
			t.Fatal(err)
		}
		ann.sees(t, "r", "bob", one.seen)
	}
	a.come("eve").sees(t, "r", "bob", "away")
	if ann.last("q", "bob") != "online" {
		t.Errorf("bob is away in a room where he is not: %q", ann.told())
	}
	for user, room := range map[string]string{"cid": "r", "ann": "nowhere", "eve": "q"} {
		if err := set(user, room, store.StatusAway); !errors.Is(err, store.ErrNoRoom) {
			t.Errorf("%s in %s: %v", user, room, err)
		}
	}
	bob.close()
	ann.sees(t, "r", "bob", "offline")
	b.come("bob")
	ann.sees(t, "q", "bob", "online")
	ann.sees(t, "r", "bob", "online")
}

// TestInstanceAway has an instance lose its database for longer than its lease, come back, and die. Its users are offline for
// the others while it says nothing, there again with it, and offline for good within half a minute of its end.
func TestInstanceAway(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	a, b := openParty(t, database, "a"), openParty(t, link.URL, "b")
	a.admit(t, "r", "ann", "bob")
	ann, bob := a.come("ann"), b.come("bob")
	ann.sees(t, "r", "bob", "online")
	bob.sees(t, "r", "ann", "online")
	link.Away()
	ann.sees(t, "r", "bob", "offline")
	link.Back()
	ann.sees(t, "r", "bob", "online")
	link.Away()
	b.leave()
	died := time.Now()
	ann.sees(t, "r", "bob", "offline")
	if took := time.Since(died); took > 20*time.Second {
		t.Errorf("bob was there for %v after his instance had died", took)
	}
	if count(t, database, `select count(*) from sluice.users where id = 'bob' and last_seen > now() - interval '30 seconds'`) != 1 {
		t.Error("when bob was last seen is not known")
	}
}

// TestInstanceLeaves ends an instance in order: its users are gone at once, and not with its lease.
func TestInstanceLeaves(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	a.admit(t, "r", "ann", "bob")
	ann := a.come("ann")
	b.come("bob")
	ann.sees(t, "r", "bob", "online")
	b.leave()
	if rows := count(t, database, `select count(*) from sluice.presence where instance = 'b'`); rows != 0 {
		t.Errorf("%d rows are left", rows)
	}
	ann.sees(t, "r", "bob", "offline")
}

// TestPresenceUnheard changes what the table has behind everybody's back, as if the notification had been lost: whatever has
// everything looked at again finds it.
func TestPresenceUnheard(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a := openParty(t, database, "a")
	a.admit(t, "r", "ann", "bob")
	ann := a.come("ann")
	ann.sees(t, "r", "ann", "online")
	query(t, database, `insert into sluice.presence values ('a', '1', 'bob', 'r', 1, false)`)
	query(t, database, `select pg_notify('sluice', '*')`)
	ann.sees(t, "r", "bob", "online")
	ann.sees(t, "r", "bob", "offline") // the row is none that the instance knows of: it writes what it does know
}

// TestPresenceUnderLoad has users come, go, be away, be removed and admitted again, on two instances at once, one of which
// loses its connections to the database now and then. In the end all have been told what is so.
func TestPresenceUnderLoad(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	parties := []*party{openParty(t, database, "a"), openParty(t, link.URL, "b")}
	parties[0].admit(t, "r", "ann", "bob")
	watchers := []*pipe{parties[0].come("ann"), parties[1].come("bob")}
	watchers[0].sees(t, "r", "bob", "online")
	watchers[1].sees(t, "r", "ann", "online")
	there := make([]bool, 16)
	var playing sync.WaitGroup
	for i := range there {
		playing.Go(func() {
			there[i] = play(t, parties, fmt.Sprint("user", i), mathrand.New(mathrand.NewPCG(1, uint64(i))))
		})
	}
	for range 3 {
		<-time.After(200 * time.Millisecond)
		link.Cut()
	}
	playing.Wait()
	for i, is := range there {
		user := fmt.Sprint("user", i)
		for _, watcher := range watchers {
			watcher.wait(t, fmt.Sprintf("%s is there: %t", user, is), func() bool {
				found, err := parties[0].events.Attendance(t.Context(), "1", []string{"r"}, []string{user}, false)
				if err != nil || len(found) != 1 {
					t.Fatal(found, err)
				}
				last := watcher.last("r", user)
				return (found[0].Status != store.StatusOffline) == is && (last == string(found[0].Status) || !is && last == "")
			})
		}
	}
}

// play has a user do what chance says, and tells whether they are there after it. At last they are a member.
func play(t *testing.T, parties []*party, user string, chance *mathrand.Rand) bool {
	var open []*pipe
	member := false
	turn := func() {
		member = !member
		parties[0].turn(t, member, "r", []string{user})
	}
	for range 40 {
		on := parties[chance.IntN(2)]
		switch what := chance.IntN(10); {
		case what == 0:
			turn()
		case what < 5 && len(open) > 0:
			open[0].close()
			open = open[1:]
		case what < 6:
			// It may fail: for who is no member, and while the connections are cut.
			_ = on.signals.SetStatus(t.Context(), store.Actor{Org: "1", User: user}, "r", store.StatusAway)
		default:
			open = append(open, on.come(user))
		}
		<-time.After(time.Duration(chance.IntN(50)) * time.Millisecond)
	}
	if !member {
		turn()
	}
	return len(open) > 0
}
