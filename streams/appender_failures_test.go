package streams_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestBadItem has Postgres refuse three items of a batch for reasons of its own: each costs itself, and its neighbours
// stand in the log without a gap.
func TestBadItem(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*store.Draft){
		"an id that no index row can hold": func(one *store.Draft) {
			var text strings.Builder
			for text.Len() < 9000 {
				text.WriteString(rand.Text())
			}
			one.ID = text.String()
		},
		"a label with a NUL":     func(one *store.Draft) { one.EntityID = "a\x00b" },
		"an org that is no text": func(one *store.Draft) { one.Org = "\xff" },
		"data that is no JSON":   func(one *store.Draft) { one.Data = json.RawMessage(`{"a":`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &doorway{gate: make(chan struct{})}
			a, _ := d.appender(t, pgtest.Database(t))
			all := []*brought{d.first(t, a)}
			want := []string{"first"}
			bad := map[int]bool{1: true, 7: true, 20: true}
			for i := 1; i <= 20; i++ {
				good, other := made("1", fmt.Sprint("good-", i)), made("1", fmt.Sprint("other-", i))
				if bad[i] {
					spoil(&other)
				} else {
					want = append(want, good.ID, other.ID)
				}
				all = append(all, bring(a, good, other))
			}
			close(d.gate)
			for i, one := range all {
				_, err := one.result(t)
				if bad[i] != errors.Is(err, store.ErrRefused) || !bad[i] && err != nil {
					t.Errorf("item %d: %v", i, err)
				}
			}
			if got := d.log(t, "1"); !slices.Equal(got, want) {
				t.Errorf("the log is %q, not %q", got, want)
			}
		})
	}
}

// TestFailedTwice fails the transaction in both ways: it was not done, and it was done but reported as failed. Either
// way the events stand in the log once, and are answered as new.
func TestFailedTwice(t *testing.T) {
	t.Parallel()
	lost := fmt.Errorf("%w: the answer was lost", store.ErrUnavailable)
	for name, fail := range map[string]func(try int) (instead, although error){
		"not done": func(try int) (error, error) {
			if try <= 2 {
				return lost, nil
			}
			return nil, nil
		},
		"done but reported failed": func(try int) (error, error) {
			if try <= 2 {
				return nil, lost
			}
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &doorway{gate: make(chan struct{}), fail: fail}
			a, registry := d.appender(t, pgtest.Database(t))
			var all []*brought
			var want []string
			for i := range 10 {
				ours, given := made("1", fmt.Sprint("made-", i)), made("1", fmt.Sprint("given-", i))
				given.IDGiven = true
				all, want = append(all, bring(a, ours, given)), append(want, ours.ID, given.ID)
			}
			close(d.gate)
			for i, one := range all {
				answer, err := one.result(t)
				if err != nil {
					t.Fatal(err)
				}
				if answer[0].Duplicate || answer[0].Cursor.Seq != int64(2*i+1) || answer[1].Cursor.Seq != int64(2*i+2) {
					t.Errorf("item %d is answered with %+v", i, answer)
				}
			}
			if got := d.log(t, "1"); !slices.Equal(got, want) {
				t.Errorf("the log is %q, not %q", got, want)
			}
			for try, drafts := range d.asked {
				for _, one := range drafts {
					// The first item was tried three times, and those that gathered meanwhile once.
					if repeated := (try == 1 || try == 2); one.Tried != repeated {
						t.Errorf("try %d has %s with Tried %t", try+1, one.ID, one.Tried)
					}
				}
			}
			if failed := figures(t, registry)["sluice_append_errors_total"]; failed != 2 {
				t.Errorf("%v transactions are counted as failed, not 2", failed)
			}
		})
	}
}

// TestConnectionsCutWhileAppending cuts all connections to Postgres again and again while publishers publish. Whatever
// was lost on the way, what was answered stands in the log once.
func TestConnectionsCutWhileAppending(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	link := pgtest.NewLink(t, database)
	var cutting sync.WaitGroup
	d := &doorway{fail: func(try int) (error, error) {
		if try%3 != 0 { // the third has a chance, so that nobody has to wait for too long
			cutting.Go(func() {
				<-time.After(mathrand.N(6 * time.Millisecond)) // before, within, or after the commit
				link.Cut()
			})
		}
		return nil, nil
	}}
	a, registry := d.appender(t, link.URL)
	var publishing sync.WaitGroup
	answered := make([][]store.Appended, 8)
	for p := range answered {
		publishing.Go(func() {
			for i := range 25 {
				answer, err := a.Append(context.Background(), []store.Draft{made("1", fmt.Sprintf("%d-%d", p, i))})
				if err == nil {
					answered[p] = append(answered[p], answer...)
				} else if !errors.Is(err, streams.ErrUnavailable) {
					t.Errorf("%d-%d: %v", p, i, err)
				}
			}
		})
	}
	publishing.Wait()
	cutting.Wait()
	ids := d.log(t, "1")
	if sorted := slices.Sorted(slices.Values(ids)); len(slices.Compact(sorted)) != len(ids) {
		t.Errorf("an event stands twice in %q", ids)
	}
	for p, list := range answered {
		last := int64(0)
		for _, one := range list {
			if one.Cursor.Seq <= last || ids[one.Cursor.Seq-1] != one.ID || one.Duplicate {
				t.Errorf("publisher %d was answered %+v, after %d", p, one, last)
			}
			last = one.Cursor.Seq
		}
		if len(list) == 0 {
			t.Errorf("publisher %d was never answered", p)
		}
	}
	if figures(t, registry)["sluice_append_errors_total"] == 0 {
		t.Error("no transaction was cut")
	}
}

// TestTodayIsMissing drops the partitions beneath an appender: it makes them, and appends.
func TestTodayIsMissing(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	d := new(doorway)
	a, _ := d.appender(t, database)
	err := execute(database, `do $$ declare one text; begin
		for one in select inhrelid::regclass from pg_inherits where inhparent = 'sluice.events'::regclass loop
			execute 'drop table ' || one;
		end loop; end $$`)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Append(context.Background(), []store.Draft{made("1", "a")})
	if err != nil || answer[0].Cursor.Seq != 1 {
		t.Fatalf("%+v, %v", answer, err)
	}
	if err := d.Store.PartitionReady(context.Background()); err != nil {
		t.Error(err)
	}
}
