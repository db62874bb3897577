package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"sluice/cmd/sluice/units"
	"sluice/handlers"
	"sluice/store"
)

// serveFlags are the settings of `sluice serve`: flags, then SLUICE_ and the flag's name in capitals, then the default
// (docs/protocol.md, "Operation").
type serveFlags struct {
	Listen      string `env:"SLUICE_LISTEN" default:"127.0.0.1:8080" placeholder:"ADDR" help:"Public listener."`
	AdminListen string `env:"SLUICE_ADMIN_LISTEN" default:"127.0.0.1:9180" placeholder:"ADDR" help:"Listener of /metrics and, for loopback, /debug/pprof."`

	databaseFlags
	ListenDatabaseURL string `name:"listen-database-url" env:"SLUICE_LISTEN_DATABASE_URL" placeholder:"URL" help:"Direct connection for LISTEN, migrations and retention, where --database-url leads through a transaction pooler."`
	Migrate           bool   `env:"SLUICE_MIGRATE" default:"true" negatable:"" help:"Bring the schema up to date at the start; --migrate=false only checks."`

	JWTSecret   string `name:"jwt-secret" env:"SLUICE_JWT_SECRET" placeholder:"SECRET" help:"Shared secret of HS256 tokens; none: generated once, kept at <data>/jwt.secret."`
	JWKSURL     string `name:"jwks-url" env:"SLUICE_JWKS_URL" placeholder:"URL" help:"Public keys of RS256, ES256 and EdDSA tokens, instead of a secret."`
	JWTIssuer   string `name:"jwt-issuer" env:"SLUICE_JWT_ISSUER" help:"Required iss of tokens."`
	JWTAudience string `name:"jwt-audience" env:"SLUICE_JWT_AUDIENCE" help:"Required aud of tokens."`

	AllowQueryToken bool `name:"allow-query-token" env:"SLUICE_ALLOW_QUERY_TOKEN" help:"Take tokens from ?access_token=, too, where old clients send them; proxies log URLs."`

	PropertiesSQL  string   `name:"properties-sql" env:"SLUICE_PROPERTIES_SQL" placeholder:"SQL" help:"Query for the property ids of a user whose token names none; $1 is the org, $2 the user."`
	Catalogue      string   `env:"SLUICE_CATALOGUE" type:"existingfile" placeholder:"FILE" help:"Catalogue of services instead of the embedded one."`
	AllowedOrigins []string `name:"allowed-origins" env:"SLUICE_ALLOWED_ORIGINS" placeholder:"ORIGIN" help:"Origins of pages that may use Sluice; the server's own always may."`
	TrustedProxies []string `name:"trusted-proxies" env:"SLUICE_TRUSTED_PROXIES" placeholder:"CIDR" help:"Addresses or ranges of proxies whose X-Forwarded-For tells the client's address."`
	Dev            bool     `env:"SLUICE_DEV" help:"A page at / with a demo token, CORS for localhost, the next free port; loopback only."`
	TLSCert        string   `name:"tls-cert" env:"SLUICE_TLS_CERT" type:"existingfile" placeholder:"FILE" help:"Certificate; read again when the file changes."`
	TLSKey         string   `name:"tls-key" env:"SLUICE_TLS_KEY" type:"existingfile" placeholder:"FILE" help:"Its key."`

	MaxStreamsPerUser int `name:"max-streams-per-user" env:"SLUICE_MAX_STREAMS_PER_USER" default:"10" help:"Streams of one user on this instance; the oldest yields. 0: no limit."`
	MaxStreamsPerOrg  int `name:"max-streams-per-org" env:"SLUICE_MAX_STREAMS_PER_ORG" default:"1000" help:"Streams of one org on this instance. 0: no limit."`

	PublishRate int `name:"publish-rate" env:"SLUICE_PUBLISH_RATE" default:"0" help:"Publishing requests a second of one token's subject on this instance. 0: no limit."`

	BatchWindow      time.Duration `name:"batch-window" env:"SLUICE_BATCH_WINDOW" default:"0s" help:"Gather events for this long before they are written, up to 50ms."`
	BatchMax         int           `name:"batch-max" env:"SLUICE_BATCH_MAX" default:"100" help:"Events in one write."`
	Heartbeat        time.Duration `env:"SLUICE_HEARTBEAT" default:"30s" help:"Longest silence on a stream before a ping."`
	WriteTimeout     time.Duration `name:"write-timeout" env:"SLUICE_WRITE_TIMEOUT" default:"30s" help:"A reader without progress for this long is closed."`
	Drain            time.Duration `env:"SLUICE_DRAIN" default:"10s" help:"Time for streams to leave at the end."`
	Retention        time.Duration `env:"SLUICE_RETENTION" default:"72h" help:"How long events are kept; whole UTC days are dropped."`
	MessageRetention time.Duration `name:"message-retention" env:"SLUICE_MESSAGE_RETENTION" default:"0s" help:"How long messages of rooms are kept; 0: for ever. It is apart from --retention: history outlives the log."`
	RingMemory       units.Bytes   `name:"ring-memory" env:"SLUICE_RING_MEMORY" default:"256MiB" help:"Memory for the newest events of all orgs."`

	uploadFlags `embed:""`

	Legacy       string `env:"SLUICE_LEGACY" enum:"on,deprecated,gone" default:"on" help:"The old long-polling API: on, deprecated (its answers say so), or gone (410)."`
	LegacySunset string `name:"legacy-sunset" env:"SLUICE_LEGACY_SUNSET" placeholder:"DATE" help:"When the old API is planned to go, such as 2027-06-30; told to its clients once it is deprecated."`

	EpochOnFailover string `name:"epoch-on-failover" env:"SLUICE_EPOCH_ON_FAILOVER" enum:"new,keep" default:"new" help:"What a promoted standby means: new, or keep where replication is synchronous."`
	LogFormat       string `name:"log-format" env:"SLUICE_LOG_FORMAT" enum:"text,json" default:"text" help:"text or json."`
	LogLevel        string `name:"log-level" env:"SLUICE_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error."`
}

// check refuses what cannot work together, and names the flag.
func (f *serveFlags) check() error {
	// An empty address would be a port of the system's choice, open to everybody.
	for _, one := range [][2]string{{"listen", f.Listen}, {"admin-listen", f.AdminListen}} {
		_, port, err := net.SplitHostPort(one[1])
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return fmt.Errorf("--%s is %q; it must be an address such as 127.0.0.1:8080", one[0], one[1])
		}
	}
	if f.DatabaseURL != "" {
		if err := checkDatabase("database-url", f.DatabaseURL); err != nil {
			return err
		}
		if f.JWTSecret == "" && f.JWKSURL == "" {
			return errors.New("--jwt-secret or --jwks-url is needed with a database URL: instances that share a database must share the key")
		}
	}
	if f.ListenDatabaseURL != "" {
		if f.DatabaseURL == "" {
			return errors.New("--listen-database-url needs --database-url")
		}
		if err := checkDatabase("listen-database-url", f.ListenDatabaseURL); err != nil {
			return err
		}
	}
	if err := f.checkKey(); err != nil {
		return err
	}
	if _, err := f.sunset(); err != nil {
		return err
	}
	if err := f.uploadFlags.check(); err != nil {
		return err
	}
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key go together")
	}
	if f.Dev && !loopback(f.Listen) {
		return fmt.Errorf("--dev serves on loopback only, and --listen is %s", f.Listen)
	}
	if _, err := handlers.ParseProxies(f.TrustedProxies); err != nil {
		return fmt.Errorf("--trusted-proxies has what is no address or range such as 10.0.0.0/8: %w", err)
	}
	for _, limit := range []struct {
		name        string
		value       time.Duration
		least, most time.Duration
	}{
		{"batch-window", f.BatchWindow, 0, 50 * time.Millisecond},
		{"heartbeat", f.Heartbeat, time.Second, time.Hour},
		{"write-timeout", f.WriteTimeout, 100 * time.Millisecond, time.Hour},
		{"drain", f.Drain, 0, time.Hour},
		{"retention", f.Retention, time.Hour, 10 * 365 * 24 * time.Hour},
		{"message-retention", f.MessageRetention, 0, 100 * 365 * 24 * time.Hour},
	} {
		if limit.value < limit.least || limit.value > limit.most {
			return fmt.Errorf("--%s is %s; it must be from %s to %s", limit.name, limit.value, limit.least, limit.most)
		}
	}
	if f.MessageRetention > 0 && f.MessageRetention < time.Minute {
		return fmt.Errorf("--message-retention is %s; it must be 0, which is for ever, or a minute at least", f.MessageRetention)
	}
	for name, value := range map[string]int{
		"max-streams-per-user": f.MaxStreamsPerUser, "max-streams-per-org": f.MaxStreamsPerOrg, "publish-rate": f.PublishRate,
	} {
		if value < 0 {
			return fmt.Errorf("--%s is %d; 0 means no limit", name, value)
		}
	}
	if f.BatchMax < 1 || f.BatchMax > 100 {
		return fmt.Errorf("--batch-max is %d; it must be from 1 to 100", f.BatchMax)
	}
	if f.RingMemory < 1<<20 {
		return fmt.Errorf("--ring-memory is %s; it must be 1MiB at least", f.RingMemory)
	}
	return nil
}

// checkKey checks where the key of tokens comes from.
func (f *serveFlags) checkKey() error {
	if f.JWKSURL != "" {
		if f.JWTSecret != "" {
			return errors.New("--jwks-url and --jwt-secret exclude each other: the algorithms of tokens follow from where the key comes from")
		}
		if f.Dev {
			return errors.New("--dev makes tokens with a secret, so it does not go with --jwks-url")
		}
		if at, err := url.Parse(f.JWKSURL); err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Host == "" {
			return fmt.Errorf("--jwks-url is %q; it must be a URL such as https://login.example/.well-known/jwks.json", f.JWKSURL)
		}
	}
	if f.JWTSecret != "" && len(f.JWTSecret) < 16 {
		return errors.New("--jwt-secret is shorter than 16 bytes; `openssl rand -hex 32` prints a good one")
	}
	return nil
}

// sunset is when the old API is planned to go; the zero time where nobody has said.
func (f *serveFlags) sunset() (time.Time, error) {
	if f.LegacySunset == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.DateOnly, f.LegacySunset)
	if err != nil {
		return at, fmt.Errorf("--legacy-sunset is %q; it must be a date such as 2027-06-30", f.LegacySunset)
	}
	return at, nil
}

// loopback says whether an address is reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// printConfig writes every setting in force, as it would be written on the command line, and where it comes from.
// Secrets are not shown, nor the passwords in URLs.
func printConfig(to io.Writer, command *kong.Context) error {
	given := map[*kong.Flag]bool{}
	for _, part := range command.Path {
		if part.Flag != nil && !part.Resolved {
			given[part.Flag] = true
		}
	}
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, flag := range command.Selected().Flags {
		if flag.Name == "help" || flag.Name == "print-config" {
			continue
		}
		source := "default"
		for _, env := range flag.Envs {
			if _, set := os.LookupEnv(env); set {
				source = env
				break
			}
		}
		if given[flag] {
			source = "flag"
		}
		fmt.Fprintf(table, "--%s=%s\t# %s\n", flag.Name, shown(flag), source)
	}
	return table.Flush()
}

// shown is a setting's value without what must not be seen.
func shown(flag *kong.Flag) string {
	value := fmt.Sprint(flag.Target.Interface())
	switch {
	case value == "":
		return ""
	case flag.Name == "jwt-secret":
		return "(hidden)"
	case flag.Name == "allowed-origins", flag.Name == "trusted-proxies":
		return strings.Trim(strings.ReplaceAll(value, " ", ","), "[]")
	case strings.HasSuffix(flag.Name, "database-url"):
		return hidePassword(value)
	}
	return value
}

// Where a connection text has its password: in a URL before the last @ of its authority or in the query, else as one
// of the key=value pairs, between quotes perhaps.
var (
	passwordOfUser  = regexp.MustCompile(`^([a-z]+://[^:/?#]*):[^/?#]*@`)
	passwordOfQuery = regexp.MustCompile(`([?&](?:ssl)?password=)[^&#]*`)
	passwordOfPairs = regexp.MustCompile(`((?:^|\s)(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*'|(?:\\.|[^\s\\])+)`)
)

// hidePassword shows a connection text without its password. One that cannot be read as such is not shown at all:
// nobody knows where its password is.
func hidePassword(text string) string {
	if store.DSN(text) != nil {
		return "(hidden: it cannot be read)"
	}
	if strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://") {
		return passwordOfQuery.ReplaceAllString(passwordOfUser.ReplaceAllString(text, "$1:(hidden)@"), "$1(hidden)")
	}
	return passwordOfPairs.ReplaceAllString(text, "$1(hidden)")
}

// checkDatabase refuses a text that leads to no database, and names the flag. The parser's own words are shown only
// for a setting that is no secret: the others repeat the text, its password included.
func checkDatabase(flag, text string) error {
	err := store.DSN(text)
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(err.Error(), "pq: wrong value for"):
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return fmt.Errorf("--%s is neither a URL such as postgres://app@db/app nor pairs such as \"host=db user=app\"; "+
		"in a URL, the special characters of a password are written like %%2F", flag)
}
