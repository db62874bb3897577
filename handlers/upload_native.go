package handlers

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"sluice/store"
	"sluice/streams"
)

// nativeDialect is the API's own: JSON makes an upload, and PUT with Content-Range brings its bytes.
type nativeDialect struct{}

func (nativeDialect) greet(http.Header) {}

func (nativeDialect) check(http.Header, *http.Request) error { return nil }

func (nativeDialect) creation(s *Server, w http.ResponseWriter, r *http.Request) (store.NewUpload, *streams.Chunk, error) {
	body, err := readJSON(w, r, s.bodyTimeout)
	if err != nil {
		return store.NewUpload{}, nil, err
	}
	draft, err := uploadDraft(body)
	return draft, nil, err
}

func (nativeDialect) location(_ *Server, _ *http.Request, caller *Caller, id string) string {
	return uploadURL(caller, id).String()
}

func (nativeDialect) announce(*Server, http.ResponseWriter, *http.Request, *store.Upload, string) {}

func (d nativeDialect) created(w http.ResponseWriter, u *store.Upload) error {
	return answer(w, http.StatusCreated, uploadResource(u))
}

// chunk reads where the bytes belong: Content-Range, or Upload-Offset, or neither, which is the whole file.
func (nativeDialect) chunk(r *http.Request, _ *store.Upload) (*streams.Chunk, error) {
	chunk := &streams.Chunk{Length: r.ContentLength, Total: -1, Repeatable: true}
	var err error
	if chunk.Digest, err = contentDigest(r.Header); err != nil {
		return nil, err
	}
	if chunk.Digest == nil {
		chunk.Trailer = trailing(r, "Content-Digest", contentDigest)
	}
	if chunk.Whole, err = wholeDigest(r.Header); err != nil {
		return nil, err
	}
	offset, err := headerInteger(r, "Upload-Offset")
	if err != nil {
		return nil, err
	}
	ranges := r.Header.Values("Content-Range")
	switch {
	case len(ranges) > 1:
		return nil, invalid("Content-Range", "it is there twice")
	case len(ranges) == 1:
		if err := chunkRange(chunk, ranges[0]); err != nil {
			return nil, err
		}
		if offset >= 0 && chunk.Offset != wherever && offset != chunk.Offset {
			return nil, invalid("Upload-Offset", "it is %d, and Content-Range begins at %d", offset, chunk.Offset)
		}
	case offset >= 0:
		chunk.Offset = offset
		if chunk.Final, _, err = headerBoolean(r, "Upload-Complete"); err != nil {
			return nil, err
		}
		if chunk.Total, err = headerInteger(r, "Upload-Length"); err != nil {
			return nil, err
		}
	default:
		chunk.Final = true
	}
	return chunk, nil
}

// chunkRange sets where a chunk lies by its Content-Range.
func chunkRange(chunk *streams.Chunk, text string) error {
	given, err := parseContentRange(text)
	if err != nil {
		return invalid("Content-Range", "%v", err)
	}
	length := given.last - given.first + 1
	switch {
	case given.first < 0: // it asks, or ends an upload whose bytes are all there
		given.first, length = wherever, 0
	case given.last < 0 && given.total < 0: // the rest, however long it is
		chunk.Final, length = true, chunk.Length
	case given.last < 0:
		length = chunk.Length
	case given.total >= 0 && given.last >= given.total:
		return &streams.SizeError{Limit: given.total}
	}
	if chunk.Length >= 0 && chunk.Length != length {
		return invalid("Content-Range", "it has %d bytes, and the body %d", length, chunk.Length)
	}
	chunk.Offset, chunk.Length, chunk.Total = given.first, length, given.total
	return nil
}

// contentRange is what Content-Range says. -1 stands for an asterisk.
type contentRange struct{ first, last, total int64 }

// parseContentRange reads `bytes 0-9/100`, with an asterisk for a size that is not known, for an end that is not (as some
// clients of the 308 dialect write it), and for no range at all (RFC 9110, 14.4).
func parseContentRange(text string) (contentRange, error) {
	none := contentRange{-1, -1, -1}
	unit, rest, _ := strings.Cut(text, " ")
	span, total, found := strings.Cut(rest, "/")
	if !strings.EqualFold(unit, "bytes") || !found {
		return none, errors.New("bytes first-last/size is expected, with * for what is not known")
	}
	given := none
	var err error
	if total != "*" {
		if given.total, err = byteNumber(total); err != nil {
			return none, err
		}
	}
	if span == "*" {
		return given, nil
	}
	first, last, _ := strings.Cut(span, "-")
	if given.first, err = byteNumber(first); err != nil {
		return none, err
	}
	if last == "*" {
		return given, nil
	}
	if given.last, err = byteNumber(last); err != nil {
		return none, err
	}
	if given.last < given.first {
		return none, errors.New("it ends before it begins")
	}
	return given, nil
}

// byteNumber reads decimal digits.
func byteNumber(text string) (int64, error) {
	number, err := strconv.ParseUint(text, 10, 63)
	if err != nil || number > largestInteger || text[0] == '+' {
		return -1, errors.New("a position is not a number")
	}
	return int64(number), nil
}

func (nativeDialect) progress(http.ResponseWriter, *http.Request) func(int64) { return nil }

func (nativeDialect) stands(header http.Header, offset int64, complete bool) {
	header.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	header.Set("Upload-Complete", structuredBoolean(complete))
}

func structuredBoolean(value bool) string {
	if value {
		return "?1"
	}
	return "?0"
}

// taken tells of the file once it is whole.
func (nativeDialect) taken(w http.ResponseWriter, u *store.Upload) error {
	if u.State == store.UploadReady {
		return answer(w, http.StatusOK, uploadResource(u))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (nativeDialect) refusal(*Problem, error) {}

func (nativeDialect) forfeit(error, *store.Upload) *Problem { return nil }

func (nativeDialect) aborted() int { return http.StatusNoContent }
