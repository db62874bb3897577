package streams_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// figures reads what a registry exports, by series; of a histogram, how much it has counted.
func figures(t testing.TB, registry prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, one := range family.Metric {
			var labels []string
			for _, pair := range one.Label {
				labels = append(labels, pair.GetName()+"="+pair.GetValue())
			}
			name := family.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = one.GetCounter().GetValue() + one.GetGauge().GetValue() + float64(one.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// counted is a log whose reads are counted, and fail while they are told to.
type counted struct {
	*store.Store
	pages atomic.Int64
	fails atomic.Bool
}

func (c *counted) Page(ctx context.Context, org string, after int64, since time.Time, limit int) (store.Page, error) {
	c.pages.Add(1)
	if c.fails.Load() {
		return store.Page{}, errors.Join(store.ErrUnavailable, errors.New("the test says so"))
	}
	return c.Store.Page(ctx, org, after, since, limit)
}

// metered is a live end whose figures and reads can be looked at. Its notifier runs once the test says so.
type metered struct {
	*live
	log      *counted
	registry *prometheus.Registry
	notify   func()
}

func openMetered(t testing.TB, database string, options streams.Options) *metered {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &metered{live: new(live), log: new(counted), registry: prometheus.NewRegistry()}
	var err error
	if m.events, err = store.Open(ctx, store.Options{URL: database}); err != nil {
		t.Fatal(err)
	}
	m.log.Store = m.events
	options.BatchMax, options.Heartbeat = 100, time.Hour
	metrics := streams.NewMetrics(m.registry, store.DefaultCatalogue())
	m.hub = streams.NewHub(m.log, store.DefaultCatalogue(), options, metrics)
	m.appender = streams.NewAppender(m.events, metrics)
	var running sync.WaitGroup
	m.notify = func() {
		running.Go(func() { streams.NewNotifier(m.events, m.hub, slog.New(slog.DiscardHandler)).Run(ctx) })
	}
	t.Cleanup(func() {
		m.hub.Close()
		m.appender.Close(ctx)
		cancel()
		running.Wait()
		m.events.Close()
	})
	return m
}

func (m *metered) figure(t testing.TB, series string) float64 {
	t.Helper()
	value, there := figures(t, m.registry)["sluice_"+series]
	if !there {
		t.Fatalf("there is no series %s", series)
	}
	return value
}

// reach waits until a series is at least at a value.
func (m *metered) reach(t testing.TB, series string, value float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s does not reach %v", series, value), func() bool { return m.figure(t, series) >= value })
}

// eventually polls until something is so.
func eventually(t testing.TB, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestMetricsFromTheStart lists every series there is: each is exported, at 0, before anything has happened.
func TestMetricsFromTheStart(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	streams.NewMetrics(registry, store.DefaultCatalogue())
	want := []string{
		"append_batch_events", "append_errors_total", "blocked_sinks", "events_appended_total", "outbox_parked_total",
		"outbox_relayed_total", "outbox_waiting", "publish_to_write_seconds", "replay_pages_total", "upload_bytes_total", "upload_takeovers_total", "uploads_writing", "wake_lag_seconds",
	}
	for _, state := range []string{"ready", "failed", "expired", "deleted"} {
		want = append(want, "uploads_ended_total{state="+state+"}")
	}
	for _, reason := range []string{"offset", "digest", "size", "yielded"} {
		want = append(want, "upload_chunks_refused_total{reason="+reason+"}")
	}
	transports := []string{"sse", "ndjson", "websocket", "poll", "legacy"}
	for _, transport := range transports {
		want = append(want, "active_streams{transport="+transport+"}", "bytes_sent_total{transport="+transport+"}")
	}
	for _, kind := range []string{"read", "write_timeout", "limit", "hole", "gone_back"} {
		want = append(want, "errors_total{kind="+kind+"}")
	}
	for _, reason := range []string{"expired", "epoch", "ahead", "malformed"} {
		want = append(want, "resets_total{reason="+reason+"}")
	}
	for _, outcome := range []string{"done", "reused", "failed", "retried", "returned", "lost"} {
		want = append(want, "documents_total{outcome="+outcome+"}")
	}
	for _, source := range []string{"notify", "poll", "wake_all"} {
		want = append(want, "wakes_total{source="+source+"}")
	}
	for _, service := range []string{
		"finance", "guest", "staff", "tasks", "properties", "users", "branding", "chat", "documents",
	} {
		for _, transport := range transports {
			want = append(want, "events_delivered_total{service="+service+",transport="+transport+"}")
		}
	}
	for i := range want {
		want[i] = "sluice_" + want[i]
	}
	slices.Sort(want)
	got := figures(t, registry)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("exported are\n%s\nnot\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for name, value := range got {
		if value != 0 {
			t.Errorf("%s begins at %v", name, value)
		}
	}
}

// TestMetricsMove lets happen what is counted, and looks at the counts.
func TestMetricsMove(t *testing.T) {
	t.Parallel()
	m := openMetered(t, pgtest.Database(t), streams.Options{RingMemory: 1}) // nothing stays in the ring: replay reads pages
	m.notify()
	tasks := streams.Filter{Services: store.DefaultCatalogue().Bit("tasks"), AllProperties: true}
	all, few := m.subscribe("1", everything, streams.Start{}), m.subscribe("1", tasks, streams.Start{})
	all.await(t, "ack")
	few.await(t, "ack")
	m.append(t, "1", draft("a"), draft("b"), store.Draft{Event: store.Event{ID: "c", Service: "tasks"}})
	all.await(t, "event c")
	few.await(t, "event c")
	m.reach(t, "publish_to_write_seconds", 3)
	for series, want := range map[string]float64{
		"active_streams{transport=sse}": 2, "append_batch_events": 1, "events_appended_total": 3, "append_errors_total": 0,
		"events_delivered_total{service=finance,transport=sse}": 2, "events_delivered_total{service=tasks,transport=sse}": 2,
		"bytes_sent_total{transport=sse}": float64(len(all.text) + len(few.text)),
		"publish_to_write_seconds":        3, "wake_lag_seconds": 1, "blocked_sinks": 0, "replay_pages_total": 0,
	} {
		if got := m.figure(t, series); got != want {
			t.Errorf("%s is %v, not %v", series, got, want)
		}
	}
	woken := m.figure(t, "wakes_total{source=notify}") + m.figure(t, "wakes_total{source=poll}") +
		m.figure(t, "wakes_total{source=wake_all}") // the LISTEN connection may have been made just then
	if woken < 1 {
		t.Error("nothing has woken the tail")
	}

	// A reader that stops, and goes on.
	all.halt()
	m.append(t, "1", draft("d"))
	m.reach(t, "blocked_sinks", 1)
	m.append(t, "1", draft("e"))
	m.reach(t, "wake_lag_seconds", 3)
	all.goOn()
	all.await(t, "event e")
	if got := m.figure(t, "blocked_sinks"); got != 0 {
		t.Errorf("%v sinks are blocked, though none is", got)
	}
	m.reach(t, "replay_pages_total", 1)

	// Readers that leave, one of them blocked.
	all.halt()
	m.append(t, "1", draft("f"))
	m.reach(t, "blocked_sinks", 1)
	all.End(nil, streams.EndDrained)
	few.End(nil, streams.EndDrained)
	eventually(t, "streams are counted that have left", func() bool {
		return m.figure(t, "active_streams{transport=sse}") == 0 && m.figure(t, "blocked_sinks") == 0
	})
}

// TestMetricsOfFailures has everything go wrong that is counted by kind or reason.
func TestMetricsOfFailures(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	m := openMetered(t, database, streams.Options{RingMemory: 1 << 20, MaxStreamsPerUser: 6, MaxStreamsPerOrg: 7})
	answer := m.append(t, "1", draft("a"), draft("b"), draft("c"), draft("d"))
	if err := execute(database, `update sluice.logs set trimmed_seq = 2`); err != nil {
		t.Fatal(err)
	}
	at := func(cursor store.Cursor) streams.Start { return streams.Start{Kind: streams.StartAt, Cursor: cursor} }
	epoch := answer[0].Cursor.Epoch
	for reason, start := range map[string]streams.Start{
		"malformed": {Kind: streams.StartMalformed}, "epoch": at(store.Cursor{Epoch: "another", Seq: 3}),
		"ahead": at(store.Cursor{Epoch: epoch, Seq: 5}), "expired": at(answer[0].Cursor),
	} {
		m.subscribe("1", everything, start).await(t, "reset "+reason)
		if got := m.figure(t, "resets_total{reason="+reason+"}"); got != 1 {
			t.Errorf("%v resets are %s", got, reason)
		}
	}
	p := m.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")

	m.log.fails.Store(true)
	m.hub.WakeAll()
	m.reach(t, "errors_total{kind=read}", 1)
	m.log.fails.Store(false)
	if got := m.figure(t, "wakes_total{source=wake_all}"); got != 1 {
		t.Errorf("%v tails were woken with all", got)
	}

	// Position 5 is missing from the start: the read that failed may be tried again at any moment.
	if err := execute(database, `insert into sluice.events (org, seq, time, id, service, type, data)
		values ('1', 6, clock_timestamp(), 'f', 'finance', 'x', '{}')`); err != nil {
		t.Fatal(err)
	}
	m.hub.WakeAll()
	p.await(t, "reset expired")
	if got := m.figure(t, "errors_total{kind=hole}"); got != 1 {
		t.Errorf("%v holes", got)
	}
	if err := execute(database, `delete from sluice.events where seq > 3`); err != nil {
		t.Fatal(err)
	}
	m.hub.WakeAll()
	m.reach(t, "errors_total{kind=gone_back}", 1)

	one := m.subscribe("2", everything, streams.Start{}) // its user is that of org 2: nobody yields
	one.await(t, "ack")
	for range 2 { // the seventh stream of the user of org 1: its oldest yields
		m.subscribe("1", everything, streams.Start{})
	}
	if got := m.figure(t, "errors_total{kind=limit}"); got != 1 {
		t.Errorf("the limit was met %v times, not once", got)
	}
	if err := m.hub.Full("1"); err != nil {
		t.Error(err)
	}
	m.subscribeAs("1", "v").wait(t, "the org's limit", func() bool { return errors.Is(m.hub.Full("1"), streams.ErrOrgLimit) })
	if got := m.figure(t, "errors_total{kind=limit}"); got < 2 {
		t.Errorf("the limit was met %v times", got)
	}
}

// subscribeAs opens a stream of another user.
func (m *metered) subscribeAs(org, user string) *pipe {
	p := new(pipe)
	m.hub.Subscribe(&streams.Subscription{
		Org: org, User: user, Filter: everything, Encoder: lines{}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	return p
}
