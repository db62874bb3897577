package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLogs drives an instance through good and bad requests at the most talkative level, in both formats: every line
// is whole in its format, refusals are found by the request id that the client was given, and neither queries nor
// tokens nor secrets are among them.
func TestLogs(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			p := serve(t, append(shared(t), "--log-level=debug", "--log-format="+format, "--dev")...)
			good := admin(t, "1")
			open := p.open(transports()[0], good, "services=finance&access_token=hush-query", "")
			open.wait("ack") // what is published earlier is not this stream's
			p.mustPublish(good, event("one", ""))
			open.events(1)
			ids := map[string]bool{}
			for _, c := range []struct{ method, path, bearer, body, id string }{
				{"GET", "/v2/realtime/stream?services=fnance&cursor=hush-cursor", good, "", "mine-1"},
				{"GET", "/v2/realtime/stream?ticket=hush-ticket", "", "", ""},
				{"GET", "/v2/realtime/stream?propertyId=hush-property", good + "hush", "", ""},
				{"GET", "/nowhere?hush-nowhere=1", "", "", "mine-2"},
				{"DELETE", "/v2/events?access_token=hush-token", good, "", ""},
				{"POST", "/v2/events?access_token=hush-token", good, `{"service":"finance","type":"expense_added","propertyID":"hush-field"}`, ""},
				{"POST", "/v2/events", good, `[{"service":"finance"`, "insane id; hush-id"},
				{"GET", "/v2/realtime/metrics?orgId=hush-org", good, "", ""},
			} {
				request, err := http.NewRequest(c.method, p.url+c.path, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Content-Type", "application/json")
				request.Header.Set("X-Request-Id", c.id)
				request.Header.Set("Cookie", "other=hush-cookie")
				if c.bearer != "" {
					request.Header.Set("Authorization", "Bearer "+c.bearer)
				}
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				id := response.Header.Get("X-Request-Id")
				if strings.HasPrefix(c.id, "mine") && id != c.id || id == "" || ids[id] {
					t.Errorf("%s %s has the request id %q", c.method, c.path, id)
				}
				ids[id] = true
			}
			if err := p.stop(); err != nil {
				t.Fatal(err)
			}
			text := p.errors.String()
			for _, secret := range []string{"hush", testSecret, "eyJ", good[len(good)-20:]} {
				if strings.Contains(text, secret) {
					t.Errorf("the log contains %q", secret)
				}
			}
			levels := checkLines(t, format, text)
			if levels["DEBUG"] < len(ids) || levels["INFO"] == 0 {
				t.Errorf("levels: %v", levels)
			}
			for id := range ids {
				if !strings.Contains(text, `"id":"`+id+`"`) && !strings.Contains(text, " id="+id+" ") {
					t.Errorf("the log does not tell of %s", id)
				}
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

var textLine = regexp.MustCompile(`^time=\d{4}-\d\d-\d\dT\S+ level=([A-Z]+) msg=("(?:[^"\\]|\\.)*"|\S+)( [^\s="]+=("(?:[^"\\]|\\.)*"|[^\s"]*))*$`)

// checkLines holds every line to the format, and counts the levels.
func checkLines(t *testing.T, format, text string) map[string]int {
	t.Helper()
	levels := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		var record struct {
			Time       time.Time
			Level, Msg string
		}
		if format == "json" {
			if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time.IsZero() || record.Msg == "" {
				t.Errorf("not a line of JSON: %s (%v)", line, err)
			}
		} else if found := textLine.FindStringSubmatch(line); found == nil {
			t.Errorf("not a line of text: %s", line)
		} else {
			record.Level = found[1]
		}
		levels[record.Level]++
	}
	return levels
}

// TestLogLevel says less at a higher level.
func TestLogLevel(t *testing.T) {
	p := serve(t, append(shared(t), "--log-level=error")...)
	get(t, p.url+"/nowhere", "")
	if err := p.stop(); err != nil || p.errors.String() != "" {
		t.Errorf("%v: %s", err, p.errors)
	}
}

// TestSignals: SIGTERM and SIGINT drain and exit 0; while that is held up, a second one ends the process at once.
func TestSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := serve(t, shared(t)...)
		if err := p.command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := p.wait(); err != nil {
			t.Errorf("%s: %v", signal, err)
		}
	}
	p := serve(t, append(shared(t), "--drain=1h")...)
	// A request whose body does not come holds the end up.
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v2/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n", admin(t, "1"))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q %v", line, err)
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.untilDraining()
	second := time.Now()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = p.wait()
	if status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("after the second signal: %v", err)
	}
	if took := time.Since(second); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// untilDraining waits until the log tells of the drain, which the first signal began.
func (p *process) untilDraining() {
	p.t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(p.errors.String(), "msg=draining") {
		select {
		case <-deadline:
			p.t.Fatalf("it does not drain: %s", p.errors)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
