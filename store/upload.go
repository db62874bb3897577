package store

import (
	"encoding/json"
	"errors"
	"time"
)

// What the uploads' part of the store answers.
var (
	ErrNoUpload    = errors.New("there is no such upload")
	ErrUploadMoved = errors.New("the upload has another writer by now, or is in another state")
	ErrUploadCount = errors.New("the user has too many uploads under way")
	ErrUploadQuota = errors.New("the user's uploads hold too many bytes")
)

// UploadState is what has become of an upload.
type UploadState string

// The states: uploading → verifying → ready or failed; expired or deleted from any of them but ready, and deleted from there.
const (
	UploadUploading UploadState = "uploading"
	UploadVerifying UploadState = "verifying" // all bytes are there; somebody checks them
	UploadReady     UploadState = "ready"
	UploadFailed    UploadState = "failed"
	UploadExpired   UploadState = "expired"
	UploadDeleted   UploadState = "deleted" // by its creator or an ADMIN, or as a part that its whole has taken in
)

// UploadKind says what an upload is for tus's concatenation.
type UploadKind string

// The kinds.
const (
	UploadWhole   UploadKind = ""
	UploadPartial UploadKind = "partial" // bytes that a joined one is made of: no type, no event
	UploadJoined  UploadKind = "final"   // made of partial ones
)

// Upload is a file on its way, or one that has arrived.
type Upload struct {
	ID         string // 128 random bits in base32, small letters
	Org, User  string // who made it
	PropertyID string
	GuestID    string

	Filename     string // as the client named it: metadata alone, never a path
	Claimed      string // the media type that the client named; "": none
	MimeType     string // Claimed, or once the bytes are known what they are
	DocumentType string
	Metadata     string // Upload-Metadata as it was sent
	Kind         UploadKind
	Parts        []string // ids, of a joined one

	Size     int64  // of the whole; -1 while it is not known
	Limit    int64  // that the upload may never pass
	Offset   int64  // up to where bytes are committed
	Declared []byte // SHA-256 that the client named for the whole; nil: none
	SHA256   []byte // once verified; nil before

	State  UploadState
	Reason string  // why it failed
	Rate   float64 // bytes a second, of late

	// Epoch counts the writers: each takeover raises it, and what an older one still brings is refused.
	Epoch  int64
	Owner  string // the instance that writes; "": none
	Leased bool   // it has said so a moment ago
	Lives  bool   // the instance does, though it may have nothing to say of this upload

	CreatedAt time.Time
	ExpiresAt time.Time // zero once ready

	Document Document // what OCR has made of it
}

// Whole says whether every byte is there.
func (u *Upload) Whole() bool { return u.Size >= 0 && u.Offset == u.Size }

// Document is what reading an upload has given.
type Document struct {
	State      string // none, queued, running, done, failed
	Text       string
	Fields     json.RawMessage // an object: name to value, confidence, needsVerification
	Confidence float64
	Error      string
}

// NewUpload is what makes an upload. Its id is made by CreateUpload.
type NewUpload struct {
	Org, User, PropertyID, GuestID            string
	Filename, Claimed, DocumentType, Metadata string
	Kind                                      UploadKind
	Parts                                     []string
	Size                                      int64 // -1: not known yet
	Declared                                  []byte
}
