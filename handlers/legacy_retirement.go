package handlers

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// LegacyMode is how far the old API is on its way out; the names are those of REALTIME_LEGACY.
type LegacyMode string

// The modes of docs/protocol.md.
const (
	LegacyOn         LegacyMode = "on"
	LegacyDeprecated LegacyMode = "deprecated" // its answers say that it goes
	LegacyGone       LegacyMode = "gone"       // 410
)

// Legacy are the settings of the old API.
type Legacy struct {
	Mode   func() LegacyMode // nil: on. It may change while the server serves
	Sunset time.Time         // when it is planned to go; zero: nobody has said
	Wait   time.Duration     // of a poll; 0: 25 s
}

func (l *Legacy) wait() time.Duration {
	if l.Wait > 0 {
		return l.Wait
	}
	return legacyWait
}

// migrationGuide is the path of the page that tells what to do instead.
const migrationGuide = "/migration"

// legacySince is when the stream took the old API's place (RFC 9745 wants the date).
var legacySince = time.Date(2026, time.November, 25, 0, 0, 0, 0, time.UTC)

// errOldGone says that a path is there no more.
var errOldGone = errors.New("this part of the old API is gone")

// old is a handler of the old API. Nothing of it may be kept by caches, with /v1 or without. Once the API is gone, nothing is
// looked at but the path: its clients may ask for a long time yet.
func (s *Server) old(h handler) http.HandlerFunc {
	return s.serve(func(w http.ResponseWriter, r *http.Request) error {
		mode := LegacyOn
		if s.Legacy.Mode != nil {
			mode = s.Legacy.Mode()
		}
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		if mode != LegacyOn {
			header.Set("Link", `<`+migrationGuide+`>; rel="deprecation sunset"; type="text/html"`)
		}
		if mode == LegacyDeprecated {
			header.Set("Deprecation", fmt.Sprintf("@%d", legacySince.Unix()))
			if !s.Legacy.Sunset.IsZero() {
				header.Set("Sunset", s.Legacy.Sunset.UTC().Format(http.TimeFormat))
			}
		}
		err := errOldGone
		if mode != LegacyGone {
			err = h(w, r)
		}
		if errors.Is(err, errOldGone) {
			return problem(http.StatusGone, "%v; %s says what to use instead", err, migrationGuide)
		}
		return err
	})
}
