package streams_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"sluice/store"
	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// unrecorded makes every record of how far an upload is fail, until what it returns is called.
func unrecorded(t testing.TB, url string) (heal func()) {
	t.Helper()
	query(t, url, `create function sluice.refuse() returns trigger language plpgsql as
			$$ begin if new.moved <> old.moved then raise 'not now'; end if; return new; end $$;
		create trigger refuse before update on sluice.uploads for each row execute function sluice.refuse()`)
	return func() { query(t, url, `drop trigger refuse on sluice.uploads; drop function sluice.refuse()`) }
}

// TestUploadVerifiedElsewhere asks for an upload while another instance verifies it.
func TestUploadVerifiedElsewhere(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	d := openDesk(t, deskOptions{url: url, dir: t.TempDir(), name: "a"})
	ctx := context.Background()
	file := aFile(1000)
	id := d.create(1000)
	if _, err := d.Append(ctx, chunkAt(id, file, 0, 500)); err != nil {
		t.Fatal(err)
	}
	query(t, url, `update sluice.uploads set state = 'verifying', owner = 'b', epoch = epoch + 1, lease_until = now() + interval '1 hour'`)
	if upload, err := d.Settle(ctx, id, nil); !errors.Is(err, streams.ErrUploadBusy) || upload.State != store.UploadVerifying {
		t.Errorf("settling: %v, and the upload is %s", err, upload.State)
	}
	if _, err := d.Append(ctx, chunkAt(id, file, 500, 1000)); !errors.Is(err, streams.ErrUploadBusy) {
		t.Errorf("appending: %v", err)
	}
	if err := d.Abort(ctx, id); !errors.Is(err, streams.ErrUploadBusy) {
		t.Errorf("aborting: %v", err)
	}
}

// TestUploadTakenOverUnrecorded takes over an upload that a power cut has shortened, and fails to write down what is cut off:
// nothing of it comes back.
func TestUploadTakenOverUnrecorded(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	a := openDesk(t, deskOptions{url: url, dir: dir, name: "a"})
	ctx := context.Background()
	file := aFile(24 << 20)
	id := a.create(int64(len(file)))
	c := chunkAt(id, file, 0, 20<<20)
	c.Digest = nil
	if _, err := a.Append(ctx, c); err != nil {
		t.Fatal(err)
	}
	a.Uploads.Close(ctx)
	// The second of three segments is shorter, and the third has lost what was in it.
	query(t, url, `update sluice.upload_segments set synced = false`)
	if err := errors.Join(os.Truncate(filepath.Join(dir, id[:2], id, "8388608-1"), 1<<20),
		os.WriteFile(filepath.Join(dir, id[:2], id, "16777216-1"), make([]byte, 4<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	b := openDesk(t, deskOptions{url: url, dir: dir, name: "b"})
	heal := unrecorded(t, url)
	if upload, err := b.Settle(ctx, id, nil); err == nil || upload.ID != "" {
		t.Fatalf("the upload was taken over without a word in its row, and is at %d: %v", upload.Offset, err)
	}
	if receipt, err := b.Append(ctx, chunkAt(id, file, 20<<20, 24<<20)); err == nil || receipt.Upload.ID != "" {
		t.Fatalf("bytes were taken without a word in the row, and the upload is at %d: %v", receipt.Upload.Offset, err)
	}
	heal()
	for _, to := range []int{17 << 20, 24 << 20} {
		upload, err := b.Settle(ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Append(ctx, chunkAt(id, file, int(upload.Offset), to)); err != nil {
			t.Fatal(err)
		}
	}
	b.arrived(id, file)
}

// TestUploadFailsUnderNewerRequest has the disk refuse a new segment while a newer request waits: the older one fails, and
// nothing that it acknowledged is lost.
func TestUploadFailsUnderNewerRequest(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	d := openDesk(t, deskOptions{url: url, dir: dir, name: "a"})
	ctx := context.Background()
	file := aFile(10 << 20)
	id := d.create(-1)
	at := filepath.Join(dir, id[:2], id)
	newer, interrupted := make(chan error, 1), make(chan struct{})
	var once sync.Once
	c := chunkAt(id, file, 0, len(file))
	c.Digest, c.Total, c.Interrupt = nil, int64(len(file)), func() { once.Do(func() { close(interrupted) }) }
	c.Body = io.MultiReader(bytes.NewReader(file[:8<<20-1]), readerFunc(func([]byte) (int, error) {
		if err := errors.Join(os.Rename(at, at+"x"), os.WriteFile(at, nil, 0o600)); err != nil {
			t.Error(err)
		}
		go func() {
			_, err := d.Settle(ctx, id, nil)
			newer <- err
		}()
		<-interrupted
		return 0, io.EOF
	}), bytes.NewReader(file[8<<20-1:]))
	if _, err := d.Append(ctx, c); err == nil || errors.Is(err, streams.ErrUploadYielded) {
		t.Errorf("the older request: %v", err)
	}
	<-newer
	if err := errors.Join(os.Remove(at), os.Rename(at+"x", at)); err != nil {
		t.Fatal(err)
	}
	if upload, err := d.Settle(ctx, id, nil); err != nil || upload.Offset != 8<<20 {
		t.Fatalf("the upload is at %d: %v", upload.Offset, err)
	}
	rest := chunkAt(id, file, 8<<20, len(file))
	rest.Total = int64(len(file)) // what the older request said of it may have gone with it
	if _, err := d.Append(ctx, rest); err != nil {
		t.Fatal(err)
	}
	d.arrived(id, file)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestUploadStoreAway has an S3 store refuse the last request for a file whose bytes it has all: the upload is not lost.
func TestUploadStoreAway(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "some")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "one")
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	behind := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() && r.Method == http.MethodPut && !strings.Contains(r.URL.Path, ".tail/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	kept, err := blobs.OpenS3(t.Context(), "s3://bucket?endpoint="+server.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, deskOptions{url: pgtest.Database(t), dir: t.TempDir(), name: "a", blobs: kept})
	ctx := context.Background()
	file := aFile(100_000)
	id := d.create(int64(len(file)))
	away.Store(true)
	if _, err := d.Append(ctx, chunkAt(id, file, 0, len(file))); err == nil || errors.As(err, new(*streams.FailedError)) {
		t.Fatalf("appending to a store that is away: %v", err)
	}
	away.Store(false)
	if _, err := d.Settle(ctx, id, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	d.arrived(id, file)
}

// TestUploadBytesGone removes the bytes of an upload before its type is known: it fails, and is not tried for ever.
func TestUploadBytesGone(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	d := openDesk(t, deskOptions{url: url, dir: dir, name: "a"})
	ctx := context.Background()
	file, refused := aFile(1000), errors.New("not yours any more")
	id := d.create(1000)
	c := chunkAt(id, file, 0, 1000)
	c.Permit = func() error { return refused }
	if _, err := d.Append(ctx, c); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	d.Uploads.Close(ctx)
	query(t, url, `update sluice.upload_segments set sealed = true, synced = true; update sluice.uploads set state = 'verifying'`)
	if err := os.RemoveAll(filepath.Join(dir, id[:2], id)); err != nil {
		t.Fatal(err)
	}
	if upload, err := d.Settle(ctx, id, nil); err != nil || upload.State != store.UploadFailed {
		t.Fatalf("the upload is %s: %v", upload.State, err)
	}
}
