package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// TestJWKS starts while the key's URL is dead: the instance serves, cannot say yet whether a token is good, and takes it
// once the URL answers. A token signed with a secret is never good.
func TestJWKS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "one"}})
	if err != nil {
		t.Fatal(err)
	}
	var alive atomic.Bool
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !alive.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{jwk.Marshal()}})
	}))
	t.Cleanup(keys.Close)
	claims := jwt.MapClaims{"sub": "7", "orgId": 1, "role": "ADMIN", "scope": "publish", "exp": time.Now().Add(time.Hour).Unix()}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	unsigned.Header["kid"] = "one"
	token, err := unsigned.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t, append(shared(t), "--jwks-url="+keys.URL)...)
	awaitReady(t, p)
	if _, err := p.publish(token, event("early", "")); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("while no key is known: %v", err)
	}
	if _, err := p.publish(admin(t, "1"), event("forged", "")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("signed with a secret: %v", err)
	}
	alive.Store(true)
	for deadline := time.After(patience); ; {
		if _, err = p.publish(token, event("late", "")); err == nil {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("the key is not found: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if got := p.open(transports()[0], token, "cursor=earliest", "").events(1); got[0] != "late" {
		t.Error(got)
	}
}
