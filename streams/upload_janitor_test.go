package streams_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
)

// TestUploadBesideRun sends chunks while the uploads are kept in order: the two do not disturb each other.
func TestUploadBesideRun(t *testing.T) {
	t.Parallel()
	d := openDesk(t, deskOptions{url: pgtest.Database(t), dir: t.TempDir(), name: "a"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { d.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	const chunk = 1 << 10
	file := aFile(10 << 20)
	id := d.create(int64(len(file)))
	began, from := time.Now(), 0
	for ; time.Since(began) < time.Second && from+chunk < len(file); from += chunk {
		if _, err := d.Append(ctx, chunkAt(id, file, from, from+chunk)); err != nil {
			t.Fatalf("the chunk at %d: %v", from, err)
		}
	}
	d.finishWith(id, file)
	d.arrived(id, file)
}

// TestUploadForgotten deletes an upload that was ready: its row goes as those of others do.
func TestUploadForgotten(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	d := openDesk(t, deskOptions{url: url, dir: t.TempDir(), name: "a"})
	ctx := context.Background()
	file := aFile(1000)
	id := d.create(1000)
	if _, err := d.Append(ctx, chunkAt(id, file, 0, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := d.Abort(ctx, id); err != nil {
		t.Fatal(err)
	}
	query(t, url, `update sluice.uploads set expires = expires - interval '31 days'`)
	if err := d.events.ForgetUploads(ctx, 30*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if upload, err := d.Find(ctx, id); !errors.Is(err, store.ErrNoUpload) {
		t.Errorf("after a month the upload is %s: %v", upload.State, err)
	}
}
