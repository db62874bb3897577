package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"pgregory.net/rapid"

	"sluice/store/localpg/pgtest"
)

// signalled reads payloads as a listener does.
func signalled(payloads []string) (named map[string][]string, typed []Typing, wakes int) {
	named = map[string][]string{}
	listener := &Listener{to: Notified{
		WakeAll: func() { wakes++ },
		Typed:   func(list []Typing) { typed = append(typed, list...) },
		Present: func(org string, users []string) { named[org] = append(named[org], users...) },
	}}
	for _, payload := range payloads {
		listener.Tell(&pq.Notification{Channel: channel, Extra: payload})
	}
	return named, typed, wakes
}

// TestPresenceRoundTrip lets listeners read what names users, whatever their ids are: each is named once, or their org is, or
// everybody is woken, in four payloads at most that Postgres takes.
func TestPresenceRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		odd := rapid.OneOf(rapid.String(), rapid.SampledFrom(oddOrgs))
		orgs := rapid.SliceOfNDistinct(odd, 1, 5, rapid.ID).Draw(t, "orgs")
		width := rapid.SampledFrom([]string{"", strings.Repeat("x", 100), strings.Repeat("ü ", 50)}).Draw(t, "width")
		want := map[string][]string{}
		var users []UserKey
		for i := range rapid.IntRange(1, 600).Draw(t, "count") {
			org := orgs[i%len(orgs)]
			id := fmt.Sprint(rapid.SampledFrom(oddOrgs).Draw(t, "id"), i, width)
			want[org] = append(want[org], id)
			users = append(users, UserKey{org, id})
		}
		payloads := presencePayloads(users)
		if len(payloads) > presenceNotifications {
			t.Fatalf("%d payloads", len(payloads))
		}
		for _, payload := range payloads {
			if len(payload) > hintLimit {
				t.Fatalf("a payload of %d bytes", len(payload))
			}
		}
		named, _, wakes := signalled(payloads)
		if wakes == 1 && len(named) == 0 && len(payloads) == 1 {
			return
		}
		all := len(named) == len(want) && wakes == 0
		for org, ids := range want {
			got, is := named[org]
			slices.Sort(got)
			slices.Sort(ids)
			all = all && is && (len(got) == 0 || slices.Equal(got, ids))
		}
		if !all {
			t.Fatalf("%q named %q, not %q, and woke %d times", payloads, named, want, wakes)
		}
	})
}

// TestPresenceOfMany names a thousand users by themselves, ten thousand by their org, and of too many orgs nobody.
func TestPresenceOfMany(t *testing.T) {
	t.Parallel()
	many := func(count int, org func(int) string) (users []UserKey) {
		for i := range count {
			users = append(users, UserKey{org(i), fmt.Sprintf("%024d", i)})
		}
		return users
	}
	one := func(int) string { return "org" }
	if named, _, _ := signalled(presencePayloads(many(1000, one))); len(named["org"]) != 1000 {
		t.Errorf("a thousand users: %d are named", len(named["org"]))
	}
	if got := presencePayloads(many(10_000, one)); !slices.Equal(got, []string{"!presence org *"}) {
		t.Errorf("ten thousand: %.80q", got)
	}
	if got := presencePayloads(many(10_000, func(i int) string { return fmt.Sprint("org", i) })); !slices.Equal(got, []string{wakeAll}) {
		t.Errorf("ten thousand orgs: %.80q", got)
	}
}

// TestTypingPayloads tells of many in eight payloads at most; what is read is what was told, in its order.
func TestTypingPayloads(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s, heard := open(t, database), listen(t, database)
	var list []Typing
	for i := range 2000 {
		list = append(list, Typing{oddOrgs[i%len(oddOrgs)], "r 1", fmt.Sprint("user\n", i), strings.Repeat("né%", 5)})
	}
	for _, count := range []int{1, 100, len(list)} {
		if err := s.TellTyping(t.Context(), list[:count]); err != nil {
			t.Fatal(err)
		}
		payloads := heard()
		_, got, wakes := signalled(payloads)
		if len(payloads) > typingNotifications || wakes != 0 || len(got) == 0 || !slices.Equal(got, list[:len(got)]) {
			t.Errorf("of %d, %d were told in %d payloads, and %d wakes", count, len(got), len(payloads), wakes)
		}
		if len(got) < min(count, 500) {
			t.Errorf("of %d only %d were told", count, len(got))
		}
	}
}

// TestForeignSignals reads what is no signal although it begins like one: it may concern anybody.
func TestForeignSignals(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		"!presence", "!presence ", "!presence a", "!presence %zz b", "!presence a %zz", "!presence a b\n", "!presence %zz *",
		"!typing", "!typing ", "!typing a b c", "!typing a b c d e", "!typing a b c %zz", "!typing a b c d\n", "!other a",
	} {
		if named, typed, wakes := signalled([]string{payload}); wakes != 1 || len(named) > 0 || len(typed) > 0 {
			t.Errorf("%q names %q, tells %v and wakes %d times", payload, named, typed, wakes)
		}
	}
}

// rooms fills a database with members: "r u" is u in r.
func rooms(t *testing.T, db *sqlx.DB, members ...string) {
	t.Helper()
	for _, one := range members {
		room, user, _ := strings.Cut(one, " ")
		execute(t, db, `insert into sluice.members (org, room, user_id, read, told) values ('1', $1, $2, 0, 0)`, room, user)
	}
}

func instances(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := s.KeepInstance(t.Context(), Instance{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// carry makes what an instance carries to a user of the org 1 exactly these rooms.
func carry(t *testing.T, s *Store, instance, user string, rooms ...string) {
	t.Helper()
	key := UserKey{"1", user}
	change := PresenceChange{Users: []UserKey{key}, Told: []UserKey{key}}
	for _, room := range rooms {
		change.Carried = append(change.Carried, Carried{UserKey: key, Room: room, Streams: 1})
	}
	if len(rooms) == 0 {
		change.Gone = change.Users
	}
	if err := s.KeepPresence(t.Context(), instance, change); err != nil {
		t.Fatal(err)
	}
}

// attendance gives the statuses of the members of rooms, by "room user".
func attendance(t *testing.T, s *Store, rooms, users []string, everybody bool) map[string]Status {
	t.Helper()
	found, err := s.Attendance(t.Context(), "1", rooms, users, everybody)
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[string]Status{}
	for _, one := range found {
		at := one.Room + " " + one.User
		if _, twice := statuses[at]; twice {
			t.Errorf("%s was found twice", at)
		}
		statuses[at] = one.Status
		if there := time.Since(one.LastSeen).Abs() < time.Minute; there != (one.Status != StatusOffline) {
			t.Errorf("%s is %s, and was last seen at %v", at, one.Status, one.LastSeen)
		}
	}
	return statuses
}

// TestAttendance reads who is there: those alone to whom an instance that lives carries the room, and only members.
func TestAttendance(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for _, s := range []*Store{open(t, url), openWith(t, Options{URL: url + " application_name=pooler", DirectURL: url, Migrate: true})} {
		db := connect(t, url)
		execute(t, db, `truncate sluice.members, sluice.presence, sluice.statuses, sluice.users, sluice.instances`)
		rooms(t, db, "r all", "q all", "r one", "q one", "r never", "r dead", "r twice", "q away", "r away", "r hidden")
		instances(t, s, "a", "b", "c")
		carry(t, s, "a", "all", "")
		carry(t, s, "a", "one", "r", "elsewhere")
		carry(t, s, "a", "twice", "")
		carry(t, s, "b", "twice", "", "r")
		carry(t, s, "b", "away", "r", "q")
		carry(t, s, "b", "stranger", "", "r")
		carry(t, s, "c", "dead", "")
		execute(t, db, `update sluice.instances set alive = now() - interval '1 second' where id = 'c'`)
		carry(t, s, "a", "hidden", "")
		for user, status := range map[string]Status{"away": StatusAway, "hidden": StatusOffline} {
			room := map[string]string{"away": "q", "hidden": "r"}[user]
			if _, err := s.SetStatus(t.Context(), UserKey{"1", user}, room, status); err != nil {
				t.Fatal(err)
			}
		}
		// Whoever hides was last seen when they did so; here that is a while ago.
		execute(t, db, `update sluice.users set last_seen = last_seen - interval '1 hour' where id = 'hidden'`)
		want := map[string]Status{
			"r all": StatusOnline, "q all": StatusOnline, "r one": StatusOnline, "q one": StatusOffline, "r dead": StatusOffline,
			"r twice": StatusOnline, "q away": StatusAway, "r away": StatusOnline, "r hidden": StatusOffline,
		}
		if got := attendance(t, s, []string{"r", "q"}, nil, true); !maps.Equal(got, want) {
			t.Errorf("everybody: %v", got)
		}
		want = map[string]Status{"r one": StatusOnline, "r never": StatusOffline}
		if got := attendance(t, s, []string{"r"}, []string{"one", "never", "stranger"}, false); !maps.Equal(got, want) {
			t.Errorf("by name: %v", got)
		}
		if seen := ask[bool](t, db, `select last_seen < now() - interval '50 minutes' from sluice.users where id = 'hidden'`); !seen {
			t.Error("when the hidden one was last seen is not kept")
		}
		if got := attendance(t, s, nil, []string{"one"}, true); len(got) != 0 {
			t.Errorf("of no room: %v", got)
		}
	}
}

// TestLastOneOut has a user leave two instances at the same moment: whichever commits last sees that they are nowhere any
// more, and forgets their status.
func TestLastOneOut(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, b, db := open(t, url), open(t, url), connect(t, url)
	rooms(t, db, "r u")
	instances(t, a, "a", "b")
	carry(t, a, "a", "u", "")
	carry(t, a, "b", "u", "")
	if changed, err := a.SetStatus(t.Context(), UserKey{"1", "u"}, "r", StatusAway); err != nil || !changed {
		t.Fatal(changed, err)
	}
	execute(t, db, `insert into sluice.users (org, id, display_name) values ('1', 'u', 'U')`)
	held, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback()
	execute(t, held, `select from sluice.users where id = 'u' for update`)
	var leaving sync.WaitGroup
	for name, s := range map[string]*Store{"a": a, "b": b} {
		leaving.Go(func() { carry(t, s, name, "u") })
	}
	wait(t, "both wait", func() bool {
		return ask[int](t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 2
	})
	if err := held.Commit(); err != nil {
		t.Fatal(err)
	}
	leaving.Wait()
	if n := ask[int](t, db, `select count(*) from sluice.statuses`); n != 0 {
		t.Error("the status outlives the presence")
	}
	if name := ask[string](t, db, `select display_name from sluice.users where last_seen > now() - interval '1 minute'`); name != "U" {
		t.Errorf("who was last seen is called %q", name)
	}
}

// TestStatusStays keeps a status while one instance of two still carries something to its user.
func TestStatusStays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db, heard := open(t, url), connect(t, url), listen(t, url)
	rooms(t, db, "r u")
	instances(t, s, "a", "b")
	carry(t, s, "a", "u", "")
	carry(t, s, "b", "u", "r")
	for i, want := range []bool{true, false} {
		if changed, err := s.SetStatus(t.Context(), UserKey{"1", "u"}, "r", StatusAway); err != nil || changed != want {
			t.Errorf("status %d: %t, %v", i, changed, err)
		}
	}
	carry(t, s, "a", "u")
	if got := attendance(t, s, []string{"r"}, []string{"u"}, false)["r u"]; got != StatusAway {
		t.Errorf("u is %s", got)
	}
	for _, room := range []string{"q", "nowhere"} {
		if _, err := s.SetStatus(t.Context(), UserKey{"1", "u"}, room, StatusAway); !errors.Is(err, ErrNoRoom) {
			t.Errorf("in %s: %v", room, err)
		}
	}
	if got := heard(); len(got) != 3 || got[0] != "!presence 1 u" {
		t.Errorf("notified was %q", got)
	}
}

// TestDeadPresence has instances find one dead: its rows are gone, and its users were last seen when its lease ended.
func TestDeadPresence(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, b, db := open(t, url), open(t, url), connect(t, url)
	rooms(t, db, "r u", "r v")
	instances(t, a, "a", "dead")
	for _, user := range []string{"u", "v"} {
		carry(t, a, "dead", user, "")
		if _, err := a.SetStatus(t.Context(), UserKey{"1", user}, "r", StatusAway); err != nil {
			t.Fatal(err)
		}
	}
	carry(t, a, "a", "v", "")
	execute(t, db, `update sluice.instances set alive = now() - interval '1 hour' where id = 'dead'`)
	alive, rows, err := a.PresenceOf(t.Context(), "dead")
	if err != nil || !slices.Equal(alive, []string{"a"}) || rows != 2 {
		t.Errorf("%q live, of the dead one are %d rows: %v", alive, rows, err)
	}
	if users, err := a.PresentUsers(t.Context(), "dead"); err != nil || len(users) != 2 {
		t.Errorf("there are %v: %v", users, err)
	}
	var forgetting sync.WaitGroup
	for _, s := range []*Store{a, b} {
		forgetting.Go(func() {
			if err := s.ForgetPresence(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	forgetting.Wait()
	if got := ask[string](t, db, `select string_agg(instance || ' ' || user_id, ',') from sluice.presence`); got != "a v" {
		t.Errorf("left are the rows %q", got)
	}
	if got := ask[string](t, db, `select string_agg(user_id, ',') from sluice.statuses`); got != "v" {
		t.Errorf("left are the statuses of %q", got)
	}
	seen := ask[time.Time](t, db, `select last_seen from sluice.users where id = 'u'`)
	if ago := time.Since(seen); ago < 50*time.Minute || ago > 70*time.Minute {
		t.Errorf("u was last seen %v ago", ago)
	}
}

// TestHidingWhileLeaving has a user hide and leave at the same time, again and again: neither waits for the other for ever.
func TestHidingWhileLeaving(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	rooms(t, db, "r u")
	instances(t, s, "a")
	carry(t, s, "a", "u", "")
	carry(t, s, "a", "u") // from now on it is known when they were last seen
	var both sync.WaitGroup
	both.Go(func() {
		for i := range 300 {
			carry(t, s, "a", "u", [][]string{{""}, nil}[i%2]...)
		}
	})
	both.Go(func() {
		for i := range 300 {
			if _, err := s.SetStatus(t.Context(), UserKey{"1", "u"}, "r", []Status{StatusOffline, StatusAway}[i%2]); err != nil {
				t.Error(err)
			}
		}
	})
	both.Wait()
}
