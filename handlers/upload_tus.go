package handlers

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"sluice/store"
	"sluice/streams"
)

const (
	tusVersion    = "1.0.0"
	tusExtensions = "creation,creation-with-upload,creation-defer-length,termination,checksum,checksum-trailer,expiration,concatenation"
	offsetStream  = "application/offset+octet-stream"
	partsLimit    = 1000 // of a concatenation
)

// tusDialect is tus 1.0.0 (https://tus.io/protocols/resumable-upload).
type tusDialect struct{ nativeDialect }

func (tusDialect) greet(header http.Header) { header.Set("Tus-Resumable", tusVersion) }

// tusOptions tells what is spoken of tus.
func tusOptions(header http.Header, largest int64) {
	header.Set("Tus-Resumable", tusVersion)
	header.Set("Tus-Version", tusVersion)
	header.Set("Tus-Extension", tusExtensions)
	header.Set("Tus-Max-Size", strconv.FormatInt(largest, 10))
	header.Set("Tus-Checksum-Algorithm", strings.Join(slices.Sorted(maps.Keys(tusAlgorithms)), ","))
}

func (tusDialect) check(header http.Header, r *http.Request) error {
	if given := r.Header.Values("Tus-Resumable"); len(given) != 1 || given[0] != tusVersion {
		header.Set("Tus-Version", tusVersion)
		p := problem(http.StatusPreconditionFailed, "the version of tus is %s, and Tus-Resumable has to name it", tusVersion)
		p.Field = "Tus-Resumable"
		return p
	}
	return nil
}

// creation reads Upload-Length or Upload-Defer-Length, what is to be joined, and the first bytes, if any.
func (tusDialect) creation(_ *Server, _ http.ResponseWriter, r *http.Request) (store.NewUpload, *streams.Chunk, error) {
	draft := store.NewUpload{}
	var err error
	if draft.Kind, draft.Parts, err = parseConcat(r.Header.Values("Upload-Concat")); err != nil {
		return draft, nil, invalid("Upload-Concat", "%v", err)
	}
	if draft.Size, err = tusLength(r, draft.Kind); err != nil {
		return draft, nil, err
	}
	if err := metadataInto(&draft, r.Header); err != nil {
		return draft, nil, err
	}
	draft.Claimed = claimed(draft.Claimed)
	if draft.Filename == "" {
		draft.Filename = unnamed
	}
	if r.ContentLength == 0 {
		return draft, nil, nil
	}
	if draft.Kind == store.UploadJoined {
		return draft, nil, problem(http.StatusForbidden, "an upload that is joined from others takes no bytes")
	}
	chunk, err := tusChunk(r)
	if err == nil && draft.Size >= 0 && chunk.Length > draft.Size {
		err = &streams.SizeError{Limit: draft.Size}
	}
	return draft, chunk, err
}

// tusLength is the size of an upload that is made, or -1 where it is told later, or follows from what is joined.
func tusLength(r *http.Request, kind store.UploadKind) (int64, error) {
	length, err := headerInteger(r, "Upload-Length")
	if err != nil {
		return -1, err
	}
	deferred := r.Header.Values("Upload-Defer-Length")
	switch {
	case len(deferred) > 0 && !slices.Equal(deferred, []string{"1"}):
		return -1, invalid("Upload-Defer-Length", "it can only be 1")
	case kind == store.UploadJoined && (length >= 0 || len(deferred) > 0):
		return -1, invalid("Upload-Length", "the length of what is joined follows from its parts")
	case kind == store.UploadJoined:
		return -1, nil
	case length >= 0 && len(deferred) > 0:
		return -1, invalid("Upload-Defer-Length", "Upload-Length is there, too")
	case length < 0 && len(deferred) == 0:
		return -1, invalid("Upload-Length", "Upload-Length or Upload-Defer-Length: 1 is required")
	}
	return length, nil
}

// parseConcat reads Upload-Concat: the kind of upload, and the ids of what is joined.
func parseConcat(values []string) (store.UploadKind, []string, error) {
	if len(values) == 0 {
		return store.UploadWhole, nil, nil
	}
	text, rest, joined := strings.Cut(strings.Join(values, ","), ";")
	switch {
	case text == "partial" && !joined:
		return store.UploadPartial, nil, nil
	case text != "final" || !joined:
		return "", nil, errors.New("partial, or final; with URLs behind it, is expected")
	}
	var parts []string
	for one := range strings.FieldsSeq(rest) {
		at, err := url.Parse(one)
		if err != nil || !strings.HasSuffix(path.Dir(at.Path), uploadsPath) || !uploadIDs.MatchString(path.Base(at.Path)) {
			return "", nil, errors.New("what is joined has to be URLs of uploads")
		}
		parts = append(parts, path.Base(at.Path))
	}
	if len(parts) == 0 || len(parts) > partsLimit {
		return "", nil, errors.New("1 to 1000 URLs are expected")
	}
	return store.UploadJoined, parts, nil
}

// uploadConcat writes Upload-Concat of an upload.
func uploadConcat(u *store.Upload) string {
	switch u.Kind {
	case store.UploadPartial:
		return "partial"
	case store.UploadJoined:
		return "final;" + uploadsPath + "/" + strings.Join(u.Parts, " "+uploadsPath+"/")
	}
	return ""
}

func (tusDialect) chunk(r *http.Request, u *store.Upload) (*streams.Chunk, error) {
	if u.Kind == store.UploadJoined {
		return nil, streams.ErrUploadJoined
	}
	chunk, err := tusChunk(r)
	if err != nil {
		return nil, err
	}
	if chunk.Total, err = headerInteger(r, "Upload-Length"); err != nil {
		return nil, err
	}
	if chunk.Offset, err = headerInteger(r, "Upload-Offset"); err == nil && chunk.Offset < 0 {
		err = invalid("Upload-Offset", "the header is required")
	}
	return chunk, err
}

// tusChunk reads what is said of a body alone.
func tusChunk(r *http.Request) (*streams.Chunk, error) {
	if mediaType(r) != offsetStream {
		return nil, problem(http.StatusUnsupportedMediaType, "the body must be %s", offsetStream)
	}
	chunk := &streams.Chunk{Length: r.ContentLength, Total: -1}
	read := func(header http.Header) (*streams.Expected, error) {
		values := header.Values("Upload-Checksum")
		if len(values) == 0 {
			return nil, nil
		}
		return tusChecksum(strings.Join(values, ","))
	}
	var err error
	if chunk.Digest, err = read(r.Header); err != nil {
		return nil, err
	}
	if chunk.Digest == nil {
		chunk.Trailer = trailing(r, "Upload-Checksum", read)
	}
	return chunk, nil
}

func (tusDialect) taken(w http.ResponseWriter, _ *store.Upload) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// statusChecksumMismatch is tus's own.
const statusChecksumMismatch = 460

func (tusDialect) refusal(p *Problem, err error) {
	var digest *streams.DigestError
	if errors.As(err, &digest) {
		p.Status, p.Type, p.Title = statusChecksumMismatch, "about:blank", "Checksum Mismatch"
	}
}
