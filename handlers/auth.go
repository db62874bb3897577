package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	tokenCookie   = "sluice_token"
	tokenLeeway   = 30 * time.Second
	propertiesFor = 30 * time.Second // that a user's properties are remembered
	propertiesMax = 10_000           // users remembered
)

// Caller is who a token says that a request comes from (docs/protocol.md, "Identity").
type Caller struct {
	Org, User   string
	AnyOrg      bool     // a service token: it names the org it acts for
	Admin       bool     // every property of the org
	Properties  []string // as the token names them; nil where it does not (Authenticator.Properties)
	Services    []string // nil: all
	Scopes      []string
	DisplayName string
	Expires     time.Time
	ByCookie    bool
}

// May says whether the token has a scope.
func (c *Caller) May(scope string) bool { return slices.Contains(c.Scopes, scope) }

// current refuses a token that has expired since the request began.
func (c *Caller) current() error {
	if time.Now().After(c.Expires.Add(tokenLeeway)) {
		return problem(http.StatusUnauthorized, "the token has expired")
	}
	return nil
}

// MayService says whether the token allows a service.
func (c *Caller) MayService(service string) bool {
	return c.Services == nil || slices.Contains(c.Services, service)
}

// Claims is what MintToken puts into a token; empty fields are left out.
type Claims struct {
	Org, User, Role, Scope, DisplayName string
	Issuer, Audience                    string
	Properties, Services                []string
	Expires                             time.Time
}

// MintToken makes an HS256 token as an application's backend would.
func MintToken(secret []byte, c Claims) (string, error) {
	claims := jwt.MapClaims{"sub": c.User, "orgId": c.Org, "iat": time.Now().Unix(), "exp": c.Expires.Unix()}
	for name, value := range map[string]string{
		"role": c.Role, "scope": c.Scope, "displayName": c.DisplayName, "iss": c.Issuer, "aud": c.Audience,
	} {
		if value != "" {
			claims[name] = value
		}
	}
	if c.Properties != nil {
		claims["properties"] = c.Properties
	}
	if c.Services != nil {
		claims["services"] = c.Services
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
}

// AuthOptions say which tokens are good.
type AuthOptions struct {
	Secret           []byte                                                        // of HS256; nil with Keys
	Keys             *KeySet                                                       // of RS256, ES256 and EdDSA; nil with Secret
	Issuer, Audience string                                                        // checked where not empty
	QueryToken       bool                                                          // ?access_token= is taken
	Properties       func(ctx context.Context, org, user string) ([]string, error) // nil: tokens alone tell them
}

// Authenticator reads tokens. It is safe for concurrent use.
type Authenticator struct {
	options  AuthOptions
	parser   *jwt.Parser
	key      jwt.Keyfunc
	verified atomic.Pointer[verifiedTokens] // by the keys of now: others begin with nothing known
	flight   singleflight.Group

	known *lru.Cache[[2]string, knownProperties] // by org and user
}

type knownProperties struct {
	ids   []string
	until time.Time
}

// NewAuthenticator makes an authenticator. The algorithms follow from where the key comes from, never from the token.
func NewAuthenticator(options AuthOptions) *Authenticator {
	algorithms, key := []string{"HS256"}, func(*jwt.Token) (any, error) { return options.Secret, nil }
	if options.Keys != nil {
		algorithms, key = keyAlgorithms, options.Keys.key
	}
	checks := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(tokenLeeway),
		jwt.WithIssuedAt(), jwt.WithJSONNumber(),
	}
	if options.Issuer != "" {
		checks = append(checks, jwt.WithIssuer(options.Issuer))
	}
	if options.Audience != "" {
		checks = append(checks, jwt.WithAudience(options.Audience))
	}
	known, err := lru.New[[2]string, knownProperties](propertiesMax)
	if err != nil {
		panic(err) // the size is not positive
	}
	a := &Authenticator{options: options, parser: jwt.NewParser(checks...), key: key, known: known}
	clock := jwt.NewValidator(checks...)
	forget := func() { a.verified.Store(newVerifiedTokens(clock)) }
	forget()
	if options.Keys != nil {
		options.Keys.forget = forget
	}
	return a
}

// Mint makes a token that this authenticator accepts.
func (a *Authenticator) Mint(c Claims) (string, error) {
	c.Issuer, c.Audience = a.options.Issuer, a.options.Audience
	return MintToken(a.options.Secret, c)
}

// wireClaims are the claims as tokens carry them.
type wireClaims struct {
	jwt.RegisteredClaims
	Sub         wireID   `json:"sub"`
	Org         wireID   `json:"orgId"`
	Role        string   `json:"role"`
	Properties  []wireID `json:"properties"`
	Services    []string `json:"services"`
	Scope       string   `json:"scope"`
	DisplayName string   `json:"displayName"`
}

// wireID is an id: a string, or a whole number that is kept as its decimal text.
type wireID string

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// UnmarshalJSON implements json.Unmarshaler.
func (id *wireID) UnmarshalJSON(text []byte) error {
	if decimal.Match(text) {
		*id = wireID(text)
		return nil
	}
	var value *string
	if err := json.Unmarshal(text, &value); err != nil || value == nil {
		return errors.New("an id is a string or a whole number")
	}
	*id = wireID(*value)
	return nil
}

// Caller reads the request's token: from the Authorization header, else from ?access_token= where that is taken, else from
// the cookie. Whatever is wrong with it is a 401.
func (a *Authenticator) Caller(r *http.Request) (*Caller, error) {
	text, byCookie := "", false
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, rest, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, problem(http.StatusUnauthorized, "the Authorization header is not a Bearer token")
		}
		text = strings.TrimSpace(rest)
	} else if given := r.URL.Query().Get("access_token"); given != "" && a.options.QueryToken {
		text = given
	} else if cookie, err := r.Cookie(tokenCookie); err == nil {
		text, byCookie = cookie.Value, true
	}
	if text == "" && r.URL.Query().Has("access_token") {
		return nil, problem(http.StatusUnauthorized, "a token in the URL is not taken here, for URLs are logged: POST /v2/tickets gives a ticket")
	}
	if text == "" {
		return nil, problem(http.StatusUnauthorized, "a token is needed: Authorization: Bearer, or the cookie %s", tokenCookie)
	}
	claims, err := a.claims(text)
	if err != nil {
		return nil, refusedToken(err)
	}
	if !label(string(claims.Sub)) || claims.Sub == "" || !label(string(claims.Org)) || claims.Org == "" {
		return nil, problem(http.StatusUnauthorized, "the token needs sub and orgId")
	}
	caller := &Caller{
		Org: string(claims.Org), User: string(claims.Sub), AnyOrg: claims.Org == "*", Admin: claims.Role == "ADMIN",
		Services: claims.Services, Scopes: strings.Fields(claims.Scope), DisplayName: claims.DisplayName,
		Expires: claims.ExpiresAt.Time, ByCookie: byCookie,
	}
	if claims.Properties != nil {
		caller.Properties = make([]string, len(claims.Properties)) // the claims are shared
		for i, id := range claims.Properties {
			caller.Properties[i] = string(id)
		}
	}
	return caller, nil
}

// Properties are the ids, sorted, that a caller who is no admin has in the org that it acts for: the token's, or where it
// names none those of the operator's query. A failing query is a 503; it grants nothing.
func (a *Authenticator) Properties(ctx context.Context, caller *Caller, org string) ([]string, error) {
	ids := caller.Properties
	if ids == nil && a.options.Properties != nil {
		var err error
		if ids, err = a.propertiesOf(ctx, org, caller.User); err != nil {
			return nil, err
		}
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// claims verifies a token. One that was verified a moment ago is only checked against the clock again.
func (a *Authenticator) claims(text string) (*wireClaims, error) {
	verified := a.verified.Load() // before the key is found: if that is taken away meanwhile, nobody looks at these any more
	if known, err := verified.get(text); known != nil || err != nil {
		return known, err
	}
	claims := new(wireClaims)
	_, err := a.parser.ParseWithClaims(text, claims, a.key)
	if err != nil {
		return nil, err
	}
	verified.keep(text, claims)
	return claims, nil
}

// refusedToken says what is wrong in words that help the token's maker and tell a forger nothing.
func refusedToken(err error) error {
	var known *Problem
	if errors.As(err, &known) {
		return known
	}
	detail := "the token is not valid"
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		detail = "the token has expired"
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		detail = "the token lacks a claim that is required: exp, and iss and aud where they are configured"
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		detail = "the token is not valid yet"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), errors.Is(err, jwt.ErrTokenInvalidAudience):
		detail = "the token is for another issuer or audience"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		detail = "the token's signature or algorithm is not accepted"
	}
	return problem(http.StatusUnauthorized, "%s", detail)
}

// propertiesOf asks the operator's query at most once in 30 s for a user. A failure grants nothing.
func (a *Authenticator) propertiesOf(ctx context.Context, org, user string) ([]string, error) {
	key := [2]string{org, user}
	known, found := a.known.Get(key)
	if found && time.Now().Before(known.until) {
		return known.ids, nil
	}
	ids, err, _ := a.flight.Do(org+"\x00"+user, func() (any, error) {
		ids, err := a.options.Properties(context.WithoutCancel(ctx), org, user)
		if err != nil {
			return nil, err
		}
		a.known.Add(key, knownProperties{ids, time.Now().Add(propertiesFor)})
		return ids, nil
	})
	if err != nil {
		p := later("the properties of the user cannot be looked up for now")
		p.cause = err
		return nil, p
	}
	return ids.([]string), nil
}
