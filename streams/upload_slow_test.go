package streams_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"sluice/store"
	"sluice/store/localpg/pgtest"
)

// TestUploadSlowWriterIsAsked takes over from an instance that lives and has nothing to record: what it has received counts.
func TestUploadSlowWriterIsAsked(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	a, b := openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})
	ctx := context.Background()
	if _, err := a.events.KeepInstance(ctx, store.Instance{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	file := aFile(200_000)
	id := a.create(int64(len(file)))
	body, writer := io.Pipe()
	c := chunkAt(id, file, 0, len(file))
	c.Digest, c.Body = nil, body
	c.Interrupt = func() { writer.CloseWithError(errors.New("interrupted")) }
	older := make(chan error, 1)
	go func() {
		_, err := a.Append(ctx, c)
		older <- err
	}()
	if _, err := writer.Write(file[:150_000]); err != nil {
		t.Fatal(err)
	}
	query(t, url, `update sluice.uploads set lease_until = now() - interval '1 second'`)
	upload, err := b.Settle(ctx, id, nil)
	if err != nil || upload.Offset != 150_000 {
		t.Fatalf("the upload is at %d: %v", upload.Offset, err)
	}
	if err := <-older; !yielded(err, 150_000) {
		t.Errorf("the older request: %v", err)
	}
}
