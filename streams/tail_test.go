package streams_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// outrun is a log that grows faster than it is read: two more events are committed for each that a tail reads.
type outrun struct {
	*store.Store
	appender *streams.Appender
	stopped  chan struct{}
}

func (o *outrun) Page(ctx context.Context, org string, after int64, since time.Time, _ int) (store.Page, error) {
	select {
	case <-o.stopped:
		return o.Store.Page(ctx, org, after, since, 1000)
	default:
	}
	more := []store.Draft{draft(""), draft("")}
	for i := range more {
		more[i].Org, more[i].Type, more[i].Data, more[i].ID = org, "x", json.RawMessage(`{}`), fmt.Sprint(after, "-", i, "-", time.Now().UnixNano())
	}
	if _, err := o.appender.Append(ctx, more); err != nil {
		return store.Page{}, err
	}
	return o.Store.Page(ctx, org, after, since, 1)
}

// TestArrivalInAFlood subscribes while the tail falls further and further behind its log. The new streams begin all the
// same, at the log's head or at a cursor beyond what was read here, and carry on from there without a gap.
func TestArrivalInAFlood(t *testing.T) {
	events, err := store.Open(t.Context(), store.Options{URL: pgtest.Database(t), Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	catalogue := store.DefaultCatalogue()
	metrics := streams.NewMetrics(prometheus.NewRegistry(), catalogue)
	log := &outrun{events, streams.NewAppender(events, metrics), make(chan struct{})}
	hub := streams.NewHub(log, catalogue, streams.Options{RingMemory: 1 << 20, BatchMax: 100, Heartbeat: time.Hour}, metrics)
	defer hub.Close()
	l := &live{events: events, hub: hub, appender: log.appender}
	first := l.subscribe("1", everything, streams.Start{})
	first.await(t, "ack")
	l.append(t, "1", draft("a"))
	hub.WakeAll()
	first.wait(t, "no flood", func() bool { return len(first.lines()) > 20 })

	fromHead := l.subscribe("1", everything, streams.Start{})
	fromHead.await(t, "ack")
	latest := l.append(t, "1", draft("b"))[0].Cursor
	fromCursor := l.subscribe("1", everything, streams.Start{Kind: streams.StartAt, Cursor: latest})
	fromCursor.await(t, "ack "+latest.String()+" true")
	close(log.stopped)
	l.append(t, "1", draft("last"))
	hub.WakeAll()
	for i, p := range []*pipe{first, fromHead, fromCursor} {
		p.await(t, "event last ")
		position := int64(-1)
		for _, line := range p.lines() {
			fields := strings.Fields(line)
			at, err := store.ParseCursor(fields[len(fields)-1])
			if fields[0] == "ack" {
				at, err = store.ParseCursor(fields[1])
			}
			if err != nil || position >= 0 && at.Seq != position+1 {
				t.Fatalf("reader %d: %q after %d (%v)", i, line, position, err)
			}
			position = at.Seq
		}
	}
}

// fill publishes n events of 16 KiB to org 1 and waits until a reader has them, so that they are in the ring.
func (l *live) fill(t *testing.T, n int) {
	t.Helper()
	p := l.subscribe("1", everything, streams.Start{})
	p.await(t, "ack")
	for i := range n {
		large := draft(fmt.Sprint("e", i))
		large.Data = json.RawMessage(`{"x":"` + strings.Repeat("x", 16<<10) + `"}`)
		l.append(t, "1", large)
	}
	p.await(t, fmt.Sprintf("event e%d ", n-1))
	p.End(nil, streams.EndDrained)
}

// TestSlowReaderIsFramedLittle lets a reader that takes nothing begin at the far end of a large ring: what is made for it
// is one write, not the ring.
func TestSlowReaderIsFramedLittle(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{RingMemory: 64 << 20})
	earliest := l.append(t, "1", draft("first"))[0].Cursor
	l.fill(t, 500)
	p := new(pipe)
	p.halt()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l.hub.Subscribe(&streams.Subscription{
		Org: "1", User: "u", Filter: everything, Start: streams.Start{Kind: streams.StartAt, Cursor: earliest},
		Encoder: wide{}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	p.wait(t, "no ack", func() bool { return p.offered() })
	p.take() // the ack; the first write of the replay blocks it again
	p.wait(t, "no replay", func() bool { return p.offered() })
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 4<<20 {
		t.Fatalf("%d KiB were made for a reader that takes nothing", made>>10)
	}
}

// offered says whether something waits for the reader.
func (p *pipe) offered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept != nil
}

// take has the reader take what waits for it, and no more.
func (p *pipe) take() {
	p.mu.Lock()
	p.text = append(p.text, p.kept...)
	p.kept = nil
	p.mu.Unlock()
	p.owner.Ready()
}

// wide frames events with all their data, in an encoding of its own.
type wide struct{ lines }

func (wide) Index() int                     { return 1 }
func (f wide) Pieces() streams.EventEncoder { return f }
func (wide) Event(dst []byte, e *store.Event, epoch string) []byte {
	return fmt.Appendf(dst, "event %s %s-%d\n%s\n", e.ID, epoch, e.Seq, e.Data)
}

// TestRingCountsLaterFrames has the events of a full ring framed in a second encoding: that counts into its budget.
func TestRingCountsLaterFrames(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{RingMemory: 2 << 20})
	earliest := l.append(t, "1", draft("first"))[0].Cursor
	l.fill(t, 50)
	held := l.hub.Stats("1").RingEvents
	if held < 50 {
		t.Fatalf("the ring holds %d events only", held)
	}
	p := new(pipe)
	l.hub.Subscribe(&streams.Subscription{
		Org: "1", User: "u", Filter: everything, Start: streams.Start{Kind: streams.StartAt, Cursor: earliest},
		Encoder: wide{}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	p.await(t, "event e49 ")
	l.append(t, "1", draft("next"))
	p.await(t, "event next ")
	p.wait(t, "the ring keeps all its events", func() bool { return l.hub.Stats("1").RingEvents < held })
}

// TestSubscribeWhileDraining opens a stream that the door has let in a moment before: it is told to come back, too.
func TestSubscribeWhileDraining(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	l.hub.Drain(ctx)
	p := l.subscribe("1", everything, streams.Start{})
	p.await(t, "drain")
}

// TestOrgLimitAtOnce opens more streams at one moment than an org may have: the door, which looks before they are open,
// may let all of them in.
func TestOrgLimitAtOnce(t *testing.T) {
	l := open(t, pgtest.Database(t), streams.Options{MaxStreamsPerOrg: 3})
	pipes := make([]*pipe, 20)
	var opening sync.WaitGroup
	for i := range pipes {
		opening.Go(func() { pipes[i] = l.subscribe("1", everything, streams.Start{}) })
	}
	opening.Wait()
	acked := 0
	for _, p := range pipes {
		p.wait(t, "neither ack nor problem", func() bool { return p.lines()[0] != "" })
		switch line := p.lines()[0]; {
		case strings.HasPrefix(line, "ack "):
			acked++
		case line != "problem 429":
			t.Fatal(line)
		}
	}
	if acked != 3 {
		t.Fatalf("%d streams are open", acked)
	}
}
