package streams_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/blobs"
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

// slowDisk reads a byte each millisecond, and says when it is asked to.
type slowDisk struct {
	*blobs.Disk
	asked chan struct{}
}

func (s slowDisk) Open(ctx context.Context, upload string, extents []blobs.Extent, from, length int64) (io.ReadCloser, error) {
	body, err := s.Disk.Open(ctx, upload, extents, from, length)
	s.asked <- struct{}{}
	return slowBody{body}, err
}

type slowBody struct{ io.ReadCloser }

func (s slowBody) Read(p []byte) (int, error) {
	<-time.After(time.Millisecond)
	return s.ReadCloser.Read(p[:1])
}

// TestUploadVerificationEnds ends an instance while it verifies for long, what others have left and what a request has brought:
// it does not wait for that, and another instance goes on.
func TestUploadVerificationEnds(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"left", "brought"} {
		url, dir := pgtest.Database(t), t.TempDir()
		a := openDesk(t, deskOptions{url: url, dir: dir, name: "a"})
		disk := slowDisk{a.disk, make(chan struct{}, 10)}
		b := openDesk(t, deskOptions{url: url, dir: dir, name: "b", blobs: disk})
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		file := aFile(200_000)
		id := a.create(int64(len(file)))
		if _, err := a.Append(ctx, chunkAt(id, file, 0, len(file)-1)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		if how == "left" {
			c := chunkAt(id, file, len(file)-1, len(file))
			c.Permit = func() error { return errors.New("not now") }
			if _, err := a.Append(ctx, c); err == nil {
				t.Fatal("the upload was finished")
			}
			a.Uploads.Close(ctx)
			query(t, url, `update sluice.upload_segments set sealed = true; update sluice.uploads set state = 'verifying'`)
			go func() { b.Run(ctx); close(ended) }()
		} else {
			go func() {
				_, _ = b.Append(ctx, chunkAt(id, file, len(file)-1, len(file)))
				close(ended)
			}()
		}
		<-disk.asked
		began := time.Now()
		stop()
		if how == "brought" {
			b.Uploads.Close(ctx)
		}
		<-ended
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("what was %s was verified for %v more", how, took)
		}
		c := openDesk(t, deskOptions{url: url, dir: dir, name: "c"})
		eventually(t, "nobody goes on", func() bool {
			upload, err := c.Settle(context.Background(), id, nil)
			return err == nil && upload.State == store.UploadReady
		})
		c.arrived(id, file)
	}
}
