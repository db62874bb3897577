package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// setting is one line of --print-config.
type setting struct{ value, source string }

var settingLine = regexp.MustCompile(`^--([a-z-]+)=(.*?) +# (\S+)$`)

// printed runs `serve --print-config` with an environment of its own.
func printed(t *testing.T, env []string, args ...string) (settings map[string]setting, text string) {
	t.Helper()
	command := sluice(append([]string{"serve", "--print-config"}, args...)...)
	command.Env = append(command.Env, env...)
	out, notes, status := outcome(t, command)
	if status != 0 || notes != "" {
		t.Fatalf("status %d: %s", status, notes)
	}
	settings = map[string]setting{}
	for line := range strings.Lines(out) {
		found := settingLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if found == nil {
			t.Fatalf("not a setting: %q", line)
		}
		settings[found[1]] = setting{found[2], found[3]}
	}
	return settings, out
}

// TestDefaults holds every setting to the default that docs/protocol.md gives it.
func TestDefaults(t *testing.T) {
	settings, _ := printed(t, nil)
	for name, value := range map[string]string{
		"listen": "127.0.0.1:8080", "admin-listen": "127.0.0.1:9180", "data": "./data", "database-url": "",
		"listen-database-url": "", "migrate": "true", "jwt-secret": "", "jwks-url": "", "allow-query-token": "false", "jwt-issuer": "", "jwt-audience": "",
		"properties-sql": "", "catalogue": "", "allowed-origins": "", "trusted-proxies": "", "dev": "false", "tls-cert": "", "tls-key": "",
		"max-streams-per-user": "10", "max-streams-per-org": "1000", "publish-rate": "0", "batch-window": "0s", "batch-max": "100",
		"heartbeat": "30s", "write-timeout": "30s", "drain": "10s", "retention": "72h0m0s", "message-retention": "0s", "ring-memory": "256MiB",
		"blobs": "", "upload-max-size": "100MiB", "upload-sync": "complete", "upload-expiry": "24h0m0s", "upload-quota": "5GiB",
		"upload-open": "20", "ocr-workers": "1", "ocr-langs": "eng",
		"legacy": "on", "legacy-sunset": "", "epoch-on-failover": "new", "log-format": "text", "log-level": "info",
	} {
		if got, there := settings[name]; !there || got != (setting{value, "default"}) {
			t.Errorf("--%s is %+v (%v), not %q by default", name, got, there, value)
		}
	}
	// The document has a row for each of them.
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(text), "### Settings of `sluice serve`")
	for name := range settings {
		if !strings.Contains(rows, "`--"+name+"`") {
			t.Errorf("docs/protocol.md does not tell of --%s", name)
		}
	}
}

// TestPrecedence gives every setting by its variable, and some by their flag as well: the flag wins, and each line
// says where its value comes from.
func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{
		"listen": "127.0.0.1:1", "admin-listen": "127.0.0.1:2", "data": dir, "listen-database-url": "postgres://direct/app",
		"migrate": "false", "jwks-url": "https://login.example/keys", "allow-query-token": "true", "jwt-issuer": "us", "jwt-audience": "you", "properties-sql": "select $1 || $2", "catalogue": file,
		"allowed-origins": "https://a.example,https://b.example", "trusted-proxies": "10.0.0.0/8,::1", "dev": "true", "tls-cert": file, "tls-key": file,
		"max-streams-per-user": "3", "max-streams-per-org": "4", "publish-rate": "5", "batch-window": "5ms", "batch-max": "6", "heartbeat": "7s",
		"write-timeout": "8s", "drain": "9s", "retention": "24h0m0s", "message-retention": "48h0m0s", "ring-memory": "10MiB", "epoch-on-failover": "keep",
		"legacy": "gone", "legacy-sunset": "2027-06-30",
		"blobs": "file:///srv/uploads", "upload-max-size": "2MiB", "upload-sync": "chunk", "upload-expiry": "2h0m0s", "upload-quota": "3GiB",
		"upload-open": "4", "ocr-workers": "5", "ocr-langs": "eng+deu",
		"log-format": "json", "log-level": "debug",
	}
	variable := func(name string) string { return "SLUICE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
	env := []string{"DATABASE_URL=postgres://first/app", "SLUICE_DATABASE_URL=postgres://second/app"}
	for name, value := range given {
		env = append(env, variable(name)+"="+value)
	}
	settings, _ := printed(t, env)
	for name, value := range given {
		if got := settings[name]; got != (setting{value, variable(name)}) {
			t.Errorf("--%s is %+v, not %q from its variable", name, got, value)
		}
	}
	if got := settings["database-url"]; got != (setting{"postgres://first/app", "DATABASE_URL"}) {
		t.Errorf("--database-url is %+v", got)
	}
	if settings, _ = printed(t, env[1:]); settings["database-url"] != (setting{"postgres://second/app", "SLUICE_DATABASE_URL"}) {
		t.Errorf("--database-url is %+v", settings["database-url"])
	}
	settings, _ = printed(t, env, "--listen=127.0.0.1:99", "--migrate", "--database-url=postgres://third/app", "--drain=30s")
	for name, value := range map[string]string{"listen": "127.0.0.1:99", "migrate": "true", "database-url": "postgres://third/app", "drain": "30s"} {
		if got := settings[name]; got != (setting{value, "flag"}) {
			t.Errorf("--%s is %+v, not %q from its flag", name, got, value)
		}
	}
	if settings, _ = printed(t, nil, "--no-migrate"); settings["migrate"] != (setting{"false", "flag"}) {
		t.Errorf("--migrate is %+v", settings["migrate"])
	}
}

// TestSecretsAreHidden prints no secret, however a connection text spells its password, and keeps the rest of it.
func TestSecretsAreHidden(t *testing.T) {
	if _, text := printed(t, []string{"SLUICE_JWT_SECRET=hush-hush-hush-hush"}); strings.Contains(text, "hush") {
		t.Error(text)
	}
	for given, shows := range map[string]string{
		"postgres://app:hush@db:5432/app?sslmode=disable":           "postgres://app:(hidden)@db:5432/app?sslmode=disable",
		"postgresql://app:hu@sh:hush@db/app":                        "postgresql://app:(hidden)@db/app",
		"postgres://app:hush%40hush@db/app?application_name=me@her": "postgres://app:(hidden)@db/app?application_name=me@her",
		"postgres://db/app?user=app&password=hush&sslmode=disable":  "postgres://db/app?user=app&password=(hidden)&sslmode=disable",
		"postgres://app@db/app":                                     "postgres://app@db/app",
		"host=db user=app password=hush sslmode=disable":            "host=db user=app password=(hidden) sslmode=disable",
		`host=db password = 'hush \' hush' user=app`:                "host=db password = (hidden) user=app",
		`host=db password=hush\ hush user=app`:                      "host=db password=(hidden) user=app",
		"postgres://app:hush/hush@db/app":                           "(hidden: it cannot be read)",
		"host=db password=hush hush":                                "(hidden: it cannot be read)",
	} {
		if got := hidePassword(given); got != shows {
			t.Errorf("%s is shown as %s, not as %s", given, got, shows)
		}
		settings, text := printed(t, nil, "--database-url="+given, "--listen-database-url="+given)
		if strings.Contains(text, "hush") || settings["database-url"].value != shows || settings["listen-database-url"].value != shows {
			t.Errorf("%s: %s", given, text)
		}
	}
}

// TestCheckNamesTheFlag gives one wrong setting at a time to what is right otherwise.
func TestCheckNamesTheFlag(t *testing.T) {
	right := func() serveFlags {
		return serveFlags{
			Listen: "127.0.0.1:8080", AdminListen: "127.0.0.1:9180", BatchMax: 100, Heartbeat: 30 * time.Second,
			WriteTimeout: 30 * time.Second, Retention: 72 * time.Hour, RingMemory: 256 << 20,
			uploadFlags: uploadFlags{UploadMaxSize: 100 << 20, UploadQuota: 5 << 30, UploadOpen: 20, UploadExpiry: 24 * time.Hour, OCRLangs: "eng"},
		}
	}
	for _, c := range []struct {
		flag string
		set  func(*serveFlags)
	}{
		{"", func(*serveFlags) {}},
		{"", func(f *serveFlags) { f.DatabaseURL, f.JWTSecret = "postgres://db/app", testSecret }},
		{"", func(f *serveFlags) { f.Dev, f.Listen = true, "[::1]:0" }},
		{"", func(f *serveFlags) {
			f.BatchWindow, f.Drain, f.MaxStreamsPerUser, f.RingMemory = 50*time.Millisecond, 0, 0, 1<<20
		}},
		{"--listen", func(f *serveFlags) { f.Listen = "" }},
		{"--listen", func(f *serveFlags) { f.Listen = "8080" }},
		{"--listen", func(f *serveFlags) { f.Listen = "127.0.0.1:99999" }},
		{"--admin-listen", func(f *serveFlags) { f.AdminListen = "" }},
		{"--database-url", func(f *serveFlags) { f.DatabaseURL, f.JWTSecret = "nonsense", testSecret }},
		{"--jwt-secret", func(f *serveFlags) { f.DatabaseURL = "postgres://db/app" }},
		{"--jwt-secret", func(f *serveFlags) { f.JWTSecret = "fifteen bytes.." }},
		{"--jwks-url", func(f *serveFlags) { f.JWTSecret, f.JWKSURL = testSecret, "https://login.example/keys" }},
		{"--jwks-url", func(f *serveFlags) { f.JWKSURL = "login.example/keys" }},
		{"--dev", func(f *serveFlags) { f.Dev, f.JWKSURL = true, "https://login.example/keys" }},
		{"", func(f *serveFlags) { f.DatabaseURL, f.JWKSURL = "postgres://db/app", "https://login.example/keys" }},
		{"--listen-database-url", func(f *serveFlags) { f.ListenDatabaseURL = "postgres://db/app" }},
		{"--listen-database-url", func(f *serveFlags) {
			f.DatabaseURL, f.ListenDatabaseURL, f.JWTSecret = "postgres://db/app", "nonsense", testSecret
		}},
		{"--tls-key", func(f *serveFlags) { f.TLSCert = "cert.pem" }},
		{"--tls-cert", func(f *serveFlags) { f.TLSKey = "key.pem" }},
		{"--dev", func(f *serveFlags) { f.Dev, f.Listen = true, "0.0.0.0:8080" }},
		{"--dev", func(f *serveFlags) { f.Dev, f.Listen = true, ":8080" }},
		{"--dev", func(f *serveFlags) { f.Dev, f.Listen = true, "192.0.2.1:8080" }},
		{"", func(f *serveFlags) { f.Blobs, f.OCRWorkers, f.OCRLangs = "s3://bucket/prefix?region=eu", 0, "eng+deu" }},
		{"--blobs", func(f *serveFlags) { f.Blobs = "/srv/uploads" }},
		{"--blobs", func(f *serveFlags) { f.Blobs = "file://srv/uploads" }},
		{"--blobs", func(f *serveFlags) { f.Blobs = "s3:///prefix" }},
		{"--blobs", func(f *serveFlags) { f.Blobs = "https://bucket.example" }},
		{"--upload-max-size", func(f *serveFlags) { f.UploadMaxSize = 0 }},
		{"--upload-quota", func(f *serveFlags) { f.UploadQuota = 1 << 20 }},
		{"--upload-open", func(f *serveFlags) { f.UploadOpen = 0 }},
		{"--upload-expiry", func(f *serveFlags) { f.UploadExpiry = 0 }},
		{"--ocr-workers", func(f *serveFlags) { f.OCRWorkers = -1 }},
		{"--ocr-langs", func(f *serveFlags) { f.OCRLangs = "eng;rm" }},
		{"--batch-window", func(f *serveFlags) { f.BatchWindow = 51 * time.Millisecond }},
		{"--batch-window", func(f *serveFlags) { f.BatchWindow = -1 }},
		{"--batch-max", func(f *serveFlags) { f.BatchMax = 0 }},
		{"--batch-max", func(f *serveFlags) { f.BatchMax = 101 }},
		{"--heartbeat", func(f *serveFlags) { f.Heartbeat = 0 }},
		{"--write-timeout", func(f *serveFlags) { f.WriteTimeout = 0 }},
		{"--drain", func(f *serveFlags) { f.Drain = -time.Second }},
		{"--retention", func(f *serveFlags) { f.Retention = time.Minute }},
		{"--message-retention", func(f *serveFlags) { f.MessageRetention = -time.Hour }},
		{"--message-retention", func(f *serveFlags) { f.MessageRetention = time.Second }},
		{"--max-streams-per-user", func(f *serveFlags) { f.MaxStreamsPerUser = -1 }},
		{"--max-streams-per-org", func(f *serveFlags) { f.MaxStreamsPerOrg = -1 }},
		{"--publish-rate", func(f *serveFlags) { f.PublishRate = -1 }},
		{"--trusted-proxies", func(f *serveFlags) { f.TrustedProxies = []string{"proxy.example"} }},
		{"--ring-memory", func(f *serveFlags) { f.RingMemory = 1<<20 - 1 }},
	} {
		flags := right()
		c.set(&flags)
		switch err := flags.check(); {
		case c.flag == "" && err != nil:
			t.Errorf("%+v is refused: %v", flags, err)
		case c.flag != "" && (err == nil || !strings.Contains(err.Error(), c.flag+" ")):
			t.Errorf("%s is not named: %v", c.flag, err)
		}
	}
}

// TestRefusalsEnd runs the refusals through the command line: exit 1 from check, 2 from the parser, the flag named,
// nothing started, and no secret repeated.
func TestRefusalsEnd(t *testing.T) {
	for _, c := range []struct {
		status int
		says   string
		args   []string
	}{
		{1, "--jwt-secret", []string{"--database-url=postgres://db/app"}},
		{1, "--database-url", []string{"--database-url=postgres://app:hush/hush@db/app", "--jwt-secret=" + testSecret}},
		{1, "--database-url", []string{"--database-url=host=db port=hundred password=hush", "--jwt-secret=" + testSecret}},
		{1, "--listen-database-url", []string{
			"--database-url=postgres://db/app", "--listen-database-url=host=db password=hush hush", "--jwt-secret=" + testSecret,
		}},
		{1, "--jwt-secret", []string{"--jwt-secret=hush"}},
		{1, "--dev", []string{"--dev", "--listen=0.0.0.0:0"}},
		{2, "--log-level", []string{"--log-level=loud"}},
		{2, "--log-format", []string{"--log-format=xml"}},
		{2, "--epoch-on-failover", []string{"--epoch-on-failover=maybe"}},
		{2, "--legacy", []string{"--legacy=off"}},
		{1, "--legacy-sunset", []string{"--legacy-sunset=soon"}},
		{2, "--catalogue", []string{"--catalogue=/nowhere/at-all"}},
		{2, "--tls-cert", []string{"--tls-cert=/nowhere/at-all"}},
		{2, "--drain", []string{"--drain=soon"}},
		{2, "--ring-memory", []string{"--ring-memory=much"}},
	} {
		data := filepath.Join(t.TempDir(), "data")
		out, notes, status := outcome(t, sluice(append([]string{"serve", "--data=" + data}, c.args...)...))
		if status != c.status || !strings.Contains(notes, c.says) || strings.Contains(notes+out, "hush") {
			t.Errorf("%v: status %d: %s%s", c.args, status, notes, out)
		}
		if _, err := os.Stat(data); err == nil {
			t.Errorf("%v: the data directory was made", c.args)
		}
	}
	// The other commands that take a database say the same.
	for _, path := range []string{"migrate up", "migrate status", "epoch rotate"} {
		out, notes, status := outcome(t, sluice(append(strings.Fields(path), "--database-url=postgres://app:hush/hush@db/app")...))
		if status != 1 || !strings.Contains(notes, "--database-url") || strings.Contains(notes+out, "hush") {
			t.Errorf("%s: status %d: %s%s", path, status, notes, out)
		}
	}
}
