package streams_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"sluice/store"
	"sluice/store/localpg/pgtest"
)

// overhear listens as another program would, and gives what was notified with a word in front since it was asked last.
func overhear(t testing.TB, database, word string) func() []string {
	t.Helper()
	listener := pq.NewListener(database, 10*time.Millisecond, time.Second, nil)
	if err := listener.Listen("sluice"); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 10_000)
	go func() {
		defer close(heard)
		for one := range listener.Notify {
			if one != nil && strings.HasPrefix(one.Extra, word) {
				heard <- one.Extra
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		for range heard {
		}
	})
	return func() (payloads []string) {
		for {
			select {
			case one := <-heard:
				payloads = append(payloads, one)
			default:
				return payloads
			}
		}
	}
}

// TestThousandUsers has a thousand users come and go. How often all instances are notified of it depends on how long it
// takes, and not on how many they are, and everybody is seen to have come and gone.
func TestThousandUsers(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a, b := openParty(t, database, "a"), openParty(t, database, "b")
	query(t, database, `insert into sluice.members (org, room, user_id, read, told)
		select '1', 'r', 'user' || n, 0, 0 from generate_series(1, 1000) n`)
	b.admit(t, "r", "ann")
	ann := b.come("ann")
	ann.sees(t, "r", "ann", "online")
	heard := overhear(t, database, "!presence ")
	began := time.Now()
	pipes := make([]*pipe, 1000)
	all := func(status string) func() bool {
		return func() bool {
			last := map[string]string{}
			for _, frame := range ann.told() {
				fields := strings.Fields(frame)
				last[fields[1]] = fields[2]
			}
			is := 0
			for user, now := range last {
				if user != "ann" && now == status {
					is++
				}
			}
			return is == len(pipes)
		}
	}
	for i := range pipes {
		pipes[i] = a.come(fmt.Sprint("user", i+1))
		<-time.After(time.Millisecond) // so that they come one by one, and not in one moment
	}
	ann.wait(t, "not all have come", all("online"))
	for _, p := range pipes {
		p.close()
		<-time.After(time.Millisecond)
	}
	ann.wait(t, "not all have gone", all("offline"))
	flushes := int(time.Since(began)/(250*time.Millisecond)) + 2
	if got := len(heard()); got == 0 || got > 2*flushes { // the names of all fill two
		t.Errorf("%d notifications in %v", got, time.Since(began))
	}
}

// TestTabsAreQuiet has a user open and close further tabs. The number of streams is written down, and nobody is notified.
func TestTabsAreQuiet(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	a := openParty(t, database, "a")
	a.admit(t, "r", "ann")
	ann := a.come("ann")
	ann.sees(t, "r", "ann", "online")
	heard := overhear(t, database, "!presence ")
	streams := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint("not ", n, " streams"), func() bool {
			return count(t, database, `select streams from sluice.presence where user_id = 'ann'`) == n
		})
	}
	tab := a.come("ann")
	streams(2)
	tab.close()
	streams(1)
	if err := a.signals.SetStatus(t.Context(), store.Actor{Org: "1", User: "ann"}, "r", store.StatusAway); err != nil {
		t.Fatal(err)
	}
	ann.sees(t, "r", "ann", "away")
	var got []string
	eventually(t, "nothing is notified", func() bool { got = append(got, heard()...); return len(got) > 0 })
	if !slices.Equal(got, []string{"!presence 1 ann"}) {
		t.Errorf("notified was %q", got)
	}
}
