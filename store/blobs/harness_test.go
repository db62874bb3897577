package blobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
)

// id is an upload's, as the core makes them.
const id = "abcdefghijklmnopqrstuvwxyz"

// shared opens a store again and again, as each process does that shares it.
type shared func(t testing.TB) Store

// kinds make empty stores of every kind that there is.
var kinds = map[string]func(t testing.TB) shared{
	"chunk":    func(t testing.TB) shared { return diskIn(t.TempDir(), SyncChunk) },
	"complete": func(t testing.TB) shared { return diskIn(t.TempDir(), SyncComplete) },
	"none":     func(t testing.TB) shared { return diskIn(t.TempDir(), SyncNone) },
	"s3":       func(t testing.TB) shared { return newFake(t).open },
}

func diskIn(dir string, policy SyncPolicy) shared {
	return func(t testing.TB) Store {
		t.Helper()
		disk, err := OpenDisk(filepath.Join(dir, "made", "of", "two"), policy)
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
}

// everyKind runs a test over every kind of store. All promises are the same for all.
func everyKind(t *testing.T, test func(t *testing.T, open shared)) {
	t.Helper()
	t.Parallel()
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, kind(t))
		})
	}
}

// row is what an upload's row would hold of one segment.
type row struct {
	mu     sync.Mutex
	extent Extent // guarded by mu
	taken  bool   // its epoch has risen; guarded by mu
}

// inherit takes the segment over as the core does: the epoch first, and then the store.
func (r *row) inherit(ctx context.Context, store Store) (Extent, []Note, error) {
	r.mu.Lock()
	r.taken = true
	extent := r.extent
	r.mu.Unlock()
	return store.Inherit(ctx, id, extent)
}

// writer writes a segment as the core does, and its row where the store wants that.
type writer struct {
	Segment
	store Store
	row   *row
	sent  []byte // and not rolled back
	acked int    // bytes whose Commit has succeeded
}

func newWriter(t testing.TB, store Store, start, epoch int64) *writer {
	t.Helper()
	segment, err := store.Create(t.Context(), id, start, epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { segment.Close() })
	return &writer{Segment: segment, store: store, row: &row{extent: Extent{Start: start, Epoch: epoch}}}
}

// send writes n bytes that nobody can guess.
func (w *writer) send(n int) error {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Int())
	}
	w.sent = append(w.sent, p...)
	_, err := w.Write(p)
	return err
}

// note is one that can be told from others.
func note(size int) Note {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(size)))
	return Note{Size: int64(size), State: bytes.Repeat(sum[:], 5)[:size%161], Chunk: Chunk{int64(size), int64(size) + 1, sum}}
}

// commit tells whether the bytes that were sent are acknowledged.
func (w *writer) commit(ctx context.Context) error {
	mark, err := w.Commit(ctx, note(len(w.sent)))
	if err != nil {
		return err
	}
	if !w.store.Remembers() {
		w.row.mu.Lock()
		defer w.row.mu.Unlock()
		if w.row.taken {
			return ErrFenced
		}
		w.row.extent.Size, w.row.extent.Mark = int64(len(w.sent)), mark
	}
	w.acked = len(w.sent)
	return nil
}

func (w *writer) rollback() error {
	w.sent = w.sent[:w.acked]
	return w.Rollback()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is fails unless an error is the one that was expected.
func is(t testing.TB, what string, err, expected error) {
	t.Helper()
	if !errors.Is(err, expected) {
		t.Errorf("%s: %v, not %v", what, err, expected)
	}
}

// read reads a range of the upload.
func read(t testing.TB, store Store, extents []Extent, from, length int64) ([]byte, error) {
	t.Helper()
	r, err := store.Open(t.Context(), id, extents, from, length)
	must(t, err)
	defer r.Close()
	return io.ReadAll(r)
}

// holds fails unless an extent has exactly these bytes.
func holds(t testing.TB, store Store, extent Extent, expected []byte) {
	t.Helper()
	if extent.Size != int64(len(expected)) {
		t.Fatalf("the extent has %d bytes, not %d", extent.Size, len(expected))
	}
	got, err := read(t, store, []Extent{extent}, extent.Start, extent.Size)
	if err != nil || !bytes.Equal(got, expected) {
		t.Fatalf("%d bytes read, %v; not the %d that were committed", len(got), err, len(expected))
	}
}

// inherits takes a segment over and looks that exactly the acknowledged bytes are left of it.
func inherits(t testing.TB, store Store, w *writer) Extent {
	t.Helper()
	before := w.row.extent.Size
	extent, notes, err := w.row.inherit(t.Context(), store)
	must(t, err)
	holds(t, store, extent, w.sent[:w.acked])
	last := before
	for _, got := range notes {
		expected := note(int(got.Size))
		if got.Size <= before || got.Size < last || !bytes.Equal(got.State, expected.State) || got.Chunk != expected.Chunk {
			t.Errorf("a note of %d bytes behind %d is not as it was given: %+v", got.Size, last, got)
		}
		last = got.Size
	}
	if last != extent.Size {
		t.Errorf("the last note is of %d bytes, the extent has %d", last, extent.Size)
	}
	return extent
}
