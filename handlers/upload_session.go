package handlers

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"sluice/store"
	"sluice/streams"
)

// sessionDialect is that of Google's storage clients: PUT with Content-Range is answered with 308 until the last byte is there.
type sessionDialect struct{ nativeDialect }

// isSession says whether a URL is a session's. Elsewhere 308 is a redirect, so nobody else gets one.
func isSession(r *http.Request) bool {
	return r.URL.RawQuery != "" && r.URL.Query().Get("uploadType") == "resumable"
}

// creation reads name= and the X-Upload headers. What the body says is not looked at.
func (sessionDialect) creation(s *Server, w http.ResponseWriter, r *http.Request) (store.NewUpload, *streams.Chunk, error) {
	draft := store.NewUpload{}
	if !isSession(r) {
		return draft, nil, invalid("uploadType", "resumable is expected")
	}
	if _, err := readBody(w, r, s.bodyTimeout); err != nil {
		return draft, nil, err
	}
	name := r.URL.Query().Get("name")
	if name == "" {
		name = unnamed
	}
	if err := draftField(&draft, "filename", name); err != nil {
		return draft, nil, invalid("name", "%v", err)
	}
	if err := draftField(&draft, "mimeType", r.Header.Get("X-Upload-Content-Type")); err != nil {
		return draft, nil, invalid("X-Upload-Content-Type", "%v", err)
	}
	draft.Claimed = claimed(draft.Claimed)
	var err error
	draft.Size, err = headerInteger(r, "X-Upload-Content-Length")
	return draft, nil, err
}

// location is absolute, as these clients need it.
func (sessionDialect) location(s *Server, r *http.Request, caller *Caller, id string) string {
	at := uploadURL(caller, id)
	query := at.Query()
	query.Set("uploadType", "resumable")
	at.RawQuery = query.Encode()
	at.Scheme, at.Host = s.asked(r)
	return at.String()
}

func (sessionDialect) created(w http.ResponseWriter, _ *store.Upload) error {
	w.WriteHeader(http.StatusOK)
	return nil
}

func (d sessionDialect) stands(header http.Header, offset int64, complete bool) {
	d.nativeDialect.stands(header, offset, complete)
	if offset > 0 && !complete {
		header.Set("Range", "bytes=0-"+strconv.FormatInt(offset-1, 10))
	}
}

func (d sessionDialect) taken(w http.ResponseWriter, u *store.Upload) error {
	if u.State == store.UploadReady {
		return d.nativeDialect.taken(w, u)
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusPermanentRedirect)
	return nil
}

// statusClientClosed is how cancelling is answered.
const statusClientClosed = 499

func (sessionDialect) aborted() int { return statusClientClosed }

// uploadURL is the relative URL of an upload. A service token has to name the org there.
func uploadURL(caller *Caller, id string) *url.URL {
	at := &url.URL{Path: uploadsPath + "/" + id}
	if caller.AnyOrg {
		at.RawQuery = url.Values{"orgId": {caller.Org}}.Encode()
	}
	return at
}

var hosts = regexp.MustCompile(`^[A-Za-z0-9._\-\[\]:]{1,255}$`)

// asked is how the client reached this server: what a trusted proxy says of it, or what the request says itself. Each proxy
// of a row appends what it saw, so that the last entry is the word of the one that is trusted.
func (s *Server) asked(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if at, ok := address(r.RemoteAddr); !ok || !s.trusts(at) {
		return scheme, host
	}
	last := func(name string) string {
		list := strings.Split(strings.Join(r.Header.Values(name), ","), ",")
		return strings.TrimSpace(list[len(list)-1])
	}
	if given := strings.ToLower(last("X-Forwarded-Proto")); given == "http" || given == "https" {
		scheme = given
	}
	if given := last("X-Forwarded-Host"); hosts.MatchString(given) {
		host = given
	}
	return scheme, host
}
