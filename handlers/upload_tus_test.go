package handlers

import (
	"bufio"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// tus are the headers of a request of that dialect.
func tus(more ...string) []string {
	return append([]string{"Tus-Resumable", "1.0.0"}, more...)
}

// tusPatch are those of one that appends.
func tusPatch(offset int, more ...string) []string {
	return tus(append([]string{"Content-Type", offsetStream, "Upload-Offset", fmt.Sprint(offset)}, more...)...)
}

func b64[T ~[]byte | string](text T) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// tusCreate makes an upload by tus and returns its path.
func (d *door) tusCreate(token, body string, more ...string) string {
	d.t.Helper()
	got := d.ask("POST", "/v2/uploads", token, body, tus(more...)...)
	got.wants(d.t, "creating", 201, "Tus-Resumable", "1.0.0", "Location", "*", "Upload-Offset", "*")
	return got.header.Get("Location")
}

// TestTusVersions refuses what does not speak 1.0.0, and says so in every answer.
func TestTusVersions(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.tusCreate(user, "", "Upload-Length", "9")
	for _, one := range [][2]string{{"POST", "/v2/uploads"}, {"HEAD", path}, {"PATCH", path}, {"DELETE", path}} {
		got := d.ask(one[0], one[1], user, "", "Tus-Resumable", "0.2.2", "Upload-Length", "9")
		got.wants(t, one[0]+" in another version", 412, "Tus-Version", "1.0.0", "Tus-Resumable", "1.0.0")
	}
	d.ask("PATCH", path, user, "%PDF-", "Content-Type", offsetStream, "Upload-Offset", "0").wants(t, "no version", 412, "Tus-Version", "1.0.0")
	d.ask("POST", "/v2/uploads", "", "", tus("Upload-Length", "9")...).wants(t, "no token", 401, "Tus-Resumable", "1.0.0")
	for _, path := range []string{path, "/v2/uploads"} {
		d.ask("OPTIONS", path, "", "").wants(t, "OPTIONS", 204, "Tus-Version", "1.0.0", "Tus-Max-Size", "104857600",
			"Tus-Extension", "creation,creation-with-upload,creation-defer-length,termination,checksum,checksum-trailer,expiration,concatenation",
			"Tus-Checksum-Algorithm", "md5,sha1,sha256,sha512", "Upload-Limit", "*", "Accept-Patch", "application/partial-upload, application/offset+octet-stream")
	}
}

// TestTusCreation makes uploads in every way, and refuses those that say nothing sensible of themselves.
func TestTusCreation(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withUploads(nil))
	user, f := mint(t, Claims{}), pdf(40, 4)
	name, typed := "filename "+b64("a name\u00fc.pdf"), "filetype "+b64("application/pdf")
	for _, one := range []struct {
		what, body string
		headers    []string
		status     int
		wants      []string
	}{
		{"a length", "", []string{"Upload-Length", "40"}, 201, []string{"Upload-Offset", "0", "Upload-Expires", "*"}},
		{"a length later", "", []string{"Upload-Defer-Length", "1"}, 201, nil},
		{"no length", "", nil, 400, []string{"field", "Upload-Length"}},
		{"both", "", []string{"Upload-Defer-Length", "1", "Upload-Length", "4"}, 400, []string{"field", "Upload-Defer-Length"}},
		{"another deferral", "", []string{"Upload-Defer-Length", "2"}, 400, []string{"field", "Upload-Defer-Length"}},
		{"a length below 0", "", []string{"Upload-Length", "-1"}, 400, []string{"field", "Upload-Length"}},
		{"a length that is none", "", []string{"Upload-Length", "x"}, 400, []string{"field", "Upload-Length"}},
		{"a length past all", "", []string{"Upload-Length", "999999999999999999999"}, 400, []string{"field", "Upload-Length"}},
		{"too long", "", []string{"Upload-Length", "104857601"}, 413, []string{"Upload-Limit", "*"}},
		{"more than said", pdf(90, 1), []string{"Upload-Length", "80", "Content-Type", offsetStream}, 413, []string{"Upload-Limit", "*"}},
		{"with metadata", "", []string{"Upload-Length", "40", "Upload-Metadata", name + "," + typed + ",other,empty "}, 201, nil},
		{"with a type that is not taken", "", []string{"Upload-Length", "40", "Upload-Metadata", "filetype " + b64("text/html")}, 415, []string{"field", "mimeType"}},
		{"with metadata that is none", "", []string{"Upload-Length", "40", "Upload-Metadata", "filename ***"}, 400, []string{"field", "Upload-Metadata"}},
		{"with metadata twice", "", []string{"Upload-Length", "40", "Upload-Metadata", name + "," + name}, 400, []string{"field", "Upload-Metadata"}},
		{"with a filename of NUL", "", []string{"Upload-Length", "40", "Upload-Metadata", "filename AGE="}, 400, []string{"field", "Upload-Metadata"}},
		{"with a foreign property", "", []string{"Upload-Length", "40", "Upload-Metadata", "propertyId " + b64("7")}, 403, []string{"field", "propertyId"}},
		{"with too much metadata", "", []string{"Upload-Length", "40", "Upload-Metadata", "k " + b64(strings.Repeat("x", metadataLimit))}, 400, []string{"field", "Upload-Metadata"}},
		{"with bytes", f[:10], []string{"Upload-Length", "40", "Content-Type", offsetStream}, 201, []string{"Upload-Offset", "10"}},
		{"with bytes of another type", f[:10], []string{"Upload-Length", "40", "Content-Type", "application/pdf"}, 415, nil},
		{"with all bytes", f, []string{"Upload-Length", "40", "Content-Type", offsetStream}, 201, []string{"Upload-Offset", "40", "state", "ready"}},
		{"with too many", f + "x", []string{"Upload-Length", "40", "Content-Type", offsetStream}, 413, nil},
		{"with bytes and no length", f, []string{"Upload-Defer-Length", "1", "Content-Type", offsetStream}, 201, []string{"Upload-Offset", "40", "state", "uploading"}},
		{"with wrong bytes", f, []string{"Upload-Length", "40", "Content-Type", offsetStream, "Upload-Checksum", "sha1 " + b64(make([]byte, 20))}, 460, []string{"Upload-Offset", "0", "Location", "*"}},
		{"empty", "", []string{"Upload-Length", "0", "Upload-Metadata", "filetype " + b64("text/csv")}, 201, []string{"Upload-Offset", "0", "state", "ready"}},
	} {
		got := d.ask("POST", "/v2/uploads", user, one.body, tus(one.headers...)...)
		got.wants(t, one.what, one.status, append(one.wants, "Tus-Resumable", "1.0.0")...)
	}
	metadata := name + "," + typed + ",other"
	path := d.tusCreate(user, "", "Upload-Length", "40", "Upload-Metadata", metadata)
	d.walk(path, user, []step{
		{"HEAD", "HEAD", "", tus(), 204, []string{"Upload-Metadata", metadata, "Upload-Length", "40", "Upload-Offset", "0", "Cache-Control", "no-store", "Upload-Expires", "*"}},
	})
	if u := d.ask("GET", path, user, "").resource(t); u.Filename != "a name\u00fc.pdf" || u.MimeType != "application/pdf" {
		t.Errorf("the metadata has made %+v", u)
	}
	if u := d.ask("GET", d.tusCreate(user, "", "Upload-Length", "40"), user, "").resource(t); u.Filename != "upload" || u.MimeType != "" {
		t.Errorf("no metadata has made %+v", u)
	}
}

// TestTusAppend goes through what PATCH may say.
func TestTusAppend(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(60, 5)
	one, five := sha1.Sum([]byte(f[:10])), sha512.Sum512([]byte(f[10:20]))
	digest := md5.Sum([]byte(f[20:30]))
	d.walk(d.tusCreate(user, "", "Upload-Defer-Length", "1"), user, []step{
		{"another type", "PATCH", f[:10], tus("Content-Type", "application/pdf", "Upload-Offset", "0"), 415, nil},
		{"no offset", "PATCH", f[:10], tus("Content-Type", offsetStream), 400, []string{"field", "Upload-Offset"}},
		{"an offset ahead", "PATCH", f[:10], tusPatch(5), 409, []string{"Upload-Offset", "0"}},
		{"a checksum that nobody knows", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "crc32 AAAA"), 400, []string{"field", "Upload-Checksum"}},
		{"a checksum that is none", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "sha1 ***"), 400, []string{"field", "Upload-Checksum"}},
		{"a checksum too short", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "sha1 AAAA"), 400, []string{"field", "Upload-Checksum"}},
		{"a checksum alone", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "sha1"), 400, []string{"field", "Upload-Checksum"}},
		{"a wrong checksum", "PATCH", f[1:11], tusPatch(0, "Upload-Checksum", "sha1 "+b64(one[:])), 460, []string{"Upload-Offset", "0"}},
		{"sha1", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "sha1 "+b64(one[:])), 204, []string{"Upload-Offset", "10", "Upload-Expires", "*", "Tus-Resumable", "1.0.0"}},
		{"the same again", "PATCH", f[:10], tusPatch(0, "Upload-Checksum", "sha1 "+b64(one[:])), 409, []string{"Upload-Offset", "10"}},
		{"nothing at another offset", "PATCH", "", tusPatch(0), 409, []string{"Upload-Offset", "10"}},
		{"nothing", "PATCH", "", tusPatch(10), 204, []string{"Upload-Offset", "10"}},
		{"sha512", "PATCH", f[10:20], tusPatch(10, "Upload-Checksum", "sha512 "+b64(five[:])), 204, []string{"Upload-Offset", "20"}},
		{"md5, and the length", "PATCH", f[20:30], tusPatch(20, "Upload-Checksum", "md5 "+b64(digest[:]), "Upload-Length", "60"), 204, []string{"Upload-Offset", "30"}},
		{"another length", "PATCH", f[30:40], tusPatch(30, "Upload-Length", "61"), 400, []string{"Upload-Offset", "30"}},
		{"HEAD", "HEAD", "", tus(), 204, []string{"Upload-Length", "60", "Upload-Defer-Length", "-", "Upload-Offset", "30"}},
		{"HEAD by another method", "POST", "", tus("X-HTTP-Method-Override", "HEAD"), 204, []string{"Upload-Offset", "30"}},
		{"too much", "PATCH", f[30:] + "x", tusPatch(30), 413, []string{"Upload-Offset", "30"}},
		{"by another method", "POST", f[30:40], tusPatch(30, "X-HTTP-Method-Override", "PATCH"), 204, []string{"Upload-Offset", "40"}},
		{"the rest", "PATCH", f[40:], tusPatch(40, "X-HTTP-Method-Override", "PATCH"), 204, []string{"Upload-Offset", "60"}},
		{"HEAD", "HEAD", "", tus(), 204, []string{"Upload-Length", "60", "Upload-Offset", "60"}},
		{"nothing more", "PATCH", "", tusPatch(60), 204, []string{"Upload-Offset", "60"}},
		{"something more", "PATCH", "x", tusPatch(60), 409, []string{"Upload-Offset", "60"}},
		{"deleted by another method", "POST", "", tus("X-HTTP-Method-Override", "DELETE"), 204, []string{"Tus-Resumable", "1.0.0"}},
		{"HEAD", "HEAD", "", tus(), 410, []string{"Upload-Offset", "-"}},
		{"PATCH", "PATCH", f, tusPatch(0), 410, []string{"Upload-Offset", "-"}},
	})
}

// TestTusConcatenation joins two partial uploads.
func TestTusConcatenation(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, other, f := mint(t, Claims{}), mint(t, Claims{User: "8"}), pdf(50, 6)
	a := d.tusCreate(user, f[:20], "Upload-Concat", "partial", "Upload-Length", "20", "Content-Type", offsetStream)
	b := d.tusCreate(user, "", "Upload-Concat", "partial", "Upload-Length", "30")
	join := func(token, parts string, more ...string) reply {
		return d.ask("POST", "/v2/uploads", token, "", tus(append(more, "Upload-Concat", "final;"+parts)...)...)
	}
	join(user, a+" "+b).wants(t, "one is not whole", 400, "field", "Upload-Concat")
	d.walk(b, user, []step{
		{"the other part", "PATCH", f[20:], tusPatch(0), 204, []string{"Upload-Offset", "30"}},
		{"HEAD of a part", "HEAD", "", tus(), 204, []string{"Upload-Concat", "partial", "Upload-Length", "30"}},
	})
	join(other, a+" "+b).wants(t, "somebody else's", 400, "field", "Upload-Concat")
	join(user, a+" "+b, "Upload-Length", "50").wants(t, "with a length", 400, "field", "Upload-Length")
	for _, parts := range []string{"", "/elsewhere/" + strings.Repeat("a", 26), "/v2/uploads/x", "/v2/uploads/" + strings.Repeat("a", 26)} {
		join(user, parts).wants(t, "joining "+parts, 400, "field", "Upload-Concat")
	}
	got := join(user, d.url+a+"  "+b, "Upload-Metadata", "filename "+b64("whole.pdf"))
	got.wants(t, "joining", 201, "Upload-Offset", "50", "state", "ready")
	whole := got.header.Get("Location")
	d.walk(whole, user, []step{
		{"HEAD", "HEAD", "", tus(), 204, []string{"Upload-Concat", "final;" + a + " " + b, "Upload-Length", "50", "Upload-Offset", "50", "Repr-Digest", sum(f)}},
		{"bytes", "PATCH", "x", tusPatch(50), 403, nil},
	})
	join(user, a+" "+b).wants(t, "joining again", 201, "Location", whole)
	for _, kind := range []string{"partly", "partial;", "final", "final,/a"} {
		d.ask("POST", "/v2/uploads", user, "", tus("Upload-Length", "1", "Upload-Concat", kind)...).wants(t, kind, 400, "field", "Upload-Concat")
	}
}

// dialed is a connection with what reads it.
type dialed struct {
	net.Conn
	from *bufio.Reader
}

// connect opens a connection that the test closes.
func (d *door) connect() dialed {
	d.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return dialed{conn, bufio.NewReader(conn)}
}

// raw sends a request as it is written, and reads the answer to it.
func (d *door) raw(text string) reply {
	d.t.Helper()
	conn := d.connect()
	if _, err := conn.Write([]byte(text)); err != nil {
		d.t.Fatal(err)
	}
	return d.answered(conn.from)
}

// answered reads one answer.
func (d *door) answered(from *bufio.Reader) reply {
	d.t.Helper()
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var body strings.Builder
	if _, err := bufio.NewReader(response.Body).WriteTo(&body); err != nil {
		d.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, body.String()}
}

// TestDigestTrailers sends digests behind the bytes.
func TestDigestTrailers(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(20, 7)
	right := sha1.Sum([]byte(f))
	send := func(method, path, field, value string, headers ...string) reply {
		text := method + " " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer " + user + "\r\n"
		for i := 0; i < len(headers); i += 2 {
			text += headers[i] + ": " + headers[i+1] + "\r\n"
		}
		if field != "" {
			text += "Trailer: " + field + "\r\n"
		}
		text += fmt.Sprintf("\r\n%x\r\n%s\r\n0\r\n", len(f), f)
		if value != "" {
			text += field + ": " + value + "\r\n"
		}
		return d.raw(text + "\r\n")
	}
	path := d.tusCreate(user, "", "Upload-Length", "40", "Upload-Metadata", "filename "+b64("x"))
	send("PATCH", path, "Upload-Checksum", "sha1 "+b64(make([]byte, 20)), tusPatch(0)...).wants(t, "a wrong trailer", 460, "Upload-Offset", "0")
	send("PATCH", path, "Upload-Checksum", "sha1", tusPatch(0)...).wants(t, "a trailer that is none", 400, "field", "Upload-Checksum", "Upload-Offset", "0")
	send("PATCH", path, "Upload-Checksum", "sha1 "+b64(right[:]), tusPatch(0)...).wants(t, "a right trailer", 204, "Upload-Offset", "20")
	path = d.create(user, 40)
	send("PUT", path, "Content-Digest", sum("x"), "Content-Range", span(0, 20, 40)).wants(t, "a wrong trailer", 400, "type", "digest-mismatched-values", "Upload-Offset", "0")
	send("PUT", path, "Content-Digest", sum(f), "Content-Range", span(0, 20, 40)).wants(t, "a right trailer", 204, "Upload-Offset", "20")
	send("PUT", path, "Content-Digest", "", "Content-Range", span(20, 40, 40)).wants(t, "no trailer", 200, "state", "ready")
	path = d.create(user, 40)
	send("PUT", path, "", "", "Content-Range", span(0, 10, 40)).wants(t, "more than the range", 400, "Upload-Offset", "10")
	send("PUT", path, "", "", "Content-Range", span(10, 40, 40)).wants(t, "less than the range", 400, "Upload-Offset", "30")
}

// TestTusHeadWithoutDatabase asks where an upload stands while nobody can tell. The clients of the protocol come back after a
// 423, and after nothing else.
func TestTusHeadWithoutDatabase(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	at := d.create(user, 90)
	d.events.Close()
	for status, headers := range map[int][]string{http.StatusLocked: tus(), http.StatusServiceUnavailable: nil} {
		if got := d.ask(http.MethodHead, at, user, "", headers...); got.status != status || got.header.Get("Retry-After") == "" {
			t.Errorf("HEAD with %v: %d, %v", headers, got.status, got.header)
		}
	}
}

// TestTusNotAllowed asks for what no upload has: that answer, too, names the version.
func TestTusNotAllowed(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	at := d.create(mint(t, Claims{}), 90)
	got := d.ask(http.MethodPost, at, mint(t, Claims{}), "", tus()...)
	if got.status != http.StatusMethodNotAllowed || got.header.Get("Tus-Resumable") != "1.0.0" || !slices.Contains(got.header.Values("Allow"), "PATCH") {
		t.Errorf("%d, %v", got.status, got.header)
	}
}
