package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/handlers"
)

// theFile is what uploads are made of: each takes as much of it as it needs.
var theFile = sync.OnceValue(func() []byte {
	file := make([]byte, 100<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(file)
	copy(file, "%PDF-1.7\n")
	return file
})

// speech is a dialect as a client speaks it.
type speech struct {
	name  string
	chunk int // bytes of a request; 0: as many as there are
	sums  bool

	// create says what makes an upload; nil: its first bytes do.
	create func(u *uploader) (path string, headers []string, body string)
	// part says what brings the bytes up to an offset.
	part func(u *uploader, to int) (method string, headers []string)
	// asks is what tells the offset; HEAD, where there is none.
	asks func(u *uploader) (method string, headers []string)
}

// speeches are all dialects.
func speeches() []*speech {
	chunked := &speech{name: "PUT in chunks", chunk: 64 << 10, sums: true, create: createByJSON, part: partByRange}
	return []*speech{
		chunked,
		{name: "one PUT", create: createByJSON, part: partByRange},
		{
			name: "tus", chunk: 8 << 20, sums: true,
			create: func(u *uploader) (string, []string, string) {
				return "/v2/uploads", []string{"Tus-Resumable", "1.0.0", "Upload-Length", strconv.Itoa(len(u.file)), "Upload-Metadata", "filename YS5wZGY="}, ""
			},
			part: func(u *uploader, to int) (string, []string) {
				return http.MethodPatch, []string{
					"Tus-Resumable", "1.0.0", "Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.Itoa(u.offset),
					"Upload-Checksum", "sha256 " + base64Sum(u.file[u.offset:to]),
				}
			},
			asks: func(*uploader) (string, []string) { return http.MethodHead, []string{"Tus-Resumable", "1.0.0"} },
		},
		draft(6), draft(8),
		{
			name: "308", chunk: 8 << 20,
			create: func(u *uploader) (string, []string, string) {
				return "/upload/storage/v1/b/any/o?uploadType=resumable&name=a.pdf", []string{"X-Upload-Content-Length", strconv.Itoa(len(u.file))}, "{}"
			},
			part: partByRange,
			asks: func(u *uploader) (string, []string) {
				return http.MethodPut, []string{"Content-Range", fmt.Sprintf("bytes */%d", len(u.file))}
			},
		},
	}
}

func createByJSON(u *uploader) (string, []string, string) {
	body := fmt.Sprintf(`{"filename":"a.pdf","mimeType":"application/pdf","size":%d}`, len(u.file))
	return "/v2/uploads", []string{"Content-Type", "application/json"}, body
}

func partByRange(u *uploader, to int) (string, []string) {
	headers := []string{"Content-Range", fmt.Sprintf("bytes %d-%d/%d", u.offset, to-1, len(u.file))}
	if u.speech.sums {
		headers = append(headers, "Content-Digest", "sha-256=:"+base64Sum(u.file[u.offset:to])+":")
	}
	return http.MethodPut, headers
}

// draft is the IETF's, of one interop version. Its first request brings bytes already.
func draft(version int) *speech {
	greeting := []string{"Upload-Draft-Interop-Version", strconv.Itoa(version)}
	return &speech{
		name: "IETF " + strconv.Itoa(version),
		part: func(u *uploader, to int) (string, []string) {
			complete := map[bool]string{true: "?1", false: "?0"}[to == len(u.file)]
			headers := append([]string{"Upload-Complete", complete, "Upload-Length", strconv.Itoa(len(u.file))}, greeting...)
			if u.at == "" {
				return http.MethodPost, append(headers, "Content-Type", "application/pdf")
			}
			return http.MethodPatch, append(headers, "Content-Type", "application/partial-upload", "Upload-Offset", strconv.Itoa(u.offset))
		},
		asks: func(*uploader) (string, []string) { return http.MethodHead, greeting },
	}
}

// uploader is a client that sends one file.
type uploader struct {
	t      testing.TB
	speech *speech
	base   string // of an instance, or of what stands before some
	token  string
	file   []byte
	at     string // path of the upload
	offset int    // where it goes on
	acked  int    // the largest offset that was told to it
	sent   int    // up to where it has sent

	client  *http.Client
	located chan struct{}               // closed once an interim answer has told where the upload is
	conn    atomic.Pointer[net.TCPConn] // the newest
}

func newUploader(t testing.TB, base string, speech *speech, size int) *uploader {
	u := &uploader{
		t: t, speech: speech, base: base, file: theFile()[:size], located: make(chan struct{}),
		token: token(t, handlers.Claims{Org: "1", User: "7", Role: "MANAGER", Properties: []string{"none"}}),
	}
	u.connect()
	t.Cleanup(u.disconnect)
	return u
}

// connect makes the client a new one that knows nothing of earlier connections.
func (u *uploader) connect() {
	dialer := new(net.Dialer)
	u.client = &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				u.conn.Store(conn.(*net.TCPConn))
			}
			return conn, err
		}},
	}
}

func (u *uploader) disconnect() { u.client.CloseIdleConnections() }

// told is an answer.
type told struct {
	status int
	header http.Header
	text   string
}

func (a *told) String() string { return fmt.Sprintf("%d %v %s", a.status, a.header, a.text) }

// offset is what the answer says of it; -1: nothing.
func (a *told) offset() int {
	text := a.header.Get("Upload-Offset")
	if a.status == http.StatusPermanentRedirect { // its clients look at nothing else
		text = "0"
		if last, found := strings.CutPrefix(a.header.Get("Range"), "bytes=0-"); found {
			n, err := strconv.Atoi(last)
			if err != nil {
				return -1
			}
			text = strconv.Itoa(n + 1)
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// request sends one. A body of its own kind is not sent again behind the test's back.
func (u *uploader) request(method, path string, headers []string, body io.Reader, length int) (*told, error) {
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if at := header.Get("Location"); code == 104 && at != "" {
			u.at = at
			close(u.located)
		}
		return nil
	}}
	sent := io.NopCloser(struct{ io.Reader }{body})
	if closer, is := body.(io.Closer); is {
		sent = struct {
			io.Reader
			io.Closer
		}{body, closer}
	}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), method, u.base+path, sent)
	if err != nil {
		u.t.Fatal(err)
	}
	request.ContentLength = int64(length)
	if length == 0 {
		request.Body = http.NoBody
	}
	request.Header.Set("Authorization", "Bearer "+u.token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if at := response.Header.Get("Location"); at != "" {
		u.at = strings.TrimPrefix(at, u.base)
	}
	return &told{response.StatusCode, response.Header, string(text)}, err
}

// plain sends a request without a body.
func (u *uploader) plain(method string, headers ...string) (*told, error) {
	return u.request(method, u.at, headers, nil, 0)
}

// create makes the upload, where its first bytes do not.
func (u *uploader) create() {
	u.t.Helper()
	if u.speech.create == nil {
		return
	}
	path, headers, body := u.speech.create(u)
	got, err := u.request(http.MethodPost, path, headers, strings.NewReader(body), len(body))
	if err != nil || got.status > http.StatusCreated || u.at == "" {
		u.t.Fatalf("%s: creation: %v %v", u.speech.name, got, err)
	}
}

// next is where the next request ends.
func (u *uploader) next(until int) int {
	if u.speech.chunk == 0 {
		return until
	}
	return min(until, u.offset+u.speech.chunk)
}

// send brings the bytes up to an offset in one request; the connection is reset after cut of them, unless it is -1. An error
// says that nobody knows what has become of the request.
func (u *uploader) send(to, cut int) error {
	method, headers := u.speech.part(u, to)
	part := u.file[u.offset:to]
	var body io.Reader = bytes.NewReader(part)
	u.sent = max(u.sent, to)
	if cut >= 0 {
		u.sent = u.offset + cut
		body = io.MultiReader(bytes.NewReader(part[:cut]), scissors{u, u.at != ""})
	}
	path := u.at
	if path == "" {
		path = "/v2/uploads"
	}
	got, err := u.request(method, path, headers, body, len(part))
	if err != nil {
		return err
	}
	if got.status >= 300 && got.status != http.StatusPermanentRedirect {
		return &refusedError{got}
	}
	if got.offset() != to {
		u.t.Errorf("%s: bytes up to %d were sent, and the answer is %v", u.speech.name, to, got)
		return errors.New("an answer is wrong")
	}
	u.offset, u.acked = to, to
	return nil
}

// refusedError is an answer that refuses.
type refusedError struct{ *told }

func (e *refusedError) Error() string { return e.String() }

// scissors reset the connection, once the client knows where its upload is.
type scissors struct {
	u       *uploader
	located bool
}

var errCut = errors.New("the connection is cut")

func (s scissors) Read([]byte) (int, error) {
	if !s.located {
		select {
		case <-s.u.located:
		case <-time.After(patience):
		}
	}
	if conn := s.u.conn.Load(); conn != nil {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
	return 0, errCut
}

// run sends all bytes up to an offset, none of which may be refused.
func (u *uploader) run(until int) {
	u.t.Helper()
	for u.offset < until {
		if err := u.send(u.next(until), -1); err != nil {
			u.t.Fatalf("%s: %d bytes, from %d on: %v", u.speech.name, len(u.file), u.offset, err)
		}
	}
}

// runOn sends all bytes up to an offset, and asks for it anew whenever something fails, at these addresses in turn.
func (u *uploader) runOn(until int, at ...string) {
	u.t.Helper()
	for failures := 0; u.offset < until; {
		if err := u.send(u.next(until), -1); err != nil {
			if failures++; failures > 100 {
				u.t.Fatalf("%s: from %d on: %v", u.speech.name, u.offset, err)
			}
			u.lookAgain(at...)
		}
	}
}

// look asks for the offset, and looks that nothing was lost that was acknowledged.
func (u *uploader) look() error {
	u.t.Helper()
	method, headers := http.MethodHead, []string(nil)
	if u.speech.asks != nil {
		method, headers = u.speech.asks(u)
	}
	got, err := u.plain(method, headers...)
	if err != nil {
		return err
	}
	if got.status >= 300 && got.status != http.StatusPermanentRedirect {
		return &refusedError{got}
	}
	u.offset = got.offset()
	if u.offset < u.acked || u.offset > u.sent {
		u.t.Fatalf("%s: the upload stands at %d; %d bytes were acknowledged, and %d sent", u.speech.name, u.offset, u.acked, u.sent)
	}
	return nil
}

// lookAgain asks until somebody answers, as a client does that has lost its connection.
func (u *uploader) lookAgain(at ...string) {
	u.t.Helper()
	deadline := time.After(patience)
	for i := 0; ; i++ {
		if len(at) > 0 {
			u.base = at[i%len(at)]
		}
		err := u.look()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			u.t.Fatalf("%s: the upload cannot go on: %v", u.speech.name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// standing is an upload as GET tells it.
type standing struct {
	ID, State, SHA256, Reason string
	Offset, Size              int64
}

func (u *uploader) stands() (one standing) {
	u.t.Helper()
	got, err := u.plain(http.MethodGet)
	if err == nil && got.status != http.StatusOK {
		err = &refusedError{got}
	}
	if err == nil {
		err = json.Unmarshal([]byte(got.text), &one)
	}
	if err != nil {
		u.t.Fatalf("%s: GET: %v", u.speech.name, err)
	}
	return one
}

// arrived looks that the upload is ready and, where its bytes lie, that they are those of the file.
func (u *uploader) arrived(shelf *shelf) {
	u.t.Helper()
	one, sum := u.stands(), hexSum(u.file)
	if one.State != "ready" || one.SHA256 != sum || one.Size != int64(len(u.file)) {
		u.t.Fatalf("%s: the upload is %+v, not ready with %s", u.speech.name, one, sum)
	}
	if stored := shelf.sum(u.t, one.ID); stored != sum {
		u.t.Fatalf("%s: what is stored has another digest: %s", u.speech.name, stored)
	}
}

func (u *uploader) delete() {
	u.t.Helper()
	got, err := u.plain(http.MethodDelete)
	if err != nil || got.status != http.StatusNoContent && got.status != 499 {
		u.t.Fatalf("%s: DELETE: %v %v", u.speech.name, got, err)
	}
}

var sums sync.Map // hex digests of beginnings of theFile, by their length

func hexSum(file []byte) string {
	if known, found := sums.Load(len(file)); found {
		return known.(string)
	}
	sum := sha256.Sum256(file)
	sums.Store(len(file), hex.EncodeToString(sum[:]))
	return hex.EncodeToString(sum[:])
}

func base64Sum(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}
