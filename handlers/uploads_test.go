package handlers

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// pdf makes a file of n bytes whose type is taken; every seed makes other bytes.
func pdf(n int, seed byte) string {
	const head = "%PDF-1.7\n"
	text := []byte(head)
	for i := len(head); i < n; i++ {
		seed = seed*31 + byte(i) + 7
		text = append(text, seed)
	}
	return string(text[:n])
}

// sum is the SHA-256 of a text as header fields carry it.
func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(digest[:]) + ":"
}

func sumHex(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

// create makes an upload by JSON; size -1 is none. It returns its path.
func (d *door) create(token string, size int, fields ...string) string {
	d.t.Helper()
	body := `{"filename":"a.pdf","mimeType":"application/pdf"`
	if size >= 0 {
		body += `,"size":` + strconv.Itoa(size)
	}
	for _, field := range fields {
		body += "," + field
	}
	got := d.ask(http.MethodPost, "/v2/uploads", token, body+"}", "Content-Type", "application/json")
	if got.status != http.StatusCreated {
		d.t.Fatalf("an upload is answered with %d: %s", got.status, got.body)
	}
	return got.header.Get("Location")
}

// wants holds an answer against a status and headers: pairs of a name and its value, "-" for none, "*" for any. The name "type"
// is the end of the problem's type, "field" its field, "state" that of the resource.
func (r reply) wants(t testing.TB, what string, status int, pairs ...string) {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: answered with %d, expected %d: %s %v", what, r.status, status, r.body, r.header)
	}
	for i := 0; i < len(pairs); i += 2 {
		name, value := pairs[i], pairs[i+1]
		var got string
		switch name {
		case "type":
			got = r.problem(t).Type
			if value != "" && strings.HasSuffix(got, "#"+value) {
				continue
			}
		case "field":
			got = r.problem(t).Field
		case "state":
			got = r.resource(t).State
		default:
			got = r.header.Get(name)
			if value == "-" && len(r.header.Values(name)) == 0 || value == "*" && got != "" {
				continue
			}
		}
		if got != value {
			t.Errorf("%s: %s is %q, expected %q: %s", what, name, got, value, r.body)
		}
	}
	if status >= 400 && status != statusClientClosed && r.body != "" {
		r.problem(t)
	}
}

// resource reads the body as an upload.
func (r reply) resource(t testing.TB) (u wireUpload) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &u); err != nil || u.ID == "" {
		t.Fatalf("%q is no upload: %v", r.body, err)
	}
	return u
}

// step is one request of a table that is worked through on one upload.
type step struct {
	what, method, body string
	headers            []string
	status             int
	wants              []string
}

// walk works through a table.
func (d *door) walk(path, token string, steps []step) {
	d.t.Helper()
	for _, one := range steps {
		d.ask(one.method, path, token, one.body, one.headers...).wants(d.t, one.what, one.status, one.wants...)
	}
}

// span writes Content-Range, the end excluded; a total of -1 is none.
func span(from, to, total int) string {
	if total < 0 {
		return fmt.Sprintf("bytes %d-%d/*", from, to-1)
	}
	return fmt.Sprintf("bytes %d-%d/%d", from, to-1, total)
}

// TestUploadByPut goes through the cases of chunks by PUT, one after another on one upload.
func TestUploadByPut(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(100, 1)
	at := func(from, to int, more ...string) []string {
		return append([]string{"Content-Range", span(from, to, 100)}, more...)
	}
	d.walk(d.create(user, 100), user, []step{
		{"the first chunk", "PUT", f[:10], at(0, 10, "Content-Digest", sum(f[:10])), 204, []string{"Upload-Offset", "10", "Upload-Complete", "?0", "Upload-Expires", "*"}},
		{"its repetition", "PUT", f[:10], at(0, 10, "Content-Digest", sum(f[:10])), 204, []string{"Upload-Offset", "10"}},
		{"its repetition with other bytes", "PUT", f[1:11], at(0, 10, "Content-Digest", sum(f[:10])), 400, []string{"type", "digest-mismatched-values", "Upload-Offset", "10"}},
		{"the range with another digest", "PUT", f[1:11], at(0, 10, "Content-Digest", sum(f[1:11])), 409, []string{"Upload-Offset", "10", "type", "about:blank"}},
		{"the range without a digest", "PUT", f[:10], at(0, 10), 409, []string{"Upload-Offset", "10", "type", "mismatching-upload-offset"}},
		{"a range within it", "PUT", f[:5], at(0, 5, "Content-Digest", sum(f[:5])), 409, []string{"Upload-Offset", "10"}},
		{"an overlap", "PUT", f[5:15], at(5, 15), 409, []string{"Upload-Offset", "10", "Upload-Complete", "?0", "type", "mismatching-upload-offset"}},
		{"a gap", "PUT", f[20:30], at(20, 30), 409, []string{"Upload-Offset", "10", "type", "mismatching-upload-offset"}},
		{"a wrong digest", "PUT", f[10:20], at(10, 20, "Content-Digest", sum("x")), 400, []string{"type", "digest-mismatched-values", "Upload-Offset", "10"}},
		{"another size", "PUT", f[10:20], []string{"Content-Range", span(10, 20, 99)}, 400, []string{"type", "inconsistent-upload-length", "Upload-Offset", "10"}},
		{"past the size", "PUT", f[10:] + "x", []string{"Content-Range", span(10, 101, -1)}, 413, []string{"Upload-Limit", "*", "Upload-Offset", "10"}},
		{"past its own size", "PUT", f[10:] + "x", []string{"Content-Range", span(10, 101, 100)}, 413, nil},
		{"another length", "PUT", f[10:19], at(10, 20), 400, []string{"field", "Content-Range"}},
		{"no range", "PUT", f, nil, 409, []string{"Upload-Offset", "10"}},
		{"two offsets", "PUT", f[10:20], at(10, 20, "Upload-Offset", "11"), 400, []string{"field", "Upload-Offset"}},
		{"both alike", "PUT", f[10:20], at(10, 20, "Upload-Offset", "10"), 204, []string{"Upload-Offset", "20"}},
		{"an offset alone", "PUT", f[20:30], []string{"Upload-Offset", "20"}, 204, []string{"Upload-Offset", "30"}},
		{"a size alone", "PUT", "", []string{"Content-Range", "bytes */100"}, 204, []string{"Upload-Offset", "30"}},
		{"another size alone", "PUT", "", []string{"Content-Range", "bytes */99"}, 400, []string{"type", "inconsistent-upload-length"}},
		{"coded", "PUT", f[30:], at(30, 100, "Content-Encoding", "gzip"), 415, []string{"Accept-Encoding", "identity"}},
		{"the rest, its end open", "PUT", f[30:50], []string{"Content-Range", "bytes 30-*/100"}, 204, []string{"Upload-Offset", "50"}},
		{
			"the last", "PUT", f[50:], at(50, 100, "Content-Digest", sum(f[50:]), "Repr-Digest", sum(f)), 200,
			[]string{"Upload-Offset", "100", "Upload-Complete", "?1", "Repr-Digest", sum(f), "state", "ready", "Upload-Expires", "-"},
		},
		{"the last once more", "PUT", f[50:], at(50, 100, "Content-Digest", sum(f[50:])), 200, []string{"Upload-Offset", "100", "state", "ready"}},
		{"a chunk before", "PUT", f[:10], at(0, 10), 409, []string{"Upload-Offset", "100"}},
		{"nothing more", "PUT", "", []string{"Content-Range", "bytes */100"}, 200, []string{"state", "ready"}},
		{"its offset", "HEAD", "", nil, 204, []string{"Upload-Offset", "100", "Upload-Complete", "?1", "Upload-Length", "100", "Repr-Digest", sum(f), "Cache-Control", "no-store"}},
		{"deleting it", "DELETE", "", nil, 204, nil},
		{"deleting it again", "DELETE", "", nil, 410, nil},
		{"its offset then", "HEAD", "", nil, 410, []string{"Upload-Offset", "-"}},
		{"a chunk then", "PUT", f[:10], at(0, 10), 410, []string{"Upload-Offset", "-"}},
		{"itself then", "GET", "", nil, 410, nil},
	})
}

// TestUploadUnknownSize ends uploads whose size was not known when they began.
func TestUploadUnknownSize(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(30, 2)
	begun := step{"begun", "PUT", f[:20], []string{"Content-Range", span(0, 20, -1)}, 204, []string{"Upload-Offset", "20"}}
	for what, steps := range map[string][]step{
		"by a chunk with a size": {begun, {"", "PUT", f[20:], []string{"Content-Range", span(20, 30, 30)}, 200, []string{"state", "ready"}}},
		"by nothing": {
			begun,
			{"", "PUT", f[20:], []string{"Content-Range", span(20, 30, -1)}, 204, nil},
			{"", "PUT", "", []string{"Content-Range", "bytes */30"}, 200, []string{"state", "ready"}},
		},
		"by the rest":          {begun, {"", "PUT", f[20:], []string{"Content-Range", "bytes 20-*/*"}, 200, []string{"state", "ready", "Repr-Digest", sum(f)}}},
		"by a whole body":      {{"", "PUT", f, nil, 200, []string{"state", "ready", "Repr-Digest", sum(f)}}},
		"by Upload-Complete":   {begun, {"", "PUT", f[20:], []string{"Upload-Offset", "20", "Upload-Complete", "?1"}, 200, []string{"state", "ready"}}},
		"too early":            {begun, {"", "PUT", "", []string{"Content-Range", "bytes */19"}, 400, []string{"type", "inconsistent-upload-length"}}},
		"its length not known": {begun, {"", "HEAD", "", nil, 204, []string{"Upload-Defer-Length", "1", "Upload-Length", "-"}}},
	} {
		t.Log(what)
		d.walk(d.create(user, -1), user, steps)
	}
}

// TestUploadFails refuses a whole file that is not what was said.
func TestUploadFails(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f, text := mint(t, Claims{}), pdf(30, 3), strings.Repeat("text ", 6)
	for _, one := range []struct {
		what    string
		fields  []string
		body    string
		headers []string
		status  int
		kind    string
	}{
		{"a digest given at the beginning", []string{`"sha256":"` + sumHex("x") + `"`}, f, nil, 400, "digest-mismatched-values"},
		{"a digest given at the end", nil, f, []string{"Repr-Digest", sum("x")}, 400, "digest-mismatched-values"},
		{"another type", nil, text, nil, 415, "about:blank"},
	} {
		path := d.create(user, 30, one.fields...)
		headers := append([]string{"Content-Range", span(0, 30, 30)}, one.headers...)
		got := d.ask("PUT", path, user, one.body, headers...)
		got.wants(t, one.what, one.status, "type", one.kind, "Upload-Complete", "?1")
		if strings.Contains(got.body, sum(f)) || strings.Contains(got.body, sumHex(f)) {
			t.Errorf("%s: the digest of the bytes is told: %s", one.what, got.body)
		}
		d.walk(path, user, []step{
			{one.what + ", then", "GET", "", nil, 200, []string{"state", "failed", "Upload-Offset", "-"}},
			{one.what + ", then", "HEAD", "", nil, 410, nil},
			{one.what + ", then", "PUT", f, nil, 410, nil},
			{one.what + ", then", "DELETE", "", nil, 204, nil},
		})
	}
}

// TestRefusedChunksSayNothing refuses chunks that tell a size and a digest of the whole, too: neither counts then.
func TestRefusedChunksSayNothing(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(30, 21)
	said := []string{"Content-Range", span(0, 10, 20), "Content-Digest", sum("x"), "Repr-Digest", sum("y")}
	begun := step{"begun", "PUT", f[:10], []string{"Content-Range", span(0, 10, -1)}, 204, nil}
	known := []string{"Upload-Defer-Length", "1", "Upload-Length", "-"}
	ended := step{"the rest", "PUT", f[10:], []string{"Content-Range", span(10, 30, 30), "Repr-Digest", sum(f)}, 200, []string{"state", "ready"}}
	for what, steps := range map[string][]step{
		"of other bytes":          {{"the first", "PUT", f[:10], said, 400, []string{"type", "digest-mismatched-values"}}, {"HEAD", "HEAD", "", nil, 204, known}, begun, ended},
		"of other bytes, by tus":  {{"the first", "PATCH", f[:10], tusPatch(0, "Upload-Length", "20", "Upload-Checksum", "md5 "+b64(make([]byte, 16))), 460, nil}, {"HEAD", "HEAD", "", nil, 204, known}, begun, ended},
		"with a gap":              {begun, {"a gap", "PUT", f[:10], []string{"Content-Range", span(15, 25, 26), "Repr-Digest", sum("y")}, 409, nil}, {"HEAD", "HEAD", "", nil, 204, known}, ended},
		"of other bytes at a gap": {begun, {"a gap", "PUT", f[:10], said, 409, nil}, {"HEAD", "HEAD", "", nil, 204, known}, ended},
	} {
		t.Log(what)
		d.walk(d.create(user, -1), user, steps)
	}
}
