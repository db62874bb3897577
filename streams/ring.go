package streams

import (
	"slices"
	"sort"

	"sluice/store"
)

// entry is one event in memory, framed at most once per encoding.
type entry struct {
	event   store.Event
	service uint64 // the bit of its service; 0 for one that the catalogue does not know
	framed  [encoders]Payload
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

// frame is the event's payload in an encoding. The tail's lock, or whoever else owns the entry, guards it.
func (e *entry) frame(encoder Encoder, epoch string) Payload {
	framed := &e.framed[encoder.Index()]
	if *framed == nil {
		*framed = NewPayload(len(e.event.Data)+320, func(dst []byte) []byte {
			return encoder.Event(dst, &e.event, epoch)
		})
	}
	return *framed
}

// entriesOf wraps the events of a page.
func entriesOf(events []store.Event, catalogue *store.Catalogue) []*entry {
	entries := make([]*entry, len(events))
	for i := range events {
		entries[i] = &entry{event: events[i], service: catalogue.Bit(events[i].Service)}
	}
	return entries
}

// ring is the newest part of a log without holes, in order.
type ring struct {
	entries []*entry
	bytes   int64 // as counted into the budget
}

// from gives what comes after a position; ok is false where the ring does not reach back to it.
func (r *ring) from(after int64) (entries []*entry, ok bool) {
	if len(r.entries) == 0 || r.entries[0].event.Seq > after+1 {
		return nil, false
	}
	at := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].event.Seq > after })
	return r.entries[at:], true
}

func (r *ring) append(entries []*entry) (grown int64) {
	r.entries = append(r.entries, entries...)
	for _, e := range entries {
		grown += e.size()
	}
	r.bytes += grown
	return grown
}

// drop forgets the oldest n entries and returns the bytes that this frees.
func (r *ring) drop(n int) (freed int64) {
	for _, e := range r.entries[:n] {
		freed += e.size()
	}
	freed = min(freed, r.bytes)
	if n == len(r.entries) {
		freed = r.bytes
		r.entries = nil
	} else {
		r.entries = slices.Clone(r.entries[n:]) // or the old array would keep what was dropped
	}
	r.bytes -= freed
	return freed
}

// payloads joins the frames of admitted entries into as few payloads as the bounds of one write allow. One event is
// the ring's own bytes.
func payloads(admitted []*entry, encoder Encoder, epoch string, batchMax int) []batchPayload {
	var out []batchPayload
	for len(admitted) > 0 {
		count, bytes := 0, 0
		for count < len(admitted) && count < batchMax {
			size := len(admitted[count].frame(encoder, epoch).Raw())
			if count > 0 && bytes+size > payloadBytes {
				break
			}
			count++
			bytes += size
		}
		one := batchPayload{entries: admitted[:count]}
		if count == 1 {
			one.bytes = admitted[0].frame(encoder, epoch)
		} else {
			one.bytes = NewPayload(bytes, func(dst []byte) []byte {
				for _, e := range admitted[:count] {
					dst = append(dst, e.frame(encoder, epoch).Raw()...)
				}
				return dst
			})
		}
		out = append(out, one)
		admitted = admitted[count:]
	}
	return out
}

// payloadBytes bounds one write beyond its first event.
const payloadBytes = 64 << 10

// batchPayload is one write and the events in it.
type batchPayload struct {
	bytes   Payload
	entries []*entry
}

func (b *batchPayload) last() int64 { return b.entries[len(b.entries)-1].event.Seq }
