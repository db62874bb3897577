package handlers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/store"
	"sluice/streams"
)

// admin is the token of a reader who sees all of org 1.
func admin(t testing.TB, user string) string { return mint(t, Claims{User: user, Role: "ADMIN"}) }

// TestSlowReader has a reader with a tiny receive buffer stop until it is blocked, and then read on in small pieces: it gets
// every event once, in valid chunks, and another reader is served without delay meanwhile.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	slow := d.dial("HTTP/1.1", admin(t, "slow"), 4<<10)
	if !strings.HasPrefix(slow.head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(slow.head, "\r\nTransfer-Encoding: chunked\r\n") ||
		!strings.Contains(slow.head, "\r\nConnection: close\r\n") {
		t.Fatalf("answered with %q", slow.head)
	}
	quick := read(d.stream(d.client, admin(t, "quick")).Body)
	eventually(t, patience, "no ack", func() bool { return slices.Contains(quick.kinds(), "ack") })
	d.await("1", 2, 0)
	want := d.block("1")
	quick.reach(t, want)
	if blocked := d.server.Hub.Stats("1").Blocked; blocked != 1 {
		t.Errorf("%d readers are blocked, not 1", blocked)
	}

	dripped := make(chan []byte, 1)
	go func() {
		text, err := slow.drip()
		if err != nil {
			t.Error(err)
		}
		dripped <- text
	}()
	d.await("1", 2, 0)
	want = append(want, d.append("1", 20, 200)...) // many small ones, in one chunk or several
	quick.reach(t, want)
	eventually(t, patience, "a reader that reads on is not served to the end", func() bool {
		return d.server.Hub.Stats("1").Delivered >= int64(2*len(want))
	})
	d.await("1", 2, 0)
	d.server.Hub.Drain(context.Background())
	body, whole := unchunk(t, <-dripped)
	if !whole {
		t.Error("the stream has ended in good order, and there is no last chunk")
	}
	ids, kinds := framesOf(t, body)
	if !slices.Equal(ids, want) {
		t.Errorf("the slow reader has %d events, not those %d", len(ids), len(want))
	}
	if kinds[0] != "ack" || kinds[len(kinds)-1] != "drain" || len(kinds) != len(want)+2 {
		t.Errorf("the frames are %q", kinds)
	}
}

// TestHTTP10 asks as a client that knows no chunks: it gets the bare frames, and the connection's end is theirs.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	w := d.dial("HTTP/1.0", admin(t, "7"), 4<<10)
	if !strings.HasPrefix(w.head, "HTTP/1.0 200 OK\r\n") || strings.Contains(w.head, "Transfer-Encoding") {
		t.Fatalf("answered with %q", w.head)
	}
	d.await("1", 1, 0)
	want := d.block("1")
	dripped := make(chan []byte, 1)
	go func() {
		text, err := w.drip()
		if err != nil {
			t.Error(err)
		}
		dripped <- text
	}()
	eventually(t, patience, "a reader that reads on is not served to the end", func() bool {
		return d.server.Hub.Stats("1").Delivered == int64(len(want))
	})
	d.await("1", 1, 0)
	d.server.Hub.Drain(context.Background())
	text := <-dripped
	if !strings.HasPrefix(string(text), "retry: ") || !strings.HasSuffix(string(text), "}\n\n") {
		t.Errorf("the body begins with %.20q and ends with %q", text, text[max(0, len(text)-20):])
	}
	if ids, kinds := framesOf(t, text); !slices.Equal(ids, want) || kinds[len(kinds)-1] != "drain" {
		t.Errorf("the reader has %q, not %q", ids, want)
	}
}

// TestEndOfBlocked ends readers that are blocked, again and again at another place: each can still read what it was
// offered, then why it ends, and then the last chunk.
func TestEndOfBlocked(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withHub(streams.Options{MaxStreamsPerUser: 1}))
	following(d)
	for round := range 12 {
		slow := d.dial("HTTP/1.1", admin(t, "7"), 4<<10)
		d.await("1", 1, 0)
		want := d.block("1")
		newer := d.dial("HTTP/1.1", admin(t, "7"), 0) // takes the place of the one that is blocked
		d.await("1", 1, 0)
		text, err := slow.drip()
		body, whole := unchunk(t, text)
		if err != nil || !whole {
			t.Fatalf("round %d: after %d bytes there is no last chunk: %v", round, len(text), err)
		}
		ids, kinds := framesOf(t, body)
		if len(ids) == 0 || len(ids) > len(want) || !slices.Equal(ids, want[:len(ids)]) || kinds[len(kinds)-1] != "problem" {
			t.Fatalf("round %d: %q of %q", round, kinds, want)
		}
		newer.Close()
		d.await("1", 0, 0)
	}
}

// TestEndIsHeard ends an idle stream: its reader is told why, and gets the last chunk.
func TestEndIsHeard(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withHub(streams.Options{MaxStreamsPerUser: 1}))
	old := d.dial("HTTP/1.1", admin(t, "7"), 0)
	d.await("1", 1, 0)
	d.dial("HTTP/1.1", admin(t, "7"), 0)
	text, err := old.drip()
	body, whole := unchunk(t, text)
	if err != nil || !whole {
		t.Fatalf("%q, %v", text, err)
	}
	if _, kinds := framesOf(t, body); !slices.Equal(kinds, []string{"ack", "problem"}) {
		t.Errorf("the frames are %q", kinds)
	}
	d.await("1", 1, 0)
}

// TestIdleSinks opens 500 streams: no goroutine waits for one of them, a peer that closes is noticed long before
// anything is written to it, and no descriptor stays.
func TestIdleSinks(t *testing.T) { // alone: it counts what the process has
	d := openDoor(t, withHub(streams.Options{}))
	token := admin(t, "7")
	d.ask("GET", "/healthz/live", "", "") // what a first connection makes stays
	d.client.CloseIdleConnections()
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	var before, goroutines int
	eventually(t, patience, "the process does not come to rest", func() bool {
		was := before
		before, goroutines = descriptors(), runtime.NumGoroutine()
		return was == before
	})
	const many = 500
	var open []*wire
	for range many {
		open = append(open, d.dial("HTTP/1.1", token, 0))
	}
	d.await("1", many, 0)
	eventually(t, patience, "goroutines wait for idle streams", func() bool { return runtime.NumGoroutine() < goroutines+many/10 })
	// Others may close some meanwhile: connections that were idle, files of uploads that were let go.
	if held := descriptors() - before; held < 2*many-many/10 || held > 2*many+many/10 {
		t.Errorf("%d streams hold %d descriptors of both ends", many, held)
	}
	for i, w := range open {
		if i%2 == 0 {
			_ = w.SetLinger(0) // a reset, and for the others an orderly end
		}
		w.Close()
	}
	eventually(t, patience, "closed peers are not noticed", func() bool { return d.server.Hub.Stats("1").Streams == 0 })
	eventually(t, patience, "descriptors leak", func() bool { return descriptors() <= before+2 })
}

// TestPeerOfBlocked closes while the sink is blocked, which is noticed at once, too.
func TestPeerOfBlocked(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withHub(streams.Options{}), withWriteTimeout(time.Hour))
	following(d)
	for _, linger := range []int{0, -1} { // a reset, and an orderly end
		w := d.dial("HTTP/1.1", admin(t, "7"), 4<<10)
		d.await("1", 1, 0)
		d.block("1")
		_ = w.SetLinger(linger)
		w.Close()
		d.await("1", 0, 0)
	}
}

// TestWriteTimeout closes a reader that takes nothing, and not one that is slow but goes on for longer than that.
func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 1500 * time.Millisecond
	d := openDoor(t, withHub(streams.Options{}), withWriteTimeout(timeout))
	following(d)
	w := d.dial("HTTP/1.1", admin(t, "7"), 4<<10)
	d.await("1", 1, 0)
	d.block("1")
	blocked := time.Now()
	d.await("1", 0, 0)
	if after := time.Since(blocked); after > timeout+patience/2 {
		t.Errorf("closed after %v", after)
	}
	if n := d.stalled(); n != 1 {
		t.Errorf("%v readers without progress are counted", n)
	}
	text, _ := w.drip()
	if _, whole := unchunk(t, text); whole {
		t.Error("a reader that was given up got the last chunk, as if it had all")
	}

	// One event of 800 KiB is one payload. At 4 KiB in 15 ms, it takes the slow one well over the timeout.
	w = d.dial("HTTP/1.1", admin(t, "7"), 4<<10)
	want := d.append("1", 1, 0)
	large := made("1", strings.Repeat("x", 800<<10))
	if _, err := d.appender.Append(t.Context(), []store.Draft{large}); err != nil {
		t.Fatal(err)
	}
	want = append(append(want, large.ID), d.append("1", 1, 0)...)
	began, pace := time.Now(), time.NewTicker(timeout/100)
	defer pace.Stop()
	for !strings.Contains(string(w.text[max(0, len(w.text)-16<<10):]), want[2]) {
		if err := w.sip(8 << 10); err != nil {
			t.Fatalf("a slow reader was closed after %v and %d bytes: %v", time.Since(began), len(w.text), err)
		}
		<-pace.C
	}
	if took := time.Since(began); took < timeout {
		t.Errorf("the reader was not slow: %v", took)
	}
	w.Close()
	body, _ := unchunk(t, w.text)
	whole := body[:bytes.LastIndex(body, []byte("\n\n"))+2] // the last frame may have been cut
	if ids, _ := framesOf(t, whole); !slices.Equal(ids[:2], want[:2]) {
		t.Errorf("the slow reader has %q", ids)
	}
}

// TestRequestBehindStream sends more than the one request. It is not read, and the stream is none the worse.
func TestRequestBehindStream(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	w := d.dial("HTTP/1.1", admin(t, "7"), 0)
	d.await("1", 1, 0)
	fmt.Fprint(w, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n")
	want := d.append("1", 3, 100)
	eventually(t, patience, "nothing is delivered", func() bool { return d.server.Hub.Stats("1").Delivered == 3 })
	for {
		body, _ := unchunk(t, w.text)
		if ids, _ := framesOf(t, body); slices.Equal(ids, want) {
			break
		}
		if err := w.sip(64 << 10); err != nil {
			t.Fatalf("after %q: %v", w.text, err)
		}
	}
	w.Close()
	d.await("1", 0, 0)
}
