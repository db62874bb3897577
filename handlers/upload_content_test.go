package handlers

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// keep uploads a file and returns its path.
func (d *door) keep(token, file string, fields ...string) string {
	d.t.Helper()
	path := d.create(token, len(file), fields...)
	d.ask(http.MethodPut, path, token, file).wants(d.t, "the file", 200, "state", "ready")
	return path
}

// twoDoors are two instances upon one database and one directory.
func twoDoors(t *testing.T, changes ...func(*door)) (*door, *door, string) {
	t.Helper()
	database, directory := pgtest.Database(t), t.TempDir()
	return openDoorOn(t, database, directory, changes...), openDoorOn(t, database, directory, changes...), directory
}

// openAlterable serves a database that the test may alter, as time or another instance would.
func openAlterable(t *testing.T, changes ...func(*door)) (d *door, alter func(query string, args ...any)) {
	t.Helper()
	database := pgtest.Database(t)
	db, err := sql.Open("postgres", database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return openDoorOn(t, database, t.TempDir(), changes...), func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestContent downloads a file whole, from another instance than the one that has taken it.
func TestContent(t *testing.T) {
	t.Parallel()
	a, b, _ := twoDoors(t)
	user, f := mint(t, Claims{}), pdf(9<<20, 1) // of two segments
	path := a.keep(user, f) + "/content"
	tag := `"` + sumHex(f) + `"`
	headers := []string{
		"Content-Type", "application/pdf", "Content-Disposition", `attachment; filename="a.pdf"; filename*=UTF-8''a.pdf`, "ETag", tag,
		"Repr-Digest", sum(f), "Cache-Control", "private, no-store", "X-Content-Type-Options", "nosniff",
		"Content-Security-Policy", "sandbox; default-src 'none'", "Cross-Origin-Resource-Policy", "same-origin",
		"Accept-Ranges", "bytes", "Content-Length", fmt.Sprint(len(f)), "Last-Modified", "-",
	}
	got := b.ask("GET", path, user, "")
	got.wants(t, "GET", 200, headers...)
	if got.body != f {
		t.Errorf("%d bytes came, not the file's", len(got.body))
	}
	head := b.ask("HEAD", path, user, "", "Range", "bytes=0-1")
	if head.wants(t, "HEAD", 200, headers...); head.body != "" {
		t.Error("HEAD has a body")
	}
	for what, one := range map[string]struct {
		name, value string
		status      int
	}{
		"who has it":         {"If-None-Match", `"x", W/` + tag, 304},
		"who has another":    {"If-None-Match", `"x"`, 200},
		"who wants this one": {"If-Match", tag, 200},
		"who wants another":  {"If-Match", `"x"`, 412},
	} {
		got := b.ask("GET", path, user, "", one.name, one.value)
		if got.wants(t, what, one.status); one.status == 200 && got.body != f || one.status == 304 && got.body != "" {
			t.Errorf("%s: %d bytes", what, len(got.body))
		}
	}
}

// TestContentRanges downloads parts, across the border of two segments.
func TestContentRanges(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user, f := mint(t, Claims{}), pdf(9<<20, 2)
	size, border := len(f), 8<<20
	path := d.keep(user, f) + "/content"
	tag := `"` + sumHex(f) + `"`
	whole := func(from, to int) string { return fmt.Sprintf("bytes %d-%d/%d", from, to-1, size) }
	for _, one := range []struct {
		ranges, condition string
		status, from, to  int
	}{
		{"bytes=0-0", "", 206, 0, 1},
		{fmt.Sprintf("bytes=%d-%d", border-3, border+2), "", 206, border - 3, border + 3},
		{"bytes=-5", "", 206, size - 5, size},
		{fmt.Sprintf("bytes=%d-", size-7), "", 206, size - 7, size},
		{fmt.Sprintf("bytes=%d-%d", size-7, size+100), "", 206, size - 7, size},
		{"bytes=0-9", tag, 206, 0, 10},
		{"bytes=0-9", `"another"`, 200, 0, size},
		{"bytes=0-9", "W/" + tag, 200, 0, size}, // not strong
		{"pages=0-9", "", 200, 0, size},
		{"bytes=0-0" + strings.Repeat(",5-5", rangesMost), "", 200, 0, size},
	} {
		headers := []string{"Range", one.ranges}
		if one.condition != "" {
			headers = append(headers, "If-Range", one.condition)
		}
		got := d.ask("GET", path, user, "", headers...)
		got.wants(t, one.ranges, one.status, "ETag", tag, "Repr-Digest", sum(f), "Content-Type", "application/pdf")
		if got.body != f[one.from:one.to] {
			t.Errorf("%s: %d bytes that are not those", one.ranges, len(got.body))
		}
		if one.status == 206 && got.header.Get("Content-Range") != whole(one.from, one.to) {
			t.Errorf("%s: %s", one.ranges, got.header.Get("Content-Range"))
		}
	}
	for _, text := range []string{fmt.Sprintf("bytes=%d-", size), "bytes=5-2", "bytes=x", "bytes=--1"} {
		d.ask("GET", path, user, "", "Range", text).wants(t, text, 416, "Content-Disposition", "-", "ETag", "-", "Cache-Control", "no-store")
	}
	d.ask("GET", path, user, "", "Range", fmt.Sprintf("bytes=%d-", size)).wants(t, "the size", 416, "Content-Range", fmt.Sprintf("bytes */%d", size))

	got := d.ask("GET", path, user, "", "Range", fmt.Sprintf("bytes=0-9,%d-%d,-4", border-2, border+1))
	got.wants(t, "three ranges", 206)
	_, params, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(strings.NewReader(got.body), params["boundary"])
	for _, want := range [][2]int{{0, 10}, {border - 2, border + 2}, {size - 4, size}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(part)
		if err != nil || string(text) != f[want[0]:want[1]] || part.Header.Get("Content-Range") != whole(want[0], want[1]) ||
			part.Header.Get("Content-Type") != "application/pdf" {
			t.Errorf("%v: %q, %v, %v", want, text, part.Header, err)
		}
	}
}

// TestContentRights shows who may download, and when.
func TestContentRights(t *testing.T) {
	t.Parallel()
	d, alter := openAlterable(t)
	user := mint(t, Claims{Properties: []string{"7"}})
	f := pdf(100, 3)
	ours, own := d.keep(user, f, `"propertyId":"7"`), d.keep(user, f)
	for what, one := range map[string]struct {
		token           string
		ofProperty, own int
	}{
		"its maker":          {user, 200, 200},
		"an ADMIN":           {mint(t, Claims{User: "8", Role: "ADMIN"}), 200, 200},
		"who has the place":  {mint(t, Claims{User: "8", Properties: []string{"6", "7"}}), 200, 404},
		"who has another":    {mint(t, Claims{User: "8", Properties: []string{"8"}}), 404, 404},
		"another org's":      {mint(t, Claims{Org: "2", User: "7", Role: "ADMIN", Properties: []string{"7"}}), 404, 404},
		"nobody":             {"", 401, 401},
		"a stranger's token": {"x.y.z", 401, 401},
	} {
		for path, status := range map[string]int{ours: one.ofProperty, own: one.own} {
			d.ask("GET", path+"/content", one.token, "").wants(t, what, status)
			created := status
			if status == 200 {
				created = 201
			}
			d.ask("POST", path+"/links", one.token, "").wants(t, what+" for a link", created)
			d.ask("GET", path+"/progress", one.token, "").wants(t, what+" for its progress", status)
		}
	}
	d.ask("GET", "/v2/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa/content", user, "").wants(t, "none", 404)
	d.ask("GET", "/v2/uploads/../content", user, "").wants(t, "no id", 404)

	begun := d.create(user, 100)
	d.ask("GET", begun+"/content", user, "").wants(t, "one under way", 409)
	for state, path := range map[string]string{"expired": begun, "failed": d.create(user, 100), "deleted": own} {
		alter(`update sluice.uploads set state = $2 where id = $1`, filepath.Base(path), state)
		d.ask("GET", path+"/content", user, "").wants(t, state, 410)
		d.ask("HEAD", path+"/content", user, "").wants(t, state, 410)
		d.ask("POST", path+"/links", user, "").wants(t, state, 410)
	}
}

// TestAttachment gives files names that break out of headers, paths and quotes where they are not quoted.
func TestAttachment(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"a.pdf":                     `filename="a.pdf"; filename*=UTF-8''a.pdf`,
		"a b'(1)*.pdf":              `filename="a b'(1)*.pdf"; filename*=UTF-8''a%20b%27%281%29%2A.pdf`,
		"ü€.pdf":                    `filename="__.pdf"; filename*=UTF-8''%C3%BC%E2%82%AC.pdf`,
		"a\r\nSet-Cookie: x=1.html": `filename="a__Set-Cookie: x=1.html"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x%3D1.html`,
		`"; filename="b.exe`:        `filename="_; filename=_b.exe"; filename*=UTF-8''%22%3B%20filename%3D%22b.exe`,
		`..\..\a`:                   `filename=".._.._a"; filename*=UTF-8''..%5C..%5Ca`,
		"../../a%2f":                `filename=".._.._a_2f"; filename*=UTF-8''..%2F..%2Fa%252f`,
		"\x00\x7f\xff":              `filename="___"; filename*=UTF-8''%00%7F%FF`,
	} {
		if got := attachment(name); got != "attachment; "+want {
			t.Errorf("%q: %s", name, got)
		}
	}
	d, alter := openAlterable(t)
	user := mint(t, Claims{})
	path := d.keep(user, pdf(10, 1))
	alter(`update sluice.uploads set filename = $2 where id = $1`, filepath.Base(path), "a\r\nSet-Cookie: x=1\r\n\r\n<b>ü")
	got := d.ask("GET", path+"/content", user, "")
	got.wants(t, "a name with lines", 200, "Set-Cookie", "-")
	if _, params, err := mime.ParseMediaType(got.header.Get("Content-Disposition")); err != nil || params["filename"] != "a\r\nSet-Cookie: x=1\r\n\r\n<b>ü" {
		t.Errorf("%q, %v", params, err)
	}
}

// TestContentCutShort takes bytes away beneath a file: nobody takes what is left for the whole.
func TestContentCutShort(t *testing.T) {
	t.Parallel()
	d, _, directory := twoDoors(t)
	user, f := mint(t, Claims{}), pdf(9<<20, 4)
	path := d.keep(user, f) + "/content"
	largest, size := "", int64(0)
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, _ := entry.Info(); info.Size() > size {
				largest, size = path, info.Size()
			}
		}
		return err
	})
	if err != nil || os.Truncate(largest, size-1) != nil {
		t.Fatal(err)
	}
	request, _ := http.NewRequest("GET", d.url+path, nil)
	request.Header.Set("Authorization", "Bearer "+user)
	response, err := d.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("%d of %d bytes came, and no error", len(text), len(f))
	}
}

// fetch asks for a file over a connection that holds little, and gives its answer.
func fetch(t *testing.T, address, path, token string) (net.Conn, *http.Response) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, token)
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 16<<10), nil)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%+v, %v", response, err)
	}
	return conn, response
}

// TestSlowDownloads has one reader take nothing, and another take a little now and then, for longer than the server waits for
// a request and for a reader without progress. The first one is closed, the second one gets everything.
func TestSlowDownloads(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	d := openDoor(t, func(d *door) { d.server.WriteTimeout = timeout })
	user, f := mint(t, Claims{}), pdf(16<<20, 5)
	path := d.keep(user, f)
	served := httptest.NewUnstartedServer(d.server.serve(func(w http.ResponseWriter, r *http.Request) error {
		u, err := d.uploads.Find(context.Background(), filepath.Base(path))
		if err != nil {
			return err
		}
		return d.server.sendContent(w, r, &u)
	}))
	served.Config.ReadTimeout, served.Config.IdleTimeout = timeout/2, patience
	served.Start()
	t.Cleanup(served.Close)
	address := served.Listener.Addr().String()

	_, stalled := fetch(t, address, "/", user)
	conn, slow := fetch(t, address, "/", user)
	var got bytes.Buffer
	began := time.Now()
	for len(f) > got.Len() {
		if _, err := io.CopyN(&got, slow.Body, int64(min(1<<20, len(f)-got.Len()))); err != nil {
			t.Fatalf("after %v and %d bytes: %v", time.Since(began), got.Len(), err)
		}
		<-time.After(timeout / 8)
	}
	if got.String() != f || time.Since(began) < 3*timeout/2 {
		t.Errorf("%d bytes in %v", got.Len(), time.Since(began))
	}
	if n, err := io.Copy(io.Discard, stalled.Body); err == nil {
		t.Errorf("the one who took nothing got %d bytes", n)
	}
	// The time for a reader is not the connection's: it takes the next request.
	<-time.After(timeout + timeout/4)
	fmt.Fprintf(conn, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "HEAD"}); err != nil || answer.StatusCode != 200 {
		t.Errorf("the next request: %+v, %v", answer, err)
	}
}
