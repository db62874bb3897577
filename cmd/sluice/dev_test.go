package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"sluice/store/localpg/pgtest"
)

// occupied is a port that somebody else listens on.
func occupied(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// get asks with a Host of its own, or the address's where that is empty.
func get(t testing.TB, url, host string) (response *http.Response, body string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	response, err = http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// TestDevPorts finds both of its ports taken, takes the next free ones, and says so: which flag, and which address
// instead. What it prints where to look is where it is.
func TestDevPorts(t *testing.T) {
	listen, adminListen := occupied(t), occupied(t)
	command := sluice("serve", "--dev", "--listen="+listen, "--admin-listen="+adminListen,
		"--jwt-secret="+testSecret, "--database-url="+pgtest.Database(t))
	notes := new(logs)
	command.Stderr = notes
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, command: command, errors: notes}
	t.Cleanup(p.kill)
	lines := bufio.NewScanner(out)
	var printed []string
	for len(printed) < 2 && lines.Scan() {
		printed = append(printed, lines.Text())
	}
	found := regexp.MustCompile(`^sluice: listening on (http://\S+)\nsluice: open (http://\S+)/ in a browser; metrics at (http://\S+)/metrics$`).
		FindStringSubmatch(strings.Join(printed, "\n"))
	if found == nil || found[1] != found[2] {
		t.Fatalf("%q: %s", printed, notes)
	}
	for flag, pair := range map[string][2]string{"--listen": {listen, found[1]}, "--admin-listen": {adminListen, found[3]}} {
		used := strings.TrimPrefix(pair[1], "http://")
		if used == pair[0] || !strings.Contains(notes.String(), flag+" "+pair[0]+" is taken, using "+used+"\n") {
			t.Errorf("%s %s, used is %s: %s", flag, pair[0], used, notes)
		}
	}
	if answer, body := get(t, found[2]+"/", ""); answer.StatusCode != http.StatusOK || !strings.Contains(body, "<html") {
		t.Errorf("the page: %s %s", answer.Status, body)
	}
	if answer, body := get(t, found[3]+"/metrics", ""); answer.StatusCode != http.StatusOK || !strings.Contains(body, "sluice_") {
		t.Errorf("the metrics: %s %.200s", answer.Status, body)
	}
}

// TestTakenPorts ends with 1 and names the flag, before anything else is started.
func TestTakenPorts(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	for _, flag := range []string{"--listen", "--admin-listen"} {
		args := map[string]string{"--listen": "127.0.0.1:0", "--admin-listen": "127.0.0.1:0"}
		args[flag] = occupied(t)
		out, notes, status := outcome(t, sluice("serve", "--data="+data, "--listen="+args["--listen"], "--admin-listen="+args["--admin-listen"]))
		if status != 1 || out != "" || !strings.Contains(notes, "sluice: "+flag+": ") || !strings.Contains(notes, args[flag]) {
			t.Errorf("%s: status %d: %s%s", flag, status, out, notes)
		}
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("the data directory was made")
	}
}

// TestDevHosts serves the page with its token to this machine's names alone, and to nobody without --dev.
func TestDevHosts(t *testing.T) {
	database := pgtest.Database(t)
	p := serve(t, "--database-url="+database, "--dev")
	for _, host := range []string{"", "localhost", "localhost:8080", "127.0.0.1", "[::1]:8080"} {
		if answer, _ := get(t, p.url+"/", host); answer.StatusCode != http.StatusOK || !carriesToken(answer) {
			t.Errorf("Host %q: %s, with a token: %v", host, answer.Status, carriesToken(answer))
		}
	}
	for _, host := range []string{"evil.example", "localhost.evil.example:8080", "192.0.2.1"} {
		for _, path := range []string{"/", "/healthz/live", "/v2/realtime/stream"} {
			if answer, body := get(t, p.url+path, host); answer.StatusCode != http.StatusMisdirectedRequest || carriesToken(answer) {
				t.Errorf("Host %q, %s: %s %s", host, path, answer.Status, body)
			}
		}
	}
	q := serve(t, "--database-url="+database)
	if answer, body := get(t, q.url+"/", ""); answer.StatusCode != http.StatusNotFound || carriesToken(answer) {
		t.Errorf("without --dev: %s %s", answer.Status, body)
	}
	if answer, _ := get(t, q.url+"/healthz/live", "evil.example"); answer.StatusCode != http.StatusOK {
		t.Errorf("without --dev any Host is served, but: %s", answer.Status)
	}
}

// carriesToken says whether an answer gives the browser a token.
func carriesToken(answer *http.Response) bool {
	return strings.Contains(strings.Join(answer.Header.Values("Set-Cookie"), " "), "sluice_token=eyJ")
}

// TestSecretIsKept: the first start makes a secret that its owner alone reads, `sluice token` signs with it, and the
// next start accepts those tokens.
func TestSecretIsKept(t *testing.T) {
	data := shortDir(t)
	path := filepath.Join(data, "jwt.secret")
	var first []byte
	var text string
	for range 2 {
		p := serve(t, "--data="+data, "--jwt-secret=")
		kept, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = kept
			if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).Match(kept) {
				t.Fatalf("the secret is %q", kept)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%v %v", info.Mode(), err)
			}
			out, notes, status := outcome(t, sluice("token", "--data="+data, "--user=7", "--role=ADMIN", "--scope=publish"))
			if status != 0 {
				t.Fatal(notes)
			}
			text = strings.TrimSpace(out)
		}
		if string(kept) != string(first) {
			t.Fatal("the second start has made another secret")
		}
		p.mustPublish(text, event("", ""))
		if _, err := p.publish(admin(t, "1"), event("", "")); err == nil || !strings.Contains(err.Error(), "401") {
			t.Fatalf("a token of another secret: %v", err)
		}
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := filepath.Glob(path + ".*"); err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v %v", left, err)
	}
}

// TestSecretAtOnce makes the secret from many sides at once: all have the same.
func TestSecretAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	secrets := make([]string, 20)
	var group sync.WaitGroup
	for i := range secrets {
		group.Go(func() {
			secret, err := keptSecret(dir)
			if err != nil {
				t.Error(err)
			}
			secrets[i] = string(secret)
		})
	}
	group.Wait()
	for _, secret := range secrets {
		if secret == "" || secret != secrets[0] {
			t.Fatalf("%q", secrets)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "jwt.secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keptSecret(dir); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Fatalf("an empty secret: %v", err)
	}
}
