package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// watch is a stream of an upload's progress.
type watch struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Scanner
}

// progressFrame is one frame.
type progressFrame struct {
	kind, id, data string
	at             time.Time
	wireProgress
}

// follow asks for the stream of an upload's progress, until the test ends.
func (d *door) follow(path, token string, headers ...string) *http.Response {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	d.t.Cleanup(cancel)
	request, _ := http.NewRequestWithContext(ctx, "GET", d.url+path+"/progress", nil)
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept", eventStream)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := d.client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { response.Body.Close() })
	return response
}

// watch reads what follow gives.
func (d *door) watch(t *testing.T, path, token string, headers ...string) *watch {
	t.Helper()
	response := d.follow(path, token, headers...)
	return &watch{t, response, bufio.NewScanner(response.Body)}
}

// next reads the next frame that has something to say; nil: the stream has ended in good order.
func (w *watch) next() *progressFrame {
	w.t.Helper()
	var frame progressFrame
	for w.lines.Scan() {
		name, value, _ := strings.Cut(w.lines.Text(), ": ")
		switch name {
		case "event":
			frame.kind = value
		case "id":
			frame.id = value
		case "data":
			frame.data = value
		case "":
			if frame.data == "" {
				continue
			}
			frame.at = time.Now()
			if err := json.Unmarshal([]byte(frame.data), &frame.wireProgress); err != nil {
				w.t.Fatalf("%s: %v", frame.data, err)
			}
			return &frame
		}
	}
	if err := w.lines.Err(); err != nil {
		w.t.Fatal(err)
	}
	return nil
}

// TestProgress asks how far an upload has come, at every state that it has.
func TestProgress(t *testing.T) {
	t.Parallel()
	d, alter := openAlterable(t)
	user, f := mint(t, Claims{}), pdf(100, 1)
	path := d.create(user, -1)
	is := func(what, want string) {
		t.Helper()
		got := d.ask("GET", path+"/progress", user, "")
		if got.wants(t, what, 200, "Content-Type", "application/json", "Cache-Control", "no-store"); strings.TrimSpace(got.body) != want {
			t.Errorf("%s: %s", what, got.body)
		}
	}
	is("at first", `{"bytes":0,"total":null,"bytesPerSecond":0,"etaSeconds":null,"state":"uploading"}`)
	d.ask("PUT", path, user, f[:40], "Content-Range", span(0, 40, 100)).wants(t, "a chunk", 204)
	got := d.ask("GET", path+"/progress", user, "")
	var half wireProgress
	if err := json.Unmarshal([]byte(got.body), &half); err != nil || half.Bytes != 40 || half.Total == nil || *half.Total != 100 || half.State != "uploading" {
		t.Errorf("at 40: %s, %v", got.body, err)
	}
	if (half.BytesPerSecond > 0) != (half.ETASeconds != nil) {
		t.Errorf("a rate without an end, or an end without a rate: %s", got.body)
	}
	d.ask("PUT", path, user, f[40:], "Content-Range", span(40, 100, 100)).wants(t, "the rest", 200)
	is("at the end", `{"bytes":100,"total":100,"bytesPerSecond":0,"etaSeconds":0,"state":"ready"}`)
	if head := d.ask("HEAD", path+"/progress", user, ""); head.status != 200 || head.body != "" {
		t.Errorf("HEAD: %+v", head)
	}
	path = d.create(user, 100)
	alter(`update sluice.uploads set state = 'uploading', position = 40, rate = 30, lease_until = now() + interval '1 hour' where id = $1`, filepath.Base(path))
	is("while it is written", `{"bytes":40,"total":100,"bytesPerSecond":30,"etaSeconds":2,"state":"uploading"}`)
	alter(`update sluice.uploads set lease_until = now() where id = $1`, filepath.Base(path))
	is("while nobody writes", `{"bytes":40,"total":100,"bytesPerSecond":0,"etaSeconds":null,"state":"uploading"}`)
	alter(`update sluice.uploads set state = 'verifying', position = 100 where id = $1`, filepath.Base(path))
	is("while it is verified", `{"bytes":100,"total":100,"bytesPerSecond":0,"etaSeconds":null,"state":"verifying"}`)
	alter(`update sluice.uploads set state = 'expired' where id = $1`, filepath.Base(path))
	is("when it is over", `{"bytes":100,"total":100,"bytesPerSecond":0,"etaSeconds":null,"state":"expired"}`)
}

// TestProgressFollowsElsewhere follows an upload over another instance than the one that takes it, slowly and in one request. The
// writer is not disturbed.
func TestProgressFollowsElsewhere(t *testing.T) {
	t.Parallel()
	a, b, _ := twoDoors(t)
	user, f := mint(t, Claims{}), pdf(8<<20, 2)
	path := a.create(user, len(f))
	w := b.watch(t, path, user)
	if kind := w.response.Header.Get("Content-Type"); w.response.StatusCode != 200 || kind != eventStream || w.response.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%+v", w.response)
	}
	if first := w.next(); first.kind != "progress" || first.Bytes != 0 || *first.Total != int64(len(f)) || first.State != "uploading" {
		t.Fatalf("%+v", first)
	}
	body, feed := io.Pipe()
	written := make(chan reply, 1)
	go func() {
		request, _ := http.NewRequest("PUT", a.url+path, body)
		request.Header.Set("Authorization", "Bearer "+user)
		request.Header.Set("Content-Range", span(0, len(f), len(f)))
		request.ContentLength = int64(len(f))
		response, err := a.client.Do(request)
		if err != nil {
			t.Error(err)
			written <- reply{}
			return
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		written <- reply{response.StatusCode, response.Header, string(text)}
	}()
	const piece = 128 << 10
	go func() {
		defer feed.Close()
		for from := 0; from < len(f); from += piece {
			<-time.After(40 * time.Millisecond)
			_, _ = feed.Write([]byte(f[from : from+piece]))
		}
	}()
	var last *progressFrame
	seen, rated := map[int64]bool{}, false
	for frame := w.next(); frame != nil; frame = w.next() {
		if last != nil && frame.Bytes < last.Bytes {
			t.Errorf("%d bytes after %d", frame.Bytes, last.Bytes)
		}
		if last = frame; frame.State == "uploading" && frame.Bytes > 0 {
			seen[frame.Bytes] = true
			rated = rated || frame.BytesPerSecond > 0 && frame.ETASeconds != nil
		}
	}
	if len(seen) < 3 {
		t.Errorf("on the way these were told: %v", seen)
	}
	if last == nil || last.State != "ready" || last.id != "ready" || last.Bytes != int64(len(f)) || !rated {
		t.Errorf("the last one is %+v; a rate was told: %v", last, rated)
	}
	(<-written).wants(t, "the writer", 200, "state", "ready")
	if again := b.watch(t, path, user, "Last-Event-ID", last.id); again.response.StatusCode != http.StatusNoContent {
		t.Errorf("an EventSource that comes back is answered with %d", again.response.StatusCode)
	}
}

// TestProgressPace counts what is told of an upload that stands still, and of one that moves all the time.
func TestProgressPace(t *testing.T) {
	t.Parallel()
	d, alter := openAlterable(t)
	user := mint(t, Claims{})
	still, moving := d.create(user, 100), d.create(user, 100<<20)
	w := d.watch(t, still, user)
	last := w.next()
	for range 2 {
		next := w.next()
		if pause := next.at.Sub(last.at); pause < watchTell-watchLook || next.data != last.data {
			t.Errorf("after %v the same again: %s", pause, next.data)
		}
		last = next
	}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				alter(`update sluice.uploads set position = position + 1 where id = $1`, filepath.Base(moving))
			}
		}
	}()
	m := d.watch(t, moving, user)
	first := m.next()
	const frames = 8
	for range frames {
		last = m.next()
	}
	if rate := frames / last.at.Sub(first.at).Seconds(); rate > 4.5 {
		t.Errorf("%.1f frames a second", rate)
	}
	close(stop)
	<-ended
	alter(`update sluice.uploads set state = 'expired' where id = $1`, filepath.Base(moving))
	for frame := last; frame != nil; frame = m.next() {
		last = frame
	}
	if last.State != "expired" || last.id != "expired" {
		t.Errorf("at the end: %+v", last)
	}
	d.ask("DELETE", still, user, "").wants(t, "deleting", 204)
	for frame := w.next(); frame != nil; frame = w.next() {
		last = frame
	}
	if last.State != "deleted" {
		t.Errorf("of what was deleted: %+v", last)
	}
}

// TestProgressEnds shows how a stream ends before its upload does: the instance goes, and the token does.
func TestProgressEnds(t *testing.T) {
	t.Parallel()
	var draining atomic.Bool
	d := openDoor(t, func(d *door) { d.server.Draining = draining.Load })
	user := mint(t, Claims{})
	path := d.create(user, 100)
	w := d.watch(t, path, mint(t, Claims{Expires: time.Now().Add(2*time.Second - tokenLeeway)}))
	last := w.next()
	for frame := last; frame != nil; frame = w.next() {
		last = frame
	}
	if last.kind != "problem" || !strings.Contains(last.data, "401") {
		t.Errorf("with its token it ends with %+v", last)
	}
	w = d.watch(t, path, user)
	w.next()
	draining.Store(true)
	for frame := w.next(); frame != nil; frame = w.next() {
		last = frame
	}
	if last.kind != "drain" || !strings.Contains(last.data, "retryMs") {
		t.Errorf("with its instance it ends with %+v", last)
	}
	if late := d.watch(t, path, user).next(); late.kind != "problem" || !strings.Contains(late.data, "503") {
		t.Errorf("a late one is told %+v", late)
	}
	if got := d.ask("GET", path+"/progress", user, "", "Accept", eventStream+", x/y"); got.status != 503 {
		t.Errorf("a late one that is no EventSource: %d", got.status)
	}
	if got := d.ask("GET", path+"/progress", user, ""); got.status != 200 {
		t.Errorf("how far it has come: %d", got.status)
	}
}

// TestProgressLimit opens more streams than a user may have. Another user has its own, and who leaves makes room.
func TestProgressLimit(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, other := mint(t, Claims{}), mint(t, Claims{User: "8", Role: "ADMIN"})
	path := d.create(user, 100)
	var open []*watch
	for range watchMost {
		w := d.watch(t, path, user)
		if w.next().kind != "progress" {
			t.Fatal("no progress")
		}
		open = append(open, w)
	}
	if over := d.watch(t, path, user); over.next().kind != "problem" || over.response.StatusCode != 200 || over.next() != nil {
		t.Error("an EventSource too many is not told")
	}
	if got := d.ask("GET", path+"/progress", user, "", "Accept", eventStream+", x/y"); got.status != 429 || got.header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d", got.status)
	}
	if d.watch(t, path, other).next().kind != "progress" {
		t.Error("another user has no room")
	}
	open[0].response.Body.Close()
	eventually(t, patience, "there is no room again", func() bool { return d.watch(t, path, user).next().kind == "progress" })
}
