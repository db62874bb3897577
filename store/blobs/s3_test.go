package blobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// fake is an S3 store over real HTTP, with something in front that may fail.
type fake struct {
	url    string
	server http.Handler
	front  atomic.Pointer[func(w http.ResponseWriter, r *http.Request)] // nil: all goes through
}

func newFake(t testing.TB) *fake {
	t.Helper()
	backend := s3mem.New()
	must(t, backend.CreateBucket("bucket"))
	f := &fake{server: gofakes3.New(backend).Server()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if front := f.front.Load(); front != nil {
			(*front)(w, r)
			return
		}
		f.server.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = "s3://bucket/some/where?endpoint=" + server.URL
	return f
}

// behind puts something in front of the store.
func (f *fake) behind(front func(w http.ResponseWriter, r *http.Request)) { f.front.Store(&front) }

// open opens the store with parts of 64 bytes.
func (f *fake) open(t testing.TB) Store { return f.openParts(t, 64) }

func (f *fake) openParts(t testing.TB, part int) *S3 {
	t.Helper()
	store, err := OpenS3(t.Context(), f.url)
	must(t, err)
	store.part = part
	return store
}

// stopAt refuses everything from a request on; that one, if its number is even, after having done it. It counts the requests.
func (f *fake) stopAt(at int64) *atomic.Int64 {
	var count atomic.Int64
	f.behind(func(w http.ResponseWriter, r *http.Request) {
		n := count.Add(1)
		if n < at {
			f.server.ServeHTTP(w, r)
			return
		}
		if n == at && at%2 == 0 {
			f.server.ServeHTTP(httptest.NewRecorder(), r)
		}
		w.WriteHeader(http.StatusForbidden)
	})
	return &count
}

// objects lists everything that the store has, multipart uploads too.
func objects(t testing.TB, store *S3) []string {
	t.Helper()
	var list []string
	must(t, store.eachObject(t.Context(), "", func(object types.Object) error {
		list = append(list, *object.Key)
		return nil
	}))
	must(t, store.eachMultipart(t.Context(), "", func(multipart types.MultipartUpload) error {
		list = append(list, *multipart.Key+" in parts")
		return nil
	}))
	return list
}

// play writes and seals a segment in which every kind of request occurs.
func play(ctx context.Context, w *writer) error {
	for _, step := range []func() error{
		func() error { return w.send(50) }, func() error { return w.commit(ctx) },
		func() error { return w.send(200) }, w.rollback,
		func() error { return w.send(100) }, func() error { return w.commit(ctx) },
		func() error { return w.send(30) }, func() error { return w.commit(ctx) },
		func() error { return w.send(300) }, w.rollback,
		func() error { _, err := w.Seal(ctx); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// TestS3Faults fails each request once, in three ways: not done; not done, with the connection cut; and done, but the answer is lost.
func TestS3Faults(t *testing.T) {
	t.Parallel()
	for how, fail := range map[string]func(f *fake, w http.ResponseWriter, r *http.Request){
		"500": func(_ *fake, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"cut": func(*fake, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"lost": func(f *fake, _ http.ResponseWriter, r *http.Request) {
			f.server.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		},
	} {
		for at := int64(1); at <= 20; at++ {
			t.Run(fmt.Sprint(how, at), func(t *testing.T) {
				t.Parallel()
				f := newFake(t)
				w := newWriter(t, f.open(t), 0, 1)
				var count atomic.Int64
				f.behind(func(w http.ResponseWriter, r *http.Request) {
					if count.Add(1) == at {
						fail(f, w, r)
						return
					}
					f.server.ServeHTTP(w, r)
				})
				must(t, play(t.Context(), w))
				holds(t, f.open(t), w.row.extent, w.sent[:180])
				if list := objects(t, f.openParts(t, 64)); !slices.Equal(list, []string{"some/where/" + id + "/0-1"}) {
					t.Errorf("the store has %q", list)
				}
			})
		}
	}
}

// TestS3Hangs has the store take requests and never answer: whoever commits or seals is told in the end.
func TestS3Hangs(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"commit", "seal"} {
		f := newFake(t)
		store := f.openParts(t, 64)
		store.patience = 200 * time.Millisecond
		w := newWriter(t, store, 0, 1)
		must(t, w.send(50))
		if what == "seal" {
			must(t, w.commit(t.Context()))
		}
		over := make(chan struct{})
		f.behind(func(http.ResponseWriter, *http.Request) { <-over })
		done := make(chan error, 1)
		go func() {
			if what == "seal" {
				_, err := w.Seal(context.Background())
				done <- err
				return
			}
			done <- w.commit(context.Background())
		}()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s still waits for the store", what)
		}
		close(over)
	}
}

// TestS3Stops lets the writer stop at each request, done or not, and others inherit what was acknowledged.
func TestS3Stops(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at++ {
		f := newFake(t)
		w := newWriter(t, f.open(t), 0, 1)
		count := f.stopAt(at)
		err := play(t.Context(), w)
		f.front.Store(nil)
		inherits(t, f.open(t), w)
		inherits(t, f.open(t), w)
		for _, key := range objects(t, f.openParts(t, 64)) {
			if key != "some/where/"+id+"/0-1" {
				t.Errorf("stopped at request %d: %s is left over", at, key)
			}
		}
		if count.Load() < at {
			must(t, err)
			return
		}
	}
}

// TestS3InheritStops lets whoever inherits stop at each request, done or not; the next one still finds everything.
func TestS3InheritStops(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at++ {
		f := newFake(t)
		w := newWriter(t, f.open(t), 0, 1)
		must(t, w.send(150))
		must(t, w.commit(t.Context()))
		must(t, w.send(150))
		count := f.stopAt(at)
		_, _, err := w.row.inherit(t.Context(), f.open(t))
		f.front.Store(nil)
		inherits(t, f.open(t), w)
		if count.Load() < at {
			must(t, err)
			return
		}
	}
}

// TestS3ZombiePart has a zombie write a part of the number that the last one has, just before the parts are put together.
func TestS3ZombiePart(t *testing.T) {
	t.Parallel()
	for times, works := range map[int64]bool{1: true, 100: false} {
		f := newFake(t)
		store := f.openParts(t, 64)
		w := newWriter(t, store, 0, 1)
		must(t, w.send(150))
		must(t, w.commit(t.Context()))
		m, err := readMark(w.row.extent.Mark)
		must(t, err)
		zombie := f.openParts(t, 64)
		var count atomic.Int64
		f.behind(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && count.Add(1) <= times {
				if _, err := zombie.uploadPart(t.Context(), zombie.key(id, 0, 1), m.Multipart, 3, []byte("what a zombie has")); err != nil {
					t.Error(err)
				}
			}
			f.server.ServeHTTP(rw, r)
		})
		if !works {
			if _, _, err := w.row.inherit(t.Context(), store); !failedWith(err, "InvalidPart") {
				t.Errorf("a zombie that does not end: %v", err)
			}
			f.front.Store(nil)
		}
		inherits(t, store, w)
	}
}

// TestS3Parts writes with parts as large as they are, and looks at what is uploaded.
func TestS3Parts(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store, err := OpenS3(t.Context(), f.url)
	must(t, err)
	var sizes []int64
	f.behind(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("partNumber") {
			sizes = append(sizes, r.ContentLength)
		}
		f.server.ServeHTTP(w, r)
	})
	w := newWriter(t, store, 0, 1)
	chunk := bytes.Repeat([]byte("0123456789abcde"), 70_000)
	for range 20 {
		n, err := w.Write(chunk)
		if err != nil || n != len(chunk) {
			t.Fatal(n, err)
		}
		w.sent = append(w.sent, chunk...)
		must(t, w.commit(t.Context()))
		if size := cap(w.Segment.(*s3Segment).buffer); size > 8<<20 {
			t.Fatalf("%d bytes are held", size)
		}
	}
	inherits(t, store, w)
	if rest := int64(len(w.sent)) % (8 << 20); !slices.Equal(sizes, []int64{8 << 20, 8 << 20, rest}) {
		t.Errorf("the parts have %v bytes", sizes)
	}
}

// TestS3SmallCommits commits byte after byte: the mark does not grow with their number, and nothing is lost.
func TestS3SmallCommits(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	w := newWriter(t, f.openParts(t, 1000), 0, 1)
	for range 3*tailsMost + 5 {
		must(t, w.send(1))
		must(t, w.commit(t.Context()))
		if size := len(w.row.extent.Mark); size > 4*tailsMost {
			t.Fatalf("the mark has %d bytes", size)
		}
	}
	inherits(t, f.openParts(t, 1000), w)
	if list := objects(t, f.openParts(t, 64)); len(list) != 1 {
		t.Errorf("the store has %q", list)
	}
}

// TestS3Slow gives up with its context.
func TestS3Slow(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	w := newWriter(t, f.open(t), 0, 1)
	must(t, w.send(10))
	f.behind(func(_ http.ResponseWriter, r *http.Request) {
		// Only once the body is read does the server see that the client has gone.
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	is(t, "a Commit without an answer", w.commit(ctx), context.DeadlineExceeded)
	f.front.Store(nil)
	inherits(t, f.open(t), w)
}

// TestS3ReadIsCut cuts the connection within a body: that is an error, and no end.
func TestS3ReadIsCut(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	w := newWriter(t, f.open(t), 0, 1)
	must(t, w.send(100))
	must(t, w.commit(t.Context()))
	extent := inherits(t, f.open(t), w)
	f.behind(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		f.server.ServeHTTP(answer, r)
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(answer.Code)
		if _, err := w.Write(answer.Body.Bytes()[:70]); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
	got, err := read(t, f.open(t), []Extent{extent}, 0, 100)
	if err == nil || errors.Is(err, ErrShort) || !bytes.Equal(got, w.sent[:len(got)]) {
		t.Errorf("%d bytes were read, then: %v", len(got), err)
	}
}

// TestOpenS3 refuses what is no URL of a store, without telling what is in it.
func TestOpenS3(t *testing.T) {
	t.Parallel()
	for _, where := range []string{
		"", "s3://", "file:///a", "s3://user:secret@bucket", "s3://bucket?endpoint=https://user:secret@host", "s3://bucket?endpoint=secret",
		"s3://bucket?secret=1", "s3://bucket#secret", "s3://bucket/%zzsecret", "s3://bucket?endpoint=%zzsecret",
	} {
		_, err := OpenS3(t.Context(), where)
		if err == nil || where != "s3://bucket?secret=1" && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", where, err)
		}
	}
	store, err := OpenS3(t.Context(), "s3://bucket/a/b/?endpoint=https://host&region=here")
	must(t, err)
	if got := store.String(); got != "s3://bucket/a/b?endpoint=https://host" || store.prefix != "a/b/" || store.client.Options().Region != "here" {
		t.Errorf("%s, prefix %s, region %s", got, store.prefix, store.client.Options().Region)
	}
}
