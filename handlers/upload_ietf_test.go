package handlers

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
)

// ietf are the headers of a request of the draft in a version; 0 names none.
func ietf(version int, complete bool, more ...string) []string {
	name, value := "Upload-Complete", structuredBoolean(complete)
	if version == 3 {
		name, value = "Upload-Incomplete", structuredBoolean(!complete)
	}
	headers := append([]string{name, value}, more...)
	if version != 0 {
		headers = append(headers, "Upload-Draft-Interop-Version", strconv.Itoa(version))
	}
	return headers
}

// ietfPatch are those of one that appends.
func ietfPatch(version, offset int, complete bool, more ...string) []string {
	headers := ietf(version, complete, append([]string{"Upload-Offset", strconv.Itoa(offset)}, more...)...)
	if version == 0 || version >= 6 {
		headers = append(headers, "Content-Type", partialUpload)
	}
	return headers
}

// TestIETF goes through a whole upload in every version of the draft.
func TestIETF(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(60, 8)
	for _, version := range append([]int{0}, interopVersions...) {
		what := fmt.Sprintf("interop %d: ", version)
		echo, field, yes, no := strconv.Itoa(version), "Upload-Complete", "?1", "?0"
		if version == 0 {
			echo = "-"
		}
		if version == 3 {
			field, yes, no = "Upload-Incomplete", "?0", "?1"
		}
		got := d.ask("POST", "/v2/uploads", user, f[:10], ietf(version, false, "Upload-Length", "60", "Content-Disposition", `inline; filename="a.pdf"`)...)
		got.wants(t, what+"creating", 201, "Upload-Offset", "10", field, no, "Location", "*", "Upload-Draft-Interop-Version", echo)
		for _, limit := range []string{"max-size=60", "min-size=0", "max-append-size=60", "max-age=86", "expires=86"} {
			if !strings.Contains(got.header.Get("Upload-Limit"), limit) {
				t.Errorf("%sUpload-Limit lacks %s: %s", what, limit, got.header.Get("Upload-Limit"))
			}
		}
		steps := []step{
			{"an offset ahead", "PATCH", f[20:30], ietfPatch(version, 20, false), 409, []string{"Upload-Offset", "10", field, no, "type", "mismatching-upload-offset"}},
			{"no offset", "PATCH", f[10:20], ietf(version, false, "Content-Type", partialUpload), 400, []string{"field", "Upload-Offset"}},
			{"an offset that is none", "PATCH", f[10:20], ietfPatch(version, -1, false), 400, []string{"field", "Upload-Offset"}},
			{"another length", "PATCH", f[10:20], ietfPatch(version, 10, false, "Upload-Length", "61"), 400, []string{"type", "inconsistent-upload-length", "Upload-Offset", "10"}},
			{"an end before the length", "PATCH", f[10:20], ietfPatch(version, 10, true), 400, []string{"type", "inconsistent-upload-length"}},
			{"its own length and another", "PATCH", f[10:20], ietfPatch(version, 10, true, "Upload-Length", "60"), 400, []string{"type", "inconsistent-upload-length"}},
			{"a wrong digest", "PATCH", f[10:20], ietfPatch(version, 10, false, "Content-Digest", sum("x")), 400, []string{"type", "digest-mismatched-values", "Upload-Offset", "10", field, no}},
			{"a chunk", "PATCH", f[10:20], ietfPatch(version, 10, false, "Content-Digest", sum(f[10:20])), 204, []string{"Upload-Offset", "20", field, no, "Upload-Draft-Interop-Version", echo, "Location", "-"}},
			{"its repetition", "PATCH", f[10:20], ietfPatch(version, 10, false, "Content-Digest", sum(f[10:20])), 409, []string{"Upload-Offset", "20"}},
			{"HEAD", "HEAD", "", ietf(version, false)[2:], 204, []string{"Upload-Offset", "20", "Upload-Length", "60", "Upload-Limit", "*", "Cache-Control", "no-store"}},
			{"GET", "GET", "", nil, 200, []string{"Upload-Offset", "*", "Upload-Length", "60", "Upload-Complete", "?0"}},
			{"the last, said not to be", "PATCH", f[20:], ietfPatch(version, 20, false), 200, []string{"Upload-Offset", "60", field, yes, "state", "ready", "Repr-Digest", sum(f)}},
			{"its end", "PATCH", "", ietfPatch(version, 60, true), 200, []string{"Upload-Offset", "60", field, yes, "state", "ready"}},
			{"a chunk before", "PATCH", f[:10], ietfPatch(version, 0, false), 409, []string{"Upload-Offset", "60", field, no}},
		}
		more := step{"more", "PATCH", "x", ietfPatch(version, 60, true), 400, []string{"type", "inconsistent-upload-length"}}
		if version == 6 {
			more.wants[1] = "completed-upload"
		}
		if version == 0 || version >= 6 {
			steps = append(steps, step{"without its type", "PATCH", f, ietf(version, false, "Upload-Offset", "0"), 415, nil})
		}
		for i := range steps {
			steps[i].what = what + steps[i].what
		}
		path := got.header.Get("Location")
		d.walk(path, user, append(steps, more,
			step{what + "deleting", "DELETE", "", nil, 204, nil}, step{what + "HEAD then", "HEAD", "", nil, 410, nil}))
	}
}

// TestIETFCreation makes uploads in every way that the draft has.
func TestIETFCreation(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(40, 9)
	for _, one := range []struct {
		what, body string
		headers    []string
		status     int
		wants      []string
	}{
		{"all at once", f, ietf(8, true, "Content-Type", "application/pdf"), 201, []string{"Upload-Complete", "?1", "Upload-Offset", "40", "state", "ready", "Repr-Digest", sum(f)}},
		{"all at once with its digest", f, ietf(8, true, "Repr-Digest", sum(f), "Content-Digest", sum(f)), 201, []string{"state", "ready"}},
		{"all at once with another digest", f, ietf(8, true, "Repr-Digest", sum("x")), 400, []string{"type", "digest-mismatched-values", "Upload-Complete", "?1"}},
		{"a chunk with another digest", f, ietf(8, false, "Content-Digest", sum("x")), 400, []string{"type", "digest-mismatched-values", "Upload-Complete", "?0", "Upload-Offset", "0"}},
		{"all at once of another type", "text", ietf(9, true), 415, []string{"Upload-Complete", "?1"}},
		{"nothing yet", "", ietf(6, false), 201, []string{"Upload-Complete", "?0", "Upload-Offset", "0", "state", "uploading"}},
		{"a part", f[:10], ietf(5, false), 201, []string{"Upload-Complete", "?0", "Upload-Offset", "10"}},
		{"empty", "", ietf(9, true, "Content-Type", "text/csv"), 201, []string{"Upload-Complete", "?1", "Upload-Offset", "0", "state", "ready"}},
		{"two lengths", f, ietf(9, true, "Upload-Length", "41"), 400, []string{"type", "inconsistent-upload-length"}},
		{"longer than its length", f, ietf(9, false, "Upload-Length", "39"), 400, []string{"type", "inconsistent-upload-length"}},
		{"too long", "", ietf(9, false, "Upload-Length", "104857601"), 413, []string{"Upload-Limit", "*"}},
		{"a type that is not taken", f, ietf(9, true, "Content-Type", "text/html"), 415, []string{"field", "mimeType"}},
		{"coded", f, ietf(9, true, "Content-Encoding", "gzip"), 415, []string{"Accept-Encoding", "identity"}},
		{"coded as itself", f, ietf(9, true, "Content-Encoding", "Identity"), 201, nil},
		{"no word of completeness", f, []string{"Upload-Draft-Interop-Version", "8"}, 400, []string{"field", "Upload-Complete"}},
		{"a bad word of completeness", f, []string{"Upload-Complete", "1"}, 400, []string{"field", "Upload-Complete"}},
		{"a version that is not spoken", f, []string{"Upload-Complete", "?1", "Upload-Draft-Interop-Version", "7"}, 201, []string{"Upload-Draft-Interop-Version", "-", "state", "ready"}},
		{"a name past all", f, ietf(9, true, "Content-Disposition", `inline; filename="`+strings.Repeat("x", 256)+`"`), 400, []string{"field", "Content-Disposition"}},
	} {
		d.ask("POST", "/v2/uploads", user, one.body, one.headers...).wants(t, one.what, one.status, one.wants...)
	}
	got := d.ask("POST", "/v2/uploads", user, f, ietf(8, true, "Content-Disposition", `inline; filename*=UTF-8''na%C3%AFve.pdf`)...)
	if u := got.resource(t); u.Filename != "naïve.pdf" {
		t.Errorf("the filename is %q", u.Filename)
	}
	// What is longer than it was said to be is over.
	path := d.ask("POST", "/v2/uploads", user, f[:10], ietf(8, false, "Upload-Length", "20")...).header.Get("Location")
	d.walk(path, user, []step{
		{"past the length", "PATCH", f[10:], ietfPatch(8, 10, false), 400, []string{"type", "inconsistent-upload-length"}},
		{"then", "HEAD", "", nil, 410, nil},
	})
}

// TestInterimAnswers tells of the upload before its bytes come, and of how far they are, but only to who understands it.
func TestInterimAnswers(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	const size = 3 << 20
	for _, version := range []int{0, 3, 5, 6, 7, 8, 9} {
		conn := d.connect()
		text := fmt.Sprintf("POST /v2/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n", user, size)
		headers := ietf(version, true)
		for i := 0; i < len(headers); i += 2 {
			text += headers[i] + ": " + headers[i+1] + "\r\n"
		}
		if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
			t.Fatal(err)
		}
		location := ""
		if interim := version != 0 && version != 7; interim {
			first := d.answered(conn.from) // before a byte was sent
			first.wants(t, "the first answer", 104, "Location", "*", "Upload-Limit", "*", "Upload-Draft-Interop-Version", strconv.Itoa(version))
			location = first.header.Get("Location")
		}
		if _, err := io.WriteString(conn, pdf(size, 10)); err != nil {
			t.Fatal(err)
		}
		told := 0
		got := d.answered(conn.from)
		for ; got.status == 104; got = d.answered(conn.from) {
			told++
			got.wants(t, "an answer on the way", 104, "Location", "-", "Upload-Offset", "*")
		}
		got.wants(t, "the last answer", 201, "Location", "*", "Upload-Offset", strconv.Itoa(size))
		if interim := version != 0 && version != 7; interim != (told > 0) || interim && got.header.Get("Location") != location {
			t.Errorf("interop %d: %d answers on the way, at last %v", version, told, got.header)
		}
	}
}

// TestNoInterimAnswers sends none to what says something of its connection, as nginx does: it would take the first one for the last.
func TestNoInterimAnswers(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(60, 13)
	for said, first := range map[string]int{"close": 201, "upgrade": 201, "Keep-Alive, Upgrade": 201, "Keep-Alive": 104} {
		conn := d.connect()
		if _, err := fmt.Fprintf(conn, "POST /v2/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nConnection: %s\r\n"+
			"Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: 8\r\n\r\n%s", user, len(f), said, f); err != nil {
			t.Fatal(err)
		}
		d.answered(conn.from).wants(t, said, first, "Upload-Draft-Interop-Version", "8")
	}
}

// TestDigestOfTheWhole names the file's digest in each place that there is for it, and holds the file against it at its end.
func TestDigestOfTheWhole(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(40, 24)
	wrong := sum("x")
	for what, begin := range map[string]func() string{
		"with the first bytes, by the draft": func() string {
			return d.ask("POST", "/v2/uploads", user, f[:10], ietf(9, false, "Repr-Digest", wrong)...).header.Get("Location")
		},
		"in metadata": func() string {
			return d.tusCreate(user, f[:10], "Upload-Defer-Length", "1", "Upload-Metadata", "sha256 "+b64(sumHex("x")), "Content-Type", offsetStream)
		},
		"with a chunk": func() string {
			path := d.create(user, -1)
			d.ask("PUT", path, user, f[:10], "Upload-Offset", "0", "Repr-Digest", wrong).wants(t, "the first chunk", 204)
			return path
		},
	} {
		d.walk(begin(), user, []step{
			{what + ", and another one", "PATCH", f[10:], ietfPatch(9, 10, true, "Repr-Digest", sum(f)), 400, []string{"type", "digest-mismatched-values", "Upload-Complete", "?0", "Upload-Offset", "10"}},
			{what, "PATCH", f[10:], ietfPatch(9, 10, true, "Want-Repr-Digest", "sha-256=9"), 400, []string{"type", "digest-mismatched-values", "Upload-Complete", "?1", "Repr-Digest", "-"}},
		})
	}
}

// TestOffsetProblem tells a client in its body, too, from where to go on.
func TestOffsetProblem(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.create(user, 90)
	d.ask("PUT", path, user, "%", "Upload-Offset", "0").wants(t, "the first byte", 204)
	for method, headers := range map[string][]string{"PUT": {"Upload-Offset", "5"}, "PATCH": ietfPatch(9, 5, false)} {
		got := d.ask(method, path, user, "x", headers...)
		p := got.problem(t)
		if p.Expected == nil || *p.Expected != 1 || p.Provided == nil || *p.Provided != 5 || !strings.Contains(got.body, `"expected-offset":1,"provided-offset":5`) {
			t.Errorf("%s: %s", method, got.body)
		}
	}
}

// TestInterimAnswersEveryWay gives them over every version of HTTP that has them, to those alone who name a version of the draft.
func TestInterimAnswersEveryWay(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, f := mint(t, Claims{}), pdf(40, 23)
		for what, headers := range map[string][]string{
			"the draft": ietf(8, true), "the draft, unnamed": ietf(0, true), "one that is not spoken": append(ietf(0, true), "Upload-Draft-Interop-Version", "7"),
			"tus": tus("Upload-Length", "40", "Content-Type", offsetStream),
		} {
			var told []string
			trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				told = append(told, fmt.Sprint(code, " ", header.Get("Location")))
				return nil
			}}
			request, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", d.url+"/v2/uploads", strings.NewReader(f))
			request.Header.Set("Authorization", "Bearer "+user)
			for i := 0; i < len(headers); i += 2 {
				request.Header.Set(headers[i], headers[i+1])
			}
			response, err := d.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			location := response.Header.Get("Location")
			if named := what == "the draft"; response.StatusCode != 201 || named != (len(told) > 0) || named && told[0] != "104 "+location {
				t.Errorf("%s: %d at %q, before it %q", what, response.StatusCode, location, told)
			}
		}
	})
}

// TestDialectsMix sends one upload in every dialect by turns.
func TestDialectsMix(t *testing.T) {
	t.Parallel()
	a := openDoor(t)
	user, f := mint(t, Claims{}), pdf(80, 11)
	path := a.create(user, 80)
	a.walk(path, user, []step{
		{"native", "PUT", f[:10], []string{"Content-Range", span(0, 10, 80), "Content-Digest", sum(f[:10])}, 204, []string{"Upload-Offset", "10"}},
		{"tus", "PATCH", f[10:20], tusPatch(10), 204, []string{"Upload-Offset", "20"}},
		{"IETF", "PATCH", f[20:30], ietfPatch(8, 20, false), 204, []string{"Upload-Offset", "30"}},
	})
	a.walk(path+"?uploadType=resumable", user, []step{
		{"308", "PUT", f[30:40], []string{"Content-Range", span(30, 40, 80)}, 308, []string{"Range", "bytes=0-39", "Upload-Offset", "40"}},
	})
	a.walk(path, user, []step{
		{"tus asks", "HEAD", "", tus(), 204, []string{"Upload-Offset", "40", "Upload-Length", "80"}},
		{"IETF, of an early version", "PATCH", f[40:50], ietfPatch(3, 40, false), 204, []string{"Upload-Offset", "50", "Upload-Incomplete", "?1"}},
		{"native repeats what native sent", "PUT", f[:10], []string{"Content-Range", span(0, 10, 80), "Content-Digest", sum(f[:10])}, 204, []string{"Upload-Offset", "50"}},
		{"tus ends it", "PATCH", f[50:], tusPatch(50), 204, []string{"Upload-Offset", "80"}},
		{"IETF asks", "PATCH", "", ietfPatch(9, 80, true), 200, []string{"state", "ready", "Repr-Digest", sum(f)}},
	})
	a.walk(path+"?uploadType=resumable", user, []step{
		{"308 asks", "PUT", "", []string{"Content-Range", "bytes */*"}, 200, []string{"state", "ready"}},
	})
	for _, other := range [][]string{{"Content-Type", "text/plain"}, nil} {
		a.ask("PATCH", path, user, "x", other...).wants(t, "a PATCH of no dialect", http.StatusUnsupportedMediaType, "Accept-Patch", "*")
	}
}

// TestIETFPut makes an upload by PUT, and goes on with it. Without the draft's headers that is no method of the path.
func TestIETFPut(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(60, 9)
	for _, version := range append([]int{0}, interopVersions...) {
		made := d.ask(http.MethodPut, "/v2/uploads", user, f[:20], ietf(version, false, "Upload-Length", "60", "Content-Type", "application/pdf")...)
		at := made.header.Get("Location")
		if made.status != http.StatusCreated || made.header.Get("Upload-Offset") != "20" {
			t.Fatalf("interop %d: %d, %v, %s", version, made.status, made.header, made.body)
		}
		if got := d.ask(http.MethodPatch, at, user, f[20:], ietfPatch(version, 20, true)...); got.status/100 != 2 || got.header.Get("Upload-Complete") != "?1" && version != 3 {
			t.Errorf("interop %d: %d, %v, %s", version, got.status, got.header, got.body)
		}
		if got := d.ask(http.MethodGet, at, user, ""); !strings.Contains(got.body, `"ready"`) {
			t.Errorf("interop %d: the upload is %s", version, got.body)
		}
	}
	for _, headers := range [][]string{nil, tus("Upload-Length", "60"), {"Content-Range", "bytes 0-59/60"}} {
		if got := d.ask(http.MethodPut, "/v2/uploads", user, f, headers...); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "" {
			t.Errorf("with %v: %d, %v", headers, got.status, got.header)
		}
	}
}
