package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/handlers"
)

// follower is a reader that comes back with its cursor for ever, as an EventSource does.
type follower struct {
	mu   sync.Mutex
	seen []string // guarded by mu
	done chan struct{}
	quit chan struct{}
}

// follow reads everything that the token admits from wherever the instance at the address of p is, across its ends.
func follow(p *process, via transport, token string) *follower {
	f := &follower{done: make(chan struct{}), quit: make(chan struct{})}
	go func() {
		defer close(f.done)
		last, query := "", "cursor=earliest"
		for {
			s, err := p.tryOpen(via, token, query, last)
			if err != nil {
				select {
				case <-f.quit:
					return
				case <-time.After(50 * time.Millisecond):
					continue
				}
			}
			ended := false
			for !ended {
				select {
				case <-f.quit:
					s.cut()
					return
				case one, ok := <-s.frames:
					ended = !ok
					if one.id != "" {
						last = one.id
					}
					f.take(one)
				}
			}
			s.cut()
		}
	}()
	return f
}

func (f *follower) take(one frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch one.kind {
	case "", "ack", "ping", "drain":
	case "finance":
		var event struct{ ID string }
		if err := json.Unmarshal([]byte(one.text), &event); err == nil {
			f.seen = append(f.seen, event.ID)
		}
	default:
		f.seen = append(f.seen, one.kind+" "+one.text) // a frame that must not come makes the comparison fail
	}
}

func (f *follower) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// await waits until the follower has seen n events, and ends it.
func (f *follower) await(t *testing.T, n int, within time.Duration) []string {
	t.Helper()
	deadline := time.After(within)
	for len(f.got()) < n {
		select {
		case <-deadline:
			t.Fatalf("%d of %d events within %s", len(f.got()), n, within)
		case <-time.After(10 * time.Millisecond):
		}
	}
	close(f.quit)
	<-f.done
	return f.got()
}

// publishers publish one event after another until stopped, each again and again with the same id until it is
// acknowledged.
type publishers struct {
	stop  chan struct{}
	group sync.WaitGroup
	mu    sync.Mutex
	acked []string // guarded by mu
}

func publishAll(p *process, token string, count int) *publishers {
	all := &publishers{stop: make(chan struct{})}
	for n := range count {
		all.group.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("p%d-%d", n, i)
				for {
					select {
					case <-all.stop:
						return
					default:
					}
					if _, err := p.publish(token, event(id, "7")); err == nil {
						break
					}
				}
				all.mu.Lock()
				all.acked = append(all.acked, id)
				all.mu.Unlock()
			}
		})
	}
	return all
}

func (a *publishers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.acked)
}

// reach waits until n more events are acknowledged.
func (a *publishers) reach(t *testing.T, n int) {
	t.Helper()
	target := a.count() + n
	deadline := time.After(patience)
	for a.count() < target {
		select {
		case <-deadline:
			t.Fatalf("%d events are acknowledged, not %d", a.count(), target)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (a *publishers) end() []string {
	close(a.stop)
	a.group.Wait()
	return a.acked
}

// wholeLog reads the log from its beginning up to an event published last.
func wholeLog(t *testing.T, p *process, token string) []string {
	t.Helper()
	p.mustPublish(token, event("the-end", "7"))
	s := p.open(transports()[0], token, "cursor=earliest", "")
	defer s.cut()
	var log []string
	for {
		id := s.events(1)[0]
		log = append(log, id)
		if id == "the-end" {
			return log
		}
	}
}

// compare holds what every follower has seen against the log, and the log against what was acknowledged.
func compare(t *testing.T, p *process, token string, acked []string, followers []*follower, within time.Duration) {
	t.Helper()
	log := wholeLog(t, p, token)
	sorted := slices.Sorted(slices.Values(log))
	if len(slices.Compact(slices.Clone(sorted))) != len(log) {
		t.Fatal("the log holds an id twice")
	}
	for _, id := range acked {
		if _, found := slices.BinarySearch(sorted, id); !found {
			t.Fatalf("%s was acknowledged and is not in the log", id)
		}
	}
	for i, f := range followers {
		if got := f.await(t, len(log), within); !slices.Equal(got, log) {
			at := firstDifference(got, log)
			t.Fatalf("follower %d has seen %d events, the log has %d: they differ at %d: %q, not %q", i, len(got), len(log),
				at, got[at:min(at+4, len(got))], log[at:min(at+4, len(log))])
		}
	}
}

func firstDifference(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestKillInstance kills the instance while 50 read and 4 publish, twice.
func TestKillInstance(t *testing.T) {
	address := freePort(t)
	flags := append(shared(t), "--listen="+address, "--max-streams-per-user=0")
	p := serve(t, flags...)
	all := admin(t, "1")
	var followers []*follower
	for i := range 50 {
		followers = append(followers, follow(p, transports()[i%2], all))
	}
	publishing := publishAll(p, all, 4)
	for range 2 {
		publishing.reach(t, 100)
		p.kill()
		p = serve(t, flags...)
	}
	publishing.reach(t, 100)
	compare(t, p, all, publishing.end(), followers, patience)
}

// TestKillPostgres kills the private Postgres under load. The streams stay up, and everything arrives once it is back.
func TestKillPostgres(t *testing.T) {
	data := shortDir(t)
	p := serve(t, "--data="+data, "--max-streams-per-user=0")
	all := admin(t, "1")
	var open []*stream
	for _, via := range transports() {
		s := p.open(via, all, "", "")
		s.wait("ack")
		open = append(open, s)
	}
	publishing := publishAll(p, all, 4)
	for range 2 {
		publishing.reach(t, 50)
		if err := syscall.Kill(postmaster(t, p), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		publishing.reach(t, 50)
	}
	acked := publishing.end()
	log := wholeLog(t, p, all)
	for _, s := range open {
		// One and the same stream has carried it all.
		if got := s.events(len(log)); !slices.Equal(got, log) {
			t.Fatalf("the stream differs from the log at %d", firstDifference(got, log))
		}
	}
	sorted := slices.Sorted(slices.Values(log))
	for _, id := range acked {
		if _, found := slices.BinarySearch(sorted, id); !found {
			t.Fatalf("%s was acknowledged and is not in the log", id)
		}
	}
}

// postmaster finds the private Postgres: the child of the instance that is called postgres.
func postmaster(t *testing.T, p *process) int {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.command.Process.Pid))
	if err != nil || len(children) == 0 {
		t.Fatal("no list of children in /proc")
	}
	for _, list := range children {
		text, _ := os.ReadFile(list)
		for _, digits := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + digits + "/comm")
			if strings.TrimSpace(string(name)) == "postgres" {
				pid, _ := strconv.Atoi(digits)
				return pid
			}
		}
	}
	t.Fatal("the instance has no Postgres")
	return 0
}

// TestTwoOrgsManyFilters sends random traffic of two orgs to readers with random properties: each reads exactly what
// its filter admits, in order, and nothing of the other org.
func TestTwoOrgsManyFilters(t *testing.T) {
	p := serve(t, append(shared(t), "--max-streams-per-user=0")...)
	random := rand.New(rand.NewPCG(1, 2))
	type reader struct {
		org        string
		properties []string // nil: all
		stream     *stream
		want       []string
	}
	var readers []*reader
	for i := range 40 {
		r := &reader{org: strconv.Itoa(1 + i%2)}
		claims := handlers.Claims{Org: r.org, User: strconv.Itoa(i), Role: "MANAGER"}
		switch i % 5 {
		case 0:
			claims.Role = "ADMIN"
		default:
			for property := range 6 {
				if random.IntN(3) == 0 {
					r.properties = append(r.properties, strconv.Itoa(property))
				}
			}
			claims.Properties = append([]string{"none"}, r.properties...)
			r.properties = claims.Properties
		}
		r.stream = p.open(transports()[i%3%2], token(t, claims), "services=finance,tasks", "")
		r.stream.wait("ack")
		readers = append(readers, r)
	}
	for n := range 300 {
		org := strconv.Itoa(1 + random.IntN(2))
		property := ""
		if at := random.IntN(8); at < 6 {
			property = strconv.Itoa(at)
		}
		service := []string{"finance", "tasks", "branding"}[random.IntN(3)]
		id := fmt.Sprintf("%s-%d", org, n)
		p.mustPublish(admin(t, org), map[string]any{"id": id, "service": service, "type": "x", "propertyId": property})
		for _, r := range readers {
			if r.org == org && service != "branding" &&
				(property == "" || r.properties == nil || slices.Contains(r.properties, property)) {
				r.want = append(r.want, id)
			}
		}
	}
	for i, r := range readers {
		last := "last-" + r.org
		if i < 2 {
			p.mustPublish(admin(t, r.org), map[string]any{"id": last, "service": "finance", "type": "x"})
		}
		r.want = append(r.want, last)
	}
	for i, r := range readers {
		if got := r.stream.events(len(r.want)); !slices.Equal(got, r.want) {
			t.Fatalf("reader %d (org %s, properties %v): %v, not %v", i, r.org, r.properties, got, r.want)
		}
	}
}
