package streams_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/store"
	"sluice/streams"
)

// private is a log in which events for one user stand between those for all.
var private = []store.Event{
	{ID: "a", PropertyID: "1"},
	{ID: "b", PropertyID: "9", Audience: "u1"},
	{ID: "c"},
	{ID: "d", PropertyID: "1", Audience: "u2"},
	{ID: "e", PropertyID: "1", Audience: "u1"},
	{ID: "f", PropertyID: "2"},
	{ID: "g", Audience: "u9"},
	{ID: "h", PropertyID: "1"},
	{ID: "i", Audience: "u1", Service: "tasks"},
}

var finance = store.DefaultCatalogue().Bit("finance")

// privateReaders are who may read it, and what they get.
var privateReaders = []struct {
	user   string
	filter streams.Filter
	want   string
}{
	{"u1", streams.Filter{Services: ^uint64(0), Properties: []string{"1", "2"}}, "a b c e f h i"},
	{"u1", streams.Filter{Services: ^uint64(0), Properties: []string{"1", "2"}}, "a b c e f h i"}, // a second stream
	{"u2", streams.Filter{Services: ^uint64(0), Properties: []string{"1", "2"}}, "a c d f h"},
	{"u3", streams.Filter{Services: ^uint64(0), Properties: []string{"1", "2"}}, "a c f h"},
	{"", streams.Filter{Services: ^uint64(0), Properties: []string{"1", "2"}}, "a c f h"},
	{"u9", streams.Filter{Services: ^uint64(0)}, "c g"},
	{"u1", streams.Filter{Services: finance, Properties: []string{"2"}}, "b c e f"},
	{"u1", streams.Filter{Services: ^uint64(0), Properties: []string{"1"}, Private: streams.PrivateNarrowed}, "a c e h i"},
	{"u2", streams.Filter{Services: ^uint64(0), Properties: []string{"2"}, Private: streams.PrivateNarrowed}, "c f"},
	{"admin", streams.Filter{Services: ^uint64(0), AllProperties: true}, "a b c d e f g h i"},
	{"u1", streams.Filter{Services: ^uint64(0), AllProperties: true}, "a b c d e f g h i"},
	{"admin", streams.Filter{Services: finance, Properties: []string{"1"}, Private: streams.PrivateAll}, "a c d e g h"},
	{"u1", streams.Filter{Services: finance, Properties: []string{"2"}, Private: streams.PrivateAll}, "c f g"},
}

func (m *memory) put(events ...store.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, one := range events {
		if one.Service == "" {
			one.Service = "finance"
		}
		one.Org, one.Seq, one.Time, one.Type = "1", int64(len(m.events)+1), time.Now(), "x"
		m.events = append(m.events, one)
	}
}

// everyReader subscribes all of them at a position.
func (l *live) everyReader(at streams.Start) (pipes []*pipe) {
	for _, one := range privateReaders {
		pipes = append(pipes, l.subscribeAs(one.user, "1", one.filter, at))
	}
	synctest.Wait()
	return pipes
}

func haveTheirs(t *testing.T, how string, pipes []*pipe) {
	t.Helper()
	for i, one := range privateReaders {
		if ids, _ := pipes[i].events(); strings.Join(ids, " ") != one.want {
			t.Errorf("%s: %s with %+v has %q, not %q", how, one.user, one.filter, ids, one.want)
		}
	}
}

// TestPrivateEvents gives everybody exactly their own, in order: live, one by one and in one page; after being blocked; and
// from the ring and from pages.
func TestPrivateEvents(t *testing.T) {
	earliest := streams.Start{Kind: streams.StartEarliest}
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		pipes := l.everyReader(streams.Start{})
		for _, one := range private {
			log.put(one)
			l.hub.WakeAll()
			synctest.Wait()
		}
		haveTheirs(t, "one by one", pipes)
		haveTheirs(t, "from the ring", l.everyReader(earliest))
	})
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		pipes, halted := l.everyReader(streams.Start{}), l.everyReader(streams.Start{})
		for i, p := range halted {
			if i%2 == 0 {
				p.halt()
			}
		}
		log.put(private[:5]...)
		l.hub.WakeAll()
		synctest.Wait()
		log.put(private[5:]...)
		l.hub.WakeAll()
		synctest.Wait()
		haveTheirs(t, "in two pages", pipes)
		for _, p := range halted {
			p.goOn()
		}
		synctest.Wait()
		haveTheirs(t, "after being blocked", halted)
	})
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		log.put(private...)
		haveTheirs(t, "from pages", l.everyReader(earliest))
	})
}

// answers is a dialect of polls that tests can read.
type answers struct{}

func (answers) Name() string { return "test" }
func (answers) Most() int    { return 2 }
func (answers) Answer(dst []byte, a *streams.Answer) []byte {
	for _, event := range a.Events {
		dst = fmt.Appendf(dst, "event %s %s-%d\n", event.ID, a.Epoch, event.Seq)
	}
	return fmt.Appendf(dst, "at %s\n", a.Cursor)
}

func (answers) Problem(dst []byte, p streams.StreamProblem) []byte {
	return fmt.Appendf(dst, "problem %d\n", p.Status)
}

func (l *live) pollAs(user string, filter streams.Filter, at store.Cursor) *pipe {
	p := new(pipe)
	l.hub.Subscribe(&streams.Subscription{
		Org: "1", User: user, Filter: filter, Start: streams.Start{Kind: streams.StartAt, Cursor: at},
		Poll: &streams.Poll{Wait: time.Minute, Encoder: answers{}}, Sink: p, Expires: time.Now().Add(time.Hour),
	})
	synctest.Wait()
	return p
}

// TestPrivatePolls reads the same by polls, parked while the events come and afterwards. One that gets a private event does
// not end the others that wait with the same filter.
func TestPrivatePolls(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		parked := make([]*pipe, len(privateReaders))
		for i, one := range privateReaders {
			parked[i] = l.pollAs(one.user, one.filter, store.Cursor{Epoch: "e"})
		}
		got := make([][]string, len(privateReaders))
		for n, one := range private {
			log.put(one)
			l.hub.WakeAll()
			synctest.Wait()
			for i, reader := range privateReaders {
				wanted := slices.Contains(strings.Fields(reader.want), one.ID)
				if answered := parked[i].isOver(); answered != wanted {
					t.Fatalf("%s with %+v is answered at %s: %t", reader.user, reader.filter, one.ID, answered)
				}
				if wanted {
					ids, _ := parked[i].events()
					got[i] = append(got[i], ids...)
					parked[i] = l.pollAs(reader.user, reader.filter, store.Cursor{Epoch: "e", Seq: int64(n + 1)})
				}
			}
		}
		for i, reader := range privateReaders {
			if strings.Join(got[i], " ") != reader.want {
				t.Errorf("parked %s with %+v got %q, not %q", reader.user, reader.filter, got[i], reader.want)
			}
			var ids []string
			for at := (store.Cursor{Epoch: "e"}); ; {
				p := l.pollAs(reader.user, reader.filter, at)
				if !p.isOver() {
					break
				}
				more, _ := p.events()
				ids = append(ids, more...)
				lines := p.lines()
				var err error
				if at, err = store.ParseCursor(strings.TrimPrefix(lines[len(lines)-1], "at ")); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Join(ids, " ") != reader.want {
				t.Errorf("%s with %+v polls %q, not %q", reader.user, reader.filter, ids, reader.want)
			}
		}
	})
}

// tallied counts the batches that are framed.
type tallied struct {
	lines
	batches *int
}

func (c tallied) Batch(dst []byte, pieces []streams.Payload, last store.Cursor) []byte {
	*c.batches++
	return c.lines.Batch(dst, pieces, last)
}

// TestPrivateEventsKeepGroups has many users with equal filters, to whom a batch is framed once, also after some of them
// were given events of their own. Pings tell all of them how far they were served.
func TestPrivateEventsKeepGroups(t *testing.T) {
	inTime(t, streams.Options{Heartbeat: 30 * time.Second}, func(t *testing.T, log *memory, l *live) {
		batches := 0
		var all []*pipe
		for i := range 200 {
			p := new(pipe)
			all = append(all, p)
			l.hub.Subscribe(&streams.Subscription{
				Org: "1", User: fmt.Sprint("u", i), Filter: streams.Filter{Services: finance, Properties: []string{"1"}},
				Encoder: tallied{batches: &batches}, Sink: p, Expires: time.Now().Add(time.Hour),
			})
		}
		synctest.Wait()
		for range 3 {
			log.put(store.Event{ID: "x"}, store.Event{ID: "y", PropertyID: "1"})
			l.hub.WakeAll()
			synctest.Wait()
			if batches != 1 {
				t.Errorf("a batch for all was framed %d times", batches)
			}
			log.put(store.Event{ID: "one", Audience: "u3"}, store.Event{ID: "two", Audience: "u5"})
			l.hub.WakeAll()
			synctest.Wait()
			batches = 0
		}
		time.Sleep(31 * time.Second)
		for i, p := range all {
			want := "x y x y x y"
			switch i {
			case 3:
				want = "x y one x y one x y one"
			case 5:
				want = "x y two x y two x y two"
			}
			if ids, _ := p.events(); strings.Join(ids, " ") != want {
				t.Errorf("user %d has %q", i, ids)
			}
			if lines := p.lines(); lines[len(lines)-1] != "ping e-12" {
				t.Errorf("user %d is told %q", i, lines[len(lines)-1])
			}
		}
	})
}

// TestPrivateLong gives a user more at once than one subscriber is served in a turn, with others' between: the rest comes
// by replay, and the stream goes on live.
func TestPrivateLong(t *testing.T) {
	inTime(t, streams.Options{}, func(t *testing.T, log *memory, l *live) {
		p := l.subscribeAs("u1", "1", streams.Filter{Services: finance}, streams.Start{})
		synctest.Wait()
		var want []string
		var events []store.Event
		for i := range 60 {
			one := store.Event{ID: fmt.Sprint("e", i), Audience: "u1", Data: []byte(`"` + strings.Repeat("x", 60<<10) + `"`)}
			events, want = append(events, one, store.Event{ID: "not", Audience: "u2"}), append(want, one.ID)
		}
		log.put(events...)
		l.hub.WakeAll()
		synctest.Wait()
		log.put(store.Event{ID: "last"})
		l.hub.WakeAll()
		synctest.Wait()
		if ids, _ := p.events(); !slices.Equal(ids, append(want, "last")) {
			t.Errorf("%q", ids)
		}
		l.hub.Drain(context.Background())
	})
}
