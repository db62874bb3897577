package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

// measured starts a server for a measurement and gives the flags that point at it.
func measured(t *testing.T, args ...string) []string {
	t.Helper()
	adminListen := freePort(t)
	p := serve(t, append(append(shared(t), "--admin-listen="+adminListen), args...)...)
	return []string{"--url=" + p.url, "--admin=http://" + adminListen, "--data=" + dataDirectory(t)}
}

// TestBenchFanout measures a small run and prints, for server and floor, what is promised.
func TestBenchFanout(t *testing.T) {
	at := measured(t, "--max-streams-per-user=0", "--max-streams-per-org=0")
	run := append([]string{"bench", "fanout", "--subscribers=20", "--duration=1s"}, at...)
	out, notes, status := outcome(t, sluice(run...))
	if status != 0 {
		t.Fatalf("status %d: %s%s", status, notes, out)
	}
	const row = ` +\d+ deliveries/s  latency p50 \S+s p99 \S+s max \S+s  CPU \d+\.\d\d µs/delivery  -?\d+\.\d\d KiB/connection  0 lost, 0 twice`
	for _, line := range []string{
		`^server` + row + `$`, `^floor` + row + `$`,
		`^server  published \d+ events/s, acknowledged in p50 \S+s p99 \S+s; CPU \d+\.\d µs/message$`,
		`^ratio   CPU a delivery \S+  deliveries/s \d+\.\d\d$`,
	} {
		if !regexp.MustCompile(`(?m)` + line).MatchString(out) {
			t.Errorf("no line like %s in:\n%s", line, out)
		}
	}
	if !regexp.MustCompile(`\d+ cores, Linux \S+, go1\.\S+, one fsync p50 \S+s`).MatchString(notes + out) {
		t.Errorf("the time of an fsync is not told: %s", notes)
	}
	out, notes, status = outcome(t, sluice(append(run, "--json", "--no-floor", "--sharing=5")...))
	var outcomes []struct {
		Name                                 string
		Messages, Deliveries, Lost, Repeated int64
	}
	if err := json.Unmarshal([]byte(out), &outcomes); status != 0 || err != nil || len(outcomes) != 1 {
		t.Fatalf("status %d, %v: %s%s", status, err, notes, out)
	}
	// By the clock, twenty messages a second, each to five of the readers.
	if one := outcomes[0]; one.Name != "server" || one.Messages < 5 || one.Messages > 21 || one.Deliveries != 5*one.Messages || one.Lost+one.Repeated != 0 {
		t.Errorf("%+v", one)
	}
}

// TestBenchDoors measures small runs over each door: every reader has every event, in the server's run and in the floor's, which
// sends as many bytes.
func TestBenchDoors(t *testing.T) {
	at := measured(t, "--max-streams-per-user=0", "--max-streams-per-org=0")
	for _, door := range []string{"sse", "ndjson", "websocket"} {
		for _, rate := range []string{"--rate=20", "--rate=0"} {
			run := append([]string{"bench", "fanout", "--subscribers=20", "--duration=1s", "--json", "--transport=" + door, rate}, at...)
			if rate == "--rate=0" {
				run = append(run, "--batch=100")
			}
			out, notes, status := outcome(t, sluice(run...))
			var outcomes []struct {
				Name                                 string
				Messages, Deliveries, Lost, Repeated int64
				Bytes                                float64
			}
			if err := json.Unmarshal([]byte(out), &outcomes); status != 0 || err != nil || len(outcomes) != 2 {
				t.Fatalf("status %d, %v: %s%s", status, err, notes, out)
			}
			server, floor := outcomes[0], outcomes[1]
			if server.Messages == 0 || server.Deliveries != 20*server.Messages || server.Lost+server.Repeated != 0 {
				t.Errorf("%s %s: %+v", door, rate, server)
			}
			if floor.Deliveries == 0 || floor.Deliveries%20 != 0 || floor.Lost+floor.Repeated != 0 {
				t.Errorf("%s %s: %+v", door, rate, floor)
			}
			if ratio := floor.Bytes / server.Bytes; ratio < 0.95 || ratio > 1.05 {
				t.Errorf("%s %s: %.0f bytes an event, and %.0f of the floor", door, rate, server.Bytes, floor.Bytes)
			}
		}
	}
	out, notes, status := outcome(t, sluice(append([]string{"bench", "idle", "--transport=websocket", "--subscribers=50", "--settle=10ms"}, at...)...))
	const idle = `^server  \d+\.\d MiB; with 50 idle streams \d+\.\d MiB, -?\d+\.\d\d KiB each \(bar: 8\); after they left \d+\.\d MiB, \d\.\d\d of before \(bar: 1\.2\)\n$`
	if status != 0 || !regexp.MustCompile(idle).MatchString(out) {
		t.Errorf("status %d: %s%s", status, notes, out)
	}
}

// TestBenchPoll has polls answered, and ask again over the same connections.
func TestBenchPoll(t *testing.T) {
	at := measured(t)
	out, notes, status := outcome(t, sluice(append([]string{"bench", "poll", "--waiters=100", "--rounds=3", "--settle=10ms"}, at...)...))
	const round = `server  \d+\.\d MiB and \d+ goroutines; with 100 polls that wait \d+\.\d MiB and \d+ goroutines, -?\d+\.\d\d KiB each \(bar: 6\)\n` +
		`server  one event answers 100 polls: the first after \S+s, p50 \S+s, p99 \S+s, the last after \S+s \(bar: 1s\); CPU \d+\.\d µs/answer\n`
	if status != 0 || !regexp.MustCompile(`^(`+round+`){3}$`).MatchString(out) {
		t.Errorf("status %d: %s%s", status, notes, out)
	}
	out, notes, status = outcome(t, sluice(append([]string{"bench", "poll", "--settle=40s"}, at...)...))
	if status != 1 || !strings.Contains(notes, "take 30s or less") {
		t.Errorf("status %d: %s%s", status, notes, out)
	}
}

// TestBenchHints fails with what to do about it.
func TestBenchHints(t *testing.T) {
	open, limited := measured(t), measured(t, "--max-streams-per-org=3")
	wrong := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(wrong, []byte("the secret of another server"), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + freePort(t)
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"a user's limit", open, []string{"429", "--max-streams-per-user 0"}},
		{"an org's limit", limited, []string{"429", "--max-streams-per-org 0"}},
		{"another secret", append(open[:3:3], "--secret-file="+wrong), []string{"401", "--data", "--token"}},
		{"no secret", append(open[:2:2], "--data="+t.TempDir()), []string{"no secret", "--secret-file"}},
		{"no server", append(open[1:3:3], "--url="+nobody), []string{"nobody listens at " + nobody, "sluice serve"}},
		{"no admin listener", append(open[:3:3], "--admin="+nobody), []string{"--admin-listen", "--admin"}},
		{"no address", append(open[1:3:3], "--url=ftp://nowhere"), []string{"--url"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, notes, status := outcome(t, sluice(append([]string{"bench", "fanout", "--subscribers=12", "--duration=1s", "--no-floor"}, c.args...)...))
			if status != 1 || out != "" {
				t.Errorf("status %d: %s", status, out)
			}
			for _, want := range c.says {
				if !strings.Contains(notes, want) {
					t.Errorf("it does not say %q: %s", want, notes)
				}
			}
		})
	}
}

// TestBenchChat measures small runs over two instances and through two doors: nobody misses a message, everybody sees who comes
// and goes, and the floor keeps nothing in the database.
func TestBenchChat(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var urls, admins []string
	for range 2 {
		admin := freePort(t)
		urls = append(urls, serve(t, "--database-url="+url, "--admin-listen="+admin).url)
		admins = append(admins, "http://"+admin)
	}
	run := []string{
		"bench", "chat", "--url=" + strings.Join(urls, ","), "--admin=" + strings.Join(admins, ","), "--data=" + dataDirectory(t),
		"--database-url=" + url, "--members=4", "--rate=40", "--duration=1s",
	}
	for _, more := range [][]string{{"--rooms=1"}, {"--rooms=3", "--transport=sse"}, {"--transport=ndjson", "--no-floor"}} {
		out, notes, status := outcome(t, sluice(append(run, more...)...))
		const row = ` +\d+ messages/s, \d+ deliveries/s  latency p50 \S+s p99 \S+s max \S+s  CPU \d+\.\d\d µs/delivery, \d+ µs/message  0 lost, 0 twice, 0 astray`
		lines := []string{
			`server` + row, `server  answered in p50 \d\S+s p99 \S+s; 2 instances, \d+ members of [13] rooms`,
			`server  \d*[1-9]\d* changes of presence, each seen by 4 others in p50 \S+s p99 \S+s max \S+s \(bar: 1s, (met|missed)\)`,
			`server  40 messages/s without loss: (met|missed)`,
		}
		if more[len(more)-1] != "--no-floor" {
			lines = append(lines, `floor`+row, `ratio   CPU a delivery \d+\.\d\d  latency p50 \d+\.\d\d p99 \d+\.\d\d`)
		}
		for _, line := range lines {
			if status != 0 || !regexp.MustCompile(`(?m)^`+line+`$`).MatchString(out) {
				t.Errorf("%v: status %d, no line like %s: %s%s", more, status, line, notes, out)
			}
		}
	}
	db := sqlx.MustConnect("postgres", url)
	defer db.Close()
	var left bool
	if err := db.Get(&left, `select exists (select from pg_namespace where nspname = 'sluice_bench')`); err != nil || left {
		t.Errorf("the floor's table is there: %v (%v)", left, err)
	}
	for _, c := range []struct{ flag, says string }{
		{"--rate=1000", "a user may say 10 messages a second"},
		{"--duration=31s", "30s or less"},
		{"--members=0", "1 at least"},
		{"--admin=http://127.0.0.1:1", "2 --url and 1 --admin"},
	} {
		args := run
		if strings.HasPrefix(c.flag, "--admin") {
			args = append(append([]string{}, run[:3]...), run[4:]...)
		}
		if out, notes, status := outcome(t, sluice(append(args, c.flag)...)); status != 1 || !strings.Contains(notes, c.says) {
			t.Errorf("%s: status %d: %s%s", c.flag, status, notes, out)
		}
	}
}

// TestBenchSQL measures both doors to one reader and loses nothing.
func TestBenchSQL(t *testing.T) {
	url := pgtest.Database(t)
	p := serve(t, "--database-url="+url)
	out, notes, status := outcome(t, sluice("bench", "sql", "--url="+p.url, "--data="+dataDirectory(t), "--database-url="+url, "--duration=1s"))
	for _, door := range []string{"SQL ", "HTTP"} {
		if !regexp.MustCompile(`(?m)^` + door + `  \d+ events delivered in p50 \d\S+s p99 \S+s max \S+s; answered in p50 \S+s p99 \S+s; 0 lost, 0 twice$`).MatchString(out) {
			t.Errorf("status %d, no line of %s: %s%s", status, door, notes, out)
		}
	}
	out, notes, status = outcome(t, sluice("bench", "sql", "--url="+p.url, "--data="+dataDirectory(t)))
	if status != 1 || !strings.Contains(notes, "--database-url") {
		t.Errorf("status %d without a database: %s%s", status, notes, out)
	}
}

// TestBenchUpload sends small files to the server, to the floor and as a form, and prints for each what is promised.
func TestBenchUpload(t *testing.T) {
	t.Parallel()
	at := measured(t)
	out, notes, status := outcome(t, sluice(append([]string{"bench", "upload", "--size=1MiB", "--chunks=64KiB,1MiB", "--rounds=1"}, at...)...))
	if status != 0 {
		t.Fatalf("status %d: %s%s", status, notes, out)
	}
	for _, line := range []string{
		`^server +\d+\.\d MiB/s  2 at a time, 1MiB in chunks of 64KiB, \S+s$`, `^floor +\d+\.\d MiB/s  2 at a time, 1MiB in chunks of 1MiB, \S+s$`,
		`^form +\d+\.\d MiB/s  2 at a time, 1MiB in one multipart POST, \S+s$`, `^ratio   \d+\.\d\d of the floor; \d+\.\d\d of the form's time$`,
		`^memory  \d+\.\d MiB at most \(bar: 128\)$`,
	} {
		if !regexp.MustCompile(`(?m)` + line).MatchString(out) {
			t.Errorf("no line like %s in:\n%s", line, out)
		}
	}
	_, notes, status = outcome(t, sluice(append([]string{"bench", "upload", "--size=0"}, at...)...))
	if status == 0 || !strings.Contains(notes, "--size") {
		t.Errorf("an empty file: status %d, %s", status, notes)
	}
}
