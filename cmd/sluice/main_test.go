package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// asSluice makes the test binary be sluice itself, so that tests start, stop and kill the real thing, with the race
// detector in it.
const asSluice = "SLUICE_TEST_AS_SLUICE"

func TestMain(m *testing.M) {
	if os.Getenv(asSluice) != "" {
		os.Exit(run(os.Args[1:]))
	}
	credentials()
	os.Exit(pgtest.Run(m))
}

const (
	testSecret = "a secret that only the tests know"
	patience   = 30 * time.Second // for anything that must happen; a noisy machine is slow, not wrong
)

// sluice gives a command that runs this binary as sluice, with nothing of the surrounding environment's settings.
func sluice(args ...string) *exec.Cmd {
	command := exec.Command(os.Args[0], args...)
	for _, one := range os.Environ() {
		if !strings.HasPrefix(one, "SLUICE_") && !strings.HasPrefix(one, "DATABASE_URL=") {
			command.Env = append(command.Env, one)
		}
	}
	// The race detector would let every process sleep for a second before it exits.
	command.Env = append(command.Env, asSluice+"=1", "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return command
}

// blobDirs are the directories of uploads that all instances of a test share, by the test.
var blobDirs sync.Map

func blobsOf(t testing.TB) string {
	dir, found := blobDirs.Load(t)
	if !found {
		dir, _ = blobDirs.LoadOrStore(t, t.TempDir())
	}
	return dir.(string)
}

// process is one running instance.
type process struct {
	t       testing.TB
	command *exec.Cmd
	url     string
	admin   string // the admin listener; told with --dev alone
	errors  *logs
	waited  sync.Once
	ended   error
}

// logs keeps what an instance wrote, for the test that fails.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve starts an instance and waits until it listens. Without --listen it takes a port of its own.
func serve(t testing.TB, args ...string) *process {
	t.Helper()
	return serveIn(t, nil, args...)
}

// serveIn is serve with variables of the environment beside those of the test.
func serveIn(t testing.TB, environment []string, args ...string) *process {
	t.Helper()
	given := strings.Join(args, " ")
	if !strings.Contains(given, "--listen=") {
		args = append(args, "--listen=127.0.0.1:0")
	}
	if !strings.Contains(given, "--jwks-url=") {
		args = append([]string{"--jwt-secret=" + testSecret}, args...) // first, for a test may give another
	}
	if !strings.Contains(given, "--blobs=") && !strings.Contains(given, "--data=") {
		args = append(args, "--blobs=file://"+blobsOf(t))
	}
	args = append([]string{"serve", "--admin-listen=127.0.0.1:0"}, args...)
	p := &process{t: t, command: sluice(args...), errors: new(logs)}
	p.command.Env = append(p.command.Env, environment...)
	p.command.Stderr = p.errors
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("instance %d wrote:\n%s", p.command.Process.Pid, p.errors)
		}
	})
	dev := slices.Contains(args, "--dev")
	ready := make(chan [2]string, 1)
	go func() {
		defer close(ready)
		var told [2]string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if _, address, found := strings.Cut(lines.Text(), "listening on "); found {
				told[0] = address
			} else if _, address, found := strings.Cut(lines.Text(), "metrics at "); found {
				told[1] = strings.TrimSuffix(address, "/metrics")
			}
			if told[0] != "" && (told[1] != "" || !dev) {
				ready <- told
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case told, ok := <-ready:
		if !ok {
			t.Fatalf("the instance ended before it listened:\n%s", p.errors)
		}
		p.url, p.admin = told[0], told[1]
	case <-time.After(patience):
		t.Fatalf("the instance does not listen:\n%s", p.errors)
	}
	return p
}

// kill ends the instance as a power cut would, and reaps it.
func (p *process) kill() {
	_ = p.command.Process.Signal(syscall.SIGKILL)
	_ = p.wait()
}

// stop asks for the orderly end and returns what the process ended with.
func (p *process) stop() error {
	_ = p.command.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

func (p *process) wait() error {
	p.waited.Do(func() { p.ended = p.command.Wait() })
	return p.ended
}

// token mints one as an application's backend would.
func token(t testing.TB, claims handlers.Claims) string {
	t.Helper()
	if claims.Expires.IsZero() {
		claims.Expires = time.Now().Add(time.Hour)
	}
	text, err := handlers.MintToken([]byte(testSecret), claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func admin(t testing.TB, org string) string {
	return token(t, handlers.Claims{Org: org, User: "1", Role: "ADMIN", Scope: "publish admin"})
}

// appended is one event of a publisher's answer.
type appended struct {
	ID        string `json:"id"`
	Cursor    string `json:"cursor"`
	Duplicate bool   `json:"duplicate"`
}

// publish posts events, one object or an array, and returns what was answered. An error means that the publisher
// does not know whether they are in the log.
func (p *process) publish(token string, events any) ([]appended, error) {
	body, err := json.Marshal(events)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, p.url+"/v2/events", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	var answer struct {
		Events []appended `json:"events"`
	}
	return answer.Events, json.Unmarshal(text, &answer)
}

// mustPublish publishes and fails the test where that is refused.
func (p *process) mustPublish(token string, events any) []appended {
	p.t.Helper()
	answer, err := p.publish(token, events)
	if err != nil {
		p.t.Fatalf("publish: %v", err)
	}
	return answer
}

// event makes the smallest event there is; property may be empty.
func event(id, property string) map[string]any {
	made := map[string]any{"service": "finance", "type": "expense_added", "data": map[string]any{"id": id}}
	if id != "" {
		made["id"] = id
	}
	if property != "" {
		made["propertyId"] = property
	}
	return made
}

// frame is one SSE frame as a client sees it.
type frame struct {
	kind, id, text string
}

// stream is one open subscription.
type stream struct {
	t      testing.TB
	frames chan frame
	cancel context.CancelFunc
	last   string // the last id seen by next
}

// transport says how a stream is asked for, and thereby which sink serves it.
type transport struct {
	name   string
	client *http.Client
}

func transports() []transport {
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	return []transport{
		{"socket", &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}},
		{"writer", &http.Client{Transport: &http.Transport{Protocols: h2}}},
	}
}

// open subscribes with a query such as "propertyId=7"; lastID, where not empty, goes as Last-Event-ID.
func (p *process) open(via transport, token, query, lastID string) *stream {
	p.t.Helper()
	s, err := p.tryOpen(via, token, query, lastID)
	if err != nil {
		p.t.Fatalf("open %s %s: %v", via.name, query, err)
	}
	return s
}

func (p *process) tryOpen(via transport, token, query, lastID string) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/v2/realtime/stream?"+query, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	request.Header.Set("Accept", "text/event-stream")
	if token != "" { // or the query has a ticket
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if lastID != "" {
		request.Header.Set("Last-Event-ID", lastID)
	}
	response, err := via.client.Do(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		cancel()
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	s := &stream{t: p.t, frames: make(chan frame, 1<<16), cancel: cancel, last: lastID}
	p.t.Cleanup(s.cut)
	go func() {
		defer close(s.frames)
		defer response.Body.Close()
		for one, err := range sse.Read(response.Body, &sse.ReadConfig{MaxEventSize: 1 << 20}) {
			if err != nil {
				return
			}
			s.frames <- frame{kind: one.Type, id: one.LastEventID, text: one.Data}
		}
	}()
	return s, nil
}

// cut ends the subscription from the client's side.
func (s *stream) cut() { s.cancel() }

// next waits for one frame; ok is false when the stream has ended.
func (s *stream) next() (one frame, ok bool) {
	s.t.Helper()
	select {
	case one, ok = <-s.frames:
		if ok && one.id != "" {
			s.last = one.id
		}
		return one, ok
	case <-time.After(patience):
		s.t.Fatalf("no frame arrives after %q", s.last)
		return frame{}, false
	}
}

// events waits for n events and returns their ids, skipping ack and ping. Any other frame fails the test.
func (s *stream) events(n int) []string {
	s.t.Helper()
	var ids []string
	for len(ids) < n {
		one, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended after %d of %d events", len(ids), n)
		}
		switch one.kind {
		case "ack", "ping":
		case "reset", "problem", "drain", "reauth":
			s.t.Fatalf("%s after %d of %d events: %s", one.kind, len(ids), n, one.text)
		default:
			ids = append(ids, eventID(s.t, one))
		}
	}
	return ids
}

// wait skips frames until one of the kind comes.
func (s *stream) wait(kind string) frame {
	s.t.Helper()
	for {
		one, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before a %s frame", kind)
		}
		if one.kind == kind {
			return one
		}
	}
}

func eventID(t testing.TB, one frame) string {
	t.Helper()
	var event struct{ ID, Cursor string }
	if err := json.Unmarshal([]byte(one.text), &event); err != nil {
		t.Fatalf("event %q: %v", one.text, err)
	}
	if event.Cursor != one.id {
		t.Fatalf("event %s has the id: line %q and the cursor %q", event.ID, one.id, event.Cursor)
	}
	return event.ID
}

// shared gives the flags of instances that share one fresh database.
func shared(t testing.TB) []string {
	return []string{"--database-url=" + pgtest.Database(t)}
}

// freePort finds a port that was free a moment ago, for an instance that is to come back at the same address.
func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// shortDir gives a directory with a short path, for Unix sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sluice")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
