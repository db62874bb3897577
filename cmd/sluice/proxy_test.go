package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proxySetup is one way to stand before Sluice. In its text DIR, LISTEN and BACKEND are replaced.
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
	server {
		listen LISTEN;
		location / {
			proxy_pass http://BACKEND;
			` + strings.Join(location, "\n\t\t\t") + `
		}
	}
}`}
}

// haproxyWith is HAProxy with this idle time-out.
func haproxyWith(name, idle string) proxySetup {
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
`}
}

const (
	nginx11      = "proxy_http_version 1.1;"
	nginxUpgrade = `proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`
	nginxHolds   = "proxy_ignore_headers X-Accel-Buffering;"
)

var (
	nginxDefault  = nginxWith("nginx as it comes") // HTTP/1.0 to Sluice, Upgrade stripped, buffering but for X-Accel-Buffering
	nginxStripped = nginxWith("nginx with HTTP/1.1, Upgrade stripped", nginx11)
	nginxPassing  = nginxWith("nginx with HTTP/1.1, Upgrade passed", nginx11, nginxUpgrade)
	nginxHolding  = nginxWith("nginx that buffers", nginx11, nginxUpgrade, nginxHolds)
	nginxHurried  = nginxWith("nginx with an idle time-out of 5 s", nginx11, nginxUpgrade, "proxy_read_timeout 5s;")
	haproxyPlain  = haproxyWith("haproxy", "60s")
	haproxyHurry  = haproxyWith("haproxy with idle time-outs of 5 s", "5s")
)

// advised is a configuration that we tell people to use, from the file that we give them.
func advised(t testing.TB, program string) proxySetup {
	t.Helper()
	file, around := "../../deploy/haproxy.cfg", ""
	exchanges := [][2]string{{"bind :443", "bind LISTEN"}, {"/etc/haproxy/sluice.pem", "DIR/both.pem"}, {"127.0.0.1:8080", "BACKEND"}}
	if program == "nginx" {
		file, around = "../../deploy/nginx.conf", nginxAround
		exchanges = [][2]string{
			{"listen 443", "listen LISTEN"}, {"127.0.0.1:8080", "BACKEND"},
			{"/etc/ssl/sluice/fullchain.pem", "DIR/cert.pem"}, {"/etc/ssl/sluice/privkey.pem", "DIR/key.pem"},
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	setup := proxySetup{program + " as advised", program, string(text)}
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

// start runs the proxy before an instance until the test ends: a child of ours, in the foreground, and nobody's service.
func (s proxySetup) start(t testing.TB, backend string) *proxy {
	t.Helper()
	dir := shortDir(t)
	account := unprivileged(t, dir)
	made := &proxy{}
	scheme := "http://"
	if s.tls() {
		scheme, made.root = "https://", certified(t, dir)
	}
	// A port that was free a moment ago may be taken now: then it is another one's turn.
	for range 5 {
		address := freePort(t)
		text := strings.NewReplacer("DIR", dir, "LISTEN", address, "BACKEND", strings.TrimPrefix(backend, "http://")).Replace(s.text)
		path := filepath.Join(dir, "config")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		arguments := []string{"-db", "-f", path}
		if s.program == "nginx" {
			arguments = []string{"-p", dir, "-e", "stderr", "-g", "daemon off;", "-c", path}
		}
		command := exec.Command(proxyProgram(t, s.program), arguments...)
		command.Dir = dir
		command.SysProcAttr = &syscall.SysProcAttr{Credential: account}
		said, ended := runChild(t, command)
		if answers(t, address, ended) {
			made.url = scheme + address
			return made
		}
		if text := said.String(); !strings.Contains(strings.ToLower(text), "address already in use") && !strings.Contains(text, "cannot bind") {
			t.Fatalf("%s: %s", s.name, text)
		}
	}
	t.Fatalf("%s finds no port", s.name)
	return nil
}

// runChild starts a program that ends with the test, however that ends: the kernel ends it where we cannot, with the
// thread that has started it, which is therefore held.
func runChild(t testing.TB, command *exec.Cmd) (said *logs, ended <-chan struct{}) {
	t.Helper()
	said = new(logs)
	command.Stdout, command.Stderr = said, said
	dieWithTest(command.SysProcAttr)
	started, gone := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(gone)
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // nginx takes its worker along
		select {
		case <-gone:
		case <-time.After(patience):
			_ = command.Process.Kill()
			<-gone
			t.Errorf("%s does not end when it is asked to", command.Path)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", command.Path, said)
		}
	})
	return said, gone
}

// answers waits until somebody listens; false where the child has ended instead.
func answers(t testing.TB, address string, ended <-chan struct{}) bool {
	t.Helper()
	deadline := time.After(patience)
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		select {
		case <-ended:
			return false
		case <-deadline:
			t.Fatalf("nobody listens at %s: %v", address, err)
		case <-time.After(10 * time.Millisecond):
			if err == nil {
				return true
			}
		}
	}
}

// proxyProgram finds a proxy, also where Debian has it outside an ordinary user's PATH.
func proxyProgram(t testing.TB, name string) string {
	t.Helper()
	for _, one := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if path, err := exec.LookPath(one); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed: run scripts/install.sh --test", name)
	return ""
}

// unprivileged is the user that proxies run as where we are root, to whom the directory is given; else nil: ourselves.
func unprivileged(t testing.TB, dir string) *syscall.Credential {
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
	if err1 != nil || err2 != nil {
		t.Fatalf("user nobody: %v, %v", err1, err2)
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
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
