package handlers

import (
	"net/netip"
	"strings"
	"testing"
)

const sessions = "/upload/storage/v1/b/any/o?uploadType=resumable&name="

// TestSession goes through an upload as Google's clients send it.
func TestSession(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(60, 12)
	begin := func(headers ...string) string {
		got := d.ask("POST", sessions+"a%20b.pdf", user, `{"contentType":"x","other":{}}`, append(headers, "Content-Type", "application/json")...)
		got.wants(t, "a session", 200, "Upload-Offset", "0")
		path, own := strings.CutPrefix(got.header.Get("Location"), d.url)
		if !own || !strings.HasSuffix(path, "?uploadType=resumable") || got.body != "" {
			t.Fatalf("the session is at %q: %q", got.header.Get("Location"), got.body)
		}
		return path
	}
	path := begin("X-Upload-Content-Type", "application/pdf", "X-Upload-Content-Length", "60")
	if u := d.ask("GET", path, user, "").resource(t); u.Filename != "a b.pdf" || *u.Size != 60 || u.MimeType != "application/pdf" {
		t.Errorf("the session has made %+v", u)
	}
	d.walk(path, user, []step{
		{"nothing is there", "PUT", "", []string{"Content-Range", "bytes */*"}, 308, []string{"Range", "-", "Content-Length", "0"}},
		{"the first", "PUT", f[:10], []string{"Content-Range", span(0, 10, 60)}, 308, []string{"Range", "bytes=0-9", "Upload-Offset", "10"}},
		{"how far", "PUT", "", []string{"Content-Range", "bytes */60"}, 308, []string{"Range", "bytes=0-9"}},
		{"another size", "PUT", "", []string{"Content-Range", "bytes */61"}, 400, []string{"type", "inconsistent-upload-length"}},
		{"a gap", "PUT", f[20:30], []string{"Content-Range", span(20, 30, 60)}, 409, []string{"Range", "bytes=0-9", "Upload-Offset", "10"}},
		{"an end left open", "PUT", f[10:30], []string{"Content-Range", "bytes 10-*/60"}, 308, []string{"Range", "bytes=0-29"}},
		{"a range that is none", "PUT", f[10:30], []string{"Content-Range", "bytes=10-29"}, 400, []string{"field", "Content-Range"}},
		{"the rest", "PUT", f[30:], []string{"Content-Range", span(30, 60, 60)}, 200, []string{"state", "ready", "Range", "-", "Repr-Digest", sum(f)}},
		{"how far then", "PUT", "", []string{"Content-Range", "bytes */60"}, 200, []string{"state", "ready"}},
	})
	d.walk(begin(), user, []step{
		{"no size", "PUT", f[:10], []string{"Content-Range", span(0, 10, -1)}, 308, []string{"Range", "bytes=0-9"}},
		{"the size at last", "PUT", f[10:], []string{"Content-Range", span(10, 60, 60)}, 200, []string{"state", "ready"}},
	})
	d.walk(begin(), user, []step{
		{"all of a stream", "PUT", f, []string{"Content-Range", "bytes 0-*/*"}, 200, []string{"state", "ready"}},
	})
	d.walk(begin(), user, []step{
		{"all at once", "PUT", f, nil, 200, []string{"state", "ready"}},
	})
	d.walk(begin("X-Upload-Content-Type", "text/csv"), user, []step{
		{"nothing", "PUT", "", []string{"Content-Range", "bytes */0"}, 200, []string{"state", "ready"}},
	})
	d.walk(begin(), user, []step{
		{"cancelled", "DELETE", "", nil, 499, nil},
		{"cancelled again", "DELETE", "", nil, 410, nil},
		{"how far", "PUT", "", []string{"Content-Range", "bytes */*"}, 410, nil},
	})
	for path, field := range map[string]string{
		"/upload/storage/v1/b/any/o?name=x":                  "uploadType",
		"/upload/storage/v1/b/any/o?uploadType=media&name=x": "uploadType",
		sessions + strings.Repeat("x", 256):                  "name",
		sessions + "%00":                                     "name",
		sessions + "%ff":                                     "name",
	} {
		d.ask("POST", path, user, "{}").wants(t, path, 400, "field", field)
	}
	d.ask("POST", sessions+"x", user, "", "X-Upload-Content-Length", "x").wants(t, "a length that is none", 400, "field", "X-Upload-Content-Length")
	d.ask("POST", sessions+"x", user, "", "X-Upload-Content-Type", "x").wants(t, "a type that is none", 400, "field", "X-Upload-Content-Type")
	d.ask("POST", sessions+"x", user, strings.Repeat(" ", bodyLimit+1)).wants(t, "a body that is too large", 413)
	d.ask("POST", sessions+"x", "", "").wants(t, "nobody", 401)
}

// TestSessionBehindProxy sends clients back to where they came from, by the word of proxies that are trusted alone.
func TestSessionBehindProxy(t *testing.T) {
	t.Parallel()
	trusting := openDoor(t, func(d *door) { d.server.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	wary := openDoor(t)
	user, service := mint(t, Claims{}), mint(t, Claims{Org: "*"})
	for _, one := range []struct {
		d       *door
		token   string
		query   string
		headers []string
		prefix  string
		suffix  string
	}{
		{trusting, user, "", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "files.example"}, "https://files.example/v2/uploads/", "?uploadType=resumable"},
		{trusting, user, "", []string{"X-Forwarded-Proto", "gopher, https", "X-Forwarded-Host", "evil.example, files.example:8443"}, "https://files.example:8443/v2/", ""},
		{trusting, user, "", []string{"X-Forwarded-Proto", "gopher", "X-Forwarded-Host", "a/b"}, trusting.url, ""},
		{trusting, user, "", nil, trusting.url, ""},
		{wary, user, "", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "files.example"}, wary.url, ""},
		{wary, service, "&orgId=5", nil, wary.url, "?orgId=5&uploadType=resumable"},
	} {
		got := one.d.ask("POST", sessions+"x"+one.query, one.token, "", one.headers...).header.Get("Location")
		if !strings.HasPrefix(got, one.prefix) || !strings.HasSuffix(got, one.suffix) {
			t.Errorf("%v: the session is at %q, not %s…%s", one.headers, got, one.prefix, one.suffix)
		}
	}
}
