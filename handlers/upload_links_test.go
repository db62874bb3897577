package handlers

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// link makes one and gives its address and its end.
func (d *door) link(path, token, body string) (link *url.URL, expires time.Time) {
	d.t.Helper()
	got := d.ask("POST", path+"/links", token, body, "Content-Type", "application/json")
	var made struct {
		URL       string
		ExpiresAt time.Time
	}
	if err := json.Unmarshal([]byte(got.body), &made); err != nil || got.status != 201 {
		d.t.Fatalf("%d %s, %v", got.status, got.body, err)
	}
	link, err := url.Parse(made.URL)
	if err != nil || link.IsAbs() || link.Path != path+"/content" {
		d.t.Fatalf("the link %q, %v", made.URL, err)
	}
	return link, made.ExpiresAt
}

// TestLinks opens links on another instance than the one that has made them, without a token.
func TestLinks(t *testing.T) {
	t.Parallel()
	a, b, _ := twoDoors(t)
	user, f := mint(t, Claims{}), pdf(1000, 1)
	path := a.create(user, len(f))
	early, expires := a.link(path, user, "{}")
	if left := time.Until(expires); left > time.Hour || left < 59*time.Minute {
		t.Errorf("by default it is good for %v", left)
	}
	b.ask("GET", early.String(), "", "").wants(t, "before the file", 409)
	a.ask("PUT", path, user, f).wants(t, "the file", 200)
	for _, d := range []*door{a, b} {
		if got := d.ask("GET", early.String(), "", ""); got.status != 200 || got.body != f {
			t.Errorf("%d, %d bytes", got.status, len(got.body))
		}
		d.ask("GET", early.String(), "", "", "Range", "bytes=0-9").wants(t, "a part", 206)
		d.ask("HEAD", early.String(), "", "").wants(t, "HEAD", 200, "Content-Length", "1000")
	}
	late, expires := b.link(path, user, `{"ttlSeconds":604800}`)
	if left := time.Until(expires); left > 7*24*time.Hour || left < 7*24*time.Hour-time.Minute {
		t.Errorf("a week is %v", left)
	}
	a.ask("GET", late.String(), "", "").wants(t, "a link of the other", 200)
	a.ask("DELETE", path, user, "").wants(t, "deleting", 204)
	b.ask("GET", late.String(), "", "").wants(t, "of nothing", 410)
	if text := a.log.String() + b.log.String(); strings.Contains(text, late.Query().Get("signature")) {
		t.Error("the log has a link")
	}
}

// TestForgedLinks alters links: none of them opens anything, not even with a token that would.
func TestForgedLinks(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(1000, 2)
	path, other := d.keep(user, f), d.keep(user, f)
	good, _ := d.link(path, user, `{"ttlSeconds":60}`)
	expires, signature := good.Query().Get("expires"), good.Query().Get("signature")
	at, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(signature)
	flipped[0] ^= 1
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	before, last := signature[:len(signature)-1], signature[len(signature)-1]
	same := before + letters[strings.IndexByte(letters, last)^1:][:1] // its last bits are not of the 32 bytes
	for what, one := range map[string]struct{ path, expires, signature string }{
		"another time":      {path, strconv.FormatInt(at+1, 10), signature},
		"a time written so": {path, "0" + expires, signature},
		"no time":           {path, "", signature},
		"another upload":    {other, expires, signature},
		"no upload":         {"/v2/uploads/" + strings.Repeat("a", 26), expires, signature},
		"another signature": {path, expires, string(flipped)},
		"a part of it":      {path, expires, signature[:20]},
		"no signature":      {path, expires, ""},
		"no base64":         {path, expires, "%"},
		"the same bytes":    {path, expires, same},
		"a line behind it":  {path, expires, signature + "\n"},
		"other digits":      {path, strings.Map(func(r rune) rune { return r - '0' + '\uff10' }, expires), signature},
		"more behind it":    {path, expires, signature + "AAAA"},
	} {
		query := url.Values{"expires": {one.expires}, "signature": {one.signature}}
		d.ask("GET", one.path+"/content?"+query.Encode(), user, "").wants(t, what, 403)
	}
	d.ask("GET", good.String(), "", "").wants(t, "the link itself", 200)
	d.ask("GET", path+"/content?expires="+expires, "", "").wants(t, "neither token nor signature", 401)
	for _, more := range []string{"", "/progress", "/links"} {
		if got := d.ask("GET", path+more+"?"+good.RawQuery, "", ""); got.status != 401 && got.status != 405 {
			t.Errorf("a link to the content opens %q: %d", more, got.status)
		}
	}
	short, expiry := d.link(path, user, `{"ttlSeconds":1}`)
	eventually(t, patience, "a link goes on after its time", func() bool { return d.ask("GET", short.String(), "", "").status == 403 })
	if time.Now().Before(expiry) {
		t.Error("a link has ended before its time")
	}
}

// TestLinkRequests shows what is taken for a link, and that a page elsewhere gets none by the cookie.
func TestLinkRequests(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.keep(user, pdf(10, 3)) + "/links"
	for body, status := range map[string]int{
		`{}`: 201, `{"ttlSeconds":null}`: 201, `{"ttlSeconds":1}`: 201, `{"ttlSeconds":604800}`: 201,
		`{"ttlSeconds":0}`: 400, `{"ttlSeconds":604801}`: 400, `{"ttlSeconds":-1}`: 400, `{"ttlSeconds":1.5}`: 400, `{"ttlSeconds":"60"}`: 400,
		`{"ttlSeconds":99999999999999999999}`: 400, `{"ttlSeconds":60,"ttlSeconds":60}`: 400, `{"ttl":60}`: 400, `[]`: 400, `null`: 400, `{`: 400,
	} {
		d.ask("POST", path, user, body, "Content-Type", "application/json").wants(t, body, status)
	}
	d.ask("POST", path, user, "").wants(t, "no body", 201)
	d.ask("POST", path, user, "{}", "Content-Type", "text/plain").wants(t, "text", 415)
	cookie := tokenCookie + "=" + user
	d.ask("POST", path, "", "", "Cookie", cookie).wants(t, "by cookie, from nowhere", 403)
	d.ask("POST", path, "", "", "Cookie", cookie, "Origin", "https://evil.example").wants(t, "by cookie, from elsewhere", 403)
	d.ask("POST", path, "", "", "Cookie", cookie, "Origin", d.url).wants(t, "by cookie, from here", 201)
	service := mint(t, Claims{Org: "*", User: "app", Role: "ADMIN"})
	d.ask("POST", path, service, "").wants(t, "of no org", 400, "field", "orgId")
	d.ask("POST", path+"?orgId=1", service, "").wants(t, "of its org", 201)
}
