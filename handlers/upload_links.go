package handlers

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"sluice/store"
	"sluice/streams"
)

const (
	linkDefault = time.Hour
	linkMost    = 7 * 24 * time.Hour
)

// uploadLink is POST /v2/uploads/{id}/links: an address of the content that needs no token until it expires. Whoever may read
// the upload may hand it on, as they could the file.
func (s *Server) uploadLink(w http.ResponseWriter, r *http.Request) error {
	_, u, err := s.uploadFor(w, r, nativeDialect{}, readsUpload)
	if err != nil {
		return err
	}
	lasts, err := s.linkTime(w, r)
	if err != nil {
		return err
	}
	if gone(&u) {
		return streams.ErrUploadGone
	}
	expires := time.Now().Add(lasts).Truncate(time.Second)
	at := strconv.FormatInt(expires.Unix(), 10)
	signature, err := s.linkSignature(r.Context(), u.ID, at)
	if err != nil {
		return err
	}
	link := url.URL{Path: uploadsPath + "/" + u.ID + "/content", RawQuery: url.Values{
		"expires": {at}, "signature": {base64.RawURLEncoding.EncodeToString(signature)},
	}.Encode()}
	return s.answer(w, http.StatusCreated, map[string]string{"url": link.String(), "expiresAt": expires.UTC().Format(wireTime)})
}

// linkTime reads how long a link is to be good; no body is the same as an empty object.
func (s *Server) linkTime(w http.ResponseWriter, r *http.Request) (time.Duration, error) {
	if r.ContentLength == 0 {
		return linkDefault, nil
	}
	body, err := readJSON(w, r, s.bodyTimeout)
	if err != nil {
		return 0, err
	}
	fields, err := members(body)
	if err != nil {
		return 0, err
	}
	lasts := linkDefault
	for _, field := range fields {
		if field.name != "ttlSeconds" {
			return 0, invalid(field.name, "there is no such field")
		}
		if string(field.value) == "null" {
			continue
		}
		var seconds int64
		if err := json.Unmarshal(field.value, &seconds); err != nil || seconds < 1 || seconds > int64(linkMost/time.Second) {
			return 0, invalid(field.name, "1 to %d seconds are expected", int64(linkMost/time.Second))
		}
		lasts = time.Duration(seconds) * time.Second
	}
	return lasts, nil
}

// linkSignature is what proves that this server has made a link. Nothing else is signed with that key.
func (s *Server) linkSignature(ctx context.Context, id, expires string) ([]byte, error) {
	key, err := s.Uploads.LinkKey(ctx)
	if err != nil {
		return nil, err
	}
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte(id + " " + expires))
	return sum.Sum(nil), nil
}

// linked finds the upload that a link opens.
func (s *Server) linked(r *http.Request) (store.Upload, error) {
	id, query := chi.URLParam(r, "id"), r.URL.Query()
	expires := query.Get("expires")
	signature, err := s.linkSignature(r.Context(), id, expires)
	if err != nil {
		return store.Upload{}, err
	}
	// The text is compared: several of them are decoded to the same bytes.
	if !hmac.Equal([]byte(base64.RawURLEncoding.EncodeToString(signature)), []byte(query.Get("signature"))) {
		return store.Upload{}, problem(http.StatusForbidden, "the link was not made here, or was altered")
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		return store.Upload{}, err // we have signed it
	}
	if !time.Now().Before(time.Unix(at, 0)) {
		return store.Upload{}, problem(http.StatusForbidden, "the link has expired")
	}
	return s.Uploads.Find(r.Context(), id)
}
