package handlers

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/store"
	"sluice/streams"
)

// held is an appender that holds up changes until they are let through.
type held struct {
	*streams.Appender
	gate    chan struct{}
	open    sync.Once
	reached chan struct{} // told of each change that waits
}

func (h *held) Change(ctx context.Context, change store.Change) ([]store.Appended, error) {
	h.reached <- struct{}{}
	<-h.gate
	return h.Appender.Change(ctx, change)
}

func (h *held) letThrough() { h.open.Do(func() { close(h.gate) }) }

// holding gives the door uploads whose verification ends when it is let through.
func holding(h *held) func(*door) {
	return func(d *door) {
		h.Appender, h.gate, h.reached = d.appender, make(chan struct{}), make(chan struct{}, 8)
		d.uploads = streams.NewUploads(d.events, d.blobs, h, d.uploads.Options(), d.metrics)
	}
}

const oneUpload = "/v2/uploads/{id}"

// uploads holds what is said of uploads against the document, in all dialects.
func (c *contract) uploads() {
	c.t.Helper()
	d := openDoor(c.t)
	user, other, f := mint(c.t, Claims{}), mint(c.t, Claims{User: "8"}), pdf(90, 17)
	c.uploadsMade(d, user, f)
	c.keeps("OPTIONS", "/v2/uploads", d.ask("OPTIONS", "/v2/uploads", "", ""))
	for _, path := range []string{"?uploadType=resumable", ""} {
		at := d.create(user, 90) + path
		more := []string{"Content-Range", span(0, 9, 90)}
		for _, one := range []struct {
			method, token, body string
			headers             []string
		}{
			{"GET", user, "", nil},
			{"GET", "", "", nil},
			{"GET", other, "", nil},
			{"HEAD", user, "", tus()},
			{"HEAD", user, "", ietf(3, true)},
			{"HEAD", "", "", nil},
			{"HEAD", other, "", nil},
			{"HEAD", user, "", []string{"Tus-Resumable", "2"}},
			{"OPTIONS", "", "", nil},
			{"PUT", "", f, nil},
			{"PUT", other, f, nil},
			{"PUT", user, f[:9], more},
			{"PUT", user, f[:9], more},
			{"PUT", user, f, []string{"Content-Range", "x"}},
			{"PUT", user, f[9:] + "x", []string{"Upload-Offset", "9"}},
			{"PUT", user, f[9:], []string{"Upload-Offset", "9", "Content-Encoding", "gzip"}},
			{"PATCH", "", f, nil},
			{"PATCH", other, f, tusPatch(9)},
			{"PATCH", user, f, nil},
			{"PATCH", user, f, []string{"Content-Type", offsetStream}},
			{"PATCH", user, f[9:10], tusPatch(9, "Upload-Checksum", "sha1")},
			{"PATCH", user, f[9:10], tusPatch(9, "Upload-Checksum", "sha1 "+b64(make([]byte, 20)))},
			{"PATCH", user, f[9:10], tusPatch(9)},
			{"PATCH", user, f[9:10], tusPatch(9)},
			{"PATCH", user, f[9:] + "x", tusPatch(10)},
			{"PATCH", user, f[10:20], ietfPatch(3, 10, false)},
			{"PUT", user, f[20:], []string{"Content-Range", span(20, 90, 90)}},
			{"PATCH", user, "", ietfPatch(9, 90, true)},
			{"DELETE", "", "", nil},
			{"DELETE", other, "", nil},
			{"DELETE", user, "", []string{"Tus-Resumable", "2"}},
			{"DELETE", user, "", nil},
			{"DELETE", user, "", nil},
			{"HEAD", user, "", nil},
			{"GET", user, "", nil},
			{"PUT", user, f, nil},
			{"PATCH", user, f, tusPatch(0)},
		} {
			c.keeps(one.method, oneUpload, d.ask(one.method, at, one.token, one.body, one.headers...))
		}
	}
	c.uploadRights(d)
	c.uploadsLater(user, f)
}

// uploadsMade holds what is said to who makes an upload.
func (c *contract) uploadsMade(d *door, user, f string) {
	c.t.Helper()
	for _, one := range []struct {
		token   string
		headers []string
	}{
		{user, ietf(8, true, "Content-Type", "application/pdf")},
		{user, ietf(8, true, "Upload-Length", "x")},
		{user, ietf(8, false, "Upload-Length", "104857601")},
		{user, ietf(8, true, "Content-Type", "text/html")},
		{"", ietf(8, true)},
		{user, nil},
	} {
		c.keeps("PUT", "/v2/uploads", d.ask("PUT", "/v2/uploads", one.token, f, one.headers...))
	}
	json := []string{"Content-Type", "application/json"}
	body := `{"filename":"a","mimeType":"application/pdf","size":90}`
	for _, one := range []struct {
		token, body string
		headers     []string
	}{
		{user, body, json},
		{user, `{"filename":"a","mimeType":"application/pdf","size":null,"guestId":5,"documentType":"visa"}`, json},
		{"", body, json},
		{user, `{}`, json},
		{user, strings.Replace(body, "90", "104857601", 1), json},
		{user, strings.Replace(body, "application/pdf", "text/html", 1), json},
		{user, strings.Replace(body, "90", `90,"propertyId":7`, 1), json},
		{user, "", tus("Upload-Length", "90")},
		{user, "", []string{"Tus-Resumable", "0.1.0"}},
		{user, f, tus("Upload-Length", "90", "Content-Type", offsetStream, "Upload-Checksum", "sha1 "+b64(make([]byte, 20)))},
		{user, f, ietf(8, true)},
		{user, f, ietf(3, false)},
	} {
		c.keeps("POST", "/v2/uploads", d.ask("POST", "/v2/uploads", one.token, one.body, one.headers...))
	}
	const session = "/upload/storage/v1/b/{bucket}/o"
	for token, bodies := range map[string][]string{user: {"", strings.Repeat(" ", bodyLimit+1)}, "": {""}} {
		for _, body := range bodies {
			c.keeps("POST", session, d.ask("POST", sessions+"x", token, body))
		}
	}
	c.keeps("POST", session, d.ask("POST", "/upload/storage/v1/b/any/o", user, ""))
	c.keeps("POST", session, d.ask("POST", sessions+"x", user, "", "X-Upload-Content-Type", "text/html"))
}

// uploadRights holds what is said to who may read an upload and do nothing else.
func (c *contract) uploadRights(d *door) {
	c.t.Helper()
	reader, creator := mint(c.t, Claims{User: "8", Properties: []string{"7"}}), mint(c.t, Claims{Properties: []string{"7"}})
	at := d.create(creator, 90, `"propertyId":7`)
	c.keeps("PUT", oneUpload, d.ask("PUT", at, reader, "x"))
	c.keeps("PATCH", oneUpload, d.ask("PATCH", at, reader, "x", tusPatch(0)...))
	c.keeps("DELETE", oneUpload, d.ask("DELETE", at, reader, ""))
}

// uploadsLater holds what is said where something may not be had for now.
func (c *contract) uploadsLater(user, f string) {
	c.t.Helper()
	h := new(held)
	d := openDoor(c.t, withUploads(func(o *streams.UploadOptions) { o.Open = 3 }), holding(h))
	defer h.letThrough()
	d.server.readPatience, d.server.bodyTimeout = 50*time.Millisecond, 50*time.Millisecond
	at := d.create(user, 90)
	c.keeps("PUT", oneUpload, d.slowly("PUT", at, user))
	c.keeps("PATCH", oneUpload, d.slowly("PATCH", d.create(user, 90), user, tusPatch(0)...))
	c.keeps("POST", "/upload/storage/v1/b/{bucket}/o", d.slowly("POST", sessions+"x", user))
	c.keeps("POST", "/v2/uploads", d.slowly("POST", "/v2/uploads", user, "Content-Type", "application/json"))
	d.create(user, 1)
	for path, asked := range map[string]string{"/v2/uploads": "/v2/uploads", "/upload/storage/v1/b/{bucket}/o": sessions + "x"} {
		c.keeps("POST", path, d.ask("POST", asked, user, `{"filename":"a","mimeType":"text/csv"}`, "Content-Type", "application/json"))
	}
	last := d.sends("PUT", at, user, 89, "Upload-Offset", "1")
	last.send(f[1:])
	last.body.Close()
	<-h.reached
	for method, headers := range map[string][]string{"HEAD": nil, "PUT": {"Upload-Offset", "0"}, "PATCH": tusPatch(0), "DELETE": nil} {
		got := d.ask(method, at, user, "", headers...)
		got.wants(c.t, method+" while it is verified", http.StatusLocked, "Retry-After", "1")
		c.keeps(method, oneUpload, got)
	}
	h.letThrough()
	last.answer()
	d.events.Close()
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE"} {
		c.keeps(method, oneUpload, d.ask(method, at, user, "", tusPatch(0)...))
	}
	c.keeps("HEAD", oneUpload, d.ask("HEAD", at, user, ""))
	c.keeps("POST", "/v2/uploads", d.ask("POST", "/v2/uploads", user, "", tus("Upload-Length", "1")...))
	c.keeps("POST", "/upload/storage/v1/b/{bucket}/o", d.ask("POST", sessions+"x", user, ""))
}

// TestUploadBodies has the server refuse what the document's schema refuses, and take what it takes.
func TestUploadBodies(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	d := openDoor(t)
	user := mint(t, Claims{Properties: []string{"7"}})
	content := c.doc.Paths.Value("/v2/uploads").Post.RequestBody.Value.Content["application/json"]
	const rest = `"mimeType":"application/pdf"`
	for body, good := range map[string]bool{
		`{"filename":"a",` + rest + `}`:                                 true,
		`{"filename":"ü\"\\/../x` + "\U0001F600" + `",` + rest + `}`:    true,
		`{"filename":"` + strings.Repeat("x", 255) + `",` + rest + `}`:  true,
		`{"filename":"` + strings.Repeat("x", 256) + `",` + rest + `}`:  false,
		`{"filename":"",` + rest + `}`:                                  false,
		`{"filename":"a\u0000",` + rest + `}`:                           false,
		`{"filename":5,` + rest + `}`:                                   false,
		`{"filename":null,` + rest + `}`:                                false,
		`{` + rest + `}`:                                                false,
		`{"filename":"a"}`:                                              false,
		`{"filename":"a","mimeType":null}`:                              false,
		`{"filename":"a","mimeType":""}`:                                false,
		`{"filename":"a","mimeType":"text/csv","size":0}`:               true,
		`{"filename":"a",` + rest + `,"size":null}`:                     true,
		`{"filename":"a",` + rest + `,"size":-1}`:                       false,
		`{"filename":"a",` + rest + `,"size":1.5}`:                      false,
		`{"filename":"a",` + rest + `,"size":"5"}`:                      false,
		`{"filename":"a",` + rest + `,"size":9999999999999999}`:         false,
		`{"filename":"a",` + rest + `,"sha256":null}`:                   true,
		`{"filename":"a",` + rest + `,"sha256":"` + sumHex("x") + `"}`:  true,
		`{"filename":"a",` + rest + `,"sha256":"` + sumHex("x") + `0"}`: false,
		`{"filename":"a",` + rest + `,"sha256":"x"}`:                    false,
		`{"filename":"a",` + rest + `,"documentType":"passport"}`:       true,
		`{"filename":"a",` + rest + `,"documentType":null}`:             true,
		`{"filename":"a",` + rest + `,"documentType":"Passport"}`:       false,
		`{"filename":"a",` + rest + `,"propertyId":7}`:                  true,
		`{"filename":"a",` + rest + `,"propertyId":"7"}`:                true,
		`{"filename":"a",` + rest + `,"propertyId":null}`:               true,
		`{"filename":"a",` + rest + `,"propertyId":"\n"}`:               false,
		`{"filename":"a",` + rest + `,"guestId":"g"}`:                   true,
		`{"filename":"a",` + rest + `,"guestId":[]}`:                    false,
		`{"filename":"a",` + rest + `,"filetype":"text/csv"}`:           false,
		`{"filename":"a",` + rest + `,"state":"ready"}`:                 false,
		`{"filename":"a",` + rest + `,"Filename":"b"}`:                  false,
		`[]`: false,
	} {
		err := fits(content.Schema, []byte(body))
		got := d.ask("POST", "/v2/uploads", user, body, "Content-Type", "application/json")
		if (err == nil) != good || (got.status == http.StatusCreated) != good || !good && got.status != http.StatusBadRequest {
			t.Errorf("%s: the schema says %v, the server %d %s", body, err, got.status, got.body)
		}
		if !good && body[0] == '{' && got.problem(t).Field == "" {
			t.Errorf("%s: no field is named: %s", body, got.body)
		}
	}
}
