package streams

import (
	"sort"
	"sync/atomic"

	"sluice/store"
)

// entry is one event in memory, framed at most once per encoding.
type entry struct {
	event   store.Event
	service uint64 // the bit of its service; 0 for one that the catalogue does not know
	message int64  // of a room, that it changes; 0: none
	framed  [encoders]Payload
	ring    *ring // that holds it; nil for one of a page
}

// entryOverhead is what an entry costs beside its data and its framings: the struct and its short strings.
const entryOverhead = 512

func (e *entry) size() int64 {
	size := int64(entryOverhead + len(e.event.Data))
	for _, p := range e.framed {
		size += int64(cap(p))
	}
	return size
}

// weight is about what the event takes in a write, and never less: names and quotes come to less than 320 bytes, and
// escapes at most double a text.
func (e *entry) weight() int {
	v := &e.event
	return 320 + len(v.Data) + 2*(len(v.Org)+len(v.PropertyID)+len(v.EntityType)+len(v.EntityID)+len(v.UserID))
}

// frame is the event's payload in an encoding. The tail's lock, or whoever else owns the entry, guards it.
func (e *entry) frame(encoder EventEncoder, epoch string) Payload {
	framed := &e.framed[encoder.Index()]
	if *framed == nil {
		*framed = NewPayload(len(e.event.Data)+320, func(dst []byte) []byte {
			return encoder.Event(dst, &e.event, epoch)
		})
		if e.ring != nil {
			e.ring.grow(int64(cap(*framed)))
		}
	}
	return *framed
}

// entriesOf wraps the events of a page.
func entriesOf(events []store.Event, catalogue *store.Catalogue) []*entry {
	entries := make([]*entry, len(events))
	for i := range events {
		entries[i] = &entry{event: events[i], service: catalogue.Bit(events[i].Service)}
		if kind := events[i].Type; events[i].Service == store.ChatService && (kind == store.MessageUpdated || kind == store.MessageDeleted) {
			_, entries[i].message = events[i].Concerns()
		}
	}
	return entries
}

// ring is the newest part of a log without holes, in order.
type ring struct {
	entries []*entry
	bytes   int64         // of the entries
	total   *atomic.Int64 // of all rings of the process
}

func (r *ring) grow(bytes int64) {
	r.bytes += bytes
	r.total.Add(bytes)
}

// from gives what comes after a position; ok is false where the ring does not reach back to it.
func (r *ring) from(after int64) (entries []*entry, ok bool) {
	if len(r.entries) == 0 || r.entries[0].event.Seq > after+1 {
		return nil, false
	}
	at := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].event.Seq > after })
	return r.entries[at:], true
}

func (r *ring) append(entries []*entry) {
	r.entries = append(r.entries, entries...)
	for _, e := range entries {
		e.ring = r
		r.grow(e.size())
	}
}

// drop forgets the oldest n entries.
func (r *ring) drop(n int) {
	for _, e := range r.entries[:n] {
		e.ring = nil
		r.grow(-e.size())
	}
	r.entries = append([]*entry(nil), r.entries[n:]...) // or the old array would keep what was dropped
}

const (
	payloadBytes = 64 << 10 // bound one write beyond its first event
	batchHead    = 128      // bytes around the events of a batch
)

// batch gathers the events of one write after another. It is used again for each.
type batch struct {
	encoder Encoder
	epoch   string
	most    int // events of one write
	limit   int // bytes of one write, beyond its first event

	admitted []*entry
	bytes    int   // about, of their frames
	last     int64 // the position up to which events were gathered or passed over
	pieces   []Payload
}

// gather takes events from the front of a list until one write is full, and returns the rest of the list.
func (b *batch) gather(entries []*entry, admits func(*entry) bool) (rest []*entry) {
	b.admitted, b.bytes = b.admitted[:0], 0
	for i, e := range entries {
		if admits(e) {
			size := e.weight()
			if full := len(b.admitted) == b.most || b.bytes+size > b.limit; full && len(b.admitted) > 0 {
				return entries[i:]
			}
			b.admitted = append(b.admitted, e)
			b.bytes += size
		}
		b.last = e.event.Seq
	}
	return nil
}

// payload frames what was gathered. One event is the ring's own bytes.
func (b *batch) payload() Payload {
	if len(b.admitted) == 1 {
		return b.admitted[0].frame(b.encoder, b.epoch)
	}
	pieces, size := b.pieces[:0], 0
	for _, e := range b.admitted {
		piece := e.frame(b.encoder.Pieces(), b.epoch)
		pieces, size = append(pieces, piece), size+len(piece.Raw())+1
	}
	b.pieces = pieces
	last := store.Cursor{Epoch: b.epoch, Seq: b.admitted[len(b.admitted)-1].event.Seq}
	return NewPayload(size+batchHead, func(dst []byte) []byte { return b.encoder.Batch(dst, pieces, last) })
}
