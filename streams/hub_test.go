package streams_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

const patience = 30 * time.Second

// live is a whole live end upon a real database.
type live struct {
	events   *store.Store
	hub      *streams.Hub
	appender *streams.Appender
	stop     func()
}

func open(t testing.TB, database string, options streams.Options) *live {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var l live
	var err error
	l.events, err = store.Open(ctx, store.Options{URL: database, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	if options.BatchMax == 0 {
		options.BatchMax = 100
	}
	if options.Heartbeat == 0 {
		options.Heartbeat = time.Hour
	}
	if options.RingMemory == 0 {
		options.RingMemory = 64 << 20
	}
	catalogue := store.DefaultCatalogue()
	metrics := streams.NewMetrics(prometheus.NewRegistry(), catalogue)
	l.hub = streams.NewHub(l.events, catalogue, options, metrics)
	l.appender = streams.NewAppender(l.events, metrics)
	var running sync.WaitGroup
	running.Go(func() { streams.NewNotifier(l.events, l.hub, slog.Default()).Run(ctx) })
	l.stop = sync.OnceFunc(func() {
		l.hub.Close()
		l.appender.Close(ctx)
		cancel()
		running.Wait()
		l.events.Close()
	})
	t.Cleanup(l.stop)
	return &l
}

func (l *live) append(t rapid.TB, org string, drafts ...store.Draft) []store.Appended {
	t.Helper()
	for i := range drafts {
		drafts[i].Org, drafts[i].IDGiven = org, true
		if drafts[i].Data == nil {
			drafts[i].Data = json.RawMessage(`{}`)
		}
		if drafts[i].Type == "" {
			drafts[i].Type = "x"
		}
	}
	answer, err := l.appender.Append(context.Background(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// lines is an encoding that tests can read: a line a frame.
type lines struct{}

func (lines) Index() int { return 0 }
func (lines) Event(dst []byte, e *store.Event, epoch string) []byte {
	return fmt.Appendf(dst, "event %s %s-%d\n", e.ID, epoch, e.Seq)
}

func (f lines) Pieces() streams.EventEncoder { return f }
func (lines) Batch(dst []byte, pieces []streams.Payload, _ store.Cursor) []byte {
	for _, piece := range pieces {
		dst = append(dst, piece.Raw()...)
	}
	return dst
}

func (lines) Ack(dst []byte, a streams.Ack) []byte {
	return fmt.Appendf(dst, "ack %s %t\n", a.Cursor, a.Resumable)
}

func (lines) Ping(dst []byte, p streams.Ping) []byte {
	return fmt.Appendf(dst, "ping %s\n", p.Cursor)
}

func (lines) Reset(dst []byte, r streams.Reset) []byte {
	return fmt.Appendf(dst, "reset %s %s %s\n", r.Reason, r.Oldest, r.Latest)
}

func (lines) Signal(dst []byte, s streams.Signal) []byte {
	return fmt.Appendf(dst, "%s %s %s %s\n", s.Kind, s.Room, s.User, s.Status)
}

func (lines) Retry(dst []byte, kind streams.RetryKind, _ time.Duration) []byte {
	return fmt.Appendf(dst, "%s\n", kind)
}

func (lines) Problem(dst []byte, p streams.StreamProblem) []byte {
	return fmt.Appendf(dst, "problem %d\n", p.Status)
}

// pipe is a sink whose reader the test plays: it can stop and go on.
type pipe struct {
	owner streams.Owner

	mu      sync.Mutex
	text    []byte // what the reader has
	stopped bool   // the reader takes nothing
	kept    []byte // what it was offered meanwhile
	ended   bool
	offers  int // that it was made
}

func (p *pipe) Start(owner streams.Owner) { p.owner = owner }
func (p *pipe) Transport() string         { return "sse" }

func (p *pipe) Offer(payload streams.Payload) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offers++
	if p.stopped {
		if p.kept != nil {
			panic("a blocked sink was offered more")
		}
		p.kept = payload.Raw()
		return false
	}
	p.text = append(p.text, payload.Raw()...)
	return true
}

func (p *pipe) End(last streams.Payload, _ streams.Ending) {
	p.mu.Lock()
	p.ended = true
	if last != nil && p.kept != nil {
		p.kept = slices.Concat(p.kept, last.Raw())
	} else if last != nil {
		p.text = append(p.text, last.Raw()...)
	}
	p.mu.Unlock()
	go p.owner.Gone(nil)
}

func (p *pipe) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

func (p *pipe) goOn() {
	p.mu.Lock()
	p.stopped = false
	blocked := p.kept != nil
	p.text = append(p.text, p.kept...)
	p.kept = nil
	p.mu.Unlock()
	if blocked {
		p.owner.Ready()
	}
}

func (p *pipe) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Split(strings.TrimSuffix(string(p.text), "\n"), "\n")
}

// events are the ids of the events read, and the cursor of the last frame that has one.
func (p *pipe) events() (ids []string, cursor string) {
	for _, line := range p.lines() {
		switch fields := strings.Fields(line); {
		case len(fields) == 3 && fields[0] == "event":
			ids, cursor = append(ids, fields[1]), fields[2]
		case len(fields) == 3 && fields[0] == "ack":
			cursor = fields[1]
		}
	}
	return ids, cursor
}

func (p *pipe) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *pipe) wait(t rapid.TB, what string, met func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !met() {
		select {
		case <-deadline:
			t.Fatalf("%s: %q", what, p.lines())
		case <-time.After(time.Millisecond):
		}
	}
}

func (p *pipe) await(t rapid.TB, prefix string) {
	t.Helper()
	p.wait(t, "no "+prefix, func() bool {
		return slices.ContainsFunc(p.lines(), func(line string) bool { return strings.HasPrefix(line, prefix) })
	})
}

func (l *live) subscribe(org string, filter streams.Filter, start streams.Start) *pipe {
	return l.subscribeAs("u", org, filter, start)
}

func (l *live) subscribeAs(user, org string, filter streams.Filter, start streams.Start) *pipe {
	p := new(pipe)
	l.hub.Subscribe(&streams.Subscription{
		Org: org, User: user, Filter: filter, Start: start, Encoder: lines{}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	return p
}

var everything = streams.Filter{Services: ^uint64(0), AllProperties: true}

// reader is one of the readers of the property test, over all the streams that it has had.
type reader struct {
	user   string
	filter streams.Filter
	pipe   *pipe
	got    []string // before it left the last time
	halted bool
}

// check holds what the reader has seen, once it has all, against what its filter admits of a log.
func (r *reader) check(t *rapid.T, i int, log []store.Event) {
	var want []string
	for j := range log {
		if r.filter.Admits(store.DefaultCatalogue().Bit(log[j].Service), &log[j], r.user) {
			want = append(want, log[j].ID)
		}
	}
	r.pipe.goOn()
	all := func() []string {
		ids, _ := r.pipe.events()
		return append(slices.Clone(r.got), ids...)
	}
	r.pipe.wait(t, fmt.Sprintf("reader %d (%+v) wants %v", i, r.filter, want), func() bool { return len(all()) >= len(want) })
	if got := all(); !slices.Equal(got, want) {
		t.Fatalf("reader %d (%+v): %v, not %v", i, r.filter, got, want)
	}
	r.pipe.End(nil, streams.EndDrained)
}

// TestEveryReaderGetsWhatItsFilterAdmits plays random publishers and readers on two instances that share a database:
// readers with random filters come, stop, go on, leave, and come back with their cursors on either instance. Each ends
// with exactly what its filter admits, in order. The rings are so small that replay goes through pages, too.
func TestEveryReaderGetsWhatItsFilterAdmits(t *testing.T) {
	database := pgtest.Database(t)
	instances := []*live{
		open(t, database, streams.Options{RingMemory: 8 << 10}), open(t, database, streams.Options{BatchMax: 3}),
	}
	finance, tasks := store.DefaultCatalogue().Bit("finance"), store.DefaultCatalogue().Bit("tasks")
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		org := "org" + strconv.Itoa(run)
		var log []store.Event
		var readers []*reader
		leave := func(r *reader) streams.Start {
			r.pipe.goOn()
			r.pipe.await(t, "ack")
			ids, cursor := r.pipe.events()
			r.pipe.End(nil, streams.EndDrained)
			r.got = append(r.got, ids...)
			at, err := store.ParseCursor(cursor)
			if err != nil {
				t.Fatalf("%q: %v", cursor, err)
			}
			return streams.Start{Kind: streams.StartAt, Cursor: at}
		}
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			on := instances[rapid.IntRange(0, 1).Draw(t, "instance")]
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				filter := streams.Filter{Services: rapid.SampledFrom([]uint64{finance, tasks, finance | tasks}).Draw(t, "services")}
				filter.AllProperties = rapid.Bool().Draw(t, "all")
				if !filter.AllProperties {
					filter.Properties = slices.Sorted(slices.Values(rapid.SliceOfNDistinct(
						rapid.SampledFrom([]string{"1", "2", "3", "4"}), 0, 3, rapid.ID).Draw(t, "properties")))
					filter.Private = rapid.SampledFrom([]streams.Private{streams.PrivateOwn, streams.PrivateNarrowed, streams.PrivateAll}).Draw(t, "private")
				}
				r := &reader{user: rapid.SampledFrom([]string{"u1", "u2", "u3"}).Draw(t, "user"), filter: filter}
				r.pipe = on.subscribeAs(r.user, org, filter, streams.Start{Kind: streams.StartEarliest})
				readers = append(readers, r)
			case 1, 2:
				var drafts []store.Draft
				for range rapid.IntRange(1, 12).Draw(t, "events") {
					event := store.Event{
						ID: "e" + strconv.Itoa(len(log)), Seq: int64(len(log) + 1), Service: rapid.SampledFrom([]string{"finance", "tasks"}).Draw(t, "service"),
						PropertyID: rapid.SampledFrom([]string{"", "1", "2", "3", "4"}).Draw(t, "property"),
						Audience:   rapid.SampledFrom([]string{"", "", "", "u1", "u2"}).Draw(t, "audience"),
					}
					log = append(log, event)
					drafts = append(drafts, store.Draft{Event: event})
				}
				on.append(t, org, drafts...)
			case 3:
				if len(readers) > 0 {
					r := readers[rapid.IntRange(0, len(readers)-1).Draw(t, "reader")]
					if r.halted {
						r.pipe.goOn()
					} else {
						r.pipe.halt()
					}
					r.halted = !r.halted
				}
			case 4:
				if len(readers) > 0 {
					r := readers[rapid.IntRange(0, len(readers)-1).Draw(t, "reader")]
					r.halted = false
					r.pipe = on.subscribeAs(r.user, org, r.filter, leave(r))
				}
			}
		}
		for i, r := range readers {
			r.check(t, i, log)
		}
	})
}

// TestRegression puts fewer events beneath a tail than it has read, in the same epoch: nothing is delivered from there,
// and whoever is to rotate the epoch is told.
func TestRegression(t *testing.T) {
	database := pgtest.Database(t)
	var l *live
	told := make(chan string, 1)
	l = open(t, database, streams.Options{OnRegression: func(org, epoch string) {
		if _, err := l.events.RotateEpoch(context.Background(), epoch); err != nil {
			t.Error(err)
		}
		select {
		case told <- org:
		default:
		}
	}})
	p := l.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	l.append(t, "1", draft("a"), draft("b"), draft("c"))
	p.await(t, "event c")
	if err := execute(database, `delete from sluice.events where seq > 1`); err != nil {
		t.Fatal(err)
	}
	l.hub.WakeAll()
	if org := <-told; org != "1" {
		t.Fatal(org)
	}
	p.await(t, "reset epoch")
	l.append(t, "1", draft("d"))
	p.await(t, "event d")
}

// TestHole removes events in the middle: live readers and those who replay are told, not led across in silence.
func TestHole(t *testing.T) {
	database := pgtest.Database(t)
	writer := open(t, database, streams.Options{})
	answer := writer.append(t, "1", draft("a"), draft("b"), draft("c"), draft("d"))
	if err := execute(database, `delete from sluice.events where seq = 2`); err != nil {
		t.Fatal(err)
	}
	p := writer.subscribe("1", everything, streams.Start{Kind: streams.StartAt, Cursor: answer[0].Cursor})
	p.await(t, "reset expired")
	writer.append(t, "1", draft("e"))
	p.await(t, "event e")
	if ids, _ := p.events(); !slices.Equal(ids, []string{"e"}) {
		t.Fatal(ids)
	}
}

// TestOverBudgetRing drops the events of the org that was used least recently.
func TestOverBudgetRing(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{RingMemory: 100 << 10})
	one, two := l.subscribe("1", everything, streams.Start{}), l.subscribe("2", everything, streams.Start{})
	one.await(t, "ack")
	two.await(t, "ack")
	for i := range 40 {
		for j, p := range []*pipe{one, two} {
			large := draft(fmt.Sprint("e", i))
			large.Data = json.RawMessage(`{"x":"` + strings.Repeat("x", 10<<10) + `"}`)
			l.append(t, strconv.Itoa(j+1), large)
			p.await(t, fmt.Sprint("event e", i, " "))
		}
	}
	if held := l.hub.Stats("").RingEvents; held == 0 || held > 20 {
		t.Fatalf("the rings hold %d events", held)
	}
}

// TestNothingRunsOn closes a hub with open streams; no goroutine of ours is left.
func TestNothingRunsOn(t *testing.T) {
	before := goleak.IgnoreCurrent()
	l := open(t, pgtest.Database(t), streams.Options{})
	p := l.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	l.append(t, "1", draft("a"))
	l.stop()
	goleak.VerifyNone(t, before)
}

func draft(id string) store.Draft {
	return store.Draft{Event: store.Event{ID: id, Service: "finance"}}
}

func execute(database, statement string) error {
	db, err := sql.Open("postgres", database)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(statement)
	return err
}
