package handlers

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestOrigin lets a write by cookie in from own and allowed pages only. A write by header is nobody's else.
func TestOrigin(t *testing.T) {
	plain := openDoor(t, func(d *door) {
		d.server.AllowedOrigins = []string{"https://app.example", "https://Trailing.example/", "*"}
	})
	dev := openDoor(t, func(d *door) { d.server.Dev = true })
	token := publisher(t, "1")
	cookie, header := []string{"Cookie", "sluice_token=" + token}, []string{"Authorization", "Bearer " + token}
	for _, c := range []struct {
		name   string
		door   *door
		by     []string
		origin string
		status int
	}{
		{"cookie, none", plain, cookie, "", 403},
		{"cookie, own", plain, cookie, plain.url, 201},
		{"cookie, own in capitals", plain, cookie, strings.ToUpper(plain.url), 201},
		{"cookie, own host, another port", plain, cookie, "http://127.0.0.1:1", 403},
		{"cookie, allowed", plain, cookie, "https://app.example", 201},
		{"cookie, allowed with a slash", plain, cookie, "https://trailing.example", 201},
		{"cookie, allowed host, another scheme", plain, cookie, "http://app.example", 403},
		{"cookie, a longer name", plain, cookie, "https://app.example.evil", 403},
		{"cookie, foreign", plain, cookie, "https://evil.example", 403},
		{"cookie, null", plain, cookie, "null", 403},
		{"cookie, star", plain, cookie, "*", 403},
		{"header, foreign", plain, header, "https://evil.example", 201},
		{"header, none", plain, header, "", 201},
		{"dev, another port of this machine", dev, cookie, "http://localhost:5173", 201},
		{"dev, foreign", dev, cookie, "https://evil.example", 403},
		{"dev, a name that begins like ours", dev, cookie, "http://localhost.evil.example", 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := append([]string{"Content-Type", "application/json"}, c.by...)
			if c.origin != "" {
				headers = append(headers, "Origin", c.origin)
			}
			got := c.door.ask(http.MethodPost, "/v2/events", "", `{"service":"finance","type":"t"}`, headers...)
			if got.status != c.status {
				t.Errorf("%d %s, want %d", got.status, got.body, c.status)
			}
		})
	}
	// Neither host nor origin is no agreement.
	conn, err := net.Dial("tcp", strings.TrimPrefix(plain.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"service":"finance","type":"t"}`
	fmt.Fprintf(conn, "POST /v2/events HTTP/1.0\r\nOrigin: null\r\nCookie: sluice_token=%s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", token, len(body), body)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("without Host, from nowhere: %s", response.Status)
	}
}

// TestCORS answers browsers of allowed pages, by name, and tells nobody else anything.
func TestCORS(t *testing.T) {
	plain := openDoor(t, func(d *door) { d.server.AllowedOrigins = []string{"https://app.example"} })
	dev := openDoor(t, func(d *door) { d.server.Dev = true })
	for _, c := range []struct {
		name, origin, method, headers string
		door                          *door
		allowed                       bool
	}{
		{"allowed", "https://app.example", "POST", "authorization,content-type", plain, true},
		{"stream", "https://app.example", "GET", "last-event-id", plain, true},
		{"foreign", "https://evil.example", "POST", "authorization", plain, false},
		{"an upload", "https://app.example", "POST", "authorization,content-digest,tus-resumable,upload-offset", plain, true},
		{"a chunk", "https://app.example", "PUT", "authorization,content-digest,content-range,repr-digest", plain, true},
		{"a chunk of tus", "https://app.example", "PATCH", "content-type,tus-resumable,upload-checksum,upload-offset", plain, true},
		{"what tus begins with", "https://app.example", "POST", "tus-resumable,upload-concat,upload-defer-length,upload-length,upload-metadata", plain, true},
		{"what the draft begins with", "https://app.example", "POST", "content-disposition,upload-complete,upload-draft-interop-version,upload-length", plain, true},
		{"a chunk of the draft", "https://app.example", "PATCH", "upload-complete,upload-draft-interop-version,upload-incomplete,upload-offset", plain, true},
		{"a session", "https://app.example", "POST", "x-upload-content-length,x-upload-content-type", plain, true},
		{"a chunk of a foreign page", "https://evil.example", "PATCH", "content-type,tus-resumable,upload-offset", plain, false},
		{"a chunk by another method", "https://app.example", "POST", "x-http-method-override", plain, true},
		{"the end of an upload", "https://app.example", "DELETE", "authorization", plain, true},
		{"another header", "https://app.example", "POST", "x-evil", plain, false},
		{"another method", "https://app.example", "TRACE", "", plain, false},
		{"localhost without dev", "http://localhost:5173", "POST", "authorization", plain, false},
		{"localhost in dev", "http://localhost:5173", "POST", "authorization", dev, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Origin", c.origin, "Access-Control-Request-Method", c.method}
			if c.headers != "" {
				headers = append(headers, "Access-Control-Request-Headers", c.headers)
			}
			for _, path := range []string{"/v2/uploads", "/v2/uploads/" + strings.Repeat("a", 26)} { // which answer OPTIONS themselves, too
				if got := c.door.ask(http.MethodOptions, path, "", "", headers...); (got.header.Get("Access-Control-Allow-Methods") != "") != c.allowed {
					t.Errorf("%s: %d %v", path, got.status, got.header)
				}
			}
			got := c.door.ask(http.MethodOptions, "/v2/events", "", "", headers...)
			allowed := got.header.Get("Access-Control-Allow-Origin") == c.origin && got.header.Get("Access-Control-Allow-Methods") != ""
			if allowed != c.allowed || strings.Contains(got.header.Get("Access-Control-Allow-Origin"), "*") {
				t.Errorf("%d %v", got.status, got.header)
			}
			if allowed && got.header.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("without credentials: %v", got.header)
			}
		})
	}
	got := plain.ask(http.MethodGet, "/v2/realtime/metrics", "", "", "Origin", "https://app.example")
	if got.status != 401 || got.header.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		!strings.Contains(got.header.Get("Access-Control-Expose-Headers"), "X-Request-Id") ||
		!strings.Contains(got.header.Get("Access-Control-Expose-Headers"), "Upload-Offset") {
		t.Errorf("a page cannot read why it is refused: %d %v", got.status, got.header)
	}
}
