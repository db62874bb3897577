package blobs

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// model is an upload that is written by one process after another.
type model struct {
	t       testing.TB
	open    shared
	epoch   int64
	w       *writer
	extents []Extent
	kept    []byte // of the extents
	writers []*writer
}

func (m *model) next() {
	m.epoch++
	m.w = newWriter(m.t, m.open(m.t), int64(len(m.kept)), m.epoch)
	m.writers = append(m.writers, m.w)
}

// keep goes on with another segment behind the one that has ended.
func (m *model) keep(extent Extent) {
	m.kept = append(m.kept, m.w.sent[:m.w.acked]...)
	if extent.Size > 0 {
		m.extents = append(m.extents, extent)
	}
	m.next()
}

// TestAnySequence does anything in any order: exactly what was committed is kept, in every upload and every store.
func TestAnySequence(t *testing.T) {
	everyKind(t, func(t *testing.T, open shared) {
		rapid.Check(t, func(r *rapid.T) {
			m := &model{t: t, open: open}
			must(t, open(t).Delete(t.Context(), id))
			m.next()
			zombie := m.w
			for range rapid.IntRange(1, 25).Draw(r, "steps") {
				switch rapid.SampledFrom([]string{"send", "send", "commit", "commit", "rollback", "inherit", "seal", "zombie"}).Draw(r, "step") {
				case "send":
					must(t, m.w.send(rapid.IntRange(0, 150).Draw(r, "bytes")))
				case "commit":
					must(t, m.w.commit(t.Context()))
				case "rollback":
					must(t, m.w.rollback())
				case "inherit":
					zombie = m.w
					m.keep(inherits(t, open(t), m.w))
				case "seal":
					must(t, m.w.rollback())
					mark, err := m.w.Seal(t.Context())
					must(t, err)
					m.keep(Extent{int64(len(m.kept)), m.epoch, int64(m.w.acked), mark})
				case "zombie":
					if acked := zombie.acked; zombie != m.w && zombie.send(30) == nil && (zombie.commit(t.Context()) == nil || zombie.acked != acked) {
						r.Fatal("a zombie's Commit was acknowledged")
					}
				}
			}
			m.keep(inherits(t, open(t), m.w))
			got, err := read(t, open(t), m.extents, 0, int64(len(m.kept)))
			if err != nil || !bytes.Equal(got, m.kept) {
				r.Errorf("%d bytes are there, %v; %d were committed", len(got), err, len(m.kept))
			}
			for _, w := range m.writers {
				must(t, w.Close())
			}
		})
	})
}
