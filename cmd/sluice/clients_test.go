package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/handlers"
)

// folder is where the programs are that read with packages of npm, and with a browser.
const folder = "../../clients"

// streamFrames are what a stream shows to a client that prints every frame.
var streamFrames = []string{"ack", "ping", "drain", "reset"}

// curl reads in each encoding; it goes on where it is told to.
func (all *readers) curl(to string, token func(user string) string) {
	start := func(name, accept, path string, read func(*reader) func(io.Reader), frames ...string) {
		r := all.add(name, frames...)
		bearer := "Authorization: Bearer " + token(name)
		all.again(r, read(r), func(cursor string) *exec.Cmd {
			return exec.Command("curl", "-q", "--noproxy", "*", "-sSfN", "-H", bearer, "-H", "Accept: "+accept, to+path+"cursor="+cursor)
		})
	}
	lines := func(r *reader) func(io.Reader) { return r.read }
	start("curl SSE", "text/event-stream", "/v2/realtime/stream?", func(r *reader) func(io.Reader) { return r.readSSE }, streamFrames...)
	start("curl NDJSON", "application/x-ndjson", "/v2/realtime/stream?", lines, streamFrames...)
	start("curl poll", "application/json", "/v2/realtime/poll?wait=5&", lines, "reset")
}

// node runs the programs with packages of npm.
func (all *readers) node(to string, token func(user string) string) {
	node := installed(all.t, "node")
	for name, frames := range map[string][]string{
		"eventsource": streamFrames, "eventsource-parser": streamFrames, "fetch": streamFrames, "ws": streamFrames, "poll": {"reset"},
	} {
		r := all.add(name, frames...)
		all.once(r, r.read, exec.Command(node, filepath.Join(folder, name+".js"), to, token(name)))
	}
	r := all.add("wscat", streamFrames...)
	bearer := "Authorization: Bearer " + token(r.name)
	all.again(r, r.read, func(cursor string) *exec.Cmd {
		return exec.Command(node, installed(all.t, "wscat"), "--wait", "-1", "--header", bearer,
			"--connect", strings.Replace(to, "http", "ws", 1)+"/v2/realtime/stream", "--execute", fmt.Sprintf(`{"cursor":%q}`, cursor))
	})
}

// installed finds a program of npm: beside the others, or that of the system.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(filepath.Join(folder, "node_modules/.bin", name))
	if err != nil {
		path, err = exec.LookPath(name)
	}
	if err != nil {
		t.Fatalf("%v: scripts/install.sh --test installs what is missing", err)
	}
	return path
}

// browser is the page that a browser reads with: its origin is not that of any instance.
func (all *readers) browser() *httptest.Server {
	pages := http.FileServer(http.Dir(folder))
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodGet {
			pages.ServeHTTP(w, request)
			return
		}
		if r := all.named("Chromium " + request.URL.Path[1:]); r != nil {
			r.read(request.Body)
		}
	}))
	all.t.Cleanup(page.Close)
	return page
}

// chromium opens the page, with a token in its cookie. All that it asks for is on this machine.
func (all *readers) chromium(page, to string, token func(user string) string) {
	r := all.add("Chromium EventSource", streamFrames...)
	all.add("Chromium WebSocket", streamFrames...)
	all.add("Chromium fetch", streamFrames...)
	home := shortDir(all.t)
	command := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--disable-breakpad", "--disable-background-networking", "--disable-component-update", "--no-first-run",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir="+home,
		page+"/browser.html?"+url.Values{"url": {to}, "token": {token("Chromium")}}.Encode())
	command.Env = append(command.Environ(), "HOME="+home)
	all.once(r, func(out io.Reader) { _, _ = io.Copy(io.Discard, out) }, command)
}

// awaitBlocked waits until so many streams of an instance have taken less than they were given.
func awaitBlocked(t *testing.T, p *process, token string, streams int) {
	t.Helper()
	for deadline := time.After(patience); ; {
		var figures struct{ BlockedStreams int }
		request, err := http.NewRequest(http.MethodGet, p.url+"/v2/realtime/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(response.Body).Decode(&figures)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if figures.BlockedStreams >= streams {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d of %d streams are blocked", figures.BlockedStreams, streams)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestClients lets clients that nobody here wrote read one log, while the instance that they read from is killed in the
// middle of it, drained, and started again at its address, and while the log begins anew. Each of them comes back as it
// does for its users, and ends with exactly the log.
func TestClients(t *testing.T) {
	all := newReaders(t)
	page := all.browser()
	flags := append(shared(t), "--heartbeat=1s")
	here := append(flags, "--allowed-origins="+page.URL, "--listen="+freePort(t))
	read, other := serve(t, here...), serve(t, flags...)
	bearer := func(user string) string { return token(t, handlers.Claims{Org: "1", User: user, Role: "ADMIN"}) }
	publisher := admin(t, "1")
	// Some are larger than what goes into a socket at once, and all have in them what may trip a parser.
	var want []string
	publish := func(n int) {
		t.Helper()
		var batch []any
		for range n {
			text := fmt.Sprint("\r\n\ndata: }\\\"\u2028é😀", strings.Repeat("x", 40_000*(len(want)%2)))
			id := fmt.Sprint("e", len(want))
			batch = append(batch, map[string]any{
				"id": id, "service": "finance", "type": "expense_added", "data": map[string]any{"text": text},
			})
			want = append(want, id+text)
		}
		other.mustPublish(publisher, batch)
	}

	publish(5)
	all.curl(read.url, bearer)
	all.node(read.url, bearer)
	all.chromium(page.URL, read.url, bearer)
	tail := all.add("sluice tail")
	command := sluice("tail", "--url", read.url, "--jwt-secret", testSecret, "--user", "tail", "--cursor", "earliest")
	all.once(tail, tail.read, command)
	all.await(want, "ack", "ping")

	// They stand still while more comes than sockets hold, so that the kill cuts each of them off in the middle of a frame.
	all.signal(syscall.SIGSTOP)
	publish(40)
	publish(40)
	awaitBlocked(t, read, publisher, len(all.list)-2) // all but the two that poll
	read.kill()
	all.signal(syscall.SIGCONT)
	publish(10)
	read = serve(t, here...)
	publish(5)
	all.await(want)

	if err := read.stop(); err != nil {
		t.Fatal(err)
	}
	publish(5)
	serve(t, here...)
	publish(5)
	all.await(want, "drain")

	rotate := sluice("epoch", "rotate", flags[0])
	if _, notes, status := outcome(t, rotate); status != 0 {
		t.Fatalf("status %d: %s", status, notes)
	}
	all.await(want, "reset")
	publish(5)
	all.await(want)
	if notes := tail.notes.String(); !strings.Contains(notes, "reset (epoch)") || !strings.Contains(notes, "drains") {
		t.Errorf("%s", notes)
	}
}
