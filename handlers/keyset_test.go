package handlers

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// issuer signs tokens and publishes its keys.
type issuer struct {
	t     *testing.T
	url   string
	asked atomic.Int64
	dead  atomic.Bool

	mu   sync.Mutex
	keys map[string]crypto.Signer // guarded by mu; published, by kid
	also []string                 // guarded by mu; further keys, as JSON
	text string                   // guarded by mu; told instead, where it is not empty
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, keys: map[string]crypto.Signer{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		if i.dead.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		set := map[string][]any{"keys": {}}
		for kid, key := range i.keys {
			jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
			if err != nil {
				t.Error(err)
				return
			}
			set["keys"] = append(set["keys"], jwk.Marshal())
		}
		for _, one := range i.also {
			set["keys"] = append(set["keys"], json.RawMessage(one))
		}
		if i.text != "" {
			_, _ = w.Write([]byte(i.text))
			return
		}
		_ = json.NewEncoder(w).Encode(set)
	}))
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

// publish replaces the keys that are told.
func (i *issuer) publish(keys map[string]crypto.Signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// token signs claims that are good.
func (i *issuer) token(method jwt.SigningMethod, kid string, key any) string {
	i.t.Helper()
	token := jwt.NewWithClaims(method, claimsWith(nil))
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

// keyed opens a door to tokens of the issuer's; pause is the least time between two looks at its keys.
func (i *issuer) keyed(pause time.Duration) *door {
	return openDoor(i.t, func(d *door) {
		keys := NewKeySet(i.url, d.server.Log)
		keys.pause = pause
		d.server.Auth = NewAuthenticator(AuthOptions{Keys: keys})
	})
}

// who asks for anything and gives the status.
func (d *door) who(token string) int {
	d.t.Helper()
	return d.ask("GET", "/v2/realtime/metrics", token, "").status
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// TestKeySetAlgorithms takes each algorithm, with its key and no other.
func TestKeySetAlgorithms(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.publish(map[string]crypto.Signer{"r": rsaKey, "e": ecKey, "d": edKey})
	d := i.keyed(time.Hour)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey.Public()))})
	stranger := must(rsa.GenerateKey(rand.Reader, 2048))
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"RS256":                            {i.token(jwt.SigningMethodRS256, "r", rsaKey), 200},
		"ES256":                            {i.token(jwt.SigningMethodES256, "e", ecKey), 200},
		"EdDSA":                            {i.token(jwt.SigningMethodEdDSA, "d", edKey), 200},
		"without a kid":                    {i.token(jwt.SigningMethodES256, "", ecKey), 200},
		"another's key":                    {i.token(jwt.SigningMethodRS256, "r", stranger), 401},
		"the kid of another kind":          {i.token(jwt.SigningMethodRS256, "e", rsaKey), 401},
		"an algorithm that is not taken":   {i.token(jwt.SigningMethodRS512, "r", rsaKey), 401},
		"PS256":                            {i.token(jwt.SigningMethodPS256, "r", rsaKey), 401},
		"none":                             {i.token(jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType), 401},
		"the public key as a secret":       {i.token(jwt.SigningMethodHS256, "r", public), 401},
		"a secret":                         {mint(t, Claims{}), 401},
		"an unknown kid, just looked up":   {i.token(jwt.SigningMethodRS256, "x", rsaKey), 401},
		"an unknown kid, stranger, looked": {i.token(jwt.SigningMethodRS256, "y", stranger), 401},
	} {
		if status := d.who(c.token); status != c.status {
			t.Errorf("%s: %d instead of %d", name, status, c.status)
		}
	}
	if asked := i.asked.Load(); asked != 1 {
		t.Errorf("the keys were fetched %d times", asked)
	}
}

// TestKeySetRotation takes tokens of a new key as soon as it is published, and those of an old one no more once it is gone,
// however lately they were verified. A crowd brings it in.
func TestKeySetRotation(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	first, second := must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 2048))
	i.publish(map[string]crypto.Signer{"1": first})
	d := i.keyed(0)
	old, fresh := i.token(jwt.SigningMethodRS256, "1", first), i.token(jwt.SigningMethodRS256, "2", second)
	for range 2 { // the second time from memory
		if status := d.who(old); status != 200 {
			t.Fatalf("the old key: %d", status)
		}
	}
	if status := d.who(fresh); status != 401 {
		t.Fatalf("a key that is not published: %d", status)
	}
	i.publish(map[string]crypto.Signer{"2": second})
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			if status := d.who(fresh); status != 200 {
				t.Errorf("the new key: %d", status)
			}
		})
	}
	group.Wait()
	if status := d.who(old); status != 401 {
		t.Errorf("the old key: %d", status)
	}
}

// TestKeySetDead keeps what is known where the URL is dead, says of the rest that it cannot know, and comes back.
func TestKeySetDead(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	key, next := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	i.publish(map[string]crypto.Signer{"1": key, "2": next})
	i.dead.Store(true)
	d := i.keyed(0)
	token := i.token(jwt.SigningMethodES256, "1", key)
	got := d.ask("GET", "/v2/realtime/metrics", token, "")
	if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(got.body, i.url) {
		t.Errorf("before any key was fetched: %d %s", got.status, got.body)
	}
	if got := d.ask("GET", "/v2/realtime/stream", token, "", "Accept", "text/event-stream"); got.status != 200 || !strings.Contains(got.body, "event: problem") {
		t.Errorf("an EventSource: %d %s", got.status, got.body)
	}
	if status := d.who("garbage"); status != 401 {
		t.Errorf("garbage: %d", status)
	}
	i.dead.Store(false)
	if status := d.who(token); status != 200 {
		t.Errorf("once it answers: %d", status)
	}
	i.dead.Store(true)
	d.who(i.token(jwt.SigningMethodES256, "3", key)) // has it look
	for kid, one := range map[string]crypto.Signer{"1": key, "2": next} {
		if status := d.who(i.token(jwt.SigningMethodES256, kid, one)); status != 200 {
			t.Errorf("key %s while it is dead again: %d", kid, status)
		}
	}
	if !strings.Contains(d.log.String(), "502") {
		t.Errorf("the log does not tell why: %s", d.log)
	}
}

// jwkOf is a public key as a set tells it.
func jwkOf(key crypto.Signer, metadata jwkset.JWKMetadataOptions) string {
	return string(must(json.Marshal(must(jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: metadata})).Marshal())))
}

// TestKeySetMixed takes of a set what signs, although it has keys for other uses and some that nobody understands. No token
// is good by one of those, whether it names it or not.
func TestKeySetMixed(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	encrypts, other := must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 2048))
	weak, signsAlone := must(rsa.GenerateKey(rand.Reader, 1024)), must(rsa.GenerateKey(rand.Reader, 2048))
	_, newer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.publish(map[string]crypto.Signer{"r": key, "weak": weak})
	i.also = []string{
		strings.Replace(jwkOf(newer, jwkset.JWKMetadataOptions{KID: "ed", ALG: jwkset.AlgEdDSA}), `"EdDSA"`, `"Ed25519"`, 1),
		jwkOf(signsAlone, jwkset.JWKMetadataOptions{KID: "sign", KEYOPS: []jwkset.KEYOPS{jwkset.KeyOpsSign}}),
		jwkOf(encrypts, jwkset.JWKMetadataOptions{KID: "enc", USE: jwkset.UseEnc}),
		jwkOf(other, jwkset.JWKMetadataOptions{KID: "ps", ALG: jwkset.AlgPS256}),
		`{"kty":"EC","kid":"half","crv":"P-256","x":"AAAA"}`, `{"kty":"new","kid":"new"}`, `{"kty":"RSA","kid":5}`,
		`{"kty":"RSA","kid":"use","use":"future","n":"AQAB","e":"AQAB"}`, `{"kty":"oct","kid":"k","k":"c2VjcmV0"}`,
	}
	d := i.keyed(0)
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"its key":                      {i.token(jwt.SigningMethodRS256, "r", key), 200},
		"its key, unnamed":             {i.token(jwt.SigningMethodRS256, "", key), 200},
		"Ed25519 by its newer name":    {i.token(jwt.SigningMethodEdDSA, "ed", newer), 200},
		"a weak one":                   {i.token(jwt.SigningMethodRS256, "weak", weak), 401},
		"a weak one, unnamed":          {i.token(jwt.SigningMethodRS256, "", weak), 401},
		"one for signing alone":        {i.token(jwt.SigningMethodRS256, "sign", signsAlone), 401},
		"one that encrypts":            {i.token(jwt.SigningMethodRS256, "enc", encrypts), 401},
		"one that encrypts, unnamed":   {i.token(jwt.SigningMethodRS256, "", encrypts), 401},
		"another algorithm's":          {i.token(jwt.SigningMethodRS256, "ps", other), 401},
		"another algorithm's, unnamed": {i.token(jwt.SigningMethodRS256, "", other), 401},
		"a symmetric one":              {i.token(jwt.SigningMethodHS256, "k", []byte("secret")), 401},
		"a symmetric one, unnamed":     {i.token(jwt.SigningMethodHS256, "", []byte("secret")), 401},
	} {
		if status := d.who(c.token); status != c.status {
			t.Errorf("%s: %d instead of %d", name, status, c.status)
		}
	}
}

// TestKeySetNonsense keeps the keys that are known where the URL answers with something that is no set, or without end.
func TestKeySetNonsense(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	i.publish(map[string]crypto.Signer{"1": key})
	d := i.keyed(0)
	token, unknown := i.token(jwt.SigningMethodES256, "1", key), i.token(jwt.SigningMethodES256, "2", key)
	if status := d.who(token); status != 200 {
		t.Fatal(status)
	}
	for _, text := range []string{
		`{}`, `{"keys":null}`, `{"error":"maintenance"}`, `<html>`,
		`{"pad":"` + strings.Repeat("x", keysLimit) + `","keys":[` + jwkOf(key, jwkset.JWKMetadataOptions{KID: "2"}) + `]}`,
	} {
		i.mu.Lock()
		i.text = text
		i.mu.Unlock()
		if status := d.who(unknown); status != 503 {
			t.Errorf("%.30s: an unknown key: %d", text, status)
		}
		if status := d.who(token); status != 200 {
			t.Errorf("%.30s: a known one: %d", text, status)
		}
	}
	i.mu.Lock()
	i.text = `{"keys":[]}`
	i.mu.Unlock()
	for _, one := range []string{unknown, token, i.token(jwt.SigningMethodES256, "", key)} {
		if status := d.who(one); status != 401 {
			t.Errorf("once no key is good: %d", status)
		}
	}
}

// TestKeySetEnds ends at once although the URL has not answered yet.
func TestKeySetEnds(t *testing.T) {
	t.Parallel()
	asked, gone := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	log := new(logText)
	keys := NewKeySet(server.URL, slog.New(slog.NewTextHandler(log, nil)))
	keys.client.Timeout = 0 // nothing else ends it
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		keys.Run(ctx)
		close(ended)
	}()
	<-asked
	cancel()
	for _, one := range []chan struct{}{ended, gone} {
		select {
		case <-one:
		case <-time.After(patience):
			t.Fatal("it waits for the URL")
		}
	}
	if log.String() != "" {
		t.Errorf("the log has %s", log)
	}
}

// TestKeySetForgets has a key taken away while a token is verified with it: the token is not remembered as a good one.
func TestKeySetForgets(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	old, fresh := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	i.publish(map[string]crypto.Signer{"1": old})
	keys := NewKeySet(i.url, slog.New(slog.DiscardHandler))
	a := NewAuthenticator(AuthOptions{Keys: keys})
	a.key = func(token *jwt.Token) (any, error) {
		key, err := keys.key(token)
		i.publish(map[string]crypto.Signer{"2": fresh})
		keys.look(0)
		return key, err
	}
	token := i.token(jwt.SigningMethodES256, "1", old)
	if _, err := a.claims(token); err != nil {
		t.Fatal(err)
	}
	if _, err := a.claims(token); err == nil {
		t.Error("a token of a key that is gone is good")
	}
}
