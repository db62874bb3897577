package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/store"
)

const ackFrame = "event: ack\nid: e-0\ndata: {\"connectionId\":\"c1\",\"cursor\":\"e-0\",\"services\":[\"finance\"],\"heartbeatMs\":30000,\"transport\":\"sse\"}\n\n"

// eventText is the JSON of the nth event, with what may trip a parser in it.
func eventText(n int) string {
	return fmt.Sprintf(`{"id":"x%d","cursor":"e-%d","orgId":"1","service":"finance","type":"expense_added","propertyId":"7",`+
		`"entityType":"expense","entityId":"42","userId":"9","time":"2026-11-24T10:00:00.%03dZ","data":{"s":"a: }\\n{","n":[%d]}}`, n, n, n, n)
}

func eventFrame(n int) string {
	return fmt.Sprintf("event: finance\nid: e-%d\ndata: %s\n\n", n, eventText(n))
}

// scene answers the nth request for the stream, from 1 on.
type scene func(n int, w http.ResponseWriter, r *http.Request)

// stage is a server that plays scenes, and keeps where each connection asked to begin.
type stage struct {
	*httptest.Server

	mu    sync.Mutex
	asked []string // guarded by mu: Last-Event-ID, or the query where there was none
}

func play(t *testing.T, scene scene) *stage {
	s := &stage{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		from := r.Header.Get("Last-Event-ID")
		if from == "" {
			from = "?" + r.URL.RawQuery
		}
		s.asked = append(s.asked, from)
		n := len(s.asked)
		s.mu.Unlock()
		if r.URL.Path != "/v2/realtime/stream" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer eyJ") ||
			r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		scene(n, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *stage) connections() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// write sends text on its way at once.
func write(w http.ResponseWriter, text string) {
	_, _ = io.WriteString(w, text)
	w.(http.Flusher).Flush()
}

// tailed runs the command against a stage until it has printed as many lines, or ends, and returns what it wrote.
func tailed(t *testing.T, s *stage, command tailCmd, lines int, change ...func(*tailing)) (out, notes string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command.URL, command.JWTSecret, command.User = s.URL, testSecret, "9"
	printed, noted := &counted{at: lines, then: cancel}, &logs{}
	tailing, err := command.tailing(printed, noted)
	if err != nil {
		t.Fatal(err)
	}
	tailing.pauses.least, tailing.pauses.most = time.Millisecond, 4*time.Millisecond
	for _, f := range change {
		f(tailing)
	}
	ended := make(chan error, 1)
	go func() { ended <- tailing.run(ctx) }()
	defer tailing.client.CloseIdleConnections()
	select {
	case err := <-ended:
		return printed.String(), noted.String(), err
	case <-time.After(patience):
		cancel()
		t.Fatalf("after %d connections: printed %q, noted %q", len(s.connections()), printed.String(), noted.String())
		return "", "", nil
	}
}

// counted calls then when as many lines were written.
type counted struct {
	logs
	at   int
	then func()
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.logs.Write(p)
	if strings.Count(c.String(), "\n") >= c.at {
		c.then()
	}
	return n, err
}

func eventLines(from, to int) string {
	var lines strings.Builder
	for n := from; n <= to; n++ {
		lines.WriteString(eventText(n) + "\n")
	}
	return lines.String()
}

// TestTailGoesOn meets every way in which a connection ends: each event is printed once, in order, and every
// connection begins where the one before was left.
func TestTailGoesOn(t *testing.T) {
	half := eventFrame(3)[:len(eventFrame(3))/2]
	s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1: // cut in the middle of a frame
			write(w, "retry: 1500\n\n"+ackFrame+eventFrame(1)+": a comment\n\n"+eventFrame(2)+half)
			panic(http.ErrAbortHandler)
		case 2: // an orderly end, in the middle of a frame all the same
			write(w, half)
		case 3:
			w.Header().Set("Content-Type", "text/html")
			write(w, "<html>event: finance\nid: e-9\ndata: {}\n\n</html>")
		case 4:
			problem(w, http.StatusServiceUnavailable, "")
		case 5:
			write(w, ackFrame[:20])
		case 6: // more than the client below takes by itself, and an orderly end
			write(w, eventFrame(3)+strings.Replace(eventFrame(4), `"n":[4]`, `"n":"`+strings.Repeat("x", 300<<10)+`"`, 1))
		case 7:
			write(w, "event: drain\ndata: {\"retryMs\":40}\n\n"+eventFrame(5))
			<-r.Context().Done()
		case 8: // something that no server of ours sends
			write(w, eventFrame(5)+"event: finance\nid: e-6\ndata: nonsense\n\n"+eventFrame(7))
			<-r.Context().Done()
		case 9:
			write(w, "event: ping\nid: e-8\ndata: {\"cursor\":\"e-8\",\"time\":\"2026-11-24T10:00:00Z\"}\n\n")
		default:
			write(w, "event: later\ndata: {\"of\":\"another version\"}\n\n"+eventFrame(9))
			<-r.Context().Done()
		}
	})
	out, notes, err := tailed(t, s, tailCmd{Cursor: "earliest", Services: []string{"finance", "tasks"}, Property: "7"}, 6)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Replace(eventText(4), `"n":[4]`, `"n":"`+strings.Repeat("x", 300<<10)+`"`, 1)
	if want := eventLines(1, 3) + long + "\n" + eventLines(5, 5) + eventLines(9, 9); out != want {
		t.Fatalf("printed %.3000q", out)
	}
	want := []string{"?cursor=earliest&propertyId=7&services=finance%2Ctasks", "e-2", "e-2", "e-2", "e-2", "e-2", "e-4", "e-4", "e-5", "e-8"}
	if got := s.connections(); !slices.Equal(got, want) {
		t.Errorf("the connections began at %v, not at %v", got, want)
	}
	for _, says := range []string{"finance from e-0", "text/html", "503 Service Unavailable: the detail", "the server drains", "not whole"} {
		if !strings.Contains(notes, says) {
			t.Errorf("%q is not in %q", says, notes)
		}
	}
}

// TestTailEveryCut ends the stream after every single byte, orderly and not: what the next connection sends makes
// the whole whole. The lines of a frame may come in any order.
func TestTailEveryCut(t *testing.T) {
	lines := strings.SplitAfter(eventFrame(2), "\n")
	turned := lines[2] + lines[1] + lines[0] + "\n"
	frames := []string{"retry: 1000\n\n" + ackFrame, eventFrame(1), turned, ": still here\n\n" + eventFrame(3)}
	text := strings.Join(frames, "")
	for cut := range len(text) {
		s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				write(w, text[:cut])
				if cut%2 == 0 {
					panic(http.ErrAbortHandler)
				}
				return
			}
			rest := 1
			if at, err := store.ParseCursor(r.Header.Get("Last-Event-ID")); err == nil {
				rest += int(at.Seq)
			}
			write(w, frames[0]+strings.Join(frames[rest:], ""))
			<-r.Context().Done()
		})
		if out, notes, err := tailed(t, s, tailCmd{}, 3); err != nil || out != eventLines(1, 3) {
			t.Fatalf("cut after %q: printed %q, noted %q (%v)", text[:cut], out, notes, err)
		}
		s.Close()
	}
}

// TestTailReset loses the connection between ack and reset: the next one must be told of the reset again.
func TestTailReset(t *testing.T) {
	ack := strings.Replace(strings.Replace(ackFrame, "id: e-0\n", "", 1), `"e-0"`, `"f-8"`, 1)
	reset := "event: reset\nid: f-8\ndata: {\"reason\":\"epoch\",\"oldest\":\"f-2\",\"latest\":\"f-8\",\"cursor\":\"f-8\"}\n\n"
	s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			write(w, ackFrame+eventFrame(1))
		case 2:
			write(w, ack)
		case 3:
			write(w, ack+reset)
		default:
			write(w, strings.ReplaceAll(eventFrame(9), "e-9", "f-9"))
			<-r.Context().Done()
		}
	})
	out, notes, err := tailed(t, s, tailCmd{}, 2)
	if err != nil || !strings.HasSuffix(out, strings.ReplaceAll(eventLines(9, 9), "e-9", "f-9")) {
		t.Fatalf("printed %q (%v)", out, err)
	}
	if got, want := s.connections(), []string{"?", "e-1", "e-1", "f-8"}; !slices.Equal(got, want) {
		t.Errorf("the connections began at %v, not at %v", got, want)
	}
	if strings.Count(notes, "reset (epoch)") != 1 || !strings.Contains(notes, "begins at f-2") {
		t.Errorf("noted %q", notes)
	}
}

// TestTailWaits keeps away for as long as the server asks.
func TestTailWaits(t *testing.T) {
	const asked = 300 * time.Millisecond
	for name, first := range map[string]string{
		"problem": "retry: 300\nevent: problem\ndata: {\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429,\"detail\":\"another stream\"}\n\n",
		"drain":   "retry: 1\n\nevent: drain\ndata: {\"retryMs\":300}\n\n",
		"reauth":  "event: reauth\ndata: {\"retryMs\":300}\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			var began, again time.Time
			s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					began = time.Now()
					write(w, ackFrame+first)
				} else {
					again = time.Now()
					write(w, eventFrame(1))
				}
				<-r.Context().Done()
			})
			if _, notes, err := tailed(t, s, tailCmd{}, 1); err != nil || name == "problem" && !strings.Contains(notes, "429 Too Many Requests: another stream") {
				t.Fatalf("noted %q (%v)", notes, err)
			}
			s.Close() // the scenes have ended, and what they wrote can be read
			if waited := again.Sub(began); waited < asked {
				t.Errorf("it came back after %s", waited)
			}
		})
	}
}

// TestTailSilence gives up a connection on which not even pings come.
func TestTailSilence(t *testing.T) {
	s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
		write(w, strings.Replace(ackFrame, "30000", "10", 1))
		if n == 2 {
			write(w, eventFrame(1))
		}
		<-r.Context().Done()
	})
	out, notes, err := tailed(t, s, tailCmd{}, 1, func(t *tailing) { t.slack = 50 * time.Millisecond })
	if err != nil || out != eventLines(1, 1) || !strings.Contains(notes, "nothing comes any more") {
		t.Fatalf("printed %q, noted %q (%v)", out, notes, err)
	}
}

// TestTailRefused ends with what the server says and what to do about it.
func TestTailRefused(t *testing.T) {
	for status, says := range map[int]string{
		400: "400 Bad Request: the detail (services)", 401: "is it the server's?", 403: "403 Forbidden: the detail",
	} {
		s := play(t, func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				write(w, ackFrame)
				return
			}
			problem(w, status, "services")
		})
		_, _, err := tailed(t, s, tailCmd{}, 1)
		if err == nil || !strings.Contains(err.Error(), says) || len(s.connections()) != 2 {
			t.Errorf("%d, %d connections: %v", status, len(s.connections()), err)
		}
	}
	if _, err := (&tailCmd{clientFlags: clientFlags{URL: "http://x"}, Cursor: "17"}).tailing(io.Discard, io.Discard); err == nil {
		t.Error("--cursor 17 passes")
	}
}

// TestTailEndsAtOnce returns when it is told to, from whatever it is doing.
func TestTailEndsAtOnce(t *testing.T) {
	for name, scene := range map[string]scene{
		"reading": func(_ int, w http.ResponseWriter, r *http.Request) {
			write(w, ackFrame)
			<-r.Context().Done()
		},
		"connecting": func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"waiting":    func(_ int, w http.ResponseWriter, _ *http.Request) { problem(w, http.StatusServiceUnavailable, "") },
	} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan bool, 1)
			s := play(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					reached <- true
				}
				scene(n, w, r)
			})
			command := tailCmd{}
			command.URL, command.JWTSecret, command.User = s.URL, testSecret, "9"
			tailing, err := command.tailing(io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			tailing.pauses.least, tailing.pauses.most = patience, patience
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- tailing.run(ctx) }()
			<-reached
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(2 * time.Second):
				t.Error("it goes on")
			}
		})
	}
}

// TestPretty reads like a sentence.
func TestPretty(t *testing.T) {
	var row bytes.Buffer
	if err := pretty(&row, []byte(eventText(3))); err != nil {
		t.Fatal(err)
	}
	want := `10:00:00.003  finance/expense_added     property 7  expense 42  by 9  {"s":"a: }\\n{","n":[3]}  e-3`
	if row.String() != want {
		t.Errorf("%s\nnot\n%s", row.String(), want)
	}
}

// TestTailAcrossRestart publishes from the command line and reads it there, while the server is killed in between and
// comes back at the same address.
func TestTailAcrossRestart(t *testing.T) {
	flags := append(shared(t), "--listen="+freePort(t))
	p := serve(t, flags...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := tailCmd{User: "9", Cursor: "earliest"}
	command.URL, command.JWTSecret = p.url, testSecret
	printed, noted := &counted{at: 20, then: cancel}, &logs{}
	tailing, err := command.tailing(printed, noted)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tailing.run(ctx) }()
	var want []string
	publish := func() {
		t.Helper()
		var in strings.Builder
		for range 10 {
			fmt.Fprintln(&in, `{"service":"finance","type":"expense_added","data":{"amount":1}}`)
		}
		lines := sluice("publish", "--url", p.url, "--jwt-secret", testSecret)
		lines.Stdin = strings.NewReader(in.String())
		out, notes, status := outcome(t, lines)
		if status != 0 {
			t.Fatalf("status %d: %s", status, notes)
		}
		for line := range strings.Lines(out) {
			want = append(want, strings.Fields(line)[1])
		}
	}
	publish()
	p.kill()
	p = serve(t, flags...)
	publish()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatalf("printed %q, noted %q", printed.String(), noted.String())
	}
	var got []string
	for line := range strings.Lines(printed.String()) {
		var event struct{ ID string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, event.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("published %v and read %v; noted %q", want, got, noted.String())
	}
}
