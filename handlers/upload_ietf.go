package handlers

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/store"
	"sluice/streams"
)

const (
	partialUpload = "application/partial-upload"

	// statusResumptionSupported is the draft's interim answer.
	statusResumptionSupported = 104
	progressEvery             = time.Second // between two of them
)

// interopVersions are the states of the draft that are spoken, by Upload-Draft-Interop-Version: -01 is 3, -03 is 5, -04 and -05
// are 6, -09 to -11 are 8, -12 is 9.
var interopVersions = []int{3, 5, 6, 8, 9}

// ietfDialect is draft-ietf-httpbis-resumable-upload. Who names no version, or one that is not spoken, is taken to speak the
// newest, and gets no interim answers.
type ietfDialect struct {
	nativeDialect
	version int // one of interopVersions, or 0
}

// interopVersion reads Upload-Draft-Interop-Version.
func interopVersion(r *http.Request) int {
	version, err := headerInteger(r, "Upload-Draft-Interop-Version")
	if err != nil || !slices.Contains(interopVersions, int(version)) {
		return 0
	}
	return int(version)
}

func (d ietfDialect) greet(header http.Header) {
	if d.version != 0 {
		header.Set("Upload-Draft-Interop-Version", strconv.Itoa(d.version))
	}
}

// complete reads whether the request's body ends the upload: Upload-Complete, which -01 had the other way round.
func (d ietfDialect) complete(r *http.Request) (bool, error) {
	if d.version == 3 {
		incomplete, given, err := headerBoolean(r, "Upload-Incomplete")
		if err != nil || given {
			return !incomplete, err
		}
	}
	complete, given, err := headerBoolean(r, "Upload-Complete")
	if err == nil && !given {
		err = invalid("Upload-Complete", "the header is required")
	}
	return complete, err
}

// creation reads a request that could have brought the whole file at once.
func (d ietfDialect) creation(_ *Server, _ http.ResponseWriter, r *http.Request) (store.NewUpload, *streams.Chunk, error) {
	draft := store.NewUpload{}
	chunk, err := d.body(r)
	if err != nil {
		return draft, nil, err
	}
	draft.Size = chunk.Total
	if chunk.Final && r.ContentLength >= 0 {
		if draft.Size >= 0 && draft.Size != r.ContentLength {
			return draft, nil, lengthProblem("Upload-Length is %d, and the whole body has %d bytes", draft.Size, r.ContentLength)
		}
		draft.Size = r.ContentLength
	}
	if draft.Size >= 0 && chunk.Length > draft.Size {
		return draft, nil, lengthProblem("Upload-Length is %d, and the body has %d bytes", draft.Size, chunk.Length)
	}
	if _, params, err := mime.ParseMediaType(r.Header.Get("Content-Disposition")); err == nil && params["filename"] != "" {
		if err := draftField(&draft, "filename", params["filename"]); err != nil {
			return draft, nil, invalid("Content-Disposition", "%v", err)
		}
	}
	if err := draftField(&draft, "mimeType", mediaType(r)); err != nil {
		return draft, nil, invalid("Content-Type", "%v", err)
	}
	draft.Claimed = claimed(draft.Claimed)
	if err := metadataInto(&draft, r.Header); err != nil {
		return draft, nil, err
	}
	draft.Claimed = claimed(draft.Claimed)
	if draft.Filename == "" {
		draft.Filename = unnamed
	}
	if chunk.Whole != nil {
		draft.Declared = chunk.Whole
	}
	if r.ContentLength == 0 && !chunk.Final {
		return draft, nil, nil
	}
	return draft, chunk, nil
}

// interim says whether who asks knows what an interim answer is. nginx takes every one but 103 for the last answer, so that
// the client waits for ever or reads the last one as its body (github.com/nginx/nginx/issues/1427). As it comes, before 1.29.7,
// it says Connection: close, which is how it is known; with a WebSocket's settings it says upgrade.
func (d ietfDialect) interim(r *http.Request) bool {
	if said := r.Header.Get("Connection"); r.Close || said != "" && !strings.EqualFold(said, "keep-alive") {
		return false
	}
	return d.version != 0 && r.ProtoAtLeast(1, 1)
}

// announce tells the client of its upload before the bytes come, so that it can go on if they are cut.
func (d ietfDialect) announce(s *Server, w http.ResponseWriter, r *http.Request, u *store.Upload, location string) {
	if !d.interim(r) {
		return
	}
	header := w.Header()
	header.Set("Location", location)
	s.limits(header, u)
	w.WriteHeader(statusResumptionSupported)
	header.Del("Location") // what tells of the progress has none
	header.Del("Upload-Limit")
}

func (d ietfDialect) chunk(r *http.Request, _ *store.Upload) (*streams.Chunk, error) {
	if kind := mediaType(r); kind != partialUpload && (d.version == 0 || d.version >= 6) {
		return nil, problem(http.StatusUnsupportedMediaType, "the body must be %s", partialUpload)
	}
	chunk, err := d.body(r)
	if err != nil {
		return nil, err
	}
	if chunk.Offset, err = headerInteger(r, "Upload-Offset"); err != nil {
		return nil, err
	}
	end := chunk.Offset + chunk.Length
	switch {
	case chunk.Offset < 0:
		return nil, invalid("Upload-Offset", "the header is required")
	case chunk.Final && chunk.Length >= 0 && chunk.Total >= 0 && end != chunk.Total:
		return nil, lengthProblem("Upload-Length is %d, and the body ends at %d", chunk.Total, end)
	}
	return chunk, nil
}

// body reads what is said of a body, wherever it belongs.
func (d ietfDialect) body(r *http.Request) (*streams.Chunk, error) {
	chunk := &streams.Chunk{Length: r.ContentLength}
	var err error
	if chunk.Final, err = d.complete(r); err != nil {
		return nil, err
	}
	if chunk.Total, err = headerInteger(r, "Upload-Length"); err != nil {
		return nil, err
	}
	if chunk.Digest, err = contentDigest(r.Header); err != nil {
		return nil, err
	}
	if chunk.Digest == nil {
		chunk.Trailer = trailing(r, "Content-Digest", contentDigest)
	}
	chunk.Whole, err = wholeDigest(r.Header)
	return chunk, err
}

// progress tells how far the body is committed, in interim answers.
func (d ietfDialect) progress(w http.ResponseWriter, r *http.Request) func(int64) {
	if !d.interim(r) {
		return nil
	}
	var last time.Time
	return func(offset int64) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			w.Header().Set("Upload-Offset", strconv.FormatInt(offset, 10))
			w.WriteHeader(statusResumptionSupported)
		}
	}
}

func (d ietfDialect) stands(header http.Header, offset int64, complete bool) {
	d.nativeDialect.stands(header, offset, complete)
	if d.version == 3 {
		header.Del("Upload-Complete")
		header.Set("Upload-Incomplete", structuredBoolean(!complete))
	}
}

// forfeit ends an upload that turns out to be longer than it was said to be, which the draft asks for.
func (d ietfDialect) forfeit(err error, u *store.Upload) *Problem {
	var size *streams.SizeError
	if !errors.As(err, &size) || size.Limit != u.Size {
		return nil
	}
	return lengthProblem("the upload has %d bytes, and more than these were sent: it is over", u.Size)
}

// refusal says what the draft has problem types for.
func (d ietfDialect) refusal(p *Problem, err error) {
	switch {
	case errors.Is(err, streams.ErrUploadWhole) && d.version == 6:
		whole := typed("completed-upload", "%v", err)
		p.Type, p.Title, p.Status = whole.Type, "Upload Is Completed", whole.Status
	case errors.Is(err, streams.ErrUploadWhole):
		longer := lengthProblem("")
		p.Type, p.Title, p.Status = longer.Type, longer.Title, longer.Status
	}
}
