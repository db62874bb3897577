package streams_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/streams"
)

// memory is a log for tests of time alone: under synctest no socket may be waited for, so there can be no Postgres.
type memory struct {
	mu     sync.Mutex
	events []store.Event // guarded by mu
	fails  bool          // guarded by mu
	hangs  time.Duration // guarded by mu: before each answer
}

func (m *memory) Page(ctx context.Context, org string, after int64, _ time.Time, limit int) (store.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if hangs := m.hangs; hangs > 0 {
		m.mu.Unlock()
		time.Sleep(hangs)
		m.mu.Lock()
	}
	if m.fails {
		return store.Page{}, store.ErrUnavailable
	}
	page := store.Page{Epoch: "e", Head: int64(len(m.events))}
	if after < page.Head {
		page.Events = slices.Clone(m.events[after:min(page.Head, after+int64(limit))])
	}
	return page, ctx.Err()
}

func (m *memory) Memberships(context.Context, string, []string) ([]store.Membership, error) {
	return nil, nil // its events have no rooms
}

func (m *memory) add(ids ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		m.events = append(m.events, store.Event{Org: "1", Seq: int64(len(m.events) + 1), Time: time.Now(), ID: id, Service: "finance"})
	}
}

func (m *memory) set(fails bool, hangs time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails, m.hangs = fails, hangs
}

// inTime runs a test of a hub in time that passes by itself.
func inTime(t *testing.T, options streams.Options, test func(t *testing.T, log *memory, l *live)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if options.Heartbeat == 0 {
			options.Heartbeat = time.Hour
		}
		options.BatchMax, options.RingMemory = 100, 1<<20
		log, catalogue := new(memory), store.DefaultCatalogue()
		hub := streams.NewHub(log, catalogue, options, streams.NewMetrics(prometheus.NewRegistry(), catalogue))
		defer hub.Close()
		test(t, log, &live{hub: hub})
	})
}

// watched is a pipe that notes when each frame came and when the stream ended.
type watched struct {
	*pipe
	mu    sync.Mutex
	frame []string        // guarded by mu
	at    []time.Duration // guarded by mu: since the stream was asked for
	end   time.Duration   // guarded by mu
	began time.Time
}

func (w *watched) Start(owner streams.Owner) { w.pipe.Start(owner) }

func (w *watched) Offer(p streams.Payload) bool {
	taken := w.pipe.Offer(p)
	w.note(p)
	return taken
}

func (w *watched) note(p streams.Payload) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(string(p.Raw())) {
		w.frame, w.at = append(w.frame, strings.TrimSpace(line)), append(w.at, time.Since(w.began))
	}
}

func (w *watched) End(last streams.Payload, why streams.Ending) {
	if last != nil {
		w.note(last)
	}
	w.mu.Lock()
	w.end = time.Since(w.began)
	w.mu.Unlock()
	w.pipe.End(last, why)
}

// frames are those that begin so, and when they came; ended is when the stream did, 0 where it has not.
func (w *watched) frames(prefix string) (frames []string, at []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, frame := range w.frame {
		if strings.HasPrefix(frame, prefix) {
			frames, at = append(frames, frame), append(at, w.at[i])
		}
	}
	return frames, at
}

func (w *watched) ended() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

func (l *live) watch(filter streams.Filter, expires time.Duration) *watched {
	w := &watched{pipe: new(pipe), began: time.Now()}
	l.hub.Subscribe(&streams.Subscription{
		Org: "1", User: "u", Filter: filter, Encoder: lines{}, Sink: w, Expires: time.Now().Add(expires),
	})
	synctest.Wait()
	return w
}

// within fails where a time is not between two others, both included.
func within(t *testing.T, what string, at, least, most time.Duration) {
	t.Helper()
	if at < least || at > most {
		t.Errorf("%s after %v, not between %v and %v", what, at, least, most)
	}
}

// nothing admits no event at all.
var nothing = streams.Filter{}

// TestHeartbeat lets a hundred readers be silent whose filter admits nothing, while the log grows: each is pinged after
// a heartbeat or up to a third less, not all at once, with the position through which it was served.
func TestHeartbeat(t *testing.T) {
	inTime(t, streams.Options{Heartbeat: 30 * time.Second}, func(t *testing.T, log *memory, l *live) {
		var silent []*watched
		for range 100 {
			silent = append(silent, l.watch(nothing, 24*time.Hour))
		}
		given := l.watch(everything, 24*time.Hour)
		time.Sleep(10 * time.Second)
		log.add("a", "b", "c")
		l.hub.WakeAll()
		time.Sleep(51 * time.Second) // 61 s: two heartbeats are over
		spread := map[time.Duration]bool{}
		for _, w := range silent {
			pings, at := w.frames("ping")
			if len(pings) < 2 || pings[0] != "ping e-3" || pings[1] != "ping e-3" {
				t.Fatalf("a silent reader got %q", pings)
			}
			within(t, "the first ping came", at[0], 20*time.Second, 30*time.Second)
			within(t, "the second ping came", at[1]-at[0], 20*time.Second, 30*time.Second)
			spread[at[0]] = true
		}
		if len(spread) < 5 {
			t.Errorf("the pings came at %d different times", len(spread))
		}
		pings, at := given.frames("ping")
		if len(pings) == 0 || pings[0] != "ping e-3" {
			t.Fatalf("a reader that was given events got %q", pings)
		}
		within(t, "the ping after events came", at[0]-10*time.Second, 20*time.Second, 30*time.Second)
	})
}

// TestPingOfBlocked has a reader take nothing: it is not pinged, and once it goes on it is as silent as any other.
func TestPingOfBlocked(t *testing.T) {
	inTime(t, streams.Options{Heartbeat: 30 * time.Second}, func(t *testing.T, log *memory, l *live) {
		w := l.watch(everything, 24*time.Hour)
		w.halt()
		log.add("a")
		l.hub.WakeAll()
		time.Sleep(5 * time.Minute) // a blocked pipe that is offered more panics
		log.add("b")
		l.hub.WakeAll()
		synctest.Wait()
		w.goOn()
		synctest.Wait()
		if ids, _ := w.events(); !slices.Equal(ids, []string{"a", "b"}) {
			t.Errorf("it has %q", ids)
		}
		time.Sleep(31 * time.Second)
		if pings, _ := w.frames("ping"); !slices.Equal(pings, []string{"ping e-2"}) {
			t.Errorf("it was pinged with %q", pings)
		}
	})
}

// TestTokenEnds: thirty seconds before the end a stream is told, once, and thirty seconds after it there is no stream. One
// that is blocked is told when it is not any more, and ended all the same.
func TestTokenEnds(t *testing.T) {
	inTime(t, streams.Options{Heartbeat: 30 * time.Second}, func(t *testing.T, log *memory, l *live) {
		const life = 2 * time.Minute
		w, stuck, late := l.watch(everything, life), l.watch(everything, life), l.watch(everything, life)
		stuck.halt()
		late.halt()
		log.add("a")
		l.hub.WakeAll()
		time.Sleep(life - 10*time.Second)
		if told, _ := late.frames("reauth"); len(told) != 0 {
			t.Error("a blocked reader was offered more")
		}
		late.goOn()
		time.Sleep(10*time.Second + 32*time.Second)
		told, at := w.frames("reauth")
		if len(told) != 1 {
			t.Fatalf("told %d times", len(told))
		}
		within(t, "told", at[0], life-30*time.Second, life-29*time.Second)
		if told, at = late.frames("reauth"); len(told) != 1 {
			t.Fatalf("the late one was told %d times", len(told))
		}
		within(t, "the late one was told", at[0], life-10*time.Second, life-9*time.Second)
		for _, one := range []*watched{w, stuck, late} {
			within(t, "ended", one.ended(), life+30*time.Second, life+31*time.Second)
		}
		if told, _ := stuck.frames("reauth"); len(told) != 0 {
			t.Error("a blocked reader was offered more")
		}
		if left := l.hub.Stats("").Streams; left != 0 {
			t.Errorf("%d streams are left", left)
		}
	})
}

// TestSweep keeps a tail that nobody reads for half a minute, for those who come back, and then forgets it with its ring.
func TestSweep(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		visit := func() {
			w := l.watch(everything, 24*time.Hour)
			w.await(t, "ack")
			w.End(nil, streams.EndDrained)
			synctest.Wait()
		}
		reader := l.watch(everything, 24*time.Hour)
		log.add("a", "b")
		l.hub.WakeAll()
		time.Sleep(time.Minute)
		if stats := l.hub.Stats("1"); stats.Orgs != 1 || stats.RingEvents != 2 {
			t.Fatalf("with a reader there are %+v", stats)
		}
		reader.End(nil, streams.EndDrained)
		time.Sleep(29 * time.Second)
		visit()
		time.Sleep(29 * time.Second)
		if stats := l.hub.Stats("1"); stats.Orgs != 1 || stats.RingEvents != 2 {
			t.Fatalf("29 s after the last reader there are %+v", stats)
		}
		time.Sleep(3 * time.Second)
		if orgs := l.hub.Orgs(); len(orgs) != 0 {
			t.Fatalf("32 s after the last reader the hub holds %q", orgs)
		}
		visit() // and the log can be read again
	})
}

// TestArrivals come while the database does not answer: those whom it leaves waiting for ten seconds get a problem, and
// the others their ack.
func TestArrivals(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		log.set(true, 0)
		early := l.watch(everything, time.Hour)
		time.Sleep(5 * time.Second)
		late := l.watch(everything, time.Hour)
		time.Sleep(7 * time.Second)
		problems, at := early.frames("")
		if !slices.Equal(problems, []string{"problem 503"}) {
			t.Fatalf("after 12 s it has %q", problems)
		}
		within(t, "the problem came", at[0], 10*time.Second, 11*time.Second)
		within(t, "the stream ended", early.ended(), 10*time.Second, 11*time.Second)
		log.set(false, 0)
		time.Sleep(time.Second)
		if frames, _ := late.frames(""); !slices.Equal(frames, []string{"ack e-0 true"}) || late.ended() != 0 {
			t.Errorf("the one that waited for 7 s has %q", frames)
		}
		if stats := l.hub.Stats("1"); stats.Streams != 1 {
			t.Errorf("there are %+v", stats)
		}
	})
}

// TestArrivalsWhileItHangs has the database take eight seconds to fail, as one does that is cut off without a word.
func TestArrivalsWhileItHangs(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		log.set(true, 8*time.Second)
		w := l.watch(everything, time.Hour)
		time.Sleep(20 * time.Second)
		if frames, _ := w.frames(""); !slices.Equal(frames, []string{"problem 503"}) {
			t.Fatalf("it has %q", frames)
		}
		within(t, "the stream ended", w.ended(), 10*time.Second, 17*time.Second)
	})
}

// TestLiveThroughOutage keeps those who were live before the database went away: they are silent, pinged, and go on.
func TestLiveThroughOutage(t *testing.T) {
	inTime(t, streams.Options{Heartbeat: 30 * time.Second}, func(t *testing.T, log *memory, l *live) {
		w := l.watch(everything, time.Hour)
		log.add("a")
		log.set(true, 0)
		l.hub.WakeAll()
		time.Sleep(5 * time.Minute)
		log.set(false, 0)
		time.Sleep(time.Second)
		if ids, _ := w.events(); !slices.Equal(ids, []string{"a"}) || w.ended() != 0 {
			t.Errorf("it has %q, and ended after %v", ids, w.ended())
		}
		if pings, _ := w.frames("ping e-0"); len(pings) < 10 {
			t.Errorf("it was pinged with %q", pings)
		}
	})
}

// TestBatchWindow gathers events for the window that is set, and bounds what goes into one write.
func TestBatchWindow(t *testing.T) {
	inTime(t, streams.Options{BatchWindow: 50 * time.Millisecond}, func(t *testing.T, log *memory, l *live) {
		w := l.watch(everything, time.Hour)
		time.Sleep(time.Second)
		for i := range 10 {
			log.add(fmt.Sprint(i))
			l.hub.WakeAll()
			time.Sleep(4 * time.Millisecond)
		}
		if ids, _ := w.events(); len(ids) != 0 {
			t.Errorf("after 40 ms it has %q", ids)
		}
		time.Sleep(11 * time.Millisecond)
		if ids, _ := w.events(); len(ids) != 10 {
			t.Errorf("after 51 ms it has %q", ids)
		}
	})
}

// TestDrain spreads the streams over the first half of the time given, tells each when to come back, and ends it. One that
// is blocked cannot be told, and is ended; a new one is refused.
func TestDrain(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		var all []*watched
		for range 1000 {
			all = append(all, l.watch(everything, time.Hour))
		}
		stuck := l.watch(everything, time.Hour)
		stuck.halt()
		log.add("a")
		l.hub.WakeAll()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		began := time.Now()
		l.hub.Drain(ctx)
		within(t, "Drain returned", time.Since(began), 2*time.Second, 5*time.Second)
		spread := map[time.Duration]int{}
		for _, w := range all {
			if frames, _ := w.frames("drain"); len(frames) != 1 {
				t.Fatalf("told %q", frames)
			}
			if last := w.lines(); last[len(last)-1] != "drain" {
				t.Fatalf("the last frames are %q", last)
			}
			spread[w.ended()]++
		}
		for at, n := range spread {
			if n > 150 {
				t.Errorf("%d streams were sent away at once, after %v", n, at)
			}
		}
		if frames, _ := stuck.frames("drain"); len(frames) != 1 {
			t.Errorf("a blocked reader, which will read on, was told %q", frames)
		}
		synctest.Wait()
		if stats := l.hub.Stats(""); stats.Streams != 0 || stats.Blocked != 0 {
			t.Errorf("there are %+v", stats)
		}
		if err := l.hub.Full("1"); !errors.Is(err, streams.ErrHubDrains) {
			t.Errorf("a new stream: %v", err)
		}
	})
}

// TestDrainOfNobody returns at once.
func TestDrainOfNobody(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, _ *memory, l *live) {
		began := time.Now()
		l.hub.Drain(context.Background())
		within(t, "Drain returned", time.Since(began), 0, 0)
	})
}
