package blobs

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestSegment writes a segment from its making to its sealing.
func TestSegment(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		w := newWriter(t, open(t), 7, 1)
		for range 3 {
			must(t, w.send(100))
			must(t, w.commit(t.Context()))
			must(t, w.send(50))
			must(t, w.send(1000))
			must(t, w.rollback())
			must(t, w.rollback())
		}
		must(t, w.send(1))
		sealed := make(chan error, 1)
		go func() { // Seal may be called from another goroutine.
			mark, err := w.Seal(t.Context())
			w.row.extent.Size, w.row.extent.Mark = 300, mark
			sealed <- err
		}()
		must(t, <-sealed)
		must(t, w.Close())
		other := open(t)
		must(t, other.Sync(t.Context(), id, []Extent{w.row.extent, {Start: 307, Epoch: 2}}))
		holds(t, other, w.row.extent, w.sent[:300])
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("a segment that is sealed was written to")
		}
		inherits(t, other, w)
	})
}

// TestCommitSaysItsSize refuses a note of another size than that of the segment.
func TestCommitSaysItsSize(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		w := newWriter(t, open(t), 0, 1)
		must(t, w.send(10))
		if _, err := w.Commit(t.Context(), note(11)); err == nil {
			t.Error("11 bytes of 10 were committed")
		}
		if err := w.commit(t.Context()); err == nil {
			t.Error("a segment that had failed was committed")
		}
		if _, err := w.Seal(t.Context()); err == nil {
			t.Error("a segment that had failed was sealed")
		}
		inherits(t, open(t), w)
	})
}

// TestShort inherits and reads where committed bytes are missing.
func TestShort(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		store := open(t)
		w := newWriter(t, store, 0, 1)
		must(t, w.send(100))
		must(t, w.commit(t.Context()))
		extent := inherits(t, store, w)
		longer := extent
		longer.Size++
		_, _, err := store.Inherit(t.Context(), id, longer)
		is(t, "inheriting more than there is", err, ErrShort)
		got, err := read(t, store, []Extent{longer}, 0, 101)
		if is(t, "reading more than there is", err, ErrShort); !bytes.Equal(got, w.sent) {
			t.Errorf("%d bytes were read before the end", len(got))
		}
		_, err = read(t, store, []Extent{extent}, 0, 101)
		is(t, "reading beyond the extents", err, ErrShort)
		missing := Extent{Start: 100, Epoch: 1, Size: 5}
		_, _, err = store.Inherit(t.Context(), id, missing)
		is(t, "inheriting what is missing", err, ErrShort)
		_, err = read(t, store, []Extent{extent, missing}, 50, 55)
		is(t, "reading what is missing", err, ErrShort)
		inherits(t, store, w)
	})
}

// TestOpenRanges reads every range of an upload of several segments, one of them empty.
func TestOpenRanges(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		store := open(t)
		var extents []Extent
		var whole []byte
		for i, size := range []int{5, 1, 0, 9} {
			w := newWriter(t, store, int64(len(whole)), int64(i))
			must(t, w.send(size))
			must(t, w.commit(t.Context()))
			must(t, w.send(3))
			mark, err := w.Seal(t.Context())
			must(t, err)
			extents = append(extents, Extent{int64(len(whole)), int64(i), int64(size), mark})
			whole = append(whole, w.sent[:size]...)
		}
		must(t, store.Sync(t.Context(), id, extents))
		for from := range int64(len(whole) + 1) {
			for to := from; to <= int64(len(whole)); to += 1 + from%3 {
				got, err := read(t, store, extents, from, to-from)
				if err != nil || !bytes.Equal(got, whole[from:to]) {
					t.Fatalf("[%d, %d): %x, %v; not %x", from, to, got, err, whole[from:to])
				}
			}
		}
		if _, err := store.Open(t.Context(), id, extents, -1, 2); err == nil {
			t.Error("a negative offset was opened")
		}
	})
}

// leftovers lists the uploads that have bytes.
func leftovers(t testing.TB, store Store) []string {
	t.Helper()
	var list []string
	must(t, store.Uploads(t.Context(), func(upload string, changed time.Time) error {
		list = append(list, upload)
		if age := time.Since(changed); age < -time.Minute || age > 10*time.Minute {
			t.Errorf("%s has changed %s ago", upload, age)
		}
		return nil
	}))
	return list
}

// TestDelete finds uploads and deletes them, with segments in every state.
func TestDelete(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		store := open(t)
		must(t, store.Announce(t.Context(), "instance"))
		if list := leftovers(t, store); len(list) != 0 {
			t.Errorf("an empty store has %q", list)
		}
		for epoch := range int64(3) {
			w := newWriter(t, store, 0, epoch)
			must(t, w.send(500))
			must(t, w.commit(t.Context()))
			must(t, w.send(500))
			switch epoch {
			case 1:
				inherits(t, store, w)
			case 2:
				_, err := w.Seal(t.Context())
				must(t, err)
			}
		}
		if list := leftovers(t, open(t)); len(list) != 1 || list[0] != id {
			t.Errorf("%q are found", list)
		}
		stop := errors.New("enough")
		is(t, "a visit that ends", store.Uploads(t.Context(), func(string, time.Time) error { return stop }), stop)
		for range 2 {
			must(t, open(t).Delete(t.Context(), id))
			if list := leftovers(t, store); len(list) != 0 {
				t.Errorf("%q are found after deleting", list)
			}
		}
		must(t, store.Sees(t.Context(), "instance"))
	})
}

// TestNames refuses ids that are none, everywhere.
func TestNames(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		store, ctx := open(t), t.Context()
		for _, name := range []string{
			"", ".", "..", "../" + id, "../x", id + "/..", id + "\x00", id + "\n", strings.ToUpper(id), id[:25], id + id,
			id[:25] + "-", ".instances",
		} {
			_, create := store.Create(ctx, name, 0, 1)
			_, _, inherit := store.Inherit(ctx, name, Extent{})
			_, open := store.Open(ctx, name, nil, 0, 0)
			for what, err := range map[string]error{
				"Create": create, "Inherit": inherit, "Open": open,
				"Sync": store.Sync(ctx, name, nil), "Delete": store.Delete(ctx, name),
			} {
				if err == nil {
					t.Errorf("%s takes the id %q", what, name)
				}
			}
		}
		for _, name := range []string{"", ".", "..", "../" + id, "a/b", "a\x00", ".a"} {
			for what, err := range map[string]error{
				"Announce": store.Announce(ctx, name), "Sees": store.Sees(ctx, name), "Forget": store.Forget(ctx, name),
			} {
				if err == nil {
					t.Errorf("%s takes the instance %q", what, name)
				}
			}
		}
		if _, err := store.Create(ctx, id, -1, 1); err == nil {
			t.Error("a segment starts at -1")
		}
		if list := leftovers(t, store); len(list) != 0 {
			t.Errorf("hostile names have left %q", list)
		}
	})
}

// TestSigns tells stores that are shared from others.
func TestSigns(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open, elsewhere := kind(t), kind(t)(t)
			store, ctx := open(t), t.Context()
			for range 2 {
				must(t, store.Announce(ctx, "instance-1"))
				must(t, open(t).Sees(ctx, "instance-1"))
			}
			err := elsewhere.Sees(ctx, "instance-1")
			if err == nil || !strings.Contains(err.Error(), elsewhere.String()) || !strings.Contains(err.Error(), "instance-1") {
				t.Errorf("another store sees the instance, or does not say which: %v", err)
			}
			for range 2 {
				must(t, open(t).Forget(ctx, "instance-1"))
			}
			if store.Sees(ctx, "instance-1") == nil {
				t.Error("an instance is seen that was forgotten")
			}
		})
	}
}
