package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// What is to be had through a door of a proxy. A client goes on to its next door at once where it is refused, and when its
// own time is over where nothing comes.
const (
	works   = "works"
	refused = "refused at once"
	held    = "held back"
)

// through is docs/proxies.md as a table: what works through which proxy. HTTP is that between client and proxy.
var through = []struct {
	setup                        func(t testing.TB) proxySetup
	http                         string
	sse, ndjson, websocket, poll string
}{
	{always(nginxDefault), "HTTP/1.1", works, works, refused, works},
	{always(nginxStripped), "HTTP/1.1", works, works, refused, works},
	{always(nginxPassing), "HTTP/1.1", works, works, works, works},
	{always(nginxHolding), "HTTP/1.1", held, held, refused, works},
	{always(nginxHurried), "HTTP/1.1", works, works, works, works},
	{always(haproxyPlain), "HTTP/1.1", works, works, works, works},
	{always(haproxyHurry), "HTTP/1.1", works, works, works, works},
	{func(t testing.TB) proxySetup { return advised(t, "nginx") }, "HTTP/2.0", works, works, works, works},
	{func(t testing.TB) proxySetup { return advised(t, "haproxy") }, "HTTP/2.0", works, works, works, works},
}

func always(setup proxySetup) func(testing.TB) proxySetup {
	return func(testing.TB) proxySetup { return setup }
}

// TestThroughProxies goes through every door of every proxy. Where one works, a reader that leaves it in the middle and
// comes back with its cursor has exactly the log, with and without padding.
func TestThroughProxies(t *testing.T) {
	t.Parallel()
	p := serve(t, shared(t)...)
	told, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	for row, one := range through {
		setup := one.setup(t)
		if line := fmt.Sprintf("| %s | %s | %s | %s | %s |\n", setup.name, one.sse, one.ndjson, one.websocket, one.poll); !bytes.Contains(told, []byte(line)) {
			t.Errorf("docs/proxies.md does not say %s", line)
		}
		t.Run(setup.name, func(t *testing.T) {
			t.Parallel()
			before := setup.start(t, p.url)
			expected := map[string]string{"sse": one.sse, "ndjson": one.ndjson, "websocket": one.websocket, "poll": one.poll}
			for _, door := range slices.Sorted(maps.Keys(expected)) {
				all := admin(t, fmt.Sprintf("%d-%s", row, door)) // a log of its own
				f := before.mover(t, all, p.mustPublish(all, event("first", ""))[0].Cursor)
				if got := f.tries(t, p, door, expected[door] == held); got != expected[door] {
					t.Errorf("%s %s, expected: %s", door, got, expected[door])
				}
				if door != "websocket" && expected[door] == works && f.proto != one.http {
					t.Errorf("%s is over %s, expected: %s", door, f.proto, one.http)
				}
			}
		})
	}
}

// tries says what is to be had through a door. Nothing tells a client that something is held back but its own clock.
func (f *mover) tries(t *testing.T, p *process, door string, hurried bool) string {
	t.Helper()
	want := []string{"a", "b", "c", "d", "e", "f"}
	p.mustPublish(f.token, []map[string]any{event("a", ""), event("b", "")})
	clock := patience
	if hurried {
		clock = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), clock)
	defer cancel()
	err := doors[door](f, ctx, 1)
	var status ws.StatusError
	switch {
	case errors.As(err, &status) && int(status) == 426:
		return refused
	case errors.Is(err, context.DeadlineExceeded) && len(f.ids) == 0:
		return held
	case err != nil:
		return err.Error()
	}
	published := make(chan error, 1)
	go func() {
		for _, id := range want[2:] {
			if _, err := p.publish(f.token, event(id, "")); err != nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	for len(f.ids) < len(want) {
		f.query = "services=finance&pad=1"
		if door == "poll" || door == "websocket" || len(f.ids)%2 == 0 {
			f.query = "services=finance"
		}
		if err := f.read(door, min(2, len(want)-len(f.ids))); err != nil {
			return fmt.Sprintf("%v after %q", err, f.ids)
		}
	}
	if err := <-published; err != nil {
		return err.Error()
	}
	if !slices.Equal(f.ids, want) {
		return fmt.Sprintf("%q", f.ids)
	}
	return works
}

// TestThroughIdleTimeouts is silent for longer than proxies with an idle time-out of 5 s let a connection be. With a shorter
// heartbeat a stream lives; with a longer one, as for a poll that waits for longer, it is cut, and the reader comes back and
// misses nothing.
func TestThroughIdleTimeouts(t *testing.T) {
	t.Parallel()
	database := shared(t)
	often, seldom := serve(t, append(database, "--heartbeat=1s")...), serve(t, database...)
	for row, setup := range []proxySetup{nginxHurried, haproxyHurry} {
		t.Run(setup.name, func(t *testing.T) {
			t.Parallel()
			alive, cut := setup.start(t, often.url), setup.start(t, seldom.url)
			all := admin(t, fmt.Sprint(row))
			start := often.mustPublish(all, event("first", ""))[0].Cursor
			lives, dies := map[string]chan error{}, map[string]chan error{}
			readers := map[string]*mover{}
			opens := func(before *proxy, door string, to map[string]chan error) *mover {
				f, ended := before.mover(t, all, start), make(chan error, 1)
				to[door] = ended
				go func() { ended <- f.read(door, 1) }()
				return f
			}
			for door := range doors {
				if door != "poll" {
					opens(alive, door, lives)
				}
				readers[door] = opens(cut, door, dies)
			}
			began := time.Now()
			watched := (&process{t: t, url: alive.url}).open(transports()[0], all, "services=finance", start)
			for door, ended := range dies {
				if err := <-ended; err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s through silence: %v, expected: an end", door, err)
				}
			}
			for time.Since(began) < 8*time.Second {
				watched.wait("ping")
			}
			seldom.mustPublish(all, event("second", ""))
			for door, ended := range lives {
				if err := <-ended; err != nil {
					t.Errorf("%s with a shorter heartbeat: %v", door, err)
				}
			}
			if got := watched.events(1); got[0] != "second" {
				t.Errorf("the stream goes on with %s", got)
			}
			for door, f := range readers {
				if err := f.read(door, 1); err != nil || !slices.Equal(f.ids, []string{"second"}) {
					t.Errorf("%s comes back to %q: %v", door, f.ids, err)
				}
			}
		})
	}
}
