package handlers

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
)

const (
	keysEvery   = 5 * time.Minute  // between two looks at the URL: for so long a key that was taken away is still good
	keysPause   = 10 * time.Second // at least, between two looks that tokens of unknown keys ask for
	keysTimeout = 5 * time.Second  // of one look
	keysLimit   = 1 << 20          // bytes of a set
)

// keyAlgorithms are those that a token may be signed with.
var keyAlgorithms = []string{"RS256", "ES256", "EdDSA"}

// KeySet is the public keys of whoever signs tokens, as a JWKS URL tells them (RFC 7517). Once fetched they are good until
// others take their place: a URL that does not answer takes nothing away. It is safe for concurrent use.
type KeySet struct {
	url    string
	log    *slog.Logger
	client *http.Client
	pause  time.Duration
	forget func() // what was verified with the former keys
	ctx    context.Context
	cancel context.CancelFunc // ends a look that is under way

	flight singleflight.Group
	keys   atomic.Pointer[keyfunc.Keyfunc] // nil: none were fetched yet
	failed atomic.Bool                     // the last look
	tried  time.Time                       // the last look; owned by whoever looks
}

// NewKeySet makes an empty set; Run keeps it. A token of a key that is not known is a reason to look at once.
func NewKeySet(url string, log *slog.Logger) *KeySet {
	ctx, cancel := context.WithCancel(context.Background())
	return &KeySet{
		url: url, log: log, client: &http.Client{Timeout: keysTimeout}, pause: keysPause, forget: func() {}, ctx: ctx, cancel: cancel,
	}
}

// Run fetches the keys every five minutes, and after a failure every ten seconds, until ctx ends. Nothing is fetched then.
func (k *KeySet) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, k.cancel)()
	for {
		k.look(0)
		wait := keysEvery
		if k.failed.Load() {
			wait = k.pause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// look fetches the keys, unless that was tried within pause. Whoever comes meanwhile shares the outcome.
func (k *KeySet) look(pause time.Duration) {
	_, _, _ = k.flight.Do("", func() (any, error) {
		if time.Since(k.tried) < pause {
			return nil, nil
		}
		k.tried = time.Now()
		keys, err := k.fetch()
		if k.failed.Swap(err != nil); k.ctx.Err() != nil {
			return nil, nil // that is no news
		}
		if err != nil {
			k.log.Warn("the keys of tokens cannot be fetched; those that are known stay good", "err", err)
			return nil, nil
		}
		k.keys.Store(&keys)
		k.forget()
		return nil, nil
	})
}

// fetch reads the set. What is in it for other uses or is not understood is left out (RFC 7517, 5): a token that names no
// key is held against all that are left.
func (k *KeySet) fetch() (keyfunc.Keyfunc, error) {
	request, err := http.NewRequestWithContext(k.ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the URL answers %s", response.Status)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, keysLimit)).Decode(&set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, errors.New("the URL answers with no set of keys")
	}
	var keys []jwkset.JWK
	for _, one := range set.Keys {
		if key, ok := signing(one); ok {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		k.log.Warn("the URL tells no key that signs tokens, so none is good", "algorithms", keyAlgorithms)
	}
	storage := jwkset.NewMemoryStorage()
	if err := storage.KeyReplaceAll(k.ctx, keys); err != nil {
		return nil, err
	}
	return keyfunc.New(keyfunc.Options{Storage: storage})
}

// signing reads a key that is told for signatures. A kind of key is good for one algorithm: RSA of 2048 bits and more for
// RS256, P-256 for ES256, Ed25519 for EdDSA, whose newer name (RFC 9864) a key may have but no token.
func signing(text []byte) (key jwkset.JWK, ok bool) {
	var told jwkset.JWKMarshal
	if json.Unmarshal(text, &told) != nil || told.USE != "" && told.USE != jwkset.UseSig ||
		told.KEYOPS != nil && !slices.Contains(told.KEYOPS, jwkset.KeyOpsVerify) {
		return key, false
	}
	algorithms := map[jwkset.KTY][]jwkset.ALG{
		jwkset.KtyRSA: {"", jwkset.AlgRS256}, jwkset.KtyEC: {"", jwkset.AlgES256}, jwkset.KtyOKP: {"", jwkset.AlgEdDSA, "Ed25519"},
	}
	if !slices.Contains(algorithms[told.KTY], told.ALG) {
		return key, false
	}
	told.ALG = ""
	key, err := jwkset.NewJWKFromMarshal(told, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key, false
	}
	switch public := key.Key().(type) {
	case *rsa.PublicKey:
		return key, public.N.BitLen() >= 2048
	case *ecdsa.PublicKey:
		return key, public.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return key, true
	}
	return key, false
}

// key is the jwt.Keyfunc: it finds the key that a token names. Where that cannot be known for now, the error is a 503.
func (k *KeySet) key(token *jwt.Token) (any, error) {
	key, err := k.known(token)
	if err == nil || !errors.Is(err, jwkset.ErrKeyNotFound) {
		return key, err
	}
	k.look(k.pause)
	if key, err = k.known(token); errors.Is(err, jwkset.ErrKeyNotFound) && k.failed.Load() {
		p := later("the key of the token cannot be looked up for now")
		p.cause = err
		return nil, p
	}
	return key, err
}

func (k *KeySet) known(token *jwt.Token) (any, error) {
	keys := k.keys.Load()
	if keys == nil {
		return nil, jwkset.ErrKeyNotFound
	}
	return (*keys).Keyfunc(token)
}
