package handlers

import (
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// allowanceMax is how many users are remembered. Whoever is forgotten has been quiet for longer than so many others.
const allowanceMax = 10_000

// allowance bounds how often each token's subject does something. It is safe for concurrent use.
type allowance struct {
	perSecond rate.Limit
	atOnce    int
	what      string                               // is done too often
	of        *lru.Cache[[2]string, *rate.Limiter] // by org and user: a token made anew has no new allowance
}

// newAllowance allows so many requests a second in the long run, and so many at once; 0 a second is no limit.
func newAllowance(perSecond, atOnce int, what string) *allowance {
	of, err := lru.New[[2]string, *rate.Limiter](allowanceMax)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &allowance{perSecond: rate.Limit(perSecond), atOnce: atOnce, what: what, of: of}
}

// take counts one request of a user. Where it is one too many, the error is a 429 that says when there is room again.
func (a *allowance) take(org, user string) error { return a.takeMany(org, user, 1) }

// takeMany is take of a request that counts as several.
func (a *allowance) takeMany(org, user string, count int) error {
	if a.perSecond == 0 {
		return nil
	}
	key := [2]string{org, user}
	limiter, known := a.of.Get(key)
	if !known {
		limiter = rate.NewLimiter(a.perSecond, a.atOnce)
		if other, raced, _ := a.of.PeekOrAdd(key, limiter); raced {
			limiter = other
		}
	}
	now := time.Now()
	if limiter.AllowN(now, count) {
		return nil
	}
	p := problem(http.StatusTooManyRequests, "more than %d times a second %s", int(a.perSecond), a.what)
	p.RetryAfter = time.Duration((float64(count) - limiter.TokensAt(now)) / float64(a.perSecond) * float64(time.Second))
	return p
}
