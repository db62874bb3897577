package handlers

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"sluice/static"
)

// demoFor is how long the page's token is good.
const demoFor = 12 * time.Hour

// page is GET / in dev mode. It gives the browser a token of an admin of org 1, in a cookie that scripts cannot read
// and other sites cannot send.
func (s *Server) page(w http.ResponseWriter, r *http.Request) error {
	expires := time.Now().Add(demoFor)
	token, err := s.Auth.Mint(Claims{
		Org: "1", User: "demo", Role: "ADMIN", Scope: "publish", DisplayName: "Demo", Expires: expires,
	})
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: tokenCookie, Value: token, Path: "/", Expires: expires, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil,
	})
	return s.file(w, r, "index.html")
}

func (s *Server) asset(w http.ResponseWriter, r *http.Request) error {
	return s.file(w, r, chi.URLParam(r, "file"))
}

func (s *Server) file(w http.ResponseWriter, r *http.Request, name string) error {
	s.due(w)
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
		"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-cache")
	if _, err := static.Files.Open(name); err != nil {
		return problem(http.StatusNotFound, "there is nothing here")
	}
	http.ServeFileFS(w, r, static.Files, name)
	return nil
}
