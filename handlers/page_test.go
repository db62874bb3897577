package handlers

import (
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"sluice/static"
)

// TestPage gives a browser of this machine a page and a token that works, and keeps the token from scripts.
func TestPage(t *testing.T) {
	d := openDoor(t, func(d *door) {
		d.server.Dev = true
		d.server.Auth = NewAuthenticator(AuthOptions{Secret: []byte(testSecret), Issuer: "app", Audience: "sluice"})
	})
	got := d.ask(http.MethodGet, "/", "", "")
	if got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %v", got.status, got.header)
	}
	cookies := (&http.Response{Header: got.header}).Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v", cookies)
	}
	cookie := cookies[0]
	if cookie.Name != "sluice_token" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" {
		t.Errorf("cookie %v", cookie)
	}
	// A server that demands issuer and audience accepts its own page's token.
	as := []string{"Content-Type", "application/json", "Cookie", "sluice_token=" + cookie.Value}
	event := `{"service":"finance","type":"t","propertyId":"7"}`
	if got := d.ask(http.MethodPost, "/v2/events", "", event, append(as, "Origin", d.url)...); got.status != 201 {
		t.Errorf("the page cannot publish: %d %s", got.status, got.body)
	}
	if got := d.ask(http.MethodPost, "/v2/events", "", event, append(as, "Origin", "https://evil.example")...); got.status != 403 {
		t.Errorf("another page can: %d %s", got.status, got.body)
	}
	if strings.Contains(got.body, cookie.Value) {
		t.Error("the token stands in the page")
	}
}

// TestPageFiles serves every file under a policy that allows nothing from elsewhere, which none of them needs.
func TestPageFiles(t *testing.T) {
	d := openDoor(t, func(d *door) { d.server.Dev = true })
	foreign := regexp.MustCompile(`(?i)(src|href|url|import|from)\s*[=(]?\s*["']?(https?:)?//`)
	inline := regexp.MustCompile(`(?i)<script>|<style|\sstyle=|\son[a-z]+="|javascript:`)
	page := d.ask(http.MethodGet, "/", "", "").body
	err := fs.WalkDir(static.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, ".html") || name == openAPIName {
			return err
		}
		if !strings.Contains(page, "/static/"+name) {
			t.Errorf("the page does not use %s", name)
		}
		got := d.ask(http.MethodGet, "/static/"+name, "", "")
		if got.status != 200 || got.header.Get("X-Content-Type-Options") != "nosniff" || foreign.MatchString(got.body) {
			t.Errorf("%s: %d %v", name, got.status, got.header)
		}
		if kind := got.header.Get("Content-Type"); !strings.HasPrefix(kind, "text/css") && !strings.HasPrefix(kind, "text/javascript") {
			t.Errorf("%s is typed %q", name, kind)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if inline.MatchString(page) || foreign.MatchString(page) {
		t.Error("the page needs what its policy forbids")
	}
	policy := d.ask(http.MethodGet, "/", "", "").header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	for _, path := range []string{"/static/", "/static/static.go", "/static/..%2fstatic.go", "/static/a/b"} {
		if got := d.ask(http.MethodGet, path, "", ""); got.status != 404 {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}
