package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestPositionAt compares every position that a time can mean, over days with and without events, trimmed ones and a hole,
// with what the list of all events says.
func TestPositionAt(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	var begins []time.Time
	for ahead := range 3 {
		begins = append(begins, day(t, s, ahead-3))
	}
	put(t, db, "org", 1, 40, begins[0].Add(23*time.Hour+59*time.Minute+20*time.Second)) // up to the last second of the day
	put(t, db, "org", 41, 1, begins[1])                                                 // in its first moment
	put(t, db, "org", 42, 33, begins[2].Add(time.Hour))
	put(t, db, "other", 1, 50, begins[2])
	add(t, s, drafts("org", "today", 7)...)

	events := page(t, s, "org", 0).Events
	if len(events) != 81 {
		t.Fatalf("%d events", len(events))
	}
	check := func(floor int64) {
		t.Helper()
		times := []time.Time{{}, time.Unix(0, 0), begins[0], begins[1], begins[2], time.Now().Add(time.Hour), time.Now().AddDate(1000, 0, 0)}
		for _, e := range events {
			times = append(times, e.Time, e.Time.Add(-time.Microsecond), e.Time.Add(time.Microsecond), e.Time.Add(-time.Nanosecond), e.Time.Add(time.Hour))
		}
		for _, at := range times {
			want := floor
			for _, e := range events {
				if e.Seq > floor && !e.Time.After(at) {
					want = e.Seq
				}
			}
			got, err := s.PositionAt(t.Context(), "org", at)
			if err != nil || got != (Cursor{s.Epoch(), want}) {
				t.Fatalf("%v means %v, not %d (%v)", at, got, want, err)
			}
		}
	}
	check(0)
	for org, want := range map[string]int64{"org": 74, "other": 50, "none": 0} {
		if got, err := s.PositionAgo(t.Context(), org, time.Hour); err != nil || got.Seq != want {
			t.Errorf("an hour ago %s stood at %v (%v)", org, got, err)
		}
	}
	if got, err := s.PositionAgo(t.Context(), "org", 0); err != nil || got.Seq != 81 {
		t.Errorf("now it stands at %v (%v)", got, err)
	}
	execute(t, db, `delete from sluice.events where org = 'org' and seq = 60`)
	if got, err := s.PositionAt(t.Context(), "org", events[64].Time); err != nil || got.Seq != 65 {
		t.Errorf("beyond a hole it is %v (%v)", got, err)
	}
	execute(t, db, `update sluice.logs set trimmed_seq = 41 where org = 'org'`)
	for _, at := range []time.Time{{}, events[0].Time, events[39].Time} {
		if got, err := s.PositionAt(t.Context(), "org", at); err != nil || got.Seq != 41 {
			t.Errorf("what was trimmed is %v (%v)", got, err)
		}
	}
	if _, err := s.Trim(t.Context(), time.Nanosecond); err != nil { // all days but today, at any time of it
		t.Fatal(err)
	}
	check(74)
}

// TestPositions remembers readers: at the head from their first visit on, never back within an epoch, by every instance.
func TestPositions(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, other, db := open(t, url), open(t, url), connect(t, url)
	add(t, s, drafts("org", "x", 5)...)
	reader := Reader{"org", "7", "3"}
	var visits sync.WaitGroup
	for _, one := range []*Store{s, other, s, other} {
		visits.Go(func() {
			if at, stale, err := one.Position(t.Context(), reader); err != nil || at != (Cursor{s.Epoch(), 5}) || stale {
				t.Errorf("a first visit is at %v, stale %v (%v)", at, stale, err)
			}
		})
	}
	visits.Wait()
	add(t, s, drafts("org", "y", 5)...)
	expect := func(reader Reader, want Cursor) {
		t.Helper()
		if at, _, err := other.Position(t.Context(), reader); err != nil || at != want {
			t.Errorf("%v stands at %v, not %v (%v)", reader, at, want, err)
		}
	}
	at := func(seq int64) Cursor { return Cursor{s.Epoch(), seq} }
	expect(reader, at(5))
	expect(Reader{"org", "7", ""}, at(10))
	expect(Reader{"org", "8", "3"}, at(10))
	for _, step := range []struct{ keep, want Cursor }{
		{at(7), at(7)}, {at(6), at(7)}, {Cursor{"another", 3}, Cursor{"another", 3}}, {at(2), at(2)},
	} {
		list := []Position{{reader, step.keep}, {Reader{"org", "9", ""}, at(1)}}
		if err := s.KeepPositions(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		expect(reader, step.want)
	}
	expect(Reader{"org", "9", ""}, at(1))

	execute(t, db, `update sluice.positions set updated = now() - interval '1 hour' where user_id = '7'`)
	if _, stale, err := s.Position(t.Context(), reader); err != nil || !stale {
		t.Errorf("after an hour stale is %v (%v)", stale, err)
	}
	execute(t, db, `update sluice.positions set updated = now() - interval '3 hours' where property_id = '3'`)
	if n, err := s.ForgetPositions(t.Context(), time.Hour); err != nil || n != 2 {
		t.Errorf("%d were forgotten (%v)", n, err)
	}
	expect(reader, at(10))
	expect(Reader{"org", "7", ""}, at(10))
	if n := ask[int](t, db, `select count(*) from sluice.positions`); n != 3 {
		t.Errorf("%d positions are kept", n)
	}
}

// TestKeepManyPositions has two instances keep the same readers at once, in opposite orders.
func TestKeepManyPositions(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	one, two := open(t, url), open(t, url)
	var up, down []Position
	for i := range 500 {
		up = append(up, Position{Reader{"org", fmt.Sprint(i), ""}, Cursor{one.Epoch(), int64(i)}})
		down = append(down, Position{Reader{"org", fmt.Sprint(499 - i), ""}, Cursor{one.Epoch(), int64(500)}})
	}
	var keeping sync.WaitGroup
	for range 10 {
		keeping.Go(func() {
			if err := one.KeepPositions(t.Context(), up); err != nil {
				t.Error(err)
			}
		})
		keeping.Go(func() {
			if err := two.KeepPositions(t.Context(), down); err != nil {
				t.Error(err)
			}
		})
	}
	keeping.Wait()
	if at, _, err := one.Position(t.Context(), Reader{"org", "3", ""}); err != nil || at.Seq != 500 {
		t.Errorf("it stands at %v (%v)", at, err)
	}
}
