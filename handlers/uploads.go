package handlers

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"sluice/store"
	"sluice/streams"
)

const (
	uploadsPath  = "/v2/uploads"
	sessionsPath = "/upload/storage/v1/b/{bucket}/o" // of the 308 dialect
)

// Uploads is who takes uploads; its contract is that of streams.Uploads.
type Uploads interface {
	Create(ctx context.Context, n store.NewUpload) (store.Upload, error)
	Find(ctx context.Context, id string) (store.Upload, error)
	Known(ctx context.Context, id string) (store.Upload, error)
	Settle(ctx context.Context, id string, permit func() error) (store.Upload, error)
	Append(ctx context.Context, chunk streams.Chunk) (streams.Receipt, error)
	Abort(ctx context.Context, id string) error
	Content(ctx context.Context, u store.Upload, from, length int64) (io.ReadCloser, error)
	LinkKey(ctx context.Context) ([]byte, error)
	Options() streams.UploadOptions
}

var uploadIDs = regexp.MustCompile(`^[a-z2-7]{26}$`)

// uploader says who asks and for which org, once the dialect knows the version that the client speaks.
func (s *Server) uploader(w http.ResponseWriter, r *http.Request, d dialect) (*Caller, error) {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return nil, err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := s.checkOrigin(r, caller); err != nil {
			return nil, err
		}
	}
	if caller.AnyOrg {
		caller.Org = r.URL.Query().Get("orgId")
		if caller.Org == "" || caller.Org == "*" || !label(caller.Org) {
			return nil, invalid("orgId", "a service token names the org that it acts for")
		}
	}
	return caller, d.check(w.Header(), r)
}

// uploadRight is what a request does with an upload.
type uploadRight int

const (
	readsUpload   uploadRight = iota // its creator, ADMINs, and who has its property
	appendsUpload                    // its creator
	deletesUpload                    // its creator and ADMINs
)

// uploadFor finds the upload that a request names: as it stands or, for who appends, what never changes of it. Whoever may not
// read it is told that there is none.
func (s *Server) uploadFor(w http.ResponseWriter, r *http.Request, d dialect, right uploadRight) (*Caller, store.Upload, error) {
	caller, err := s.uploader(w, r, d)
	if err != nil {
		return nil, store.Upload{}, err
	}
	id := chi.URLParam(r, "id")
	if !uploadIDs.MatchString(id) {
		return nil, store.Upload{}, store.ErrNoUpload
	}
	find := s.Uploads.Find
	if right == appendsUpload {
		find = s.Uploads.Known
	}
	u, err := find(r.Context(), id)
	if err != nil {
		return nil, u, err
	}
	creates := owns(caller, &u)
	if !creates {
		reads := false
		if caller.Org == u.Org {
			reads, err = s.hasProperty(r.Context(), caller, u.PropertyID)
		}
		if err != nil {
			return nil, u, err
		}
		if !reads {
			return nil, u, store.ErrNoUpload
		}
	}
	if !creates && (right == appendsUpload || right == deletesUpload && !caller.Admin) {
		return nil, u, problem(http.StatusForbidden, "the upload is another user's")
	}
	return caller, u, nil
}

// owns says whether the caller has made the upload.
func owns(caller *Caller, u *store.Upload) bool { return caller.Org == u.Org && caller.User == u.User }

// hasProperty says whether a property of the caller's org is among the caller's. None ("") is the ADMINs' alone.
func (s *Server) hasProperty(ctx context.Context, caller *Caller, property string) (bool, error) {
	if caller.Admin || property == "" {
		return caller.Admin, nil
	}
	ids, err := s.Auth.Properties(ctx, caller, caller.Org)
	if err != nil {
		return false, err
	}
	_, found := slices.BinarySearch(ids, property)
	return found, nil
}

// checkProperty refuses uploads for a property that is not the caller's.
func (s *Server) checkProperty(ctx context.Context, caller *Caller, property string) error {
	if property == "" {
		return nil
	}
	has, err := s.hasProperty(ctx, caller, property)
	if err != nil || has {
		return err
	}
	p := problem(http.StatusForbidden, "the property is not among the token's")
	p.Field = "propertyId"
	return p
}

// permit asks once more, when all bytes of an upload are there, whether its creator may finish it: the token or the property may
// be the creator's no more.
func (s *Server) permit(ctx context.Context, caller *Caller, property string) func() error {
	return func() error {
		if err := caller.current(); err != nil {
			return err
		}
		return s.checkProperty(context.WithoutCancel(ctx), caller, property)
	}
}

// putUpload makes an upload by PUT, for the draft lets any method do that which would have brought the whole file.
func (s *Server) putUpload(w http.ResponseWriter, r *http.Request) error {
	if !speaksDraft(r) {
		w.Header()["Allow"] = []string{http.MethodPost, http.MethodOptions}
		return problem(http.StatusMethodNotAllowed, "PUT makes an upload where Upload-Complete says so; others are made by POST")
	}
	return s.createUpload(w, r)
}

// createUpload makes an upload, and takes the first bytes of it where the request brings them.
func (s *Server) createUpload(w http.ResponseWriter, r *http.Request) error {
	d := creatingDialect(r)
	d.greet(w.Header())
	caller, err := s.uploader(w, r, d)
	if err != nil {
		return err
	}
	if err := uncoded(w.Header(), r); err != nil {
		return err
	}
	draft, chunk, err := d.creation(s, w, r)
	if err != nil {
		return s.refuseChunk(w, d, new(store.Upload), err)
	}
	draft.Org, draft.User = caller.Org, caller.User
	if err := s.checkProperty(r.Context(), caller, draft.PropertyID); err != nil {
		return err
	}
	u, err := s.Uploads.Create(r.Context(), draft)
	if err != nil {
		return s.refuseChunk(w, d, &u, err)
	}
	location := d.location(s, r, caller, u.ID)
	d.announce(s, w, r, &u, location)
	if chunk != nil && u.State == store.UploadUploading {
		chunk.Permit = s.permit(r.Context(), caller, u.PropertyID)
		if u, err = s.receive(w, r, d, u, chunk); err != nil {
			w.Header().Set("Location", location)
			return err
		}
	}
	w.Header().Set("Location", location)
	s.standing(w.Header(), d, &u)
	s.limits(w.Header(), &u)
	return d.created(w, &u)
}

// readUpload is GET: the resource, and in the header what HEAD says, without disturbing a writer.
func (s *Server) readUpload(w http.ResponseWriter, r *http.Request) error {
	d := dialectOf(r)
	d.greet(w.Header())
	_, u, err := s.uploadFor(w, r, d, readsUpload)
	if err != nil {
		return err
	}
	if u.State == store.UploadDeleted {
		return streams.ErrUploadGone
	}
	if u.State != store.UploadExpired && u.State != store.UploadFailed {
		s.describe(w.Header(), d, &u)
	}
	return s.answer(w, http.StatusOK, uploadResource(&u))
}

// headUpload is HEAD: where the upload stands, so that its creator can go on from there. It stops who writes at the moment,
// since that is the creator's own request, which has lost its client; nobody else stops it.
func (s *Server) headUpload(w http.ResponseWriter, r *http.Request) error {
	d := dialectOf(r)
	d.greet(w.Header())
	caller, u, err := s.uploadFor(w, r, d, readsUpload)
	if err != nil {
		return err
	}
	if (u.State == store.UploadUploading || u.State == store.UploadVerifying) && owns(caller, &u) {
		u, err = s.Uploads.Settle(r.Context(), u.ID, s.permit(r.Context(), caller, u.PropertyID))
		if failed := (*streams.FailedError)(nil); errors.As(err, &failed) {
			return streams.ErrUploadGone
		}
		if err != nil {
			return err
		}
	}
	if gone(&u) {
		return streams.ErrUploadGone
	}
	s.describe(w.Header(), d, &u)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// abortUpload is DELETE.
func (s *Server) abortUpload(w http.ResponseWriter, r *http.Request) error {
	d := dialectOf(r)
	d.greet(w.Header())
	_, u, err := s.uploadFor(w, r, d, deletesUpload)
	if err != nil {
		return err
	}
	if u.State == store.UploadExpired || u.State == store.UploadDeleted {
		return streams.ErrUploadGone
	}
	if err := s.Uploads.Abort(r.Context(), u.ID); err != nil {
		return err
	}
	w.WriteHeader(d.aborted())
	return nil
}

// uploadOptions is OPTIONS, which tus and the IETF's draft ask for what the server can do. It needs no token. CORS answers
// what browsers ask before their requests.
func (s *Server) uploadOptions(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	tusOptions(header, s.Uploads.Options().MaxSize)
	header.Set("Accept-Patch", patchTypes)
	s.limits(header, nil)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// gone says whether nothing can be done with an upload any more.
func gone(u *store.Upload) bool {
	return u.State == store.UploadExpired || u.State == store.UploadDeleted || u.State == store.UploadFailed
}

// wireUpload is an upload as clients see it. What is not known is left out.
type wireUpload struct {
	ID        string  `json:"id"`
	Filename  string  `json:"filename"`
	Size      *int64  `json:"size,omitempty"`
	Offset    int64   `json:"offset"`
	MimeType  string  `json:"mimeType,omitempty"`
	State     string  `json:"state"`
	Reason    string  `json:"reason,omitempty"` // of a failure
	SHA256    string  `json:"sha256,omitempty"`
	CreatedAt string  `json:"createdAt"`
	ExpiresAt string  `json:"expiresAt,omitempty"`
	OCR       wireOCR `json:"ocr"`
}

type wireOCR struct {
	State      string          `json:"state"`
	Text       *string         `json:"text,omitempty"`
	Fields     json.RawMessage `json:"fields,omitempty"`
	Confidence *float64        `json:"confidence,omitempty"`
	Error      string          `json:"error,omitempty"`
}

func uploadResource(u *store.Upload) wireUpload {
	wire := wireUpload{
		ID: u.ID, Filename: u.Filename, Offset: u.Offset, MimeType: u.MimeType, State: string(u.State), Reason: u.Reason,
		SHA256: hex.EncodeToString(u.SHA256), CreatedAt: u.CreatedAt.UTC().Format(wireTime),
		OCR: wireOCR{State: u.Document.State, Error: u.Document.Error},
	}
	if u.Size >= 0 {
		wire.Size = &u.Size
	}
	if !u.ExpiresAt.IsZero() {
		wire.ExpiresAt = u.ExpiresAt.UTC().Format(wireTime)
	}
	switch wire.OCR.State {
	case "":
		wire.OCR.State = "none"
	case "done":
		wire.OCR.Text, wire.OCR.Fields, wire.OCR.Confidence = &u.Document.Text, u.Document.Fields, &u.Document.Confidence
	}
	return wire
}

// methodOverride takes the method of a request for uploads from X-HTTP-Method-Override, for clients whose environment sends
// GET and POST alone (tus 1.0.0, "X-HTTP-Method-Override"). The request is a copy: how the answer is framed follows from the
// method that was sent.
func methodOverride(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Header.Get("X-HTTP-Method-Override")
		if method != "" && r.Method != http.MethodOptions && (r.URL.Path == uploadsPath || strings.HasPrefix(r.URL.Path, uploadsPath+"/")) {
			copied := *r
			copied.Method = strings.ToUpper(method)
			r = &copied
		}
		next.ServeHTTP(w, r)
	})
}

// lifetime is how long an upload still lives; 0 where it is ready, or its time is over.
func lifetime(u *store.Upload) time.Duration {
	if u.ExpiresAt.IsZero() {
		return 0
	}
	return max(0, time.Until(u.ExpiresAt))
}
