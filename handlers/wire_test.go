package handlers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gosse "github.com/tmaxmax/go-sse"

	"sluice/store"
	"sluice/streams"
)

const patience = 30 * time.Second

// eventually looks until something is so that tells nobody when it becomes so.
func eventually(t testing.TB, within time.Duration, what string, met func() bool) {
	t.Helper()
	deadline := time.After(within)
	for !met() {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(time.Millisecond):
		}
	}
}

// following runs a notifier, as a served instance has one.
func following(d *door) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	notifier := streams.NewNotifier(d.events, d.server.Hub, d.server.Log)
	notifier.Wanted, notifier.Present, notifier.Missed, notifier.Typed = d.uploads.Wanted, d.presence.Present, d.presence.Missed, d.typing.Typed
	running.Go(func() { notifier.Run(ctx) })
	d.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// withHub gives the door another hub.
func withHub(options streams.Options) func(*door) {
	return func(d *door) {
		if options.Heartbeat == 0 {
			options.Heartbeat = time.Hour
		}
		options.RingMemory, options.BatchMax = 1<<20, 100
		d.server.Registry = prometheus.NewRegistry()
		metrics := streams.NewMetrics(d.server.Registry, d.server.Catalogue)
		d.server.Hub = streams.NewHub(d.events, d.server.Catalogue, options, metrics)
		d.t.Cleanup(d.server.Hub.Close)
	}
}

func withWriteTimeout(after time.Duration) func(*door) {
	return func(d *door) { d.server.WriteTimeout = after }
}

// made is a draft with an id that no other has.
func made(org, text string) store.Draft {
	return store.Draft{Event: store.Event{
		Org: org, ID: fmt.Sprintf("e%d", rand.Uint64()), Service: "finance", Type: "x", Data: json.RawMessage(`{"x":"` + text + `"}`),
	}}
}

// append adds events of random sizes to an org's log and returns their ids.
func (d *door) append(org string, n, most int) (ids []string) {
	d.t.Helper()
	var drafts []store.Draft
	for range n {
		one := made(org, strings.Repeat("x", rand.IntN(most+1)))
		ids, drafts = append(ids, one.ID), append(drafts, one)
	}
	if _, err := d.appender.Append(context.Background(), drafts); err != nil {
		d.t.Fatal(err)
	}
	return ids
}

// wire is one stream as its bytes come from the socket.
type wire struct {
	*net.TCPConn
	t    testing.TB
	from *bufio.Reader
	head string
	text []byte // of the body, as far as it was read
}

// receiveBuffer bounds the receive buffer of a connection before it is made, for the window is agreed upon then.
func receiveBuffer(size int) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) (err error) {
		if size == 0 {
			return nil
		}
		failed := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size) })
		return errors.Join(failed, err)
	}
}

// dial asks for a stream on a connection of its own, whose receive buffer may be tiny, and reads up to its ack: what is
// published afterwards is for this reader.
func (d *door) dial(protocol, token string, buffer int) *wire {
	d.t.Helper()
	dialer := net.Dialer{Control: receiveBuffer(buffer)}
	conn, err := dialer.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		d.t.Fatal(err)
	}
	w := &wire{conn.(*net.TCPConn), d.t, bufio.NewReaderSize(conn, 512), "", nil}
	d.t.Cleanup(func() { w.Close() })
	w.SetReadDeadline(time.Now().Add(2 * patience))
	fmt.Fprintf(w, "GET /v2/realtime/stream %s\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", protocol, token)
	for !strings.HasSuffix(w.head, "\r\n\r\n") {
		line, err := w.from.ReadString('\n')
		if err != nil {
			d.t.Fatalf("after %q: %v", w.head, err)
		}
		w.head += line
	}
	for !bytes.Contains(w.text, []byte("event: ack\n")) || !bytes.HasSuffix(w.text, []byte("}\n")) {
		line, err := w.from.ReadBytes('\n')
		if w.text = append(w.text, line...); err != nil {
			d.t.Fatalf("after %q: %v", w.text, err)
		}
	}
	return w
}

// drip reads the body to its end, in pieces of random sizes.
func (w *wire) drip() ([]byte, error) {
	for {
		switch err := w.sip(8 << 10); err {
		case nil:
		case io.EOF:
			return w.text, nil
		default:
			return w.text, err
		}
	}
}

// sip reads a piece of the body.
func (w *wire) sip(most int) error {
	piece := make([]byte, 1+rand.IntN(most))
	n, err := w.from.Read(piece)
	w.text = append(w.text, piece[:n]...)
	return err
}

// unchunk takes the framing of RFC 9112, 7.1, away, as strictly as it can be: whole is whether the last chunk is there, with
// nothing behind it.
func unchunk(t testing.TB, text []byte) (body []byte, whole bool) {
	t.Helper()
	for len(text) > 0 {
		digits, rest, found := bytes.Cut(text, []byte("\r\n"))
		if !found {
			return body, false
		}
		size, err := strconv.ParseUint(string(digits), 16, 31)
		if err != nil {
			t.Fatalf("%q is not the size of a chunk", digits)
		}
		if size == 0 {
			if string(rest) != "\r\n" {
				t.Fatalf("behind the last chunk there is %q", rest)
			}
			return body, true
		}
		if len(rest) < int(size)+2 {
			return append(body, rest[:min(len(rest), int(size))]...), false
		}
		if string(rest[size:size+2]) != "\r\n" {
			t.Fatalf("a chunk of %d ends with %q", size, rest[size:size+2])
		}
		body, text = append(body, rest[:size]...), rest[size+2:]
	}
	return body, false
}

// framesOf parses a body: the ids of the events in it, and the kinds of all frames.
func framesOf(t testing.TB, body []byte) (ids, kinds []string) {
	t.Helper()
	for event, err := range gosse.Read(bytes.NewReader(body), &gosse.ReadConfig{MaxEventSize: 2 << 20}) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, event.Type)
		if event.Type == "finance" {
			var e wireEvent
			if err := json.Unmarshal([]byte(event.Data), &e); err != nil {
				t.Fatalf("%.100q: %v", event.Data, err)
			}
			ids = append(ids, e.ID)
		}
	}
	return ids, kinds
}

// await waits until an org has so many streams, of which so many are blocked.
func (d *door) await(org string, open, blocked int) {
	d.t.Helper()
	eventually(d.t, patience, fmt.Sprintf("there never are %d streams, %d of them blocked", open, blocked), func() bool {
		stats := d.server.Hub.Stats(org)
		return stats.Streams == open && stats.Blocked == blocked
	})
}

// block publishes until a reader that takes nothing is blocked, and some more that it must not be offered.
func (d *door) block(org string) (ids []string) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); d.server.Hub.Stats(org).Blocked == 0; {
		if time.Now().After(deadline) {
			d.t.Fatal("a reader that takes nothing is never blocked")
		}
		ids = append(ids, d.append(org, 5, 60<<10)...)
	}
	return append(ids, d.append(org, 5, 60<<10)...)
}

// read reads an answer's body in the background; its events can be looked at while they come.
type reading struct {
	mu   sync.Mutex
	ids  []string // guarded by mu
	kind []string // guarded by mu
	err  error    // guarded by mu
	done chan struct{}
}

func read(body io.Reader) *reading {
	r := &reading{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for event, err := range gosse.Read(body, &gosse.ReadConfig{MaxEventSize: 2 << 20}) {
			r.mu.Lock()
			if err != nil {
				r.err = err
			} else if r.kind = append(r.kind, event.Type); event.Type == "finance" {
				var e wireEvent
				_ = json.Unmarshal([]byte(event.Data), &e)
				r.ids = append(r.ids, e.ID)
			}
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *reading) kinds() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.kind)
}

// reach waits until as many events were read as are wanted, and holds the two against each other.
func (r *reading) reach(t testing.TB, want []string) {
	t.Helper()
	events := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Clone(r.ids)
	}
	eventually(t, patience, "a reader does not get its events", func() bool { return len(events()) >= len(want) })
	if got := events(); !slices.Equal(got, want) {
		t.Fatalf("a reader has %q, not %q", got, want)
	}
}

// stream asks for one with a client, and gives the answer.
func (d *door) stream(client *http.Client, token string) *http.Response {
	d.t.Helper()
	request, err := http.NewRequest(http.MethodGet, d.url+"/v2/realtime/stream", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		d.t.Fatalf("answered with %d", response.StatusCode)
	}
	return response
}

// stalled is how many readers were closed since they made no progress.
func (d *door) stalled() float64 {
	d.t.Helper()
	families, err := d.server.Registry.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "sluice_errors_total" && metric.GetLabel()[0].GetValue() == "write_timeout" {
				return metric.GetCounter().GetValue()
			}
		}
	}
	d.t.Fatal("there is no such figure")
	return 0
}
