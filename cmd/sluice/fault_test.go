package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"sluice/store/localpg/pgtest"
)

// TestListenSwallowed makes the LISTEN connection silent without a reset. Events arrive all the same, and a new
// connection takes its place.
func TestListenSwallowed(t *testing.T) {
	database := pgtest.Database(t)
	l := pgtest.NewLink(t, database)
	a := serve(t, "--database-url="+l.URL)
	b := serve(t, "--database-url="+database)
	all := admin(t, "1")
	s := a.open(transports()[0], all, "", "")
	s.wait("ack")
	b.mustPublish(all, event("before", ""))
	s.events(1)
	if n := l.Swallow(); n != 1 {
		t.Fatalf("%d LISTEN connections, not one", n)
	}
	started := time.Now()
	b.mustPublish(all, event("during", ""))
	if got := s.events(1); got[0] != "during" || time.Since(started) > 5*time.Second {
		t.Fatalf("%v after %s", got, time.Since(started))
	}
	awaitReady(t, a) // its check sends a notification through the new connection
	b.mustPublish(all, event("after", ""))
	if got := s.events(1); got[0] != "after" {
		t.Fatal(got)
	}
}

// TestConnectionsCut cuts every connection to Postgres, again and again, while events are published.
func TestConnectionsCut(t *testing.T) {
	l := pgtest.NewLink(t, pgtest.Database(t))
	p := serve(t, "--database-url="+l.URL)
	all := admin(t, "1")
	s := p.open(transports()[0], all, "", "")
	s.wait("ack")
	publishing := publishAll(p, all, 4)
	for range 10 {
		publishing.reach(t, 20)
		l.Cut()
	}
	publishing.reach(t, 20)
	acked := publishing.end()
	log := wholeLog(t, p, all)
	if got := s.events(len(log)); !slices.Equal(got, log) {
		t.Fatalf("the stream differs from the log at %d", firstDifference(got, log))
	}
	sorted := slices.Sorted(slices.Values(log))
	if len(slices.Compact(sorted)) != len(log) {
		t.Fatal("the log holds an id twice")
	}
	for _, id := range acked {
		if !slices.Contains(log, id) {
			t.Fatalf("%s was acknowledged and is not in the log", id)
		}
	}
}

// TestDatabaseReplaced puts another database in the place of the one under a running instance: an older copy of it, then
// one that has nothing to do with it and a longer log. Everyone is reset, and a cursor from before means nothing any more.
func TestDatabaseReplaced(t *testing.T) {
	database := pgtest.Database(t)
	m := maintain(t, database)
	p := serve(t, "--database-url="+database)
	all := admin(t, "1")
	old := p.mustPublish(all, event("one", ""))[0].Cursor
	copied := m.name + "_copy"
	m.disconnect()
	m.run(`create database %s template %s`, copied, m.name)
	m.run(`alter database %s allow_connections true`, m.name)
	awaitReady(t, p)
	var open []*stream
	for _, via := range transports() {
		s := p.open(via, all, "", old)
		s.wait("ack")
		open = append(open, s)
	}
	p.mustPublish(all, event("two", ""))
	for _, s := range open {
		s.events(1)
	}
	other := pgtest.Database(t)
	foreign := serve(t, "--database-url="+other)
	for i := range 5 {
		foreign.mustPublish(all, event(fmt.Sprint("foreign", i), ""))
	}
	if err := foreign.stop(); err != nil {
		t.Fatal(err)
	}
	config, err := pq.NewConfig(other)
	if err != nil {
		t.Fatal(err)
	}
	for i, with := range []string{copied, config.Database} {
		m.replace(with, fmt.Sprint(m.name, "_away", i))
		for _, s := range open {
			reset := s.wait("reset")
			var fields struct{ Reason, Cursor string }
			if err := json.Unmarshal([]byte(reset.text), &fields); err != nil || fields.Reason != "epoch" {
				t.Fatalf("%s: reset %s (%v)", with, reset.text, err)
			}
			if epoch, _, _ := strings.Cut(old, "-"); strings.HasPrefix(fields.Cursor, epoch+"-") {
				t.Fatalf("%s: the reset keeps the epoch %s", with, epoch)
			}
		}
		next := fmt.Sprint("next", i)
		answer := p.mustPublish(all, event(next, ""))
		for _, s := range open {
			if got := s.events(1); got[0] != next {
				t.Fatal(got)
			}
		}
		if reset := p.open(transports()[0], all, "", old).wait("reset"); !strings.Contains(reset.text, `"epoch"`) {
			t.Fatalf("%s: a cursor of the database before is answered by %s", with, reset.text)
		}
		old = answer[0].Cursor
	}
}

// maintenance renames the databases of the package's cluster.
type maintenance struct {
	t    *testing.T
	db   *sql.DB
	name string // the database in use
}

func maintain(t *testing.T, database string) *maintenance {
	t.Helper()
	config, err := pq.NewConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("postgres", pgtest.Cluster(t).URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &maintenance{t, db, config.Database}
}

func (m *maintenance) run(statement string, names ...any) {
	m.t.Helper()
	for i, name := range names {
		names[i] = pq.QuoteIdentifier(name.(string))
	}
	if _, err := m.db.Exec(fmt.Sprintf(statement, names...)); err != nil {
		m.t.Fatalf("%s: %v", statement, err)
	}
}

// disconnect cuts every connection to the database and lets none in.
func (m *maintenance) disconnect() {
	m.t.Helper()
	m.run(`alter database %s allow_connections false`, m.name)
	_, err := m.db.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, m.name)
	if err != nil {
		m.t.Fatal(err)
	}
}

// replace gives another database the name of the one in use, which is called away from then on and dropped at the end.
func (m *maintenance) replace(with, away string) {
	m.t.Helper()
	m.disconnect()
	m.run(`alter database %s rename to %s`, m.name, away)
	m.t.Cleanup(func() { m.run(`drop database if exists %s with (force)`, away) })
	m.run(`alter database %s rename to %s`, with, m.name)
	m.run(`alter database %s allow_connections true`, m.name)
}

// TestStoppedReader holds one reader that reads nothing beside others: they are served without delay, memory stays
// bounded, the stopped one is closed after its deadline and loses nothing when it comes back.
func TestStoppedReader(t *testing.T) {
	// The rings are small, so that what grows is what the stopped reader holds.
	p := serve(t, append(shared(t), "--write-timeout=2s", "--ring-memory=2MiB", "--dev")...)
	all := admin(t, "1")
	stopped := stopReading(t, p, all)
	s := p.open(transports()[0], all, "", "")
	s.wait("ack")
	before := p.heap()
	document := strings.Repeat("x", 60<<10)
	const n = 300 // 18 MiB, far beyond what socket buffers hold
	for i := range n {
		made := event(strconv.Itoa(i), "")
		made["data"] = map[string]any{"x": document}
		p.mustPublish(all, made)
		started := time.Now()
		if got := s.events(1); got[0] != strconv.Itoa(i) || time.Since(started) > 5*time.Second {
			t.Fatalf("event %d: %v after %s", i, got, time.Since(started))
		}
	}
	if grown := p.heap() - before; grown > 9<<20 {
		t.Fatalf("the instance holds %d KiB more beside a stopped reader", grown>>10)
	}
	// What the kernel holds for it is still to be read; then the connection ends, for the instance has closed it.
	_ = stopped.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(stopped)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the stopped reader was not closed: %v", err)
	}
	last, at := lastWhole(text)
	rest := p.open(transports()[0], all, "", last).events(n - at)
	for i, id := range rest {
		if id != strconv.Itoa(at+i) {
			t.Fatalf("back with %s: event %d is %s", last, at+i, id)
		}
	}
}

// stopReading opens a stream over a bare connection and reads no more than the headers.
func stopReading(t *testing.T, p *process, token string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	fmt.Fprintf(conn, "GET /v2/realtime/stream HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		strings.TrimPrefix(p.url, "http://"), token)
	status := make([]byte, 15)
	if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 200 OK" {
		t.Fatalf("%q %v", status, err)
	}
	return conn
}

// lastWhole finds the last cursor whose frame is whole in the bytes of a stream, and how many events came with it.
func lastWhole(text []byte) (cursor string, events int) {
	for one := range bytes.SplitSeq(text[:max(0, bytes.LastIndex(text, []byte("\n\n")))], []byte("\n\n")) {
		for line := range bytes.SplitSeq(one, []byte("\n")) {
			if id, found := bytes.CutPrefix(line, []byte("id: ")); found {
				cursor = string(id)
			}
			if bytes.HasPrefix(line, []byte("event: finance")) {
				events++
			}
		}
	}
	return cursor, events
}

// heap is the bytes of everything that the instance, started with --dev, can still reach. What the system counts as its
// memory would tell more of the collector and of the race detector.
func (p *process) heap() int {
	p.t.Helper()
	if answer, body := get(p.t, p.admin+"/debug/pprof/heap?gc=1", ""); answer.StatusCode != http.StatusOK {
		p.t.Fatalf("%s %s", answer.Status, body)
	}
	_, body := get(p.t, p.admin+"/metrics", "")
	for line := range strings.Lines(body) {
		if text, found := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); found {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return int(bytes)
		}
	}
	p.t.Fatalf("the metrics do not tell the heap:\n%s", body)
	return 0
}

// awaitReady waits until the instance says that it is ready.
func awaitReady(t *testing.T, p *process) {
	t.Helper()
	deadline := time.After(patience)
	for {
		response, err := http.Get(p.url + "/healthz/ready")
		var text []byte
		if err == nil {
			text, _ = io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-deadline:
			t.Fatalf("not ready: %v %s", err, text)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
