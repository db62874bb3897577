package streams

import (
	"crypto"
	"errors"
	"fmt"
	"io"

	"sluice/store"
)

// What Uploads answers, beside store.ErrNoUpload, ErrUploadCount and ErrUploadQuota.
var (
	ErrUploadBusy    = errors.New("the upload is being verified, or its writer does not let go; try again")
	ErrUploadGone    = errors.New("the upload has expired, has failed, or was deleted")
	ErrUploadJoined  = errors.New("the upload is joined from others and takes no bytes")
	ErrUploadWhole   = errors.New("the upload is complete already")
	ErrUploadTotal   = errors.New("the upload's size is another one")
	ErrUploadDigest  = errors.New("another digest was given for the upload before")
	ErrUploadParts   = errors.New("what is to be joined are not whole partial uploads of the same user")
	ErrUploadSlow    = errors.New("the body comes too slowly")
	ErrUploadYielded = errors.New("a newer request for the upload has taken over")
	ErrChunkLength   = errors.New("the body has another length than was announced")
	ErrNotReady      = errors.New("the upload is not ready")
	ErrNoMediaType   = errors.New("files of this type are not taken")
)

// OffsetError says that a chunk does not begin where the upload's bytes end.
type OffsetError struct {
	Given   int64
	Current int64
	// Conflict: the range was committed before, by a request whose digest was another one.
	Conflict bool
	Yielded  bool // it did, but a newer request for the upload has taken over; errors.Is finds ErrUploadYielded
}

// Error implements error.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("the chunk begins at %d, the upload stands at %d", e.Given, e.Current)
}

// Unwrap implements errors.Is.
func (e *OffsetError) Unwrap() error {
	if e.Yielded {
		return ErrUploadYielded
	}
	return nil
}

// SizeError says that an upload would be larger than it may be.
type SizeError struct{ Limit int64 }

// Error implements error.
func (e *SizeError) Error() string { return fmt.Sprintf("the upload may have %d bytes", e.Limit) }

// DigestError says that bytes do not have the digest that was given for them. Nothing of the chunk counts.
type DigestError struct{ Offset int64 }

// Error implements error.
func (e *DigestError) Error() string { return "the bytes do not have the digest that was given" }

// FailedError says that an upload is whole but not what it should be: it has failed for good, and its bytes are gone.
type FailedError struct {
	Upload store.Upload // in state failed
	Digest bool         // the digest of the whole was another one; else the type is not taken
}

// Error implements error.
func (e *FailedError) Error() string { return "the upload has failed: " + e.Upload.Reason }

// Expected is a digest that bytes must have.
type Expected struct {
	Algorithm crypto.Hash // SHA256, SHA512, SHA1 or MD5
	Sum       []byte
}

// Chunk is one request's bytes for an upload.
type Chunk struct {
	Upload string
	Offset int64
	Length int64 // of the body where it is known, or -1; a body of another length is ErrChunkLength
	Body   io.Reader

	Total int64 // the size of the whole where the request names it, or -1
	Final bool  // the body's last byte is the upload's last byte, so that its size is known then

	// Digest is what the body must have: then all of the body counts or nothing. Trailer, where it is not nil, is asked for it
	// once the body has been read, and may answer nil.
	Digest  *Expected
	Trailer func() (*Expected, error)
	Whole   []byte // SHA-256 that the whole must have, where the request names it

	// Interrupt makes reads of Body fail soon. A newer request for the upload has it called, from another goroutine.
	Interrupt func()

	// Repeatable: a range that was committed with the same digest before is answered again, not refused.
	Repeatable bool

	// Permit, where it is not nil, is asked once all bytes are there, before they are verified: whoever began the upload
	// may have lost the right to it meanwhile. Its error is Append's; the bytes stay.
	Permit func() error

	// Progress, where it is not nil, is told now and then up to where bytes are committed while the body is read.
	Progress func(offset int64)
}

// Receipt is what has become of a chunk.
type Receipt struct {
	Upload store.Upload // as it stands after it; ready where the chunk was the last
	// Repeated: the range was committed before with the same digest (the answer to it was lost).
	Repeated bool
}
