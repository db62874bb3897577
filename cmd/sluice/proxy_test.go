package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proxySetup is one way to stand before Sluice. In its text DIR, LISTEN and BACKEND are replaced; what is said of a server is said
// once for each.
type proxySetup struct {
	name, program, text string
}

// nginxAround makes a configuration of nginx of what is in its http section.
const nginxAround = `
worker_processes 1;
pid DIR/pid;
error_log stderr;
events { worker_connections 128; }
http {
	access_log off;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
`

// nginxWith passes everything on, with what else is said in its location.
func nginxWith(name string, location ...string) proxySetup {
	return proxySetup{name, "nginx", nginxAround + `
	upstream sluice {
		server BACKEND;
	}
	server {
		listen LISTEN;
		location / {
			proxy_pass http://sluice;
			` + strings.Join(location, "\n\t\t\t") + `
		}
	}
}`}
}

// haproxyWith is HAProxy with this idle time-out, and what else is said of its backend.
func haproxyWith(name, idle string, backend ...string) proxySetup {
	return proxySetup{name, "haproxy", `
defaults
	mode http
	timeout connect 5s
	timeout client ` + idle + `
	timeout server ` + idle + `
frontend public
	bind LISTEN
	default_backend sluice
backend sluice
	server one BACKEND
	` + strings.Join(backend, "\n\t") + `
`}
}

const (
	nginx11       = "proxy_http_version 1.1;"
	nginxUpgrade  = `proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`
	nginxHost     = "proxy_set_header Host $http_host;"
	haproxyPrompt = "option http-no-delay"
	nginxHolds    = "proxy_ignore_headers X-Accel-Buffering;"
)

var (
	nginxDefault  = nginxWith("nginx as it comes") // HTTP/1.0 to Sluice, Upgrade stripped, buffering but for X-Accel-Buffering
	nginxStripped = nginxWith("nginx with HTTP/1.1, Upgrade stripped", nginx11)
	nginxPassing  = nginxWith("nginx with HTTP/1.1, Upgrade passed", nginx11, nginxUpgrade)
	nginxHolding  = nginxWith("nginx with HTTP/1.0 that buffers whatever it is told", nginxHolds)
	nginxHurried  = nginxWith("nginx with an idle time-out of 5 s", nginx11, nginxUpgrade, "proxy_read_timeout 5s;")
	haproxyPlain  = haproxyWith("HAProxy as it comes", "60s")
	nginxPacking  = nginxWith("nginx that compresses", nginx11, nginxUpgrade, nginxHost, "gzip on; gzip_proxied any; gzip_types text/event-stream application/x-ndjson;")
	nginxMeddling = nginxWith("nginx with CORS of its own", nginx11, nginxUpgrade, nginxHost, "add_header Access-Control-Allow-Origin *;")
	nginxReading  = nginxWith("nginx that passes no POST on", nginx11, nginxUpgrade, nginxHost, "limit_except GET { deny all; }")
	nginxHiding   = nginxWith("nginx that hides credentials", nginx11, nginxUpgrade, nginxHost, "proxy_hide_header Access-Control-Allow-Credentials;")
	nginxNoTicket = nginxWith("nginx that passes no tickets on", nginx11, nginxUpgrade, nginxHost, "location = /v2/tickets { return 404; }")
	nginxNarrow   = proxySetup{"nginx that passes /v2/ alone", "nginx", strings.Replace(nginxWith("", nginx11, nginxUpgrade, nginxHost).text, "location /", "location /v2/", 1)}
	haproxyAstray = haproxyWith("HAProxy before a clock that is years behind", "60s", haproxyPrompt, `http-response set-header Date "Wed, 01 Jan 2020 00:00:00 GMT"`)
	haproxyWaits  = haproxyWith("HAProxy that waits for a body", "60s", haproxyPrompt, "http-response wait-for-body time 20s at-least 1k")
	haproxyHurry  = haproxyWith("HAProxy with idle time-outs of 5 s", "5s", haproxyPrompt)
)

// advised is a configuration that we tell people to use, from the file that we give them.
func advised(t testing.TB, program string) proxySetup {
	t.Helper()
	name, file, around := "HAProxy as advised", "../../deploy/haproxy.cfg", ""
	exchanges := [][2]string{{"maxconn 20000", "maxconn 100"}, {"bind :443", "bind LISTEN"}, {"/etc/haproxy/sluice.pem", "DIR/both.pem"}, {"127.0.0.1:8080", "BACKEND"}}
	if program == "nginx" {
		name, file, around = "nginx as advised", "../../deploy/nginx.conf", nginxAround
		exchanges = [][2]string{
			{"listen 443", "listen LISTEN"},
			{"127.0.0.1:8080", "BACKEND"},
			{"/etc/ssl/sluice/fullchain.pem", "DIR/cert.pem"},
			{"/etc/ssl/sluice/privkey.pem", "DIR/key.pem"},
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	setup := proxySetup{name, program, string(text)}
	for _, one := range exchanges {
		if strings.Count(setup.text, one[0]) != 1 {
			t.Fatalf("%s does not name %q once", file, one[0])
		}
		setup.text = strings.Replace(setup.text, one[0], one[1], 1)
	}
	if around != "" {
		setup.text = around + setup.text + "}\n"
	}
	return setup
}

// tls says whether clients speak TLS to it.
func (s proxySetup) tls() bool { return strings.Contains(s.text, ".pem") }

// proxy is one running proxy.
type proxy struct {
	url  string
	root string // file of the certificate to trust; empty: no TLS
}

// mover reads through the proxy, and speaks HTTP/2 where that is offered.
func (p *proxy) mover(t testing.TB, token, cursor string) *mover {
	t.Helper()
	f := &mover{p: &process{t: t, url: p.url}, token: token, query: "services=finance", cursor: cursor}
	if p.root != "" {
		text, err := os.ReadFile(p.root)
		if err != nil {
			t.Fatal(err)
		}
		f.trusts = &tls.Config{RootCAs: x509.NewCertPool()}
		f.trusts.RootCAs.AppendCertsFromPEM(text)
	}
	transport := &http.Transport{TLSClientConfig: f.trusts.Clone(), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	f.client.Transport = transport
	return f
}

// servers are the lines of a configuration that say where an instance is.
var servers = regexp.MustCompile(`(?m)^(\s*server )(.*)BACKEND(.*\n)`)

// start runs the proxy before instances until the test ends.
func (s proxySetup) start(t testing.TB, backends ...string) *proxy {
	t.Helper()
	dir := shortDir(t)
	made := &proxy{}
	scheme := "http://"
	if s.tls() {
		scheme, made.root = "https://", certified(t, dir)
	}
	all := ""
	for i, backend := range backends {
		name := "${2}"
		if s.program == "haproxy" {
			name = fmt.Sprint("instance", i, " ")
		}
		all += "${1}" + name + strings.TrimPrefix(backend, "http://") + "${3}"
	}
	lines := servers.ReplaceAllString(s.text, all)
	path := filepath.Join(dir, "config")
	arguments := []string{"-db", "-f", path}
	if s.program == "nginx" {
		arguments = []string{"-p", dir, "-e", "stderr", "-g", "daemon off;", "-c", path}
	}
	// A port that was free a moment ago may be taken now: then it is another one's turn.
	for range 5 {
		address := freePort(t)
		text := strings.NewReplacer("DIR", dir, "LISTEN", address).Replace(lines)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		running := startChild(t, dir, unprivileged(t), s.program, arguments...)
		err := running.awaitOr(func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		if err == nil {
			made.url = scheme + address
			return made
		}
		if said := strings.ToLower(running.said.String()); !strings.Contains(said, "address already in use") && !strings.Contains(said, "cannot bind") {
			t.Fatalf("%s: %v: %s", s.name, err, said)
		}
	}
	t.Fatalf("%s finds no port", s.name)
	return nil
}

// unprivileged is the user that proxies run as where we are root; else nil: ourselves.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(nobody.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// certified puts a certificate for this machine into a directory, in the forms that proxies want, and returns its file.
func certified(t testing.TB, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, text := range map[string][]byte{"cert.pem": certText, "key.pem": keyText, "both.pem": append(keyText, certText...)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert.pem")
}
