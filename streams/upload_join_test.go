package streams_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// part makes a whole partial upload.
func (d *desk) part(file []byte) string {
	d.t.Helper()
	ctx := context.Background()
	upload, err := d.Create(ctx, store.NewUpload{Org: "1", User: "7", Kind: store.UploadPartial, Size: int64(len(file))})
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.Append(ctx, chunkAt(upload.ID, file, 0, len(file))); err != nil {
		d.t.Fatal(err)
	}
	return upload.ID
}

// TestUploadJoinedOnce asks for the same joined upload at once, of two instances: there is one, and it is right.
func TestUploadJoinedOnce(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	desks := []*desk{openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})}
	file := aFile(3 << 20)
	made := store.NewUpload{Org: "1", User: "7", Filename: "a.pdf", Kind: store.UploadJoined, Size: -1}
	for at := 0; at < 3; at++ {
		made.Parts = append(made.Parts, desks[0].part(file[at<<20:(at+1)<<20]))
	}
	// Both find that there is none yet, and wait for each other.
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`select pg_advisory_xact_lock(hashtextextended('1' || chr(31) || '7', 7))`); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, d := range desks {
		all.Go(func() {
			_, err := d.Create(context.Background(), made)
			if err != nil && !errors.Is(err, streams.ErrUploadBusy) && !errors.Is(err, streams.ErrUploadYielded) {
				t.Errorf("joining: %v", err)
			}
		})
	}
	eventually(t, "the two do not wait", func() bool {
		var waiting int
		err := tx.QueryRow(`select count(*) from pg_locks where locktype = 'advisory' and not granted
			and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting)
		return err == nil && waiting == 2
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	upload, err := desks[0].Create(context.Background(), made)
	if err != nil {
		t.Fatal(err)
	}
	desks[1].arrived(upload.ID, file)
	query(t, url, `do $$ begin assert (select count(*) from sluice.uploads where kind = 'final') = 1, 'more than one'; end $$`)
}

// TestUploadJoinedQuota joins one part many times: what it holds is not given back more than once.
func TestUploadJoinedQuota(t *testing.T) {
	t.Parallel()
	d := openDesk(t, deskOptions{
		url: pgtest.Database(t), dir: t.TempDir(), name: "a",
		limits: store.UploadLimits{MaxSize: 1 << 20, Quota: 250_000, Open: 10, Expiry: time.Hour},
	})
	part := d.part(aFile(100_000))
	made := store.NewUpload{Org: "1", User: "7", Kind: store.UploadJoined, Parts: []string{part, part, part}}
	if upload, err := d.Create(context.Background(), made); !errors.Is(err, store.ErrUploadQuota) {
		t.Errorf("an upload of %d bytes was made: %v", upload.Size, err)
	}
}
