package streams_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
)

// TestUploadDatabaseCut cuts the connections to Postgres all the time while files are sent to two instances: what was
// acknowledged stays, and each file arrives once.
func TestUploadDatabaseCut(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	link := pgtest.NewLink(t, url)
	var desks []*desk
	for _, name := range []string{"a", "b"} {
		desks = append(desks, openDesk(t, deskOptions{url: link.URL, dir: dir, name: name, policy: blobs.SyncNone}))
	}
	desks = append(desks, openDesk(t, deskOptions{url: url, dir: dir, name: "c"})) // that has all of it
	ctx, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	t.Cleanup(func() { stop(); beside.Wait() })
	for _, d := range desks {
		beside.Go(func() { d.Run(ctx) })
	}
	beside.Go(func() {
		for ctx.Err() == nil {
			link.Cut()
			<-time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
		}
	})
	const files = 6
	for i := range files {
		file := aFile(2<<20 + i)
		id := desks[2].create(int64(len(file)))
		d := desks[i%2]
		for acknowledged, until := 0, time.Now().Add(time.Minute); ; {
			if time.Now().After(until) {
				t.Fatalf("file %d does not arrive; it is at %d", i, acknowledged)
			}
			upload, err := d.Settle(ctx, id, func() error { return nil })
			if err != nil {
				d = desks[rand.IntN(2)]
				continue
			}
			if int(upload.Offset) < acknowledged {
				t.Fatalf("file %d is at %d, and was at %d", i, upload.Offset, acknowledged)
			}
			if upload.State == store.UploadReady {
				break
			}
			for from := int(upload.Offset); from < len(file); from = acknowledged {
				c := chunkAt(id, file, from, min(len(file), from+100_000))
				if rand.IntN(2) == 0 {
					c.Digest, c.Body = nil, bytes.NewReader(file[from:from+int(c.Length)])
				}
				receipt, err := d.Append(ctx, c)
				if err != nil {
					break
				}
				acknowledged = int(receipt.Upload.Offset)
			}
		}
		desks[2].arrived(id, file)
	}
	page, err := desks[2].events.Page(ctx, "1", 0, time.Time{}, 100)
	if err != nil || len(page.Events) != files {
		t.Errorf("the log has %d events of %d files (%v)", len(page.Events), files, err)
	}
}
