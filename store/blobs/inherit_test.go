package blobs

import (
	"bytes"
	"context"
	"sync"
	"testing"
)

// TestInheritVanished takes over from writers that have gone, with and without bytes beyond the last Commit, and also where
// there never was one.
func TestInheritVanished(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		for epoch, beyond := range []int{0, 1, 1000} {
			for _, size := range []int{0, 1, 300} {
				w := newWriter(t, open(t), int64(size), int64(epoch))
				if size > 0 {
					must(t, w.send(size))
					must(t, w.commit(t.Context()))
				}
				must(t, w.send(beyond))
				must(t, w.Close())
				first := inherits(t, open(t), w)
				second := inherits(t, open(t), w)
				if first.Size != second.Size {
					t.Errorf("%d bytes were inherited first, then %d", first.Size, second.Size)
				}
			}
		}
		never := Extent{Start: 9000, Epoch: 9}
		got, notes, err := open(t).Inherit(t.Context(), id, never)
		if err != nil || got.Size != 0 || len(notes) != 0 {
			t.Errorf("a segment that was never made: %+v, %v, %v", got, notes, err)
		}
	})
}

// steps are what the writer does between whose steps its segment is inherited.
var steps = []func(context.Context, *writer) error{
	func(_ context.Context, w *writer) error { return w.send(100) },
	func(ctx context.Context, w *writer) error { return w.commit(ctx) },
	func(_ context.Context, w *writer) error { return w.send(70) },
	func(_ context.Context, w *writer) error { return w.rollback() },
	func(_ context.Context, w *writer) error { return w.send(200) },
	func(ctx context.Context, w *writer) error { return w.commit(ctx) },
	func(ctx context.Context, w *writer) error { return w.commit(ctx) },
	func(_ context.Context, w *writer) error { return w.send(3) },
	func(ctx context.Context, w *writer) error { return w.commit(ctx) },
}

// TestInheritBetween takes over between any two steps of a writer, which then goes on as if nothing had happened: nothing
// that it still does is acknowledged or seen.
func TestInheritBetween(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		for cut := range len(steps) {
			w := newWriter(t, open(t), 0, int64(cut))
			for _, step := range steps[:cut] {
				must(t, step(t.Context(), w))
			}
			kept := bytes.Clone(w.sent[:w.acked])
			extent := inherits(t, open(t), w)
			for _, step := range steps[cut:] {
				if err := step(t.Context(), w); err != nil {
					is(t, "a zombie's step", err, ErrFenced)
					break
				}
			}
			if w.acked != len(kept) {
				t.Errorf("cut before step %d: a zombie's Commit was acknowledged", cut)
			}
			w.Seal(t.Context()) // a zombie may be in the middle of it; whatever comes of it, nothing is seen of it
			holds(t, open(t), extent, kept)
			again, _, err := w.row.inherit(t.Context(), open(t))
			must(t, err)
			holds(t, open(t), again, kept)
		}
	})
}

// TestInheritRunning takes over from a writer that is in the middle of its work, by two at once: what it was told is kept,
// nothing else, and both say the same.
func TestInheritRunning(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		for epoch := range int64(20) {
			w := newWriter(t, open(t), 0, epoch)
			progress, ended := make(chan struct{}, 1000), make(chan error, 1)
			go func() {
				for {
					err := w.send(20)
					if err == nil {
						err = w.commit(t.Context())
					}
					if err != nil {
						ended <- err
						return
					}
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			}()
			for range epoch % 7 {
				<-progress
			}
			var extents [2]Extent
			var group sync.WaitGroup
			for i := range extents {
				store := open(t)
				group.Go(func() {
					extent, _, err := w.row.inherit(t.Context(), store)
					if err != nil {
						t.Error(err)
					}
					extents[i] = extent
				})
			}
			group.Wait()
			is(t, "the writer", <-ended, ErrFenced)
			if extents[0].Size != extents[1].Size {
				t.Errorf("one inherits %d bytes, another one %d", extents[0].Size, extents[1].Size)
			}
			inherits(t, open(t), w)
			holds(t, open(t), extents[0], w.sent[:w.acked])
		}
	})
}

// TestCreateAgain makes a segment anew after a try that was interrupted, and does not after it was inherited.
func TestCreateAgain(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		store := open(t)
		first := newWriter(t, store, 0, 1)
		must(t, first.send(100))
		_, err := first.Commit(t.Context(), note(100))
		must(t, err)
		second := newWriter(t, store, 0, 1)
		must(t, first.send(1))
		must(t, second.send(40))
		must(t, second.commit(t.Context()))
		if store.Remembers() {
			is(t, "the first try's Commit", first.commit(t.Context()), ErrFenced)
		}
		inherits(t, open(t), second)
		_, err = store.Create(t.Context(), id, 0, 1)
		is(t, "making an inherited one", err, ErrFenced)
		inherits(t, open(t), second)
	})
}
