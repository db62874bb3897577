package handlers

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"sluice/store"
	"sluice/streams"
)

const (
	watchLook  = 300 * time.Millisecond // between two looks: the row does not change more often
	watchTell  = time.Second            // at least, while bytes may come
	watchQuiet = 15 * time.Second       // before a comment keeps the connection open
	watchMost  = 10                     // streams of one user on an instance
)

// wireProgress is how far an upload has come, as clients see it.
type wireProgress struct {
	Bytes          int64    `json:"bytes"`
	Total          *int64   `json:"total"` // null while it is not known
	BytesPerSecond int64    `json:"bytesPerSecond"`
	ETASeconds     *float64 `json:"etaSeconds"` // null where nobody can tell
	State          string   `json:"state"`
}

func progressOf(u *store.Upload) wireProgress {
	wire := wireProgress{Bytes: u.Offset, State: string(u.State)}
	if u.Size >= 0 {
		wire.Total = &u.Size
	}
	if u.State == store.UploadUploading && u.Leased { // else nobody writes at the moment
		wire.BytesPerSecond = int64(u.Rate)
	}
	switch {
	case u.State == store.UploadReady:
		wire.ETASeconds = new(float64)
	case wire.BytesPerSecond > 0 && u.Size >= 0:
		seconds := math.Round(10*float64(u.Size-u.Offset)/float64(wire.BytesPerSecond)) / 10
		wire.ETASeconds = &seconds
	}
	return wire
}

// uploadOver says whether an upload goes no further.
func uploadOver(u *store.Upload) bool { return u.State == store.UploadReady || gone(u) }

// uploadProgress is GET /v2/uploads/{id}/progress: how far an upload has come, as far as the database knows, so that nobody who
// writes it is disturbed. Where SSE is asked for, it is told as it goes on.
func (s *Server) uploadProgress(w http.ResponseWriter, r *http.Request) error {
	streamed := false
	if quality, named := accepted(strings.Join(r.Header.Values("Accept"), ","), eventStream); named && quality > 0 {
		streamed = true
	}
	caller, u, err := s.uploadFor(w, r, nativeDialect{}, readsUpload)
	if err != nil {
		return err
	}
	if !streamed {
		return s.answer(w, http.StatusOK, progressOf(&u))
	}
	// An EventSource comes back whenever a stream ends, unless it is told that there is nothing more.
	if r.Header.Get("Last-Event-ID") == string(u.State) {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	leave, err := s.watchers.enter(caller)
	if err == nil && s.Draining() {
		leave()
		err = streams.ErrHubDrains
	}
	if err != nil {
		return s.refuse(w, r, err)
	}
	defer leave()
	header := w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	s.followUpload(w, r, caller, u)
	return nil
}

// followUpload tells of an upload until it goes no further. It waits for its own reader alone.
func (s *Server) followUpload(w http.ResponseWriter, r *http.Request, caller *Caller, u store.Upload) {
	control := http.NewResponseController(w)
	write := func(frame []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(s.WriteTimeout))
		_, err := w.Write(frame)
		if err == nil {
			err = control.Flush()
		}
		_ = control.SetWriteDeadline(time.Time{}) // HTTP/2 resets a stream whose deadline passes, whatever it does
		return err == nil
	}
	ticker := time.NewTicker(watchLook)
	defer ticker.Stop()
	var told lastProgress
	for frame := sseStart(false); ; frame = nil {
		frame = told.append(frame, &u)
		ends := uploadOver(&u)
		if !ends && s.Draining() {
			frame, ends = sse{}.Retry(frame, streams.RetryDrain, time.Second+rand.N(2*time.Second)), true
		}
		if len(frame) > 0 && !write(frame) || ends {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
		var err error
		if u, err = s.followed(r, caller); err != nil {
			p := problemOf(err)
			tell(r.Context(), s.line(w, r), p, err)
			write(sse{}.Problem(nil, streams.StreamProblem{Status: p.Status, Title: p.Title, Detail: p.Detail, Retry: p.RetryAfter}))
			return
		}
	}
}

// lastProgress is what a stream was told last, and when.
type lastProgress struct {
	text string
	at   time.Time
}

// append adds what there is to tell now, which may be nothing.
func (l *lastProgress) append(frame []byte, u *store.Upload) []byte {
	text, _ := json.Marshal(progressOf(u)) // numbers and words
	quiet := time.Since(l.at)
	switch {
	case string(text) != l.text, u.State == store.UploadUploading && quiet >= watchTell:
		frame = append(frame, "event: progress\n"...)
		if uploadOver(u) {
			frame = append(append(append(frame, "id: "...), u.State...), '\n')
		}
		frame = append(append(append(frame, "data: "...), text...), "\n\n"...)
		l.text, l.at = string(text), time.Now()
	case quiet >= watchQuiet:
		frame, l.at = append(frame, ":\n\n"...), time.Now()
	}
	return frame
}

// followed looks at an upload again, for as long as the token allows.
func (s *Server) followed(r *http.Request, caller *Caller) (store.Upload, error) {
	if err := caller.current(); err != nil {
		return store.Upload{}, err
	}
	return s.Uploads.Find(r.Context(), chi.URLParam(r, "id"))
}

// watchers counts what each user has open. It is safe for concurrent use.
type watchers struct {
	mu sync.Mutex
	of map[[2]string]int // guarded by mu; by org and user
}

// enter counts one more until leave is called, or says that there are as many as there may be.
func (c *watchers) enter(caller *Caller) (leave func(), err error) {
	key := [2]string{caller.Org, caller.User}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[key] >= watchMost {
		return nil, retry(http.StatusTooManyRequests, 5*time.Second, "this user follows %d uploads already", watchMost)
	}
	if c.of == nil {
		c.of = map[[2]string]int{}
	}
	c.of[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.of[key]--; c.of[key] == 0 {
			delete(c.of, key)
		}
	}, nil
}
