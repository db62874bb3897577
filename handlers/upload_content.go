package handlers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sluice/store"
	"sluice/streams"
)

// rangesMost bounds the ranges of one request, for each of them is opened by itself. Who asks for more gets the whole.
const rangesMost = 16

// uploadContent is GET /v2/uploads/{id}/content (docs/protocol.md, "U"): the file, for whoever may read the upload or has a link
// to it. What strangers have uploaded is never shown by a browser as a page of this server.
func (s *Server) uploadContent(w http.ResponseWriter, r *http.Request) error {
	var u store.Upload
	var err error
	if r.URL.Query().Has("signature") {
		u, err = s.linked(r)
	} else {
		_, u, err = s.uploadFor(w, r, nativeDialect{}, readsUpload)
	}
	switch {
	case err != nil:
		return err
	case gone(&u):
		return streams.ErrUploadGone
	case u.State != store.UploadReady, u.Kind == store.UploadPartial:
		return streams.ErrNotReady
	}
	header := w.Header()
	header.Set("Content-Type", u.MimeType)
	header.Set("Content-Disposition", attachment(u.Filename))
	header.Set("ETag", fmt.Sprintf(`"%x"`, u.SHA256))
	header.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(u.SHA256)+":")
	header.Set("Cache-Control", "private, no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	if !ranged(r) {
		r.Header.Del("Range")
	}
	return s.sendContent(w, r, &u)
}

// ranged says whether the Range of a request counts: it does for GET alone, in bytes (RFC 9110, 14.2), and not where there are
// too many of them.
func ranged(r *http.Request) bool {
	text := r.Header.Get("Range")
	return r.Method == http.MethodGet && strings.HasPrefix(text, "bytes=") && strings.Count(text, ",") < rangesMost
}

// sendContent answers with what is asked for of the file.
func (s *Server) sendContent(w http.ResponseWriter, r *http.Request, u *store.Upload) error {
	content := &contentReader{ctx: r.Context(), uploads: s.Uploads, upload: u}
	defer content.close()
	to := &contentWriter{ResponseWriter: w, control: http.NewResponseController(w), timeout: s.WriteTimeout}
	http.ServeContent(to, r, "", time.Time{}, content)
	if to.refused != 0 {
		return to.refusal()
	}
	if failed := errors.Join(content.err, to.err); failed != nil {
		// The status is out, so all that is left is an answer that is seen to be cut short.
		s.line(w, r).InfoContext(r.Context(), "a download has ended early", "err", failed)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// contentReader reads an upload from wherever it is sought to.
type contentReader struct {
	ctx     context.Context
	uploads Uploads
	upload  *store.Upload
	at      int64
	from    io.ReadCloser // at at; nil: not open
	err     error         // the first one that was no end
}

// Seek implements io.Seeker.
func (c *contentReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.upload.Size
	}
	c.close()
	c.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (c *contentReader) Read(p []byte) (n int, err error) {
	if c.at >= c.upload.Size {
		return 0, io.EOF
	}
	if c.from == nil {
		c.from, err = c.uploads.Content(c.ctx, *c.upload, c.at, c.upload.Size-c.at)
	}
	if err == nil {
		n, err = c.from.Read(p)
		c.at += int64(n)
	}
	if err != nil && err != io.EOF && c.err == nil {
		c.err = err
	}
	return n, err
}

func (c *contentReader) close() {
	if c.from != nil {
		_ = c.from.Close()
		c.from = nil
	}
}

// contentWriter gives every piece its own time, so that a slow reader that makes progress is not cut off, and keeps the
// refusals of net/http back, which are no problems as this API has them.
type contentWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	refused int // the status of a refusal; 0: none
	err     error
}

// WriteHeader implements http.ResponseWriter.
func (c *contentWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		c.refused = status
		return
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (c *contentWriter) Write(p []byte) (n int, err error) {
	if c.refused != 0 {
		return len(p), nil
	}
	if err = c.control.SetWriteDeadline(time.Now().Add(c.timeout)); err == nil {
		n, err = c.ResponseWriter.Write(p)
	}
	c.err = err
	return n, err
}

// refusal is the problem that stands for one of net/http. Content-Range stays: it tells the size.
func (c *contentWriter) refusal() error {
	header := c.Header()
	for _, name := range []string{"Content-Disposition", "Content-Length", "ETag", "Repr-Digest"} {
		header.Del(name)
	}
	header.Set("Cache-Control", "no-store")
	switch c.refused {
	case http.StatusRequestedRangeNotSatisfiable:
		return problem(c.refused, "the file has no such range")
	case http.StatusPreconditionFailed:
		return problem(c.refused, "the file is another one")
	}
	return fmt.Errorf("net/http refuses a download with %d", c.refused)
}

// attachment is a Content-Disposition that makes browsers save a file under its name (RFC 6266), which is any text: what
// RFC 8187 allows in a value stands as it is, all else in hexadecimal. Old clients read a name of ASCII letters.
func attachment(name string) string {
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\/%`, r) {
			return '_'
		}
		return r
	}, name)
	var exact strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			exact.WriteByte(c)
		} else {
			fmt.Fprintf(&exact, "%%%02X", c)
		}
	}
	return `attachment; filename="` + plain + `"; filename*=UTF-8''` + exact.String()
}
