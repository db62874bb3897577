package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// TestUploadExpiry leaves uploads alone for too long: every verb but GET is answered with 410, their bytes are gone, and the log
// says so. One that is ready stays.
func TestUploadExpiry(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	p := s.serve(t, "--upload-expiry=2s")
	begun := newUploader(t, p.url, speeches()[0], 1<<20)
	begun.create()
	begun.run(128 << 10)
	empty := newUploader(t, p.url, speeches()[0], 1<<20)
	empty.create()
	ready := newUploader(t, p.url, speeches()[0], 1<<10)
	ready.create()
	ready.run(1 << 10)
	for _, u := range []*uploader{begun, empty} {
		until(t, "the upload does not expire", func() bool { return u.stands().State == "expired" })
		for _, method := range []string{http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			headers := map[string][]string{
				http.MethodPut:   {"Content-Range", "bytes */1048576"},
				http.MethodPatch: {"Tus-Resumable", "1.0.0", "Content-Type", "application/offset+octet-stream", "Upload-Offset", "131072"},
			}
			got, err := u.plain(method, headers[method]...)
			if err != nil || got.status != http.StatusGone || got.offset() != -1 {
				t.Errorf("%s of an expired upload: %v (%v)", method, got, err)
			}
		}
		id := u.stands().ID
		s.gone(t, id)
		if got := s.news(t, id); !slices.Equal(got, []string{"upload_expired"}) {
			t.Errorf("the log has %v", got)
		}
	}
	ready.arrived(s)
}

// creation makes an upload of a size, and gives the status and the path.
func creation(t testing.TB, p *process, org, user string, size int) (*uploader, int) {
	t.Helper()
	u := newUploader(t, p.url, speeches()[0], size)
	u.token = token(t, handlers.Claims{Org: org, User: user, Role: "MANAGER", Properties: []string{"none"}})
	path, headers, body := u.speech.create(u)
	got, err := u.request(http.MethodPost, path, headers, strings.NewReader(body), len(body))
	if err != nil {
		t.Error(err)
		return u, 0
	}
	return u, got.status
}

// created holds the status of a creation against what it has to be.
func created(t testing.TB, p *process, org, user string, size, status int) *uploader {
	t.Helper()
	u, got := creation(t, p, org, user, size)
	if got != status {
		t.Fatalf("user %s of org %s: an upload of %d bytes is answered with %d, not %d", user, org, size, got, status)
	}
	return u
}

// TestUploadLimits makes as many uploads as one user may have, and as large ones: deleted ones do not count, ready ones do for
// the quota, and no other user's do, whatever the org.
func TestUploadLimits(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	const mib = 1 << 20
	p := s.serve(t, "--upload-open=3", "--upload-max-size=2MiB", "--upload-quota=5MiB")
	created(t, p, "1", "7", 2*mib+1, http.StatusRequestEntityTooLarge)
	first := created(t, p, "1", "7", mib, http.StatusCreated)
	second := created(t, p, "1", "7", mib, http.StatusCreated)
	created(t, p, "1", "7", mib, http.StatusCreated)
	created(t, p, "1", "7", mib, http.StatusTooManyRequests)
	created(t, p, "1", "8", 2*mib, http.StatusCreated)
	created(t, p, "2", "7", 2*mib, http.StatusCreated)
	first.run(mib)
	first.arrived(s)
	created(t, p, "1", "7", 2*mib, http.StatusCreated) // 5 MiB by now; the ready one is not open any more
	created(t, p, "1", "7", 1, http.StatusTooManyRequests)
	second.delete()
	created(t, p, "1", "7", mib+1, http.StatusRequestEntityTooLarge)
	created(t, p, "1", "7", mib, http.StatusCreated)
	first.delete()
	created(t, p, "1", "7", mib, http.StatusTooManyRequests)
	created(t, p, "1", "8", 2*mib, http.StatusCreated)
	created(t, p, "1", "8", 2*mib, http.StatusRequestEntityTooLarge)
}

// TestUploadLimitsAtOnce makes uploads at two instances at the same time: both limits hold for all together.
func TestUploadLimitsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for _, one := range []struct {
		flag    string
		most    int32
		refused int
	}{{"--upload-open=5", 5, http.StatusTooManyRequests}, {"--upload-quota=7MiB", 7, http.StatusRequestEntityTooLarge}} {
		to := []*process{s.serve(t, "--upload-max-size=1MiB", one.flag), s.serve(t, "--upload-max-size=1MiB", one.flag)}
		var taken atomic.Int32
		var group sync.WaitGroup
		for i := range 24 {
			group.Go(func() {
				switch _, status := creation(t, to[i%2], "1", one.flag, 1<<20); status {
				case http.StatusCreated:
					taken.Add(1)
				case one.refused:
				default:
					t.Errorf("%s: a creation is answered with %d", one.flag, status)
				}
			})
		}
		group.Wait()
		if taken.Load() != one.most {
			t.Errorf("%s: %d uploads were made, not %d", one.flag, taken.Load(), one.most)
		}
		to[0].kill()
		to[1].kill()
	}
}

// TestUploadLeftovers puts bytes where uploads lie that nobody needs. The next instance collects those that are old, and never
// those of an upload that lives.
func TestUploadLeftovers(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	p := s.serve(t)
	living := newUploader(t, p.url, speeches()[0], 1<<20)
	living.create()
	living.run(512 << 10)
	ready := newUploader(t, p.url, speeches()[0], 1<<10)
	ready.create()
	ready.run(1 << 10)
	deleted := newUploader(t, p.url, speeches()[0], 1<<20)
	deleted.create()
	deleted.run(64 << 10)
	dead := deleted.stands().ID
	deleted.delete()
	s.gone(t, dead)
	unknown, young := strings.Repeat("a", 26), strings.Repeat("b", 26)
	for _, id := range []string{dead, unknown, young} {
		if err := os.MkdirAll(s.bytes(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.bytes(id), "0-1"), []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{dead, unknown, living.stands().ID, ready.stands().ID} {
		s.age(t, id)
	}
	s.serve(t)
	s.gone(t, dead)
	s.gone(t, unknown)
	if _, err := os.Stat(s.bytes(young)); err != nil {
		t.Errorf("bytes that may be those of an upload that is being made are gone: %v", err)
	}
	living.run(len(living.file))
	living.arrived(s)
	ready.arrived(s)

	// A database that knows none of them, since somebody has mistyped its name, takes none of them for a leftover.
	stranger := serve(t, "--database-url="+pgtest.Database(t), "--blobs=file://"+s.dir, "--ocr-workers=0")
	until(t, "it is not said whose uploads these are", func() bool { return strings.Contains(stranger.errors.String(), "uploads of another database") })
	ready.arrived(s)
}

// age makes an upload's bytes two hours old.
func (s *shelf) age(t testing.TB, id string) {
	t.Helper()
	past := time.Now().Add(-2 * time.Hour)
	err := filepath.WalkDir(s.bytes(id), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, past, past)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readiness waits until an instance says of where uploads lie what it should.
func readiness(t testing.TB, p *process, said string) {
	t.Helper()
	until(t, fmt.Sprintf("the instance at %s does not say %s of its blobs", p.url, said), func() bool {
		_, body := get(t, p.url+"/healthz/ready", "")
		return strings.Contains(body, fmt.Sprintf(`"blobs":%q`, said))
	})
}

// TestUploadDirectoriesApart starts instances that keep uploads in different directories: none of them is ready, and their logs
// say why, until one has ended. Those that share one are.
func TestUploadDirectoriesApart(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	a, b := s.serve(t), s.serve(t)
	readiness(t, a, "ok")
	readiness(t, b, "ok")
	for _, end := range []func(*process){func(p *process) { _ = p.stop() }, (*process).kill} {
		other := *s
		other.dir = t.TempDir()
		apart := other.serve(t)
		for _, p := range []*process{apart, a, b} {
			readiness(t, p, "failed")
			until(t, "the log does not say why", func() bool {
				return strings.Contains(p.errors.String(), "do not share") && strings.Contains(p.errors.String(), "share one directory or use s3://")
			})
		}
		if answer, _ := get(t, a.url+"/healthz/ready", ""); answer.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("the instance is %s", answer.Status)
		}
		end(apart)
		began := time.Now()
		readiness(t, a, "ok")
		readiness(t, b, "ok")
		t.Logf("ready after %s", time.Since(began))
	}
	awaitReady(t, a)
}
