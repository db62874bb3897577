package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/cmd/sluice/doctor"
)

// examined is a server that the doctor visits, and what must be found there: by check a part of what to change. All else is well.
type examined struct {
	name    string
	url     string
	root    string // of its certificates
	flags   string
	finds   map[string]string
	warns   bool   // what is found is worth a warning and no more
	says    string // a part of what is said of any of them
	stopped bool   // the visit ends early

	out, notes strings.Builder
	status     int
}

// visit runs the doctor, as JSON where a report is to be read by the test.
func (p *examined) visit(row int) {
	command := sluice(append([]string{"doctor", p.url, "--json", "--idle=9s", "--jwt-secret=" + testSecret, fmt.Sprint("--org=", row)},
		strings.Fields(p.flags)...)...)
	if p.root != "" {
		command.Env = append(command.Env, "SSL_CERT_FILE="+p.root)
	}
	command.Stdout, command.Stderr = &p.out, &p.notes
	if err := command.Run(); command.ProcessState == nil {
		p.notes.WriteString(err.Error())
	}
	p.status = command.ProcessState.ExitCode()
}

// TestDoctor visits proxies that are set up well and badly, all at once, since most of a visit is silence. Each mistake is
// named with the directive that mends it, and nothing else is.
func TestDoctor(t *testing.T) {
	t.Parallel()
	database := shared(t)
	often := serve(t, append(database, "--heartbeat=1s", "--allowed-origins=https://app.example.com")...)
	barely := serve(t, append(database, "--heartbeat=6s")...) // it pings after 4 to 6 s, so that some pings come in 5 s and others do not
	seldom := serve(t, database...)
	const (
		upgrade = "proxy_set_header Upgrade $http_upgrade;"
		host    = "proxy_set_header Host $http_host;"
		buffers = "proxy_buffering off;"
		nginxes = "proxy_read_timeout 90s;"
		others  = "timeout server 90s"
		allowed = "--origin=https://app.example.com"
	)
	patients := []*examined{
		{name: "no proxy", url: often.url, flags: allowed},
		{name: "pages that nobody allowed", url: often.url, flags: "--origin=https://else.example.com", finds: map[string]string{
			"cors": "--allowed-origins=https://else.example.com", "origin": "--allowed-origins=https://else.example.com",
		}},
		{name: "a wrong token", url: often.url, flags: "--token=x", finds: map[string]string{"token": "--token"}, says: "401", stopped: true},
		{name: "nobody there", url: "http://" + freePort(t), finds: map[string]string{"reach": "server runs"}, stopped: true},
	}
	for _, one := range []struct {
		setup proxySetup
		to    *process
		flags string
		finds map[string]string
		says  string
	}{
		{advised(t, "nginx"), often, allowed, nil, ""},
		{advised(t, "haproxy"), often, allowed, nil, ""},
		{nginxDefault, often, "", map[string]string{"websocket": upgrade}, "HTTP/1.0"},
		{nginxStripped, often, "", map[string]string{"websocket": upgrade}, "HTTP/1.1"},
		{nginxPassing, often, "", map[string]string{"origin": host}, "another Host"},
		{nginxHolding, often, "--wait=5s --idle=4s", map[string]string{"sse": buffers, "ndjson": buffers, "websocket": upgrade}, "held back"},
		{nginxPacking, often, "", map[string]string{"sse": "gzip off;", "ndjson": "gzip off;"}, "compressed (gzip)"},
		{nginxMeddling, often, allowed, map[string]string{"cors": "no add_header Access-Control-Allow-Origin"}, "*"},
		{nginxReading, often, "", map[string]string{"ticket": "pass POST"}, "403"},
		{nginxNarrow, often, "", nil, "Sluice answers"},
		{haproxyAstray, often, "", nil, ""},
		{nginxHiding, often, allowed, map[string]string{"cors": "no proxy_hide_header"}, "Access-Control-Allow-Credentials"},
		{haproxyWaits, often, "--wait=5s --idle=4s", map[string]string{"sse": "no http-response wait-for-body", "ndjson": "no http-response wait-for-body"}, "pad=1 alone"},
		{nginxHurried, often, "", map[string]string{"idle poll": nginxes, "origin": host}, "504"},
		{nginxHurried, seldom, "", map[string]string{
			"idle poll": nginxes, "idle sse": nginxes, "idle ndjson": nginxes, "idle websocket": nginxes, "origin": host,
		}, "--heartbeat"},
		{nginxHurried, barely, "--idle=25s", map[string]string{
			"idle poll": nginxes, "idle sse": nginxes, "idle ndjson": nginxes, "idle websocket": nginxes, "origin": host,
		}, "were borne before"},
		{haproxyHurry, seldom, "", map[string]string{
			"idle poll": others, "idle sse": others, "idle ndjson": others, "idle websocket": others,
		}, "cut after"},
	} {
		before := one.setup.start(t, one.to.url)
		patients = append(patients, &examined{name: one.setup.name, url: before.url, root: before.root, flags: one.flags, finds: one.finds, says: one.says})
	}
	ticketless := nginxNoTicket.start(t, often.url)
	unserved := nginxPassing.start(t, "http://"+freePort(t))
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	astray := haproxyAstray.start(t, often.url)
	patients = append(patients,
		&examined{
			name: "a wrong token and a wrong clock", url: astray.url, flags: "--token=x", finds: map[string]string{"token": "--token", "clock": "NTP"},
			says: "behind this machine's", stopped: true,
		},
		&examined{name: nginxNoTicket.name, url: ticketless.url, finds: map[string]string{"ticket": "/v2/tickets"}, warns: true, says: "has no tickets"},
		&examined{name: "a proxy without a server", url: unserved.url, finds: map[string]string{"reach": "sluice serve"}, says: "502", stopped: true},
		&examined{name: "another server", url: elsewhere.URL, finds: map[string]string{"reach": "proxy_pass"}, says: "404", stopped: true},
	)
	var group sync.WaitGroup
	for row, one := range patients {
		group.Go(func() { one.visit(row) })
	}
	group.Wait()
	for _, one := range patients {
		t.Run(one.name, one.check)
	}
}

// TestDoctorPrints reads what people are given: what is wrong, and below it what to do; and errors where nothing can be asked.
func TestDoctorPrints(t *testing.T) {
	p := serve(t, shared(t)...)
	out, notes, status := outcome(t, sluice("doctor", p.url+"/", "--token=x"))
	for _, want := range []string{"ok    reach  Sluice answers in ", "ok    http   HTTP/1.1", "FAIL  token  401 Unauthorized", "\n             -> give a reader's --token"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in it", want)
		}
	}
	if status != 1 || !strings.Contains(notes, "to be changed: 1 of 3") || t.Failed() {
		t.Errorf("status %d: %s\n%s", status, out, notes)
	}
	for wrong, want := range map[string]string{"x": "not a server's address", "http://x --idle=0s": "--idle 0s: from 1s", "http://x --wait=2h": "--wait 2h0m0s: from 1s"} {
		out, notes, status := outcome(t, sluice(append(strings.Fields("doctor --token=x"), strings.Fields(wrong)...)...))
		if status != 1 || out != "" || !strings.Contains(notes, want) {
			t.Errorf("%s: status %d, %s %s", wrong, status, out, notes)
		}
	}
}

// TestDoctorSeesDelay visits HAProxy as it comes, which gives each frame on 200 ms late. The doctor says so only where nothing
// else was slow meanwhile, so on a busy machine it may have to come again.
func TestDoctorSeesDelay(t *testing.T) {
	t.Parallel()
	p := serve(t, append(shared(t), "--heartbeat=1s")...)
	before := haproxyPlain.start(t, p.url)
	for deadline := time.Now().Add(patience); ; {
		one := &examined{url: before.url, flags: "--idle=1s"}
		one.visit(0)
		if strings.Contains(one.out.String(), "HAProxy: option http-no-delay") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no word of it: %s%s", one.out.String(), one.notes.String())
		}
	}
}

// TestDoctorSeesClocks visits a server that is a year behind, by what it says on the way of the time.
func TestDoctorSeesClocks(t *testing.T) {
	t.Parallel()
	p := serve(t, append(shared(t), "--heartbeat=1s")...)
	one := &examined{
		url: between(t, p, func(to io.Writer) io.Writer { return &yearAgo{Writer: to} }), flags: "--idle=5s",
		finds: map[string]string{"clock": "NTP"}, says: "behind this machine's", stopped: true,
	}
	one.visit(0)
	one.check(t)
}

// TestDoctorSeesHushedStreams visits a server of which nothing comes any more after a stream's first ping, while nothing is cut.
func TestDoctorSeesHushedStreams(t *testing.T) {
	t.Parallel()
	p := serve(t, append(shared(t), "--heartbeat=1s")...)
	buffers := "proxy_buffering off;"
	one := &examined{
		url: between(t, p, func(to io.Writer) io.Writer { return &hushed{Writer: to} }), flags: "--idle=9s --wait=5s",
		finds: map[string]string{"idle sse": buffers, "idle ndjson": buffers, "idle websocket": buffers}, says: "no ping came within",
	}
	one.visit(0)
	one.check(t)
}

// between passes connections to a server on until the test ends, and what it answers through what is made for each.
func between(t *testing.T, p *process, altered func(io.Writer) io.Writer) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				defer server.Close()
				_, _ = io.Copy(server, client)
			}()
			go func() {
				defer client.Close()
				_, _ = io.Copy(altered(client), server)
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// hushed writes nothing any more after a ping.
type hushed struct {
	io.Writer
	over bool
}

func (h *hushed) Write(p []byte) (int, error) {
	if h.over {
		return len(p), nil
	}
	h.over = bytes.Contains(p, []byte("ping"))
	return h.Writer.Write(p)
}

// yearAgo writes times of frames as those of another year.
type yearAgo struct {
	io.Writer
	matched int // bytes of what stands before the last digit of the year
}

func (y *yearAgo) Write(p []byte) (int, error) {
	const before = `"time":"202`
	p = bytes.Clone(p)
	for i, b := range p {
		switch {
		case y.matched == len(before):
			p[i], y.matched = '0'+(b-'0'+9)%10, 0
		case b == before[y.matched]:
			y.matched++
		default:
			y.matched = 0
			if b == before[0] {
				y.matched = 1
			}
		}
	}
	return y.Writer.Write(p)
}

// check compares what was found with what should be.
func (p *examined) check(t *testing.T) {
	var report doctor.Report
	if err := json.Unmarshal([]byte(p.out.String()), &report); err != nil {
		t.Fatalf("%v: %s%s", err, p.out.String(), p.notes.String())
	}
	level, status := doctor.Fail, min(len(p.finds), 1)
	if p.warns {
		level, status = doctor.Warn, 0
	}
	if p.status != status {
		t.Errorf("exit status %d, expected %d: %s", p.status, status, p.notes.String())
	}
	found := map[string]bool{}
	for _, one := range report.Findings {
		found[one.Check] = true
		want, wrong := p.finds[one.Check]
		if (one.Level == doctor.OK) == wrong || wrong && (one.Level != level || !strings.Contains(strings.Join(one.Change, "\n"), want)) {
			t.Errorf("%s %s: %s -> %s, expected %q", one.Level, one.Check, one.Says, one.Change, want)
		}
	}
	for check := range p.finds {
		if !found[check] {
			t.Errorf("nothing is said of %s", check)
		}
	}
	if !p.stopped && !(found["reach"] && found["http"] && found["poll"] && found["sse"] && found["ndjson"] && found["websocket"] &&
		found["ticket"] && found["cors"] && found["idle poll"] && found["clock"]) {
		t.Errorf("not all was looked at: %v", found)
	}
	if !strings.Contains(p.out.String(), p.says) {
		t.Errorf("it does not say %q", p.says)
	}
	if !p.stopped && !strings.Contains(p.notes.String(), "listening for up to") {
		t.Errorf("it does not say what it waits for: %s", p.notes.String())
	}
	if t.Failed() {
		t.Logf("%s\n%s", p.out.String(), p.notes.String())
	}
}
