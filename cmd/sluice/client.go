package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/handlers"
)

// secretFlags find the secret that signs tokens, for commands on the server's own machine, and what else the server
// asks of a token.
type secretFlags struct {
	Data      string `env:"SLUICE_DATA" default:"./data" placeholder:"DIR" help:"Data directory of the server on this machine; its jwt.secret signs tokens."`
	JWTSecret string `name:"jwt-secret" env:"SLUICE_JWT_SECRET" placeholder:"SECRET" help:"Secret that signs tokens instead of the data directory's."`

	JWTIssuer   string `name:"jwt-issuer" env:"SLUICE_JWT_ISSUER" placeholder:"NAME" help:"Issuer of tokens made here, where the server asks for one."`
	JWTAudience string `name:"jwt-audience" env:"SLUICE_JWT_AUDIENCE" placeholder:"NAME" help:"Audience of tokens made here, where the server asks for one."`
}

// secret is read anew at every call: a server that was set up afresh in the meantime has made another.
func (f *secretFlags) secret() ([]byte, error) {
	if f.JWTSecret != "" {
		return []byte(f.JWTSecret), nil
	}
	path := filepath.Join(f.Data, "jwt.secret")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no secret at %s to sign a token with: start a server here (`make run`), name its directory "+
			"with --data, or give --jwt-secret or a --token", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: sign with another --jwt-secret, or give a --token", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return nil, fmt.Errorf("%s is empty: remove it, and the server's next start makes another", path)
	}
	return []byte(secret), nil
}

// mintedFor is how long a token made here holds. It is made anew for every batch and every reconnect.
const mintedFor = time.Hour

// clientFlags say which server a command talks to, and as whom.
type clientFlags struct {
	URL string `env:"SLUICE_URL" default:"http://127.0.0.1:8080" help:"Server to talk to."`
	callerFlags
}

// callerFlags say as whom a command talks to a server. Without a token one is made, so that on the machine of `make run`
// everything works without one.
type callerFlags struct {
	Token string `env:"SLUICE_TOKEN" placeholder:"JWT" help:"Token to use; none: one is made with the secret."`
	secretFlags
	Org string `placeholder:"ORG" help:"Org of the token that is made (1 if not given); with a service's --token, the org to act for."`
}

// minted says whether tokens are made here.
func (f *callerFlags) minted() bool { return f.Token == "" }

// bearer gives the token for the next request: the one given, or a fresh one of an ADMIN with that user id and scope.
func (f *callerFlags) bearer(user, scope string) (string, error) {
	if !f.minted() {
		return strings.TrimSpace(f.Token), nil
	}
	secret, err := f.secret()
	if err != nil {
		return "", err
	}
	org := f.Org
	if org == "" {
		org = "1"
	}
	return handlers.MintToken(secret, handlers.Claims{
		Org: org, User: user, Role: "ADMIN", Scope: scope, Issuer: f.JWTIssuer, Audience: f.JWTAudience,
		Expires: time.Now().Add(mintedFor),
	})
}

// endpoint is the URL of a path on the server.
func (f *clientFlags) endpoint(path string, query url.Values) (string, error) {
	base, err := url.Parse(f.URL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return "", fmt.Errorf("--url %q is not a server's address such as http://127.0.0.1:8080", f.URL)
	}
	full := base.JoinPath(path)
	full.RawQuery = query.Encode()
	return full.String(), nil
}

// newClient makes the HTTP client of a command. There is no time limit over all: streams have no end.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = 30 * time.Second
	transport.DisableCompression = true // a proxy that compresses a stream holds it back
	return &http.Client{Transport: transport}
}

// explain says what to do about an error of the server's or on the way to it.
func (f *clientFlags) explain(err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		switch {
		case refused.Status == http.StatusUnauthorized && f.minted() && f.JWTSecret == "":
			return fmt.Errorf("%w; the token was made with %s: if the server's secret is another, name its directory with "+
				"--data, or give --jwt-secret or a --token", err, filepath.Join(f.Data, "jwt.secret"))
		case refused.Status == http.StatusUnauthorized && f.minted():
			return fmt.Errorf("%w; the token was made with --jwt-secret: is it the server's?", err)
		case refused.Status == http.StatusUnauthorized:
			return fmt.Errorf("%w; `sluice token` makes a new one for --token", err)
		}
		return err
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		return fmt.Errorf("cannot reach %s: %w; is it running? `make run` starts one here, --url names another", f.URL, failed.Err)
	}
	return err
}

// refusal is an answer other than the one asked for: a problem (RFC 9457), or whatever stands between us and Sluice.
type refusal struct {
	Status     int           `json:"-"`
	Title      string        `json:"title"`
	Detail     string        `json:"detail"`
	Field      string        `json:"field"`
	RetryAfter time.Duration `json:"-"`
}

// Error shows the title, the detail and the field as far as they are given.
func (r *refusal) Error() string {
	text := fmt.Sprintf("%d %s", r.Status, r.Title)
	if r.Detail != "" {
		text += ": " + r.Detail
	}
	if r.Field != "" {
		text += " (" + r.Field + ")"
	}
	return text
}

// temporary says whether the same request may be answered later.
func (r *refusal) temporary() bool {
	switch r.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// readRefusal reads what the server refused with, and leaves the body to be closed.
func readRefusal(response *http.Response) *refusal {
	refused := &refusal{}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind != "application/problem+json" || json.Unmarshal(text, refused) != nil {
		refused = &refusal{Detail: fmt.Sprintf("the answer (%s) is not one of Sluice's; is --url right?", kind)}
	}
	refused.Status = response.StatusCode
	if refused.Title == "" {
		refused.Title = http.StatusText(response.StatusCode)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		refused.RetryAfter = min(time.Duration(seconds)*time.Second, time.Minute)
	}
	return refused
}

// pauses is an exponential back-off with jitter, from least to most. Its zero tries means that nothing failed yet.
type pauses struct {
	least, most time.Duration
	tries       int
}

// next gives the pause before the next try: between half and all of a time that doubles.
func (p *pauses) next() time.Duration {
	full := p.most
	if p.tries < 20 {
		full = min(p.least<<p.tries, p.most)
	}
	p.tries++
	return full/2 + rand.N(full/2+1)
}

// rest waits and says whether ctx let it.
func rest(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
