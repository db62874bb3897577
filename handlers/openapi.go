package handlers

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"sluice/static"
)

// openAPIName is the file that describes the public listener. openapi_test.go holds it against the routes and their answers.
const openAPIName = "openapi.yaml"

// openAPIDocument is the file with its entity tag.
var openAPIDocument = sync.OnceValues(func() (text []byte, tag string) {
	text, err := static.Files.ReadFile(openAPIName)
	if err != nil {
		panic(err) // it is embedded
	}
	return text, fmt.Sprintf(`"%x"`, sha256.Sum256(text))
})

// openAPI is GET /openapi.yaml. It changes with the binary alone, so caches keep it and ask whether it is still the same.
func (s *Server) openAPI(w http.ResponseWriter, r *http.Request) error {
	s.due(w)
	text, tag := openAPIDocument()
	header := w.Header()
	header.Set("Cache-Control", "no-cache")
	header.Set("ETag", tag)
	// The tag is looked for, not compared: it may stand in a list, and a proxy that compresses makes it weak.
	if strings.Contains(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", "application/yaml")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	if _, err := w.Write(text); err != nil {
		panic(http.ErrAbortHandler) // the client is gone, and the status is out
	}
	return nil
}
