package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"sluice/store/localpg/pgtest"
)

// TestDuplicateCommittedWhileWaiting plays another instance that holds the org's row and commits the same id. The
// append that waited for the row has to see it: lock and look-up in one statement would have the older snapshot.
func TestDuplicateCommittedWhileWaiting(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other := open(t, url), connect(t, url)
	add(t, s, drafts("org", "first", 5)...)

	tx := other.MustBegin()
	defer tx.Rollback()
	execute(t, tx, `select from sluice.logs where org = 'org' for update`)
	type result struct {
		answer []Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "same"), draft("org", "next")}))
		done <- result{answer, err}
	}()
	waitLocked(t, other)
	execute(t, tx, `insert into sluice.events (org, seq, time, id, service, type, data)
		values ('org', 6, clock_timestamp(), 'same', 'finance', 'changed', '{}')`)
	// Position 6 is not committed: nobody may be given position 7, and nobody may see it.
	if got := page(t, s, "org", 0); got.Head != 5 || len(got.Events) != 5 {
		t.Errorf("before the commit the head is %d, with %d events", got.Head, len(got.Events))
	}
	select {
	case got := <-done:
		t.Fatalf("an append passes a log that another one holds: %+v", got)
	default:
	}
	released := ask[time.Time](t, tx, `select clock_timestamp()`)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	same, next := got.answer[0].Appended[0], got.answer[0].Appended[1]
	if same.Cursor.Seq != 6 || !same.Duplicate || next.Cursor.Seq != 7 || next.Duplicate {
		t.Errorf("the waiting append answers %+v", got.answer)
	}
	if got := page(t, s, "org", 5); got.Head != 7 || len(got.Events) != 2 || got.Events[1].Time.Before(released) {
		t.Errorf("after a lock that was released at %v the log has %+v", released, got)
	}
}

// TestConcurrentDuplicates has two instances append the same ids at once, in different orders: each id stands once, at
// the position that all were told.
func TestConcurrentDuplicates(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*Store{open(t, url), open(t, url)}
	const publishers, ids = 8, 60
	var mu sync.Mutex
	told := map[string]map[int64]int{} // by id: how often which position was answered
	fresh := map[string]int{}          // by id: how many were told that it is new
	var group sync.WaitGroup
	for n := range publishers {
		group.Go(func() {
			for i := range ids {
				id := fmt.Sprint("id", i)
				if n%2 == 1 {
					id = fmt.Sprint("id", (i+n)%ids)
				}
				answer, err := stores[n%2].Append(t.Context(), itemsOf([]Draft{draft("org", id)}))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if told[id] == nil {
					told[id] = map[int64]int{}
				}
				told[id][answer[0].Appended[0].Cursor.Seq]++
				if !answer[0].Appended[0].Duplicate {
					fresh[id]++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	got := page(t, stores[0], "org", 0)
	if got.Head != ids || len(got.Events) != ids {
		t.Errorf("%d ids gave %d events up to %d", ids, len(got.Events), got.Head)
	}
	for i, event := range got.Events {
		if event.Seq != int64(i+1) {
			t.Fatalf("event %d has position %d", i, event.Seq)
		}
		if len(told[event.ID]) != 1 || told[event.ID][event.Seq] != publishers || fresh[event.ID] != 1 {
			t.Errorf("%s at %d was told as %v, and as new to %d", event.ID, event.Seq, told[event.ID], fresh[event.ID])
		}
	}
}

// TestReadersNeverSeeAGap reads while two instances append: what is visible is always everything up to the head.
func TestReadersNeverSeeAGap(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*Store{open(t, url), open(t, url)}
	const publishers, batches, size = 4, 40, 3
	var group sync.WaitGroup
	for n := range publishers {
		group.Go(func() {
			for i := range batches {
				_, err := stores[n%2].Append(t.Context(), itemsOf(drafts("org", fmt.Sprintf("p%d-%d-", n, i), size)))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { group.Wait(); close(finished) }()
	var head int64
	for running := true; running; {
		select {
		case <-finished:
			running = false // one more look at the whole
		default:
		}
		got := page(t, stores[0], "org", 0)
		if got.Head < head || got.Head != int64(len(got.Events)) {
			t.Fatalf("after head %d a page has head %d and %d events", head, got.Head, len(got.Events))
		}
		head = got.Head
		for i, event := range got.Events {
			if event.Seq != int64(i+1) {
				t.Fatalf("position %d is missing below head %d", i+1, head)
			}
			if i > 0 && !event.Time.After(got.Events[i-1].Time) {
				t.Fatalf("position %d has the time %v, the one before it %v", event.Seq, event.Time, got.Events[i-1].Time)
			}
		}
	}
	if head != publishers*batches*size {
		t.Errorf("%d events of %d", head, publishers*batches*size)
	}
}

// TestLocksAreSorted stops an append at the middle one of three orgs: the one before it has to be held, the one behind it not,
// in whatever order the batch and the table have them.
func TestLocksAreSorted(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other := open(t, url), connect(t, url)
	for _, org := range []string{"c", "b", "a"} {
		add(t, s, draft(org, "first"))
	}
	tx := other.MustBegin()
	defer tx.Rollback()
	execute(t, tx, `select from sluice.logs where org = 'b' for update`)
	done := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), itemsOf([]Draft{draft("c", "x"), draft("b", "x")}, []Draft{draft("a", "x"), draft("c", "y")}))
		done <- err
	}()
	waitLocked(t, other)
	for org, held := range map[string]bool{"a": true, "c": false} {
		_, err := other.Exec(`select from sluice.logs where org = $1 for update nowait`, org)
		if locked(err) != held {
			t.Errorf("while the batch waits for b, %s is held: %t (%v)", org, !held, err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestNoDeadlock has two instances append to the same many orgs in opposite order, the first time before any of their
// rows are there.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*Store{open(t, url), open(t, url)}
	const orgs, rounds = 40, 15
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			for round := range rounds {
				var items []Item
				for i := range orgs {
					items = append(items, itemsOf([]Draft{draft(fmt.Sprintf("org%02d", i), fmt.Sprintf("%d-%d", n, round))})...)
				}
				if n%2 == 1 {
					slices.Reverse(items)
				}
				if _, err := stores[n%2].Append(t.Context(), items); err != nil {
					t.Errorf("publisher %d, round %d: %v", n, round, err)
					return
				}
			}
		})
	}
	group.Wait()
	heads, err := stores[0].Heads(t.Context(), []string{"org00", "org39"})
	if err != nil || heads.Of["org00"] != 4*rounds || heads.Of["org39"] != 4*rounds {
		t.Errorf("the heads are %v (%v)", heads.Of, err)
	}
}

// TestLogsRowIsNotWritten compares the version of the row before and after appending: a row that every append writes
// leaves a chain of dead versions.
func TestLogsRowIsNotWritten(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	add(t, s, draft("org", "first"))
	const version = `select xmin::text || ' ' || ctid::text || ' ' || trimmed_seq || ' ' || last_time from sluice.logs where org = 'org'`
	before := ask[string](t, db, version)
	for i := range 30 {
		add(t, s, drafts("org", fmt.Sprint("batch", i, "-"), 3)...)
	}
	add(t, open(t, url), draft("org", "of another instance"))
	if after := ask[string](t, db, version); after != before {
		t.Errorf("appending wrote the row of logs: %s, before %s", after, before)
	}
}

// TestRetry appends again what may have been committed. Ids that the server made are looked up then too, and only then.
func TestRetry(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	made := drafts("org", "made", 3)
	for i := range made {
		made[i].IDGiven = false
	}
	first := add(t, s, made...)
	for i := range made {
		made[i].Tried = true
	}
	second := add(t, open(t, url), append(made, draft("org", "new"))...)
	for i := range first {
		if second[i].Cursor != first[i].Cursor || second[i].Duplicate {
			t.Errorf("the retry of %+v answers %+v", first[i], second[i])
		}
	}
	if second[3].Cursor.Seq != 4 || page(t, s, "org", 0).Head != 4 {
		t.Errorf("the retry appended again: %+v", second)
	}
	given := add(t, s, draft("org", "made1"), draft("org", "twice"), draft("org", "twice"), draft("other", "made1"))
	want := []int64{1, 5, 5, 1}
	for i, duplicate := range []bool{true, false, true, false} {
		if given[i].Cursor.Seq != want[i] || given[i].Duplicate != duplicate {
			t.Errorf("%d: %+v", i, given[i])
		}
	}
	// A made id was never there before its first try. That nobody looks is what makes it cheap.
	made[0].Tried = false
	if again := add(t, s, made[0]); again[0].Cursor.Seq != 6 {
		t.Errorf("an id that the server has just made was looked up: %+v", again)
	}
}

// TestTimeRises puts an event ahead of the clock, as after a clock that was set back: times go on from it, a microsecond
// each, and with the positions.
func TestTimeRises(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	add(t, s, drafts("org", "first", 2)...)
	events := page(t, s, "org", 0).Events
	now := ask[time.Time](t, db, `select clock_timestamp()`)
	if age := now.Sub(events[0].Time); age < 0 || age > patience {
		t.Errorf("the time of an event is not the database's clock but %v before it", age)
	}
	if step := events[1].Time.Sub(events[0].Time); step != time.Microsecond {
		t.Errorf("two events of a batch are %v apart", step)
	}
	ahead := now.Add(30 * time.Minute).Truncate(time.Second).Add(123457 * time.Microsecond)
	put(t, db, "org", 3, 1, ahead)
	add(t, s, drafts("org", "second", 2)...)
	add(t, open(t, url), draft("org", "third"))
	for i, event := range page(t, s, "org", 3).Events {
		if want := ahead.Add(time.Duration(i+1) * time.Microsecond); !event.Time.Equal(want) || event.Seq != int64(4+i) {
			t.Errorf("position %d has the time %v, not %v", event.Seq, event.Time, want)
		}
	}
}

// TestRefused appends batches of which one draft can never be: nothing of them is appended, nobody is notified.
func TestRefused(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, heard := open(t, url), listen(t, url)
	for name, spoil := range map[string]func(*Draft){
		"no JSON":       func(d *Draft) { d.Data = json.RawMessage(`{"a":`) },
		"NUL":           func(d *Draft) { d.Type = "a\x00b" },
		"invalid UTF-8": func(d *Draft) { d.EntityID = "\xff" },
		"an org's NUL":  func(d *Draft) { d.Org = "a\x00b" },
		"a huge id":     func(d *Draft) { d.ID = randomText(9000) }, // an index row has to be below 2,700 bytes
	} {
		bad := draft("org", "bad")
		spoil(&bad)
		_, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "good")}, []Draft{bad}, []Draft{draft("other", "good")}))
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := page(t, s, "org", 0); got.Head != 0 || len(got.Events) != 0 || page(t, s, "other", 0).Head != 0 {
		t.Errorf("a refused batch has appended %+v", got)
	}
	if got := heard(); len(got) != 0 {
		t.Errorf("a refused batch has notified %q", got)
	}
	if answer := add(t, s, draft("org", "good")); answer[0].Cursor.Seq != 1 || answer[0].Duplicate {
		t.Errorf("afterwards: %+v", answer)
	}
}

// TestOneNotification counts what a batch of many items and orgs sends; one of duplicates alone sends nothing.
func TestOneNotification(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, heard := open(t, url), listen(t, url)
	batch := itemsOf(drafts("a", "x", 3), drafts("b", "x", 2), []Draft{draft("a", "y")})
	for range 2 {
		if _, err := s.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if got := heard(); !slices.Equal(got, []string{"a:4 b:2"}) {
		t.Errorf("the batch and its repetition sent %q", got)
	}
}

// TestDataKeepsItsBytes stores what a number, a map or a string would change.
func TestDataKeepsItsBytes(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	documents := []string{
		`{}`,
		`{"n":12345678901234567890123456789.000,"m":1E400,"z":-0,"f":1.10}`,
		`{"z":1,"a":2,"m":3,"a":4}`,
		`{"escapes":"\u0041\/\u00e9\ud83d\ude00\n","plain":"é😀/"}`,
		`{"null":"\u0000","half":"\ud800"}`,
		`{"<tag>":"&\u003c\u2028"}`,
		`{"deep":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		`{"long":"` + randomText(60<<10) + `"}`,
		`{"quotes":"{\"a\",NULL}\\"}`,
	}
	var list []Draft
	for i, document := range documents {
		one := draft("org", fmt.Sprint(i))
		one.Data = json.RawMessage(document)
		list = append(list, one)
	}
	full := draft(`o'rg "x",{NULL}\`, "full")
	full.Service, full.Type, full.PropertyID = "tasks", "t", `p,"{}\`
	full.EntityType, full.EntityID, full.UserID, full.Audience = "NULL", "é", " ", `{"u",\}`
	add(t, s, append(list, full)...)
	for i, event := range page(t, s, "org", 0).Events {
		if string(event.Data) != documents[i] {
			t.Errorf("%.80s came back as %.80s", documents[i], event.Data)
		}
	}
	events := page(t, s, full.Org, 0).Events
	if len(events) != 1 {
		t.Fatalf("%+v", events)
	}
	back := events[0]
	back.Seq, back.Time = 0, time.Time{}
	if fmt.Sprint(back) != fmt.Sprint(full.Event) {
		t.Errorf("%+v came back as %+v", full.Event, back)
	}
}

// TestAudiences appends batches in which some events are for one user, wherever these stand.
func TestAudiences(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	var want, got []string
	for _, batch := range [][]string{{"", "", ""}, {"u", "", "v", ""}, {"", "", "w"}} {
		var list []Draft
		for _, user := range batch {
			one := draft("org", fmt.Sprint("e", len(want)))
			one.Audience = user
			list, want = append(list, one), append(want, user)
		}
		add(t, s, list...)
	}
	for _, event := range page(t, s, "org", 0).Events {
		got = append(got, event.Audience)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audiences are %q, not %q", got, want)
	}
}

// TestLogsRowGone takes the rows of logs away, as a database that was replaced does: the retry succeeds.
func TestLogsRowGone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	add(t, s, draft("org", "first"))
	execute(t, db, `delete from sluice.logs`)
	if _, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "second")})); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without the row: %v", err)
	}
	if answer := add(t, s, draft("org", "second")); answer[0].Cursor.Seq != 2 {
		t.Errorf("the retry answers %+v", answer)
	}
	if answer, err := s.Append(t.Context(), nil); err != nil || len(answer) != 0 {
		t.Errorf("an empty batch: %v, %v", answer, err)
	}
}

// listen counts notifications on the channel with a listener that is not ours. What it returns gives the payloads so
// far: it sends one itself and reads up to that.
func listen(t *testing.T, url string) func() []string {
	t.Helper()
	db := connect(t, url)
	listener := pq.NewListener(url, 10*time.Millisecond, time.Second, nil)
	t.Cleanup(func() { listener.Close() })
	if err := listener.Listen(channel); err != nil {
		t.Fatal(err)
	}
	return func() (payloads []string) {
		t.Helper()
		execute(t, db, `select pg_notify($1, 'the end')`, channel)
		deadline := time.After(patience)
		for {
			select {
			case one := <-listener.NotificationChannel():
				if one == nil || one.Extra == "the end" {
					return payloads
				}
				payloads = append(payloads, one.Extra)
			case <-deadline:
				t.Fatal("the last notification does not arrive")
			}
		}
	}
}
