package bench

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/handlers"
)

// Command is `sluice bench`, a scenario each.
type Command struct {
	Fanout  Fanout  `cmd:"" help:"Readers of one log: latency, deliveries a second and CPU, beside a floor."`
	Idle    Idle    `cmd:"" help:"Silent connections: memory of each, and what stays when they have left."`
	Poll    Poll    `cmd:"" help:"Long-polls that wait: memory of each, and how long until one event has answered all."`
	Publish Publish `cmd:"" help:"Publishers without readers: events a second and the time to the answer."`
	Chat    Chat    `cmd:"" help:"Rooms: latency from saying to hearing, nothing lost, presence, beside a floor."`
	SQL     SQL     `cmd:"" name:"sql" help:"Publishing from SQL beside publishing over HTTP: time to delivery."`
	Upload  Upload  `cmd:"" help:"Files in chunks: MiB a second beside a floor and a plain form, and memory."`
	Fsync   Fsync   `cmd:"" help:"Time of one fsync on the data directory: what publishing waits for."`
	Floor   Floor   `cmd:"" hidden:"" help:"The floor: writes to sockets what it is told on standard input."`

	UploadFloor UploadFloor `cmd:"" hidden:"" help:"The floor of uploads."`
	ChatFloor   ChatFloor   `cmd:"" hidden:"" help:"The floor of rooms."`
}

// Help shows examples.
func (Command) Help() string {
	return `Nothing is started but the floor beside the server that is there already.

Examples:
  sluice bench fanout                        1,000 readers, 20 messages/s
  sluice bench fanout --transport websocket  the same through another door
  sluice bench idle --subscribers 10000      memory of silent connections
  sluice bench poll --waiters 5000           memory of long-polls, and how fast an event answers them
  sluice bench publish --publishers 64       events a second without readers
  sluice bench chat                          100 users in a room, 50 messages/s
  sluice bench sql                           from sluice.publish to a reader
  sluice bench upload                        files in chunks of 64 KiB and of 1 MiB`
}

// Help shows an example.
func (Fsync) Help() string {
	return `Example:
  sluice bench fsync --data ./data`
}

// target says which server is measured, and as whom.
type target struct {
	URL   string `env:"SLUICE_URL" default:"http://127.0.0.1:8080" help:"Server to measure; clear text."`
	Admin string `default:"http://127.0.0.1:9180" help:"Its admin listener, for CPU and memory; empty: without them."`
	Token string `env:"SLUICE_TOKEN" placeholder:"JWT" help:"Token of an ADMIN with the scope publish; none: tokens are made with the secret."`
	signing
}

// signing says what tokens are made with.
type signing struct {
	SecretFile string `name:"secret-file" placeholder:"FILE" help:"Secret that signs tokens; <data>/jwt.secret if not given."`
	Data       string `env:"SLUICE_DATA" default:"./data" placeholder:"DIR" help:"Data directory of the server: its secret, and the disk whose fsync is timed."`
	Org        string `placeholder:"ORG" help:"Org of the tokens that are made; a new one if not given."`
}

// tokenTTL outlives any run.
const tokenTTL = 12 * time.Hour

// aim resolves the flags into a server that can be read from and published to.
func (t *target) aim() (*server, error) {
	s, err := locate(t.URL, t.Admin)
	if err != nil {
		return nil, err
	}
	s.org, s.token = t.org(), strings.TrimSpace(t.Token)
	if s.token == "" {
		s.secret, err = t.secret()
	}
	return s, err
}

// locate finds the server at a URL.
func locate(address, admin string) (*server, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" || base.Host == "" {
		return nil, fmt.Errorf("--url %q is not an address in clear text such as http://127.0.0.1:8080", address)
	}
	host := base.Host
	if base.Port() == "" {
		host += ":80"
	}
	addr, err := resolve(host)
	if err != nil {
		return nil, fmt.Errorf("--url %s: %w", address, err)
	}
	return &server{url: address, host: base.Host, address: addr, admin: admin}, nil
}

// org is the one given, or a new one.
func (s *signing) org() string {
	if s.Org != "" {
		return s.Org
	}
	return "bench-" + strings.ToLower(rand.Text()[:8])
}

// secret reads what signs tokens.
func (s *signing) secret() ([]byte, error) {
	path := s.SecretFile
	if path == "" {
		path = filepath.Join(s.Data, "jwt.secret")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("no secret to sign tokens with: %w; name the server's directory with --data, "+
			"a file with --secret-file, or give a --token", err)
	}
	secret := []byte(strings.TrimSpace(string(text)))
	if len(secret) == 0 {
		return nil, fmt.Errorf("%s is empty: name another with --secret-file", path)
	}
	return secret, nil
}

// bearer gives a token for the claims: the one given, or one made.
func (s *server) bearer(claims handlers.Claims) (string, error) {
	if s.token != "" {
		return s.token, nil
	}
	claims.Org, claims.Expires = s.org, time.Now().Add(tokenTTL)
	return handlers.MintToken(s.secret, claims)
}

// resolve looks an address up once; readers connect to it by number.
func resolve(hostport string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(hostport); err == nil {
		return addr, nil
	}
	found, err := lookup(hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if !found.IsValid() {
		return netip.AddrPort{}, errors.New("no address was found")
	}
	return netip.AddrPortFrom(found.Addr().Unmap(), found.Port()), nil
}
