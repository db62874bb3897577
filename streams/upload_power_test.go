package streams_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// supply is the power of a disk: it knows what would survive if it were cut.
type supply struct {
	dir string

	mu    sync.Mutex
	off   bool                // guarded by mu: it was cut
	files map[string]int64    // guarded by mu: sizes that are safe
	names map[string][]string // guarded by mu: entries that are safe, of each directory
}

func newSupply(t testing.TB) *supply {
	return &supply{dir: t.TempDir(), files: map[string]int64{}, names: map[string][]string{}}
}

// open opens a desk whose power it is. The name of all is the same, which spares them the time of the lease.
func (s *supply) open(t testing.TB, url string, policy blobs.SyncPolicy) *desk {
	t.Helper()
	d := openDesk(t, deskOptions{url: url, dir: s.dir, name: "a", policy: policy})
	d.disk.Synced = s.synced
	return d
}

func (s *supply) synced(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return
	}
	if size >= 0 {
		s.files[name] = size
		return
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, name))
	if err != nil {
		panic(err)
	}
	s.names[name] = nil
	for _, entry := range entries {
		s.names[name] = append(s.names[name], entry.Name())
	}
}

// loss is what a power cut does to a file of which less is safe than there is.
type loss string

const (
	lossAll   loss = "all"   // what is not safe is gone
	lossSome  loss = "some"  // of that a part is
	lossZeros loss = "zeros" // its length was saved, and half of the bytes were not
	lossOrder loss = "order" // journals were saved, and bytes were not
)

// cut cuts the power. From then on nothing that the desk does is safe.
func (s *supply) cut(t testing.TB, how loss) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = true
	err := filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == s.dir {
			return err
		}
		name, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		switch named := slices.Contains(s.names[filepath.Dir(name)], entry.Name()); {
		case !named && how == lossAll:
			err := os.RemoveAll(path)
			if entry.IsDir() {
				return fs.SkipDir
			}
			return err
		case entry.IsDir():
			return nil
		}
		return spoil(path, s.files[name], how)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// spoil does to a file what a power cut may have done.
func spoil(path string, safe int64, how loss) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	unsafe := info.Size() - safe
	switch {
	case unsafe <= 0, how == lossOrder && filepath.Ext(path) == ".journal":
		return nil
	case how == lossSome:
		return os.Truncate(path, safe+rand.Int64N(unsafe+1))
	case how == lossZeros:
		if err := os.Truncate(path, safe+unsafe/2); err != nil {
			return err
		}
		return os.Truncate(path, info.Size())
	}
	return os.Truncate(path, safe)
}

// TestUploadPowerCut cuts the power under uploads that are under way or ready, and looks at what each policy promises of them.
func TestUploadPowerCut(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	file := aFile(10 << 20)
	for _, policy := range []blobs.SyncPolicy{blobs.SyncChunk, blobs.SyncComplete} {
		for _, how := range []loss{lossAll, lossSome, lossZeros, lossOrder} {
			for _, sent := range []int{6 << 20, 9 << 20, len(file)} {
				t.Run(string(policy)+" "+string(how), func(t *testing.T) {
					power := newSupply(t)
					a := power.open(t, url, policy)
					id := a.create(int64(len(file)))
					a.sendChunks(id, file, 0, sent)
					if sent == 6<<20 {
						// A successor has written down what it has found, and has not synced it yet.
						if upload, err := power.open(t, url, policy).Settle(context.Background(), id, nil); err != nil || upload.Offset != int64(sent) {
							t.Fatalf("the upload is at %d, not %d (%v)", upload.Offset, sent, err)
						}
					}
					power.cut(t, how)
					power.open(t, url, policy).afterPowerCut(id, file, sent, policy, how)
				})
			}
		}
	}
}

// TestUploadPowerCutAfterTakeover cuts the power under uploads that are ready, and that one process began and another one ended:
// what the first one has not synced, the other one has.
func TestUploadPowerCutAfterTakeover(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	file := aFile(10 << 20)
	for _, policy := range []blobs.SyncPolicy{blobs.SyncChunk, blobs.SyncComplete} {
		for _, sent := range []int{100_000, 9 << 20} {
			power := newSupply(t)
			a := power.open(t, url, policy)
			id := a.create(int64(len(file)))
			a.sendChunks(id, file, 0, sent)
			b := power.open(t, url, policy)
			if upload, err := b.Settle(context.Background(), id, nil); err != nil || upload.Offset != int64(sent) {
				t.Fatalf("the upload is at %d, not %d (%v)", upload.Offset, sent, err)
			}
			b.sendChunks(id, file, sent, len(file))
			power.cut(t, lossAll)
			power.open(t, url, policy).arrived(id, file)
		}
	}
}

// sendChunks sends a range in chunks of any size.
func (d *desk) sendChunks(id string, file []byte, from, to int) {
	d.t.Helper()
	for from < to {
		end := min(to, from+1+rand.IntN(1<<20))
		if _, err := d.Append(context.Background(), chunkAt(id, file, from, end)); err != nil {
			d.t.Fatal(err)
		}
		from = end
	}
}

// afterPowerCut goes on with an upload of which some bytes were acknowledged.
func (d *desk) afterPowerCut(id string, file []byte, acknowledged int, policy blobs.SyncPolicy, how loss) {
	d.t.Helper()
	ctx := context.Background()
	upload, err := d.Settle(ctx, id, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	switch offset := int(upload.Offset); {
	case acknowledged == len(file):
		d.arrived(id, file) // whatever was lost, it was not this one
		return
	case policy == blobs.SyncChunk && offset != acknowledged:
		d.t.Fatalf("the upload is at %d, although %d were acknowledged", offset, acknowledged)
	case offset > acknowledged:
		d.t.Fatalf("the upload is at %d, and %d were acknowledged", offset, acknowledged)
	}
	_, err = d.Append(ctx, chunkAt(id, file, int(upload.Offset), len(file)))
	var failed *streams.FailedError
	if errors.As(err, &failed) && policy == blobs.SyncComplete && how == lossZeros && strings.Contains(failed.Upload.Reason, "not what was sent") {
		d.t.Logf("at %d of %d: %v", upload.Offset, acknowledged, err)
		return // it is said aloud; where bytes are missing, they can be sent again
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("at %d of %d: ready", upload.Offset, acknowledged)
	d.arrived(id, file)
}
