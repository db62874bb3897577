package handlers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"sluice/store"
	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

func TestMain(m *testing.M) {
	status := pgtest.Run(m)
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

const testSecret = "a secret that only the tests know"

// door is a whole server upon a log of its own.
type door struct {
	t        testing.TB
	server   *Server
	events   *store.Store
	appender *streams.Appender
	uploads  *streams.Uploads
	rooms    *streams.Rooms
	presence *streams.Presence
	typing   *streams.Typing
	instance string
	blobs    *blobs.Disk
	metrics  *streams.Metrics
	url      string
	client   *http.Client
	log      *logText
	tls      *tls.Config // of WebSockets; nil: in clear text

	accepted atomic.Pointer[net.Conn] // the newest connection, where eachWay serves
	came     atomic.Int64             // bytes of bodies that were read there
}

// logText keeps what the server logs.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// openDoor serves a fresh log until the test ends. Each change may alter the server before it serves.
func openDoor(t testing.TB, changes ...func(*door)) *door {
	t.Helper()
	return openDoorOn(t, pgtest.Database(t), t.TempDir(), changes...)
}

// openDoorOn serves what lies in a database and a directory, which other doors may share.
func openDoorOn(t testing.TB, database, directory string, changes ...func(*door)) *door {
	t.Helper()
	ctx := context.Background()
	d := &door{t: t, log: new(logText), instance: uuid.NewString()}
	log := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	events, err := store.Open(ctx, store.Options{URL: database, Migrate: true, Connections: 4, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	catalogue, registry := store.DefaultCatalogue(), prometheus.NewRegistry()
	metrics := streams.NewMetrics(registry, catalogue)
	hub := streams.NewHub(events, catalogue, streams.Options{RingMemory: 1 << 20, BatchMax: 100, Heartbeat: 30 * time.Second}, metrics)
	t.Cleanup(hub.Close)
	d.events, d.appender = events, streams.NewAppender(events, metrics)
	t.Cleanup(func() { d.appender.Close(ctx) })
	if d.blobs, err = blobs.OpenDisk(directory, blobs.SyncComplete); err != nil {
		t.Fatal(err)
	}
	d.metrics = metrics
	d.server = &Server{
		Log: log, Auth: NewAuthenticator(AuthOptions{Secret: []byte(testSecret)}), Catalogue: catalogue,
		Appender: d.appender, Hub: hub, Registry: registry, Draining: func() bool { return false }, Version: "test",
		WriteTimeout: 30 * time.Second, Tickets: events, Positions: streams.NewPositions(events),
	}
	withUploads(nil)(d)
	for _, change := range changes {
		change(d)
	}
	d.server.Uploads = d.uploads
	d.presence = streams.NewPresence(d.events, d.server.Hub, d.instance, log)
	d.typing = streams.NewTyping(d.events, d.server.Hub, log)
	d.rooms = streams.NewRooms(d.events, d.appender, streams.NewRoomSignals(d.events, d.presence, d.typing), log)
	d.server.Rooms = d.rooms
	routes, err := d.server.Routes()
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(routes)
	back := make(chan error, 1)
	returned := d.server.Returned()
	go func() { back <- listening.Config.Serve(returned) }()
	t.Cleanup(func() {
		listening.Close()
		d.uploads.Close(ctx)
		d.server.Positions.Close()
		d.server.Close()
		<-back
	})
	d.url, d.client = listening.URL, listening.Client()
	t.Cleanup(d.client.CloseIdleConnections)
	return d
}

// withUploads gives the door uploads with other settings.
func withUploads(change func(*streams.UploadOptions)) func(*door) {
	return func(d *door) {
		options := streams.UploadOptions{
			UploadLimits: store.UploadLimits{MaxSize: 100 << 20, Quota: 5 << 30, Open: 1000, Expiry: 24 * time.Hour},
			Instance:     uuid.NewString(), Reads: func(string, string) bool { return false }, Log: d.server.Log,
		}
		if change != nil {
			change(&options)
		}
		d.uploads = streams.NewUploads(d.events, d.blobs, d.appender, options, d.metrics)
	}
}

// reply is what a request was answered with.
type reply struct {
	status int
	header http.Header
	body   string
}

// problem reads the body as one, and fails the test where it is none.
func (r reply) problem(t testing.TB) Problem {
	t.Helper()
	var p Problem
	if kind := r.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Fatalf("%d is typed %q: %s", r.status, kind, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	if p.Status != r.status || p.Type == "" || p.Title == "" {
		t.Fatalf("%d with the problem %q", r.status, r.body)
	}
	return p
}

// ask makes one request; headers are pairs of name and value. An empty token sends none.
func (d *door) ask(method, path, token, body string, headers ...string) reply {
	d.t.Helper()
	request, err := http.NewRequest(method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		if request.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			request.Host = headers[i+1]
		}
	}
	response, err := d.client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

// publish posts a body as JSON.
func (d *door) publish(token, body string) reply {
	d.t.Helper()
	return d.ask(http.MethodPost, "/v2/events", token, body, "Content-Type", "application/json")
}

// logOf reads all events of an org.
func (d *door) logOf(org string) []store.Event {
	d.t.Helper()
	page, err := d.events.Page(context.Background(), org, 0, time.Time{}, 1000)
	if err != nil {
		d.t.Fatal(err)
	}
	return page.Events
}

// mint makes a token of org 1 and user 7 that holds for an hour, unless the claims say otherwise.
func mint(t testing.TB, claims Claims) string {
	t.Helper()
	if claims.Org == "" {
		claims.Org = "1"
	}
	if claims.User == "" {
		claims.User = "7"
	}
	if claims.Expires.IsZero() {
		claims.Expires = time.Now().Add(time.Hour)
	}
	text, err := MintToken([]byte(testSecret), claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// publisher is the token of an application.
func publisher(t testing.TB, org string) string {
	return mint(t, Claims{Org: org, User: "app", Scope: "publish"})
}
