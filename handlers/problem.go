package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"sluice/store"
	"sluice/streams"
)

// Problem is an error as clients see it: RFC 9457, application/problem+json.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // of the request, e.g. "events[3].data"

	// Of an offset that is not the upload's.
	Expected *int64 `json:"expected-offset,omitempty"`
	Provided *int64 `json:"provided-offset,omitempty"`

	RetryAfter time.Duration `json:"-"` // 0: no Retry-After

	cause error // for the log alone; may be nil
}

// Error implements error. It is for the log: it tells the cause, which clients never see.
func (p *Problem) Error() string {
	text := fmt.Sprintf("%d %s: %s", p.Status, p.Title, p.Detail)
	if p.cause != nil {
		text += ": " + p.cause.Error()
	}
	return text
}

// Unwrap gives the cause.
func (p *Problem) Unwrap() error { return p.cause }

// problem makes one with the status's own title.
func problem(status int, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// invalid is a 400 that names the field.
func invalid(field, format string, args ...any) *Problem {
	p := problem(http.StatusBadRequest, format, args...)
	p.Field = field
	return p
}

// later is a 503 that says when to come back.
func later(format string, args ...any) *Problem {
	p := problem(http.StatusServiceUnavailable, format, args...)
	p.RetryAfter = time.Second
	return p
}

// problemOf says what an error means to a client. What it does not know is a 500 that tells nothing.
func problemOf(err error) *Problem {
	var known *Problem
	var large *http.MaxBytesError
	upload, room := uploadProblem(err), roomProblem(err)
	switch {
	case errors.As(err, &known):
		return known
	case upload != nil:
		return upload
	case room != nil:
		return room
	case errors.As(err, &large):
		return problem(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", large.Limit)
	case errors.Is(err, context.Canceled):
		return later("the request was given up") // by its client, who is gone
	case errors.Is(err, store.ErrRefused):
		return problem(http.StatusBadRequest, "the database refuses this: a text in it is not one that it can keep")
	case errors.Is(err, streams.ErrOverloaded):
		return later("too many events are waiting; try again with the same ids")
	case errors.Is(err, streams.ErrOrgLimit):
		p := problem(http.StatusTooManyRequests, "%v", err)
		p.RetryAfter = 5 * time.Second
		return p
	case errors.Is(err, streams.ErrDraining), errors.Is(err, streams.ErrHubDrains):
		return later("this instance is going away; another one takes over")
	case errors.Is(err, streams.ErrUnavailable), errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return later("the database does not answer, and may have done what was asked all the same: try again with the same ids")
	}
	return problem(http.StatusInternalServerError, "something went wrong here; the log of the server names it by the request id")
}

// handler answers a request or returns why not.
type handler func(w http.ResponseWriter, r *http.Request) error

// serve writes what a handler returns, once, and tells the log of it. The query stays out of the log, since it may
// carry what opens a stream.
func (s *Server) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		err := h(w, r)
		if err == nil && !s.Log.Enabled(r.Context(), slog.LevelDebug) {
			return
		}
		line := s.line(w, r).With("ms", time.Since(began).Milliseconds())
		if err == nil {
			line.DebugContext(r.Context(), "request")
			return
		}
		p := problemOf(err)
		tell(r.Context(), line, p, err)
		s.due(w)
		p.write(w)
	}
}

// line is the log's, about one request.
func (s *Server) line(w http.ResponseWriter, r *http.Request) *slog.Logger {
	return s.Log.With("id", w.Header().Get(requestIDHeader), "client", s.client(r), "method", r.Method, "path", r.URL.Path)
}

// tell writes into the log why a request is refused.
func tell(ctx context.Context, line *slog.Logger, p *Problem, cause error) {
	line.Log(ctx, gravity(p.Status, cause), "request refused", "status", p.Status, "err", cause)
}

// gravity is how much an operator should care: clients err all the time, but a defect of ours never should.
func gravity(status int, err error) slog.Level {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, http.ErrAbortHandler): // the client is gone
		return slog.LevelDebug
	case status == http.StatusInternalServerError:
		return slog.LevelError
	case status >= 500:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// challenge says how to authenticate (RFC 6750, 3).
const challenge = `Bearer realm="sluice"`

func (p *Problem) write(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	if p.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", challenge)
	}
	w.WriteHeader(p.Status)
	_ = encode(w, p)
}

// object appends the problem as the fields of a frame; ref, where it is not nil, is the request that it answers.
func (p *Problem) object(dst []byte, ref json.RawMessage) []byte {
	dst = problemFields(append(dst, `{"type":"problem",`...), streams.StreamProblem{Status: p.Status, Title: p.Title, Detail: p.Detail})
	if p.Field != "" {
		dst = appendString(append(dst, `,"field":`...), p.Field)
	}
	if ref != nil {
		dst = append(append(dst, `,"ref":`...), ref...)
	}
	return append(dst, '}')
}

// due gives an answer its time from now on: who asks and never reads would hold a connection for ever. No connection that was
// taken from net/http may come here.
func (s *Server) due(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.WriteTimeout))
}

// answer writes JSON, to who reads it in time.
func (s *Server) answer(w http.ResponseWriter, status int, body any) error {
	s.due(w)
	if err := answer(w, status, body); err != nil {
		panic(http.ErrAbortHandler) // the client is gone, and the status is out
	}
	return nil
}

// answer writes JSON.
func answer(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return encode(w, body)
}

// encode writes texts as they are: nobody puts JSON into HTML here, and escapes of < and > are six times as long.
func encode(w io.Writer, body any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(body)
}
