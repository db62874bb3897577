// Package blobs keeps the bytes of uploads: on a disk, or in a store that speaks S3.
//
// An upload's bytes lie in segments. A segment is named by where it starts in its upload and by the epoch of whoever
// writes it, and is written by that one alone, request after request, until it is sealed or inherited: a writer that
// was taken over from and does not know it yet (a zombie) has other segments than its successor, so it cannot harm
// what the successor writes, and it is told at its next Commit.
package blobs

import (
	"context"
	"errors"
	"io"
	"time"
)

// What stores answer.
var (
	// ErrFenced says that another process has inherited the segment: nothing that was written since the last Commit
	// that succeeded counts, and nothing may be acknowledged any more.
	ErrFenced = errors.New("the segment has another owner by now")

	// ErrShort says that fewer bytes are there than were committed: a power cut has taken what was not synced.
	ErrShort = errors.New("the segment has fewer bytes than were committed")

	// ErrUnsynced says that the disk did not take what was to be synced: nothing is known of those bytes any more, and trying
	// again proves nothing, for the kernel reports a failure once.
	ErrUnsynced = errors.New("the disk did not keep the bytes")
)

// Extent is a segment as the upload's row knows it.
type Extent struct {
	Start int64  // of its first byte, in the upload
	Epoch int64  // of its writer
	Size  int64  // bytes committed
	Mark  []byte // what Commit or Seal answered last; the store's own business, nil where it needs none
}

// Note is what a Commit remembers with the bytes: enough to go on from there in another process.
type Note struct {
	Size  int64  // of the segment, what is being committed included
	State []byte // of the digest of the whole upload up to there; at most 160 bytes
	Chunk Chunk  // the zero Chunk where none is to be remembered
}

// Chunk is one request's bytes as they were verified, by which a repetition is known.
type Chunk struct {
	Offset int64 // in the upload
	Length int64
	Digest [32]byte // SHA-256
}

// Store keeps segments. All of it is safe for concurrent use, by any number of processes that share the store.
type Store interface {
	// Create makes an empty segment and opens it. A segment of that name that is there already (a try that was
	// interrupted) is emptied; one that was inherited is ErrFenced. It is for the one process whose epoch it is.
	Create(ctx context.Context, upload string, start, epoch int64) (Segment, error)

	// Inherit ends a segment's writing for ever and says what was committed of it. When it returns, every Commit of its
	// writer that was not counted fails with ErrFenced, also that of a process that was stopped in the middle of one. Of a
	// store that does not remember, only the row's epoch can say so: it has to have risen before.
	//
	// The extent that it returns is sealed as Seal leaves it, but not synced; it is larger than the one given where Commits
	// succeeded that its row has not heard of, and notes are those, oldest first. Where fewer bytes are there than
	// extent.Size says, it fails with ErrShort and has changed nothing else. Inheriting twice gives the same answer. A
	// segment that was never made is an empty one.
	Inherit(ctx context.Context, upload string, extent Extent) (Extent, []Note, error)

	// Sync makes segments that others wrote, and their directory, survive a power cut. It fails with ErrUnsynced, as Seal does,
	// where it never will; after another error it may be tried again.
	Sync(ctx context.Context, upload string, extents []Extent) error

	// Open reads length bytes of the upload from an offset. The extents lie end to end, in order, and were sealed or inherited
	// (a Disk reads others too); ctx has to last until the reader is closed. The reader fails with
	// ErrShort, never with a silent end, where bytes are missing.
	Open(ctx context.Context, upload string, extents []Extent, from, length int64) (io.ReadCloser, error)

	// Delete removes everything that an upload has here, whatever its segments are. Doing it twice is no error.
	Delete(ctx context.Context, upload string) error

	// Uploads visits every upload that has bytes here, with the time of its newest change; it is for finding leftovers.
	Uploads(ctx context.Context, visit func(upload string, changed time.Time) error) error

	// Announce leaves a sign that the instance works with this store; Sees fails where the sign of another instance is not
	// here, so that the two do not share it, and says so in words for an operator. Forget removes a sign.
	Announce(ctx context.Context, instance string) error
	Sees(ctx context.Context, instance string) error
	Forget(ctx context.Context, instance string) error

	// Remembers says that a Commit by itself survives the death of the process, so that Inherit finds it; where it does not,
	// the upload's row has to hold each Commit before it is acknowledged.
	Remembers() bool

	// Rereads says that what another process wrote, or this one before a restart, may be lost in a power cut although
	// Commit has succeeded: it has to be read once more, after Sync, before anybody is told that the upload is whole.
	Rereads() bool

	// SegmentBytes is the size from which on a writer should seal a segment and begin another; 0: never.
	SegmentBytes() int64

	// String names the store as an operator would, without secrets.
	String() string
}

// Segment is a segment that this process writes. It is not safe for concurrent use.
type Segment interface {
	// Write appends bytes that do not count yet. After an error that is not ErrFenced, Rollback makes the segment usable again.
	Write(p []byte) (int, error)

	// Commit makes everything written count, as far as the store's policy promises, and returns the mark by which it is
	// found. note.Size is the size of the segment then. After ErrFenced, or any other error, the segment is of no use any
	// more: Close it and Inherit it. Where the store does not remember, the next Commit or Seal may only come once the
	// upload's row holds the mark.
	Commit(ctx context.Context, note Note) (mark []byte, err error)

	// Rollback drops what was written since the last Commit.
	Rollback() error

	// Seal ends the segment at its last Commit and makes it survive a power cut, where the store's policy says so. It may
	// be called from another goroutine than the one that wrote, once nothing else is called any more. It closes the segment.
	Seal(ctx context.Context) (mark []byte, err error)

	// Close gives up what the process holds of the segment, without sealing it. It may follow Seal.
	Close() error
}
