package handlers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"sluice/store"
	"sluice/streams"
)

// largestInteger is that of structured fields (RFC 9651, 3.3.1).
const largestInteger = 999_999_999_999_999

// wherever is the offset of a chunk that brings no bytes: the upload's own.
const wherever = -1

// dialect is a way to speak of uploads. All of them make the same calls: a dialect reads what a request says of its body, and
// says in its own words what has become of it.
type dialect interface {
	// greet writes what every answer carries.
	greet(header http.Header)

	// check refuses a version that is not spoken.
	check(header http.Header, r *http.Request) error

	// creation reads a request that makes an upload, and the chunk that it brings, if any. Org and User are not its business.
	creation(s *Server, w http.ResponseWriter, r *http.Request) (store.NewUpload, *streams.Chunk, error)

	// location is the URL of an upload for who has made it.
	location(s *Server, r *http.Request, caller *Caller, id string) string

	// announce tells of an upload before its bytes are read.
	announce(s *Server, w http.ResponseWriter, r *http.Request, u *store.Upload, location string)

	// created answers a request that has made an upload.
	created(w http.ResponseWriter, u *store.Upload) error

	// chunk reads a request that appends, without its body.
	chunk(r *http.Request, u *store.Upload) (*streams.Chunk, error)

	// progress is what tells the client how far its body is committed, or nil.
	progress(w http.ResponseWriter, r *http.Request) func(offset int64)

	// stands writes where an upload stands.
	stands(header http.Header, offset int64, complete bool)

	// taken answers a request whose bytes count.
	taken(w http.ResponseWriter, u *store.Upload) error

	// refusal has the problem of an error say what the dialect has an own word for.
	refusal(p *Problem, err error)

	// forfeit is the problem of an error by which an upload is over, or nil.
	forfeit(err error, u *store.Upload) *Problem

	// aborted is the status that answers DELETE.
	aborted() int
}

// creatingDialect says how a request speaks that makes an upload.
func creatingDialect(r *http.Request) dialect {
	if r.URL.Path != uploadsPath {
		return sessionDialect{}
	}
	if r.Method == http.MethodPut {
		return ietfDialect{version: interopVersion(r)}
	}
	if d := dialectOf(r); patches(d) {
		return d
	}
	return nativeDialect{}
}

// dialectOf says how a request speaks. What does not say it by a header is native, or the 308 dialect where the URL says so.
func dialectOf(r *http.Request) dialect {
	named := func(name string) bool { return len(r.Header[http.CanonicalHeaderKey(name)]) > 0 }
	kind := ""
	if r.Method == http.MethodPatch {
		kind = mediaType(r)
	}
	switch {
	case r.Method == http.MethodPut && isSession(r):
		return sessionDialect{}
	case r.Method == http.MethodPut:
		return nativeDialect{}
	case named("Tus-Resumable"), kind == offsetStream:
		return tusDialect{}
	case speaksDraft(r), kind == partialUpload:
		return ietfDialect{version: interopVersion(r)}
	case isSession(r):
		return sessionDialect{}
	}
	return nativeDialect{}
}

// speaksDraft says whether a header is there that only the IETF's draft has.
func speaksDraft(r *http.Request) bool {
	for _, name := range []string{"Upload-Complete", "Upload-Incomplete", "Upload-Draft-Interop-Version"} {
		if len(r.Header[http.CanonicalHeaderKey(name)]) > 0 {
			return true
		}
	}
	return false
}

// patchTypes are the media types of PATCH, one for each dialect that has it.
const patchTypes = partialUpload + ", " + offsetStream

// patches says whether a dialect has PATCH.
func patches(d dialect) bool {
	switch d.(type) {
	case tusDialect, ietfDialect:
		return true
	}
	return false
}

// appendUpload is PUT and PATCH: bytes for an upload, or the word that there are no more.
func (s *Server) appendUpload(w http.ResponseWriter, r *http.Request) error {
	d := dialectOf(r)
	d.greet(w.Header())
	caller, u, err := s.uploadFor(w, r, d, appendsUpload)
	if err != nil {
		return err
	}
	if r.Method == http.MethodPatch && !patches(d) {
		w.Header().Set("Accept-Patch", patchTypes)
		return problem(http.StatusUnsupportedMediaType, "the body of PATCH is one of %s", patchTypes)
	}
	if err := uncoded(w.Header(), r); err != nil {
		return err
	}
	chunk, err := d.chunk(r, &u)
	if err != nil {
		return s.refuseChunk(w, d, new(store.Upload), err)
	}
	chunk.Permit = s.permit(r.Context(), caller, u.PropertyID)
	if chunk.Offset == wherever {
		if u, err = s.Uploads.Settle(r.Context(), u.ID, nil); err != nil {
			return s.refuseChunk(w, d, &u, err)
		}
		chunk.Offset = u.Offset
	}
	if u, err = s.receive(w, r, d, u, chunk); err != nil {
		return err
	}
	s.standing(w.Header(), d, &u)
	return d.taken(w, &u)
}

// uncoded refuses a body that is coded: it would be kept so.
func uncoded(header http.Header, r *http.Request) error {
	for _, coding := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(coding, "identity") {
			header.Set("Accept-Encoding", "identity")
			return problem(http.StatusUnsupportedMediaType, "what is sent is kept as it is, so it may not be coded as %.40q", coding)
		}
	}
	return nil
}

// receive has the upload take a chunk, and returns it as it stands then.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, d dialect, u store.Upload, chunk *streams.Chunk) (store.Upload, error) {
	chunk.Upload, chunk.Body = u.ID, http.NoBody
	if chunk.Length != 0 {
		body := r.Body.(*uploadBody)
		body.paced(s.readPatience, chunk.Length)
		defer body.stop() // before the request is over: its deadline is the next one's then
		chunk.Body, chunk.Interrupt, chunk.Progress = body, body.interrupt, d.progress(w, r)
	}
	// What has been read counts although its client has left.
	receipt, err := s.Uploads.Append(context.WithoutCancel(r.Context()), *chunk)
	if receipt.Upload.ID != "" {
		u = receipt.Upload
	}
	if err == nil {
		return u, nil
	}
	if forfeit := d.forfeit(err, &u); forfeit != nil {
		if err := s.Uploads.Abort(context.WithoutCancel(r.Context()), u.ID); err != nil {
			return u, err
		}
		u.State, err = store.UploadDeleted, forfeit
	}
	return u, s.refuseChunk(w, d, &u, err)
}

// standing writes where an upload stands, how long it lives, and its digest where that is known.
func (s *Server) standing(header http.Header, d dialect, u *store.Upload) {
	d.stands(header, u.Offset, u.State == store.UploadReady)
	if !u.ExpiresAt.IsZero() {
		header.Set("Upload-Expires", u.ExpiresAt.UTC().Format(http.TimeFormat))
	}
	if u.State == store.UploadReady {
		header.Set("Repr-Digest", reprDigest(u.SHA256))
	}
}

// describe writes all that HEAD tells of an upload.
func (s *Server) describe(header http.Header, d dialect, u *store.Upload) {
	s.standing(header, d, u)
	s.limits(header, u)
	if u.Size >= 0 {
		header.Set("Upload-Length", strconv.FormatInt(u.Size, 10))
	} else {
		header.Set("Upload-Defer-Length", "1")
	}
	if u.Metadata != "" {
		header.Set("Upload-Metadata", u.Metadata)
	}
	if concat := uploadConcat(u); concat != "" {
		header.Set("Upload-Concat", concat)
	}
}

// limits writes Upload-Limit: of an upload, or of any that could be made. The IETF's draft has called the last of them both
// names; what a client does not know it leaves out.
func (s *Server) limits(header http.Header, u *store.Upload) {
	options := s.Uploads.Options()
	size, age := options.MaxSize, options.Expiry
	if u != nil {
		size, age = u.Limit, lifetime(u)
	}
	text := fmt.Sprintf("max-size=%d, min-size=0, max-append-size=%d, min-append-size=0", size, size)
	if age > 0 {
		text += fmt.Sprintf(", max-age=%d, expires=%d", int(age.Seconds()), int(age.Seconds()))
	}
	header.Set("Upload-Limit", text)
}

// refuseChunk is what an error means to the client, with where the upload stands in the header where it can go on.
func (s *Server) refuseChunk(w http.ResponseWriter, d dialect, u *store.Upload, err error) error {
	var size *streams.SizeError
	var offset *streams.OffsetError
	var failed *streams.FailedError
	p := problemOf(err)
	if p.cause == nil && p != err {
		p.cause = err
	}
	d.refusal(p, err)
	header, known := w.Header(), u.ID != ""
	if errors.As(err, &size) {
		if s.limits(header, nil); known {
			s.limits(header, u)
		}
	}
	switch {
	case errors.As(err, &failed):
		// Every byte has come, and this is what has become of them.
		d.stands(header, failed.Upload.Offset, true)
	case errors.As(err, &offset):
		d.stands(header, offset.Current, false)
	case known && !gone(u) && !errors.Is(err, streams.ErrUploadGone):
		d.stands(header, u.Offset, u.State == store.UploadReady)
	}
	return p
}

// uploadProblem says what an error of Uploads means to a client, or nil.
func uploadProblem(err error) *Problem {
	var offset *streams.OffsetError
	var size *streams.SizeError
	var digest *streams.DigestError
	var failed *streams.FailedError
	switch {
	case errors.Is(err, store.ErrNoUpload):
		return problem(http.StatusNotFound, "there is no such upload")
	case errors.As(err, &offset):
		return offsetProblem(offset)
	case errors.As(err, &size):
		return problem(http.StatusRequestEntityTooLarge, "the upload may have %d bytes", size.Limit)
	case errors.As(err, &digest):
		return digestProblem("digest-mismatched-values", "the bytes from %d on do not have the digest that was given; none of them counts", digest.Offset)
	case errors.As(err, &failed) && failed.Digest:
		return digestProblem("digest-mismatched-values", "the whole does not have the digest that was given: the upload has failed")
	case errors.As(err, &failed):
		return problem(http.StatusUnsupportedMediaType, "the upload has failed: %s", failed.Upload.Reason)
	case errors.Is(err, streams.ErrUploadTotal):
		return lengthProblem("%v", err)
	case errors.Is(err, streams.ErrUploadDigest):
		return digestProblem("digest-mismatched-values", "%v", err)
	case errors.Is(err, streams.ErrUploadParts):
		return invalid("Upload-Concat", "%v", err)
	case errors.Is(err, streams.ErrChunkLength):
		return problem(http.StatusBadRequest, "%v", err)
	case errors.Is(err, streams.ErrUploadGone):
		return problem(http.StatusGone, "%v", err)
	case errors.Is(err, streams.ErrUploadJoined):
		return problem(http.StatusForbidden, "%v", err)
	case errors.Is(err, streams.ErrUploadWhole), errors.Is(err, streams.ErrUploadYielded), errors.Is(err, streams.ErrNotReady):
		return problem(http.StatusConflict, "%v", err)
	case errors.Is(err, streams.ErrUploadBusy):
		return retry(http.StatusLocked, time.Second, "%v", err)
	case errors.Is(err, streams.ErrUploadSlow):
		return problem(http.StatusRequestTimeout, "%v", err)
	case errors.Is(err, streams.ErrNoMediaType):
		p := problem(http.StatusUnsupportedMediaType, "%v", err)
		p.Field = "mimeType"
		return p
	case errors.Is(err, store.ErrUploadCount):
		return retry(http.StatusTooManyRequests, 30*time.Second, "%v: end or delete one", err)
	case errors.Is(err, store.ErrUploadQuota):
		return problem(http.StatusRequestEntityTooLarge, "%v: delete one", err)
	}
	return nil
}

// retry is a problem that says when to come back.
func retry(status int, after time.Duration, format string, args ...any) *Problem {
	p := problem(status, format, args...)
	p.RetryAfter = after
	return p
}

// typed makes a 400 of a registered type.
func typed(kind, format string, args ...any) *Problem {
	p := problem(http.StatusBadRequest, format, args...)
	p.Type = "https://iana.org/assignments/http-problem-types#" + kind
	return p
}

// lengthProblem is that of the IETF's draft for sizes that contradict each other.
func lengthProblem(format string, args ...any) *Problem {
	p := typed("inconsistent-upload-length", format, args...)
	p.Title = "Inconsistent Upload Length"
	return p
}

func offsetProblem(err *streams.OffsetError) *Problem {
	p := typed("mismatching-upload-offset", "%v", err)
	p.Title, p.Status, p.Expected, p.Provided = "Mismatching Upload Offset", http.StatusConflict, &err.Current, &err.Given
	switch {
	case err.Conflict:
		p.Type, p.Title = "about:blank", http.StatusText(http.StatusConflict)
		p.Detail = "chunk-conflict: these bytes were committed with another digest"
	case err.Yielded:
		p.Detail = streams.ErrUploadYielded.Error()
	}
	return p
}

// headerInteger reads a header that is a number of bytes. Absent is -1.
func headerInteger(r *http.Request, name string) (int64, error) {
	values := r.Header.Values(name)
	if len(values) == 0 {
		return -1, nil
	}
	item, err := httpsfv.UnmarshalItem(values)
	number, is := item.Value.(int64)
	if err != nil || !is || number < 0 {
		return -1, invalid(name, "a number of bytes is expected, not %.40q", values[0])
	}
	return number, nil
}

// headerBoolean reads a header that is ?1 or ?0.
func headerBoolean(r *http.Request, name string) (value, given bool, err error) {
	values := r.Header.Values(name)
	if len(values) == 0 {
		return false, false, nil
	}
	item, err := httpsfv.UnmarshalItem(values)
	value, is := item.Value.(bool)
	if err != nil || !is {
		return false, true, invalid(name, "?1 or ?0 is expected, not %.40q", values[0])
	}
	return value, true, nil
}
