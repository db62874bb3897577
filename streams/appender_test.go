package streams_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestGather holds one transaction up while fifty publishers bring three events each: they all go with the next one, in
// the order in which they came.
func TestGather(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{}, 2)}
	a, _ := d.appender(t, pgtest.Database(t))
	all := []*brought{d.first(t, a)}
	want := []string{"first"}
	for i := range 50 {
		var drafts []store.Draft
		for j := range 3 {
			drafts = append(drafts, made("1", fmt.Sprintf("%d-%d", i, j)))
			want = append(want, drafts[j].ID)
		}
		all = append(all, bring(a, drafts...))
	}
	d.gate <- struct{}{}
	d.gate <- struct{}{}
	seq := int64(0)
	for _, one := range all {
		answer, err := one.result(t)
		if err != nil || len(answer) != len(one.drafts) {
			t.Fatalf("%+v: %+v, %v", one.drafts, answer, err)
		}
		for i := range answer {
			seq++
			if answer[i].ID != one.drafts[i].ID || answer[i].Cursor.Seq != seq || answer[i].Duplicate {
				t.Fatalf("%s, the %dth, is answered with %+v", one.drafts[i].ID, seq, answer[i])
			}
		}
	}
	if got := d.log(t, "1"); !slices.Equal(got, want) {
		t.Errorf("the log is %q, not %q", got, want)
	}
	if got := d.transactions(); !slices.Equal(got, []int{1, 50}) {
		t.Errorf("the transactions had %v items, not 1 and 50", got)
	}
}

// TestBatchIsBounded queues more than a transaction may have, by number and by bytes.
func TestBatchIsBounded(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, pgtest.Database(t))
	all := []*brought{d.first(t, a)}
	for i := range 3 { // 600 events each: never two in one transaction
		var drafts []store.Draft
		for j := range 600 {
			drafts = append(drafts, made("1", fmt.Sprintf("%d-%d", i, j)))
		}
		all = append(all, bring(a, drafts...))
	}
	for i := range 3 { // 1.5 MiB each: never three in one transaction of 4 MiB
		large := made("1", fmt.Sprint("large-", i))
		large.Data = json.RawMessage(`{"x":"` + strings.Repeat("x", 3<<19) + `"}`)
		all = append(all, bring(a, large))
	}
	close(d.gate)
	for _, one := range all {
		if _, err := one.result(t); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.transactions(); !slices.Equal(got, []int{1, 1, 1, 3, 1}) {
		t.Errorf("the transactions had %v items", got)
	}
}

// TestOverload fills the queue, by number and by bytes. What is too much is refused without being tried, and what fits
// again is taken.
func TestOverload(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, pgtest.Database(t))
	first := d.first(t, a)
	bundle := func(name string) (drafts []store.Draft) {
		for i := range 1000 {
			drafts = append(drafts, made("1", fmt.Sprint(name, i)))
		}
		return drafts
	}
	for i := range 20 {
		if one := bring(a, bundle(fmt.Sprint("bundle-", i, "-"))...); one.answer != nil || one.err != nil {
			t.Fatalf("bundle %d is answered with %v", i, one.err)
		}
	}
	if _, err := a.Append(context.Background(), []store.Draft{made("1", "too-many")}); !errors.Is(err, streams.ErrOverloaded) {
		t.Fatalf("the 20,001st event in waiting: %v", err)
	}
	d.gate <- struct{}{} // the first one goes, and a bundle takes its place
	if _, err := first.result(t); err != nil {
		t.Fatal(err)
	}
	d.gate <- struct{}{}
	again := bring(a, bundle("again-")...)
	select {
	case <-again.done:
		t.Fatalf("there is room again, but: %v", again.err)
	default:
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	a.Close(over)
	if _, err := again.result(t); !errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("what is left when Close gives up: %v", err)
	}
	for _, one := range slices.Concat(d.asked...) {
		if one.ID == "too-many" {
			t.Error("what was refused for too much was tried")
		}
	}
}

// TestOverloadOfBytes fills the queue with 64 MiB.
func TestOverloadOfBytes(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, pgtest.Database(t))
	first := d.first(t, a)
	data := json.RawMessage(`{"x":"` + strings.Repeat("x", 1<<20-8) + `"}`)
	for i := range 64 {
		large := made("1", fmt.Sprint("large-", i))
		large.Data = data
		bring(a, large)
	}
	if _, err := a.Append(context.Background(), []store.Draft{made("1", "too-large")}); !errors.Is(err, streams.ErrOverloaded) {
		t.Fatalf("beyond 64 MiB in waiting: %v", err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	a.Close(over)
	if _, err := first.result(t); !errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("the one under way when Close gives up: %v", err)
	}
}

// TestCloseCommits closes an appender while events wait: they are committed, and nothing is taken any more.
func TestCloseCommits(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, pgtest.Database(t))
	var all []*brought
	for i := range 5 {
		all = append(all, bring(a, made("1", fmt.Sprint(i))))
	}
	closed := make(chan struct{})
	go func() {
		a.Close(context.Background())
		close(closed)
	}()
	for deadline := time.Now().Add(patience); ; {
		late := bring(a, made("2", rand.Text()))
		select {
		case <-late.done:
		default:
			if time.Now().After(deadline) {
				t.Fatal("an appender that closes still takes events")
			}
			continue
		}
		if !errors.Is(late.err, streams.ErrDraining) {
			t.Fatal(late.err)
		}
		break
	}
	select {
	case <-closed:
		t.Fatal("Close has not waited")
	default:
	}
	close(d.gate)
	for _, one := range all {
		if _, err := one.result(t); err != nil {
			t.Error(err)
		}
	}
	<-closed
	if got := d.log(t, "1"); len(got) != 5 {
		t.Errorf("the log is %q", got)
	}
	if _, err := a.Append(context.Background(), []store.Draft{made("1", "late")}); !errors.Is(err, streams.ErrDraining) {
		t.Error(err)
	}
}

// TestLeavingPublisher gives up before its events are committed, which they are all the same.
func TestLeavingPublisher(t *testing.T) {
	t.Parallel()
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, pgtest.Database(t))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Append(ctx, []store.Draft{made("1", "a")}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(d.gate)
	if _, err := a.Append(context.Background(), []store.Draft{made("1", "b")}); err != nil {
		t.Fatal(err)
	}
	if got := d.log(t, "1"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the log is %q", got)
	}
}

// away is a database that does not answer until a time. It stands in for the store where only time is looked at.
type away struct {
	back  time.Time
	tries []time.Time
}

func (l *away) MakePartitions(context.Context) error { return nil }

func (l *away) Append(_ context.Context, items []store.Item) ([]store.Answer, error) {
	l.tries = append(l.tries, time.Now())
	if time.Now().Before(l.back) {
		return nil, store.ErrUnavailable
	}
	return make([]store.Answer, len(items)), nil
}

// TestPatience has the database away for less and for more than publishers are asked to wait.
func TestPatience(t *testing.T) {
	for _, one := range []struct{ away, least, most time.Duration }{
		{3 * time.Second, 3 * time.Second, 3500 * time.Millisecond},
		{time.Hour, 5 * time.Second, 5500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			log := &away{back: began.Add(one.away)}
			a := streams.NewAppender(log, streams.NewMetrics(prometheus.NewRegistry(), store.DefaultCatalogue()))
			defer a.Close(context.Background())
			_, err := a.Append(context.Background(), []store.Draft{made("1", "a")})
			if took := time.Since(began); took < one.least || took > one.most {
				t.Errorf("answered after %v", took)
			}
			if gaveUp := one.away == time.Hour; gaveUp != errors.Is(err, streams.ErrUnavailable) || !gaveUp && err != nil {
				t.Errorf("away for %v: %v", one.away, err)
			}
			if len(log.tries) < 5 || len(log.tries) > 30 {
				t.Errorf("tried %d times", len(log.tries))
			}
		})
	}
}
