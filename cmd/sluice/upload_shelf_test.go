package main

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// shelf is where all instances of a test keep uploads: their rows and their bytes.
type shelf struct {
	url, dir string
	db       *sql.DB
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	s := &shelf{url: pgtest.Database(t), dir: blobsOf(t)}
	db, err := sql.Open("postgres", s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s.db = db
	return s
}

// serve starts an instance upon it.
func (s *shelf) serve(t testing.TB, flags ...string) *process {
	t.Helper()
	return serve(t, append([]string{"--database-url=" + s.url, "--blobs=file://" + s.dir, "--ocr-workers=0"}, flags...)...)
}

// sum is the digest of an upload's bytes as they lie in its segments.
func (s *shelf) sum(t testing.TB, id string) string {
	t.Helper()
	rows, err := s.db.Query(`select start, epoch, size from sluice.upload_segments where upload = $1 order by start`, id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	digest, end := sha256.New(), int64(0)
	for rows.Next() {
		var start, epoch, size int64
		if err := rows.Scan(&start, &epoch, &size); err != nil {
			t.Fatal(err)
		}
		if start != end {
			t.Fatalf("a segment of %s begins at %d, the one before ends at %d", id, start, end)
		}
		file, err := os.Open(filepath.Join(s.bytes(id), fmt.Sprintf("%d-%d", start, epoch)))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(digest, io.LimitReader(file, size))
		file.Close()
		if err != nil || n != size {
			t.Fatalf("a segment of %s has %d bytes of %d: %v", id, n, size, err)
		}
		end += size
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// bytes is the directory of an upload's bytes.
func (s *shelf) bytes(id string) string { return filepath.Join(s.dir, id[:2], id) }

// gone waits until an upload has no bytes any more.
func (s *shelf) gone(t testing.TB, id string) {
	t.Helper()
	until(t, "bytes of "+id+" are there", func() bool {
		_, err := os.Stat(s.bytes(id))
		return os.IsNotExist(err)
	})
}

// news are the types of the events that the log has of an upload.
func (s *shelf) news(t testing.TB, id string) (types []string) {
	t.Helper()
	rows, err := s.db.Query(`select type from sluice.events where entity_id = $1 order by seq`, id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			t.Fatal(err)
		}
		types = append(types, one)
	}
	return types
}

// until waits for what must happen.
func until(t testing.TB, not string, happens func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !happens() {
		select {
		case <-deadline:
			t.Fatal(not)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// balance stands before instances and sends each request to another one than the last.
func balance(t testing.TB, to ...*process) string {
	t.Helper()
	var turns atomic.Int64
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			target, err := url.Parse(to[int(turns.Add(1))%len(to)].url)
			if err != nil {
				panic(err)
			}
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	t.Cleanup(front.Close)
	return front.URL
}
