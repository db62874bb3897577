package blobs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A journal lies beside each segment on a disk and says what was committed of it, and whether it was inherited. It is
// only ever appended to, by records of one size, each by one write(2) with O_APPEND. The kernel puts those of all
// processes into one order, which is the judge between a writer's Commit and another's Inherit: a record counts if and
// only if it lies before the first fence. Nobody has to be asked, and nobody's clock matters (docs/adr/0013).
//
// The size divides that of a page, so that no signal can end a write in the middle of a record that begins at a
// multiple of it.
const (
	recordSize = 256
	stateMax   = 160

	recordMagic = "slj1"

	// Where things lie in a record; in between are zeros.
	recordKind   = 4  // a byte
	recordLength = 5  // of the state, a byte
	recordBytes  = 8  // size of the segment; like all numbers, big-endian
	recordChunk  = 16 // offset, length, digest
	recordState  = 64
	recordSum    = recordSize - 4 // CRC-32C of all before it
)

// The kinds of records.
const (
	kindBegin  = 'b' // the segment is empty: what was committed before does not count
	kindCommit = 'c'
	kindFence  = 'f' // the segment was inherited: what follows does not count
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one entry of a journal.
type record [recordSize]byte

// fill writes a record. It does not allocate.
func (r *record) fill(kind byte, note *Note) error {
	if len(note.State) > stateMax {
		return fmt.Errorf("the digest's state has %d bytes, %d at most are remembered", len(note.State), stateMax)
	}
	clear(r[:])
	copy(r[:], recordMagic)
	r[recordKind] = kind
	r[recordLength] = byte(len(note.State))
	binary.BigEndian.PutUint64(r[recordBytes:], uint64(note.Size))
	binary.BigEndian.PutUint64(r[recordChunk:], uint64(note.Chunk.Offset))
	binary.BigEndian.PutUint64(r[recordChunk+8:], uint64(note.Chunk.Length))
	copy(r[recordChunk+16:], note.Chunk.Digest[:])
	copy(r[recordState:], note.State)
	binary.BigEndian.PutUint32(r[recordSum:], crc32.Checksum(r[:recordSum], castagnoli))
	return nil
}

// valid says whether the record was written as a whole.
func (r *record) valid() bool {
	return string(r[:recordKind]) == recordMagic && r[recordLength] <= stateMax &&
		binary.BigEndian.Uint32(r[recordSum:]) == crc32.Checksum(r[:recordSum], castagnoli)
}

func (r *record) size() int64 { return int64(binary.BigEndian.Uint64(r[recordBytes:])) }

// note reads back what fill wrote.
func (r *record) note() Note {
	note := Note{
		Size:  r.size(),
		State: bytes.Clone(r[recordState : recordState+int(r[recordLength])]),
		Chunk: Chunk{
			Offset: int64(binary.BigEndian.Uint64(r[recordChunk:])),
			Length: int64(binary.BigEndian.Uint64(r[recordChunk+8:])),
		},
	}
	copy(note.Chunk.Digest[:], r[recordChunk+16:])
	return note
}

// history is what a journal says.
type history struct {
	notes []Note // of the commits that are larger than was asked for, oldest first
	end   int64  // of the records that count, in bytes from the journal's start
	ended bool   // by a fence, or by a record that is not whole
}

// readJournal reads up to the first record that ends it. What is torn was never acknowledged: its writer has died within
// the write, or was told of its failure; and what lies behind it has found itself in another place than its writer
// expected, who was told ErrFenced.
func readJournal(from io.Reader, beyond int64) (history, error) {
	var (
		h    history
		r    record
		read = bufio.NewReaderSize(from, 64<<10)
	)
	for {
		switch _, err := io.ReadFull(read, r[:]); err {
		case nil:
		case io.EOF:
			return h, nil
		case io.ErrUnexpectedEOF:
			h.ended = true
			return h, nil
		default:
			return h, err
		}
		if !r.valid() || r[recordKind] == kindFence {
			h.ended = true
			return h, nil
		}
		switch {
		case r[recordKind] == kindBegin:
			h.notes = nil
		case r.size() > beyond:
			h.notes = append(h.notes, r.note())
		}
		h.end += recordSize
	}
}
