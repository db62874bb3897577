package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// TestDrain ends an instance in order: a stream is told to come back, its body ends properly, and the process exits 0.
func TestDrain(t *testing.T) {
	p := serve(t, shared(t)...)
	all := admin(t, "1")
	var open []*stream
	for _, via := range transports() {
		s := p.open(via, all, "", "")
		s.wait("ack")
		open = append(open, s)
	}
	raw := stopReading(t, p, all)
	if err := p.stop(); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	for _, s := range open {
		if drain := s.wait("drain"); !strings.Contains(drain.text, `"retryMs":`) || drain.id != "" && drain.id != s.last {
			t.Fatalf("%+v", drain)
		}
		if one, ok := s.next(); ok {
			t.Fatalf("after the drain frame: %+v", one)
		}
	}
	text, err := io.ReadAll(raw)
	if err != nil || !bytes.HasSuffix(text, []byte("\r\n0\r\n\r\n")) {
		t.Fatalf("the chunked body ends with %q (%v)", text[max(0, len(text)-40):], err)
	}
}

// TestHTTP10 asks without chunks.
func TestHTTP10(t *testing.T) {
	p := serve(t, shared(t)...)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v2/realtime/stream?pad=1 HTTP/1.0\r\nAuthorization: Bearer %s\r\n\r\n", admin(t, "1"))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusOK || len(response.TransferEncoding) != 0 {
		t.Fatalf("%+v %v", response, err)
	}
	body := bufio.NewReader(response.Body)
	seen := 0
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		seen += len(line)
		if strings.HasPrefix(line, "event: ack") {
			break
		}
	}
	if seen < 2<<10 {
		t.Fatalf("%d bytes before the ack, with padding", seen)
	}
}

// TestPingCarriesThePosition: after silence the cursor moves on although the filter admits nothing.
func TestPingCarriesThePosition(t *testing.T) {
	p := serve(t, append(shared(t), "--heartbeat=1s")...)
	all := admin(t, "1")
	s := p.open(transports()[0], all, "services=tasks", "")
	s.wait("ack")
	cursor := p.mustPublish(all, event("not-for-it", ""))[0].Cursor
	for {
		if ping := s.wait("ping"); ping.id == cursor {
			return
		}
	}
}

// TestTokenEnds: a stream is told to come back before its token ends, and does not outlive it by more than the leeway.
func TestTokenEnds(t *testing.T) {
	p := serve(t, append(shared(t), "--heartbeat=2s")...)
	short := token(t, handlers.Claims{Org: "1", User: "1", Role: "ADMIN", Expires: time.Now().Add(-25 * time.Second)})
	s := p.open(transports()[0], short, "", "")
	s.wait("reauth")
	started := time.Now()
	for {
		if _, ok := s.next(); !ok {
			break
		}
	}
	if took := time.Since(started); took > 15*time.Second {
		t.Fatalf("the stream outlived its token by %s", took)
	}
}

// TestLimits: a user's oldest stream gives way; an org's last one is refused, in the way that each client understands.
func TestLimits(t *testing.T) {
	p := serve(t, append(shared(t), "--max-streams-per-user=2", "--max-streams-per-org=3")...)
	via := transports()[0]
	first := p.open(via, admin(t, "1"), "", "")
	first.wait("ack")
	for range 2 {
		p.open(via, admin(t, "1"), "", "").wait("ack")
	}
	if problem := first.wait("problem"); !strings.Contains(problem.text, `"status":429`) {
		t.Fatal(problem.text)
	}
	other := token(t, handlers.Claims{Org: "1", User: "2", Role: "ADMIN"})
	p.open(via, other, "", "").wait("ack")
	third := token(t, handlers.Claims{Org: "1", User: "3", Role: "ADMIN"})
	if problem := p.open(via, third, "", "").wait("problem"); !strings.Contains(problem.text, `"status":429`) {
		t.Fatal(problem.text)
	}
	request, _ := http.NewRequest(http.MethodGet, p.url+"/v2/realtime/stream", nil)
	request.Header.Set("Authorization", "Bearer "+third)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" {
		t.Fatalf("%s %v", response.Status, response.Header)
	}
	p.open(via, admin(t, "2"), "", "").wait("ack") // another org has its own
}

// TestSlowRequests: headers and bodies that trickle are given up; others are served meanwhile.
func TestSlowRequests(t *testing.T) {
	p := serve(t, shared(t)...)
	all := admin(t, "1")
	var slow []net.Conn
	for _, text := range []string{
		"GET /v2/realtime/stream HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"POST /v2/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + all + "\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
		"POST /v2/events HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{", // without a token nobody reads it
		"GET /healthz/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, text)
		slow = append(slow, conn)
	}
	p.mustPublish(all, event("meanwhile", ""))
	for i, conn := range slow {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("request %d is still open: %v", i, err)
		}
		if i == 1 && !bytes.Contains(answer, []byte(" 408 ")) {
			t.Fatalf("the slow body was answered with %q", answer)
		}
	}
}

// longAgo moves all events to a day that is past retention, as if that day had been.
func longAgo(t testing.TB, db *sql.DB) {
	t.Helper()
	_, err := db.Exec(`create table sluice.events_20200101 (like sluice.events including defaults including constraints);
		insert into sluice.events_20200101 select org, seq, '2020-01-01'::timestamptz + seq * interval '1 second', id, service,
			type, property_id, entity_type, entity_id, user_id, data from sluice.events;
		delete from sluice.events;
		alter table sluice.events attach partition sluice.events_20200101 for values from ('2020-01-01 00:00:00+00') to ('2020-01-02 00:00:00+00')`)
	if err != nil {
		t.Fatal(err)
	}
}

// dropped waits until that day is gone.
func dropped(t testing.TB, db *sql.DB) {
	t.Helper()
	until(t, "the day is not dropped", func() bool {
		var there bool
		if err := db.QueryRow(`select to_regclass('sluice.events_20200101') is not null`).Scan(&there); err != nil {
			t.Fatal(err)
		}
		return !there
	})
}

// TestRetention drops a day beneath its readers: each gets its events or a reset, and positions are never used again.
func TestRetention(t *testing.T) {
	url := pgtest.Database(t)
	p := serve(t, "--database-url="+url)
	all := admin(t, "1")
	var batch []map[string]any
	for _, id := range ids(100) {
		batch = append(batch, event(id, ""))
	}
	old := p.mustPublish(all, batch)
	db := database(t, url)
	longAgo(t, db)
	whole := p.open(transports()[0], all, "cursor=earliest", "").events(100)
	if !slices.Equal(whole, ids(100)) {
		t.Fatalf("before: %v", whole)
	}
	// Another instance trims when it starts.
	q := serve(t, "--database-url="+url)
	dropped(t, db)
	for _, on := range []*process{p, q} {
		s := on.open(transports()[0], all, "", old[10].Cursor)
		first, _ := s.next()
		if first.kind == "ack" {
			first, _ = s.next()
		}
		if first.kind == "reset" && strings.Contains(first.text, `"expired"`) {
			continue
		}
		// The first instance may still hold them in memory: then it is all of them.
		if got := append([]string{eventID(t, first)}, s.events(88)...); !slices.Equal(got, ids(100)[11:]) {
			t.Fatalf("after: %v", got)
		}
	}
	next := p.mustPublish(all, event("next", ""))[0].Cursor
	if !strings.HasSuffix(next, "-101") {
		t.Fatalf("the next position is %s", next)
	}
}

// TestOneDirectoryOneInstance starts a second instance on the same private Postgres, and looks for ports.
func TestOneDirectoryOneInstance(t *testing.T) {
	data := shortDir(t)
	p := serve(t, "--data="+data)
	second := sluice("serve", "--data="+data, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
	text, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(text), "in use by another instance") {
		t.Fatalf("%v: %s", err, text)
	}
	address := strings.TrimPrefix(p.url, "http://")
	taken := sluice("serve", "--listen="+address)
	text, err = taken.CombinedOutput()
	if err == nil || !strings.Contains(string(text), "--listen") {
		t.Fatalf("%v: %s", err, text)
	}
	if dev := serve(t, append(shared(t), "--dev", "--listen="+address)...); dev.url == p.url {
		t.Fatal("two instances listen at one address")
	}
}

// TestTLS serves TLS, and a new certificate without a restart.
func TestTLS(t *testing.T) {
	dir := shortDir(t)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	p := serve(t, append(shared(t), "--tls-cert="+certFile, "--tls-key="+keyFile)...)
	if !strings.HasPrefix(p.url, "https://") {
		t.Fatal(p.url)
	}
	for name, protocols := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   func(p *http.Protocols) { p.SetHTTP2(true) },
	} {
		via := transport{name: name, client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols),
		}}}
		protocols(via.client.Transport.(*http.Transport).Protocols)
		p.open(via, admin(t, "1"), "", "").wait("ack")
	}
	writeCertificate(t, certFile, keyFile, 2)
	deadline := time.After(patience)
	for {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		serial := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
		conn.Close()
		if serial == 2 {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the old certificate is still served")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
