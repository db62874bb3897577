package handlers

import (
	"crypto/sha256"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
)

// verifiedMax is how many tokens are remembered, a few hundred bytes each.
const verifiedMax = 4096

// verifiedTokens remembers the claims of tokens whose signatures were good: a publisher sends the same token with every
// request, and reading it anew was a sixth of the work of publishing. A token is known by its digest, which covers the
// signature, so what is remembered opens nothing that the token itself would not. The claims are shared: nobody may
// write to them.
type verifiedTokens struct {
	clock *jwt.Validator
	known *lru.Cache[[sha256.Size]byte, *wireClaims]
}

func newVerifiedTokens(clock *jwt.Validator) *verifiedTokens {
	known, err := lru.New[[sha256.Size]byte, *wireClaims](verifiedMax)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &verifiedTokens{clock, known}
}

// get gives the claims of a token that was verified before, nil for any other, and an error for one whose time is over.
func (v *verifiedTokens) get(text string) (*wireClaims, error) {
	claims, found := v.known.Get(sha256.Sum256([]byte(text)))
	if !found {
		return nil, nil
	}
	if err := v.clock.Validate(claims); err != nil {
		return nil, err
	}
	return claims, nil
}

func (v *verifiedTokens) keep(text string, claims *wireClaims) {
	v.known.Add(sha256.Sum256([]byte(text)), claims)
}
