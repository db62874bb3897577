package handlers

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
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
)

// KeySet is the public keys of whoever signs tokens, as a JWKS URL tells them (RFC 7517). Once fetched they are good until
// others take their place: a URL that does not answer takes nothing away. It is safe for concurrent use.
type KeySet struct {
	url    string
	log    *slog.Logger
	client *http.Client
	pause  time.Duration
	forget func() // what was verified with the former keys

	flight singleflight.Group
	keys   atomic.Pointer[keyfunc.Keyfunc] // nil: none were fetched yet
	failed atomic.Bool                     // the last look
	tried  time.Time                       // the last look; owned by whoever looks
}

// NewKeySet makes an empty set; Run keeps it. A token of a key that is not known is a reason to look at once.
func NewKeySet(url string, log *slog.Logger) *KeySet {
	return &KeySet{url: url, log: log, client: &http.Client{Timeout: keysTimeout}, pause: keysPause, forget: func() {}}
}

// Run fetches the keys every five minutes, and after a failure every ten seconds, until ctx ends.
func (k *KeySet) Run(ctx context.Context) {
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
		storage, err := jwkset.NewStorageFromHTTP(k.url, jwkset.HTTPClientStorageOptions{Client: k.client, HTTPTimeout: keysTimeout})
		var keys keyfunc.Keyfunc
		if err == nil {
			keys, err = keyfunc.New(keyfunc.Options{Storage: storage, UseWhitelist: []jwkset.USE{jwkset.UseSig, ""}})
		}
		if k.failed.Swap(err != nil); err != nil {
			k.log.Warn("the keys of tokens cannot be fetched; those that are known stay good", "err", err)
			return nil, nil
		}
		k.keys.Store(&keys)
		k.forget()
		return nil, nil
	})
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
