package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What becomes of uploads behind a proxy, in the words of docs/proxies.md.
const (
	tooLarge = "413 at once"
	inMiddle = "in its middle"
	atStart  = "at its start"
	passedOn = "passed on"
	notSent  = "not sent"
)

// nginxLarge is nginx with no more than what chunks of any size need.
var nginxLarge = nginxWith("nginx with HTTP/1.1 and client_max_body_size 0", nginx11, nginxHost, "client_max_body_size 0;")

// uploadsThrough is docs/proxies.md as a table. Chunks of 64 KiB work everywhere.
var uploadsThrough = []struct {
	setup   func(t testing.TB) proxySetup
	large   string // chunks of 8 MiB
	resumes string // where a chunk goes on that was cut in the middle
	interim string // 104
}{
	{always(nginxDefault), tooLarge, atStart, notSent},
	{always(nginxPassing), tooLarge, atStart, notSent},
	{always(nginxLarge), works, atStart, notSent},
	{always(haproxyPlain), works, inMiddle, passedOn},
	{func(t testing.TB) proxySetup { return advised(t, "nginx") }, works, inMiddle, notSent},
	{func(t testing.TB) proxySetup { return advised(t, "haproxy") }, works, inMiddle, passedOn},
}

const (
	smallChunk = 64 << 10
	largeChunk = 8 << 20
)

// uploadRoad leads uploads through a proxy.
type uploadRoad struct {
	*testing.T
	before *proxy
	blobs  string // where the bytes lie
}

// uploader is one whose requests have chunks of a size, with no digest where they are to be cut: else nothing of them can be kept.
func (r *uploadRoad) uploader(name string, chunk, size int, cut bool) *uploader {
	r.Helper()
	for _, s := range speeches() {
		if s.name != name {
			continue
		}
		s.chunk, s.sums = chunk, s.sums && !cut
		if part := s.part; cut && name == "tus" {
			s.part = func(u *uploader, to int) (string, []string) {
				method, headers := part(u, to)
				return method, headers[:len(headers)-2] // its checksum is the last
			}
		}
		u := newUploader(r, r.before.url, s, size)
		transport := u.client.Transport.(*http.Transport)
		transport.TLSClientConfig, transport.ForceAttemptHTTP2 = r.before.mover(r, u.token, "").trusts, true
		transport.ExpectContinueTimeout = time.Second // nginx says nothing of it over HTTP/2
		return u
	}
	r.Fatalf("nobody speaks %s", name)
	return nil
}

// check looks that the file is there as it was sent, through the proxy.
func (r *uploadRoad) check(u *uploader) {
	r.Helper()
	u.at, _, _ = strings.Cut(u.at, "?")
	if one := u.stands(); one.State != "ready" || one.SHA256 != hexSum(u.file) {
		r.Fatalf("%s: the upload is %+v", u.speech.name, one)
	}
	got, err := u.request(http.MethodGet, u.at+"/content", nil, nil, 0)
	if err != nil || got.status != http.StatusOK || got.text != string(u.file) {
		r.Fatalf("%s: the file is another one: %v", u.speech.name, err)
	}
}

// stored is how many bytes lie there of an upload.
func (r *uploadRoad) stored(u *uploader) (size int64) {
	id := strings.TrimPrefix(u.at, "/v2/uploads/")
	id, _, _ = strings.Cut(id, "?")
	_ = filepath.WalkDir(r.blobs, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(path, id) {
			if info, err := entry.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // what is deleted meanwhile is not there
	})
	return size
}

// meanwhile is no part of a body: it is called when the body has been read so far.
type meanwhile func()

func (f meanwhile) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// cut sends half of the next chunk, and resets the connection once some of it is stored, which never comes where the proxy waits
// for all of it. It says where the upload goes on.
func (r *uploadRoad) cut(u *uploader, expected string) string {
	r.Helper()
	from, to, first := u.offset, u.next(len(u.file)), u.at == ""
	u.sent = (from + to) / 2
	patient := 300 * time.Millisecond
	if expected == inMiddle {
		patient = patience
	}
	watch := meanwhile(func() {
		if first {
			select {
			case <-u.located:
			case <-time.After(patience):
				return
			}
		}
		for deadline := time.After(patient); r.stored(u) < int64(from+(to-from)/4); {
			select {
			case <-deadline:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	method, headers := u.speech.part(u, to)
	path := u.at
	if first {
		path = "/v2/uploads"
	}
	body := io.MultiReader(bytes.NewReader(u.file[from:u.sent]), watch, scissors{u, true})
	if got, err := u.request(method, path, headers, body, to-from); err == nil {
		r.Fatalf("%s: what was cut is answered: %v", u.speech.name, got)
	}
	u.disconnect()
	if err := u.look(); err != nil {
		r.Fatalf("%s: after a cut: %v", u.speech.name, err)
	}
	switch {
	case u.offset == from:
		return atStart
	case u.offset > from:
		return inMiddle
	}
	return fmt.Sprintf("at %d, before %d", u.offset, from)
}

// large says what becomes of a chunk of 8 MiB, and looks that refusals arrive. Where the proxy refuses it, its client need not send
// it, and smaller ones go on.
func (r *uploadRoad) large() string {
	r.Helper()
	u := r.uploader("PUT in chunks", largeChunk, largeChunk+smallChunk, false)
	u.create()
	send := func() (*told, int) {
		body := bytes.NewReader(u.file[:largeChunk])
		u.offset = 0
		method, headers := u.speech.part(u, largeChunk)
		headers = append(headers, "Expect", "100-continue")
		got, err := u.request(method, u.at, headers, body, largeChunk)
		if err != nil {
			r.Fatalf("a chunk of 8 MiB: %v", err)
		}
		return got, largeChunk - body.Len()
	}
	got, sent := send()
	if got.status == http.StatusRequestEntityTooLarge && got.header.Get("Upload-Limit") == "" && sent == 0 {
		u.speech.chunk = smallChunk
		u.run(2 * smallChunk)
		u.delete()
		return tooLarge
	}
	if got.status != http.StatusNoContent || got.offset() != largeChunk {
		return got.String()
	}
	u.speech.sums = false // else it would be a repetition
	if got, _ := send(); got.status != http.StatusConflict || got.offset() != largeChunk {
		r.Errorf("a chunk that does not belong there: %v", got)
	}
	u.offset = largeChunk
	u.run(len(u.file))
	r.check(u)
	return works
}

// interim makes an upload with all of its bytes, and says what becomes of the answer that comes before they are read. Where it
// comes, another upload that is cut in its first request goes on.
func (r *uploadRoad) interim(size int) string {
	r.Helper()
	u := r.uploader("IETF 8", 0, size, false)
	u.run(size)
	r.check(u)
	select {
	case <-u.located:
	default:
		return notSent
	}
	u = r.uploader("IETF 8", 0, size, true)
	if goesOn := r.cut(u, inMiddle); goesOn != inMiddle {
		return "passed on, and the first request goes on " + goesOn
	}
	u.run(size)
	r.check(u)
	return passedOn
}

// TestUploadsThroughProxies uploads in every dialect through every proxy to two instances by turns, whole and with connections
// that are reset in the middle of a chunk.
func TestUploadsThroughProxies(t *testing.T) {
	t.Parallel()
	flags, blobs := append(shared(t), "--trusted-proxies=127.0.0.1"), blobsOf(t)
	one, other := serve(t, flags...), serve(t, flags...)
	docs, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, expected := range uploadsThrough {
		setup := expected.setup(t)
		line := fmt.Sprintf("| %s | %s | %s | %s |\n", setup.name, expected.large, expected.resumes, expected.interim)
		if !bytes.Contains(docs, []byte(line)) {
			t.Errorf("docs/proxies.md does not say %s", line)
		}
		t.Run(setup.name, func(t *testing.T) {
			t.Parallel()
			r := &uploadRoad{t, setup.start(t, one.url, other.url), blobs}
			if got := r.large(); got != expected.large {
				t.Errorf("chunks of 8 MiB: %s, expected: %s", got, expected.large)
			}
			chunk := largeChunk
			if expected.large == tooLarge {
				chunk = smallChunk
			}
			if got := r.interim(chunk); got != expected.interim {
				t.Errorf("104: %s, expected: %s", got, expected.interim)
			}
			for _, s := range speeches() {
				if s.name == "one PUT" {
					continue // it has no chunks
				}
				u := r.uploader(s.name, smallChunk, 3*smallChunk+1000, false)
				u.create() // fails where a session's address is not below the proxy's
				u.run(len(u.file))
				r.check(u)
				u = r.uploader(s.name, chunk, 2*chunk+1000, true)
				u.create()
				u.run(chunk)
				if got := r.cut(u, expected.resumes); got != expected.resumes {
					t.Errorf("%s: a chunk that was cut goes on %s, expected: %s", s.name, got, expected.resumes)
				}
				u.run(len(u.file))
				r.check(u)
			}
		})
	}
}
