package handlers

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// signed makes a token of any claims by any method.
func signed(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claimsWith gives good claims with changes; a nil value takes a claim away.
func claimsWith(changes jwt.MapClaims) jwt.MapClaims {
	claims := jwt.MapClaims{"sub": "7", "orgId": "1", "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// TestTokens shows each kind of token at the door.
func TestTokens(t *testing.T) {
	d := openDoor(t)
	strict := openDoor(t, func(d *door) {
		d.server.Auth = NewAuthenticator(AuthOptions{Secret: []byte(testSecret), Issuer: "app", Audience: "sluice"})
	})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(testSecret)
	from := func(seconds int) int64 { return time.Now().Unix() + int64(seconds) }
	good := func(changes jwt.MapClaims) string {
		return signed(t, jwt.SigningMethodHS256, secret, claimsWith(changes))
	}
	fine := good(nil)
	parts := strings.Split(fine, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"sub":"7","orgId":"2","exp":%d}`, from(3600))))
	for _, c := range []struct {
		name, token string
		door        *door
		status      int
	}{
		{"good", fine, d, 200},
		{"expired", good(jwt.MapClaims{"exp": from(-40)}), d, 401},
		{"expired within the leeway", good(jwt.MapClaims{"exp": from(-10)}), d, 200},
		{"without exp", good(jwt.MapClaims{"exp": nil}), d, 401},
		{"exp a text", good(jwt.MapClaims{"exp": "tomorrow"}), d, 401},
		{"not yet", good(jwt.MapClaims{"nbf": from(60)}), d, 401},
		{"not yet within the leeway", good(jwt.MapClaims{"nbf": from(10)}), d, 200},
		{"made in the future", good(jwt.MapClaims{"iat": from(60)}), d, 401},
		{"made within the leeway", good(jwt.MapClaims{"iat": from(10)}), d, 200},
		{"unsigned", signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claimsWith(nil)), d, 401},
		{"HS384", signed(t, jwt.SigningMethodHS384, secret, claimsWith(nil)), d, 401},
		{"HS512", signed(t, jwt.SigningMethodHS512, secret, claimsWith(nil)), d, 401},
		{"RS256", signed(t, jwt.SigningMethodRS256, key, claimsWith(nil)), d, 401},
		{"another secret", signed(t, jwt.SigningMethodHS256, []byte("another secret"), claimsWith(nil)), d, 401},
		{"no secret", signed(t, jwt.SigningMethodHS256, []byte{}, claimsWith(nil)), d, 401},
		{"other claims under the signature", parts[0] + "." + forged + "." + parts[2], d, 401},
		{"signature cut off", parts[0] + "." + parts[1] + ".", d, 401},
		{"no token at all", "x.y.z", d, 401},
		{"without sub", good(jwt.MapClaims{"sub": nil}), d, 401},
		{"empty sub", good(jwt.MapClaims{"sub": ""}), d, 401},
		{"sub a number", good(jwt.MapClaims{"sub": 7}), d, 200},
		{"sub a list", good(jwt.MapClaims{"sub": []string{"7"}}), d, 401},
		{"without orgId", good(jwt.MapClaims{"orgId": nil}), d, 401},
		{"empty orgId", good(jwt.MapClaims{"orgId": ""}), d, 401},
		{"orgId a number", good(jwt.MapClaims{"orgId": 1}), d, 200},
		{"orgId a fraction", good(jwt.MapClaims{"orgId": 1.5}), d, 401},
		{"orgId with an exponent", good(jwt.MapClaims{"orgId": 1e30}), d, 401},
		{"orgId true", good(jwt.MapClaims{"orgId": true}), d, 401},
		{"orgId with a line", good(jwt.MapClaims{"orgId": "1\n2"}), d, 401},
		{"orgId of 129 bytes", good(jwt.MapClaims{"orgId": strings.Repeat("1", 129)}), d, 401},
		{"properties of both kinds", good(jwt.MapClaims{"properties": []any{3, "4"}}), d, 200},
		{"property a fraction", good(jwt.MapClaims{"properties": []any{1.5}}), d, 401},
		{"property null", good(jwt.MapClaims{"properties": []any{"3", nil}}), d, 401},
		{"properties a text", good(jwt.MapClaims{"properties": "3"}), d, 401},
		{"services a text", good(jwt.MapClaims{"services": "finance"}), d, 401},
		{"role a list", good(jwt.MapClaims{"role": []string{"ADMIN"}}), d, 401},
		{"issuer and audience missing", fine, strict, 401},
		{"another issuer", good(jwt.MapClaims{"iss": "other", "aud": "sluice"}), strict, 401},
		{"another audience", good(jwt.MapClaims{"iss": "app", "aud": "other"}), strict, 401},
		{"issuer and one of the audiences", good(jwt.MapClaims{"iss": "app", "aud": []string{"other", "sluice"}}), strict, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.door.ask(http.MethodGet, "/v2/realtime/metrics", c.token, "")
			if got.status != c.status {
				t.Errorf("%d %s, want %d", got.status, got.body, c.status)
			}
			if got.status == 401 {
				p := got.problem(t)
				if got.header.Get("WWW-Authenticate") != `Bearer realm="sluice"` || strings.Contains(p.Detail, parts[1]) {
					t.Errorf("WWW-Authenticate %q, detail %q", got.header.Get("WWW-Authenticate"), p.Detail)
				}
			}
		})
	}
	if strings.Contains(d.log.String(), parts[0]) {
		t.Error("tokens are in the log")
	}
}

// TestTokenSources tells where a token may stand, and which counts.
func TestTokenSources(t *testing.T) {
	d := openDoor(t)
	good := mint(t, Claims{})
	for _, c := range []struct {
		name    string
		headers []string
		query   string
		status  int
	}{
		{"none", nil, "", 401},
		{"header", []string{"Authorization", "Bearer " + good}, "", 200},
		{"header in small letters", []string{"Authorization", "bearer  " + good}, "", 200},
		{"another scheme", []string{"Authorization", "Basic " + good}, "", 401},
		{"no scheme", []string{"Authorization", good}, "", 401},
		{"empty", []string{"Authorization", "Bearer "}, "", 401},
		{"cookie", []string{"Cookie", "sluice_token=" + good}, "", 200},
		{"bad header before a good cookie", []string{"Authorization", "Bearer x", "Cookie", "sluice_token=" + good}, "", 401},
		{"good header before a bad cookie", []string{"Authorization", "Bearer " + good, "Cookie", "sluice_token=x"}, "", 200},
		{"query", nil, "?access_token=" + good, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := d.ask(http.MethodGet, "/v2/realtime/metrics"+c.query, "", "", c.headers...); got.status != c.status {
				t.Errorf("%d %s, want %d", got.status, got.body, c.status)
			}
		})
	}
}

// request makes one that only an Authenticator sees.
func request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// TestCaller reads all claims back.
func TestCaller(t *testing.T) {
	auth := NewAuthenticator(AuthOptions{Secret: []byte(testSecret)})
	expires := time.Unix(time.Now().Unix()+600, 0)
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		want   Caller
	}{
		{"least", nil, Caller{Org: "1", User: "7"}},
		{"all", jwt.MapClaims{
			"orgId": 9007199254740993, "sub": 12, "role": "MANAGER", "properties": []any{10, "9", 9, "b"},
			"services": []string{"finance"}, "scope": " publish  admin ", "displayName": "Ada",
		}, Caller{
			Org: "9007199254740993", User: "12", Properties: []string{"10", "9", "9", "b"}, Services: []string{"finance"},
			Scopes: []string{"publish", "admin"}, DisplayName: "Ada",
		}},
		{"service token", jwt.MapClaims{"orgId": "*"}, Caller{Org: "*", User: "7", AnyOrg: true}},
		{"admin", jwt.MapClaims{"role": "ADMIN"}, Caller{Org: "1", User: "7", Admin: true}},
		{"admin is no other word", jwt.MapClaims{"role": "admin"}, Caller{Org: "1", User: "7"}},
		{"no services", jwt.MapClaims{"services": []string{}}, Caller{Org: "1", User: "7", Services: []string{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := claimsWith(c.claims)
			claims["exp"] = expires.Unix()
			got, err := auth.Caller(request(signed(t, jwt.SigningMethodHS256, []byte(testSecret), claims)))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Expires = got.Expires
			if len(got.Scopes) == 0 {
				got.Scopes = nil
			}
			if !reflect.DeepEqual(*got, c.want) || !got.Expires.Equal(expires) {
				t.Errorf("%+v, want %+v", *got, c.want)
			}
		})
	}
}

// TestPropertiesSQL asks the operator's own table where the token is silent, and never takes a failure for "all".
func TestPropertiesSQL(t *testing.T) {
	d := openDoor(t)
	query := `select p::text from (values ('1','7',4), ('1','7',3), ('1','8',5)) v(o, u, p) where o = $1 and u = $2`
	with := func(query string) *Authenticator {
		return NewAuthenticator(AuthOptions{Secret: []byte(testSecret), Properties: d.events.PropertiesOf(query)})
	}
	for _, c := range []struct {
		name   string
		claims Claims
		acts   string // for another org than its own
		want   []string
	}{
		{"from the table", Claims{}, "", []string{"3", "4"}},
		{"of another user", Claims{User: "8"}, "", []string{"5"}},
		{"of another org", Claims{Org: "2"}, "", nil},
		{"of the org that a service acts for", Claims{Org: "*"}, "1", []string{"3", "4"}},
		{"the token's own", Claims{Properties: []string{"2", "1", "2"}}, "", []string{"1", "2"}},
		{"the token says none", Claims{Properties: []string{}}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			auth := with(query)
			caller, err := auth.Caller(request(mint(t, c.claims)))
			if err != nil {
				t.Fatal(err)
			}
			org := caller.Org
			if c.acts != "" {
				org = c.acts
			}
			got, err := auth.Properties(t.Context(), caller, org)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v (%v), want %v", got, err, c.want)
			}
		})
	}
	t.Run("broken", func(t *testing.T) {
		broken := with(`select secret from missing where $1 = $2`)
		caller, err := broken.Caller(request(mint(t, Claims{})))
		if err != nil {
			t.Fatalf("who needs no properties is refused: %v", err)
		}
		_, err = broken.Properties(t.Context(), caller, "1")
		var p *Problem
		if !errors.As(err, &p) || p.Status != 503 || p.RetryAfter == 0 || strings.Contains(p.Detail, "missing") {
			t.Errorf("%v", err)
		}
		if !strings.Contains(fmt.Sprint(err), "missing") {
			t.Errorf("the log is not told the cause: %v", err)
		}
	})
}

// TestPropertiesRemembered asks once for many, and again after 30 s.
func TestPropertiesRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		auth := NewAuthenticator(AuthOptions{
			Secret: []byte(testSecret),
			Properties: func(context.Context, string, string) ([]string, error) {
				<-time.After(time.Second)
				return []string{fmt.Sprint(asked.Add(1))}, nil
			},
		})
		properties := func(token string) ([]string, error) {
			caller, err := auth.Caller(request(token))
			if err != nil {
				return nil, err
			}
			return auth.Properties(t.Context(), caller, caller.Org)
		}
		token := mint(t, Claims{})
		expect := func(want string) {
			t.Helper()
			if got, err := properties(token); err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("%v (%v), want property %s", got, err, want)
			}
		}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() { expect("1") })
		}
		group.Wait()
		<-time.After(29 * time.Second)
		expect("1")
		<-time.After(2 * time.Second)
		expect("2")
		if got, err := properties(mint(t, Claims{User: "8"})); err != nil || got[0] != "3" {
			t.Errorf("another user shares them: %+v (%v)", got, err)
		}
	})
}

// TestTokenEndsWhileRemembered presents a token until its leeway is over: that its signature was good a moment ago does
// not make it live longer.
func TestTokenEndsWhileRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAuthenticator(AuthOptions{Secret: []byte(testSecret)})
		text, err := a.Mint(Claims{Org: "1", User: "7", Expires: time.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Authorization", "Bearer "+text)
		for range 2 {
			if caller, err := a.Caller(request); err != nil || caller.User != "7" {
				t.Fatalf("%+v, %v", caller, err)
			}
		}
		if known, err := a.verified.Load().get(text); known == nil || err != nil {
			t.Fatalf("the token is not remembered: %v, %v", known, err)
		}
		if known, err := a.verified.Load().get(text[:len(text)-1] + "A"); known != nil || err != nil {
			t.Fatalf("one with another signature is: %v, %v", known, err)
		}
		time.Sleep(time.Minute + tokenLeeway + time.Second) // of the bubble's clock
		_, err = a.Caller(request)
		var p *Problem
		if !errors.As(err, &p) || p.Status != http.StatusUnauthorized || !strings.Contains(p.Detail, "expired") {
			t.Fatalf("the token has ended: %v", err)
		}
	})
}
