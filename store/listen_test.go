package store

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"pgregory.net/rapid"

	"sluice/store/localpg/pgtest"
)

// ear is a listener with what it was told.
type ear struct {
	inner  *Listener
	queued atomic.Int64 // times that there was something to be read

	mu    sync.Mutex
	grown map[string]int64 // guarded by mu
	wakes int              // guarded by mu
	used  []TicketUse      // guarded by mu
}

// hear runs a listener as its contract asks, until the test ends, and returns once it hears.
func hear(t *testing.T, s *Store) *ear {
	t.Helper()
	e := &ear{grown: map[string]int64{}}
	e.inner = s.NewListener(e.notified())
	var running sync.WaitGroup
	running.Go(func() {
		for one := range e.inner.C {
			e.inner.Tell(one)
		}
	})
	started, ended := make(chan error, 1), make(chan struct{})
	go func() { started <- e.inner.Start() }()
	running.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				_ = e.inner.Ping()
			}
		}
	})
	t.Cleanup(func() {
		close(ended)
		e.inner.Close()
		running.Wait()
	})
	select {
	case err := <-started:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the listener does not start")
	}
	wait(t, "the first connection wakes all", func() bool { return e.woken() > 0 })
	return e
}

func (e *ear) notified() Notified {
	return Notified{
		Queued: func() { e.queued.Add(1) },
		Grown: func(org string, seq int64) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.grown[org] = seq
		},
		WakeAll: func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.wakes++
		},
		Used: func(use TicketUse) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.used = append(e.used, use)
		},
	}
}

func (e *ear) told() (grown map[string]int64, wakes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.grown), e.wakes
}

func (e *ear) woken() int {
	_, wakes := e.told()
	return wakes
}

func (e *ear) reached(org string) int64 {
	grown, _ := e.told()
	return grown[org]
}

var oddOrgs = []string{"plain", "a b", "a:b", "a:5", "*", "?probe", "%2A", "%zz", "+", "é😀", `"'\`, "a\nb", "a b:3 c", ""}

// TestHintCarriesOrgs appends to orgs whose names look like the format of a hint.
func TestHintCarriesOrgs(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := open(t, database)
	ear := hear(t, open(t, database))
	wakes := ear.woken() // for it has just connected
	want := map[string]int64{}
	var items [][]Draft
	for i, org := range oddOrgs {
		items = append(items, drafts(org, "x", i+1))
		want[org] = int64(i + 1)
	}
	if _, err := s.Append(t.Context(), itemsOf(items...)); err != nil {
		t.Fatal(err)
	}
	add(t, s, draft("last", "x"))
	want["last"] = 1
	wait(t, "the last hint arrives", func() bool { return ear.reached("last") == 1 })
	if got, woken := ear.told(); !maps.Equal(got, want) || woken != wakes {
		t.Errorf("told were %v, and %d wakes for all", got, woken-wakes)
	}
}

// TestHintRoundTrip lets a batch's hint be read by a listener, whatever the orgs are.
func TestHintRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOfN(rapid.OneOf(rapid.String(), rapid.SampledFrom(oddOrgs)), rapid.Int64Range(1, 1<<62), 1, 20).Draw(t, "heads")
		b := &batch{heads: map[string]*head{}}
		for org, seq := range want {
			b.heads[org] = &head{seq: seq}
			b.orgs = append(b.orgs, org, org)
		}
		ear := &ear{grown: map[string]int64{}}
		hint := b.hint()
		(&Listener{to: ear.notified()}).Tell(&pq.Notification{Channel: channel, Extra: hint})
		got, wakes := ear.told()
		if len(hint) > hintLimit || strings.Contains(hint, "\x00") {
			t.Fatalf("a hint of %d bytes", len(hint))
		}
		if hint == wakeAll && wakes == 1 && len(got) == 0 {
			return
		}
		if wakes != 0 || !maps.Equal(got, want) {
			t.Fatalf("%q told of %v and woke %d times", hint, got, wakes)
		}
	})
}

// TestManyOrgsWakeAll finds the number of orgs up to which they are named, and appends one more than that.
func TestManyOrgsWakeAll(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s, heard := open(t, database), listen(t, database)
	const limit, width = 7 << 10, 256
	named := limit / (width + len(":1 "))
	var items [][]Draft
	for i := range named + 1 {
		items = append(items, []Draft{draft(fmt.Sprintf("%0*d", width, i), "x")})
	}
	for _, batch := range [][][]Draft{items[:named], items, {{draft(strings.Repeat("é", 2000), "x")}}} {
		for i := range batch {
			batch[i][0].ID += "+"
		}
		if _, err := s.Append(t.Context(), itemsOf(batch...)); err != nil {
			t.Fatal(err)
		}
	}
	got := heard()
	if len(got) != 3 {
		t.Fatalf("%d notifications: %.80q", len(got), got)
	}
	if pairs := strings.Split(got[0], " "); len(pairs) != named || len(got[0]) < limit-width-8 || len(got[0]) > limit {
		t.Errorf("the hint for %d orgs has %d pairs and %d bytes", named, len(pairs), len(got[0]))
	}
	if got[1] != wakeAll || got[2] != wakeAll {
		t.Errorf("one org more: %.80q; a long one: %.80q", got[1], got[2])
	}
}

// TestForeignWordsWakeAll sends what is no hint. Each wakes all, and none tells of an org that is not in it.
func TestForeignWordsWakeAll(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	db := connect(t, database)
	ear := hear(t, open(t, database))
	for _, payload := range []string{"", "*", "hello", "a:", "a:b", "%zz:1", "a:1:2", "{}", "a:99999999999999999999", " ", "a:1  b:2"} {
		before := ear.woken()
		execute(t, db, `select pg_notify('sluice', $1)`, payload)
		wait(t, fmt.Sprintf("%q wakes all", payload), func() bool { return ear.woken() > before })
	}
	execute(t, db, `select pg_notify('sluice', '?somebody else''s probe')`)
	execute(t, db, `select pg_notify('other', 'a:7')`)
	before := ear.woken()
	execute(t, db, `select pg_notify('sluice', $1)`, url.QueryEscape("the end")+":"+strconv.Itoa(3))
	wait(t, "a hint is read afterwards", func() bool { return ear.reached("the end") == 3 })
	if grown, wakes := ear.told(); wakes != before || grown["a"] == 7 {
		t.Errorf("a probe or another channel woke all: %v", grown)
	}
}

// TestListenerComesBack loses the LISTEN connection in two ways: cut, and swallowed without a word, which only a ping
// that is not answered shows. Each new connection wakes all.
func TestListenerComesBack(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	s := open(t, link.URL)
	ear := hear(t, s)
	for name, lose := range map[string]func(){
		"cut":       link.Cut,
		"swallowed": func() { link.Swallow() },
	} {
		before := ear.woken()
		lose()
		began := time.Now()
		wait(t, name+": all are woken", func() bool { return ear.woken() > before })
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: noticed after %v", name, took)
		}
		// Which instance appends is of no matter; the store's own connections may be among those that were cut.
		wait(t, name+": hints arrive again", func() bool {
			_, err := s.Append(t.Context(), itemsOf([]Draft{draft(name, randomText(20))}))
			return err == nil && ear.reached(name) > 0
		})
	}
}

// TestProbeListen sees whether notifications arrive: not before somebody listens, then yes, and after it no more.
func TestProbeListen(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s, other := open(t, database), open(t, database)
	probe := func(s *Store, patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return s.ProbeListen(ctx)
	}
	if err := probe(s, 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "--listen-database-url") {
		t.Errorf("a store that nobody listens for: %v", err)
	}
	ear := hear(t, s)
	before := ear.woken()
	if err := probe(s, patience); err != nil {
		t.Error(err)
	}
	if err := probe(other, 200*time.Millisecond); err == nil {
		t.Error("a store takes another instance's listener for its own")
	}
	if err := probe(s, patience); err != nil {
		t.Error(err)
	}
	if ear.woken() != before {
		t.Error("a probe wakes all")
	}
}

// TestListenerClosesWithoutAServer closes a listener that never reached one.
func TestListenerClosesWithoutAServer(t *testing.T) {
	t.Parallel()
	s := &Store{opts: Options{DirectURL: "host=/nowhere dbname=x sslmode=disable"}, log: open(t, pgtest.Database(t)).log}
	ear := &ear{grown: map[string]int64{}}
	listener := s.NewListener(ear.notified())
	ended := make(chan struct{}, 2)
	go func() {
		_ = listener.Start()
		ended <- struct{}{}
	}()
	go func() {
		for one := range listener.C {
			listener.Tell(one)
		}
		ended <- struct{}{}
	}()
	listener.Close()
	for range 2 {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a listener without a server does not end")
		}
	}
	if ear.woken() != 0 {
		t.Error("without a server all were woken")
	}
}
