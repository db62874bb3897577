package streams_test

import (
	"context"
	"testing"
	"time"

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
