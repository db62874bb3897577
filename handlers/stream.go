package handlers

import (
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/streams"
)

const (
	eventStream = "text/event-stream"
	ndjsonType  = "application/x-ndjson"
)

// stream is GET /v2/realtime/stream (docs/protocol.md, "Streams"): one delivery in the encoding that is asked for. What it
// keeps of the request is copied: the stream outlives it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) error {
	if upgrades(r.Header) {
		return s.webSocket(w, r)
	}
	caller, ticket, err := s.reader(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	if err := checkStripped(w, r); err != nil {
		return err
	}
	kind := negotiated(r.Header)
	if kind == "" {
		return problem(http.StatusNotAcceptable, "this server streams %s, %s, and over WebSocket", eventStream, ndjsonType)
	}
	sub, err := s.streamOf(r, caller)
	if err != nil {
		return s.refuse(w, r, err)
	}
	sub.Ticket = ticket
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	padded := r.URL.Query().Get("pad") == "1"
	if kind == eventStream {
		sub.Encoder = sse{}
		return s.open(w, r, sub, "sse", sseStart(padded))
	}
	sub.Encoder = ndjson
	var first []byte
	if padded {
		first = []byte(strings.Repeat(" ", padding) + "\n")
	}
	return s.open(w, r, sub, "ndjson", first)
}

// padding makes proxies and browsers that wait for some bytes pass on what follows.
const padding = 2 << 10

// sseStart is what stands before the first frame.
func sseStart(padded bool) []byte {
	first := appendRetry(nil, time.Second+rand.N(2*time.Second))
	if padded {
		first = append(append(append(first, ':'), strings.Repeat(" ", padding)...), '\n')
	}
	return append(first, '\n')
}

// streamOf reads what stream is asked for, and whether it may be had for now.
func (s *Server) streamOf(r *http.Request, caller *Caller) (*streams.Subscription, error) {
	asked, err := askedBy(r)
	if err != nil {
		return nil, err
	}
	sub, err := s.subscription(r.Context(), caller, asked)
	if err != nil {
		return nil, err
	}
	return sub, s.Hub.Full(sub.Org)
}

// open answers with a stream that begins with some bytes, over the sink that the connection allows.
func (s *Server) open(w http.ResponseWriter, r *http.Request, sub *streams.Subscription, transport string, first []byte) error {
	if r.ProtoMajor == 1 && r.TLS == nil {
		sink, err := s.hijack(w, r, transport, first)
		if err != nil {
			return err
		}
		sub.Sink = sink
		s.Hub.Subscribe(sub)
		return nil
	}
	// The server's time for reading a request is over some time; a stream has none.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	boundConn(r)
	sink := newWriterSink(w, http.NewResponseController(w), transport, s.WriteTimeout, first)
	sub.Sink = sink
	s.Hub.Subscribe(sub)
	sink.serve(r.Context())
	return nil
}

// negotiated is the encoding that a request wants most of those that there are, SSE where nothing tells; "" where it
// wants none of them. Of the ranges that a type falls into the narrowest decides (RFC 9110, 12.5.1).
func negotiated(header http.Header) string {
	text := strings.Join(header.Values("Accept"), ",")
	if strings.TrimSpace(text) == "" {
		return eventStream
	}
	sse, sseNamed := accepted(text, eventStream)
	lines, linesNamed := accepted(text, ndjsonType)
	switch {
	case lines > 0 && (lines > sse || lines == sse && linesNamed && !sseNamed):
		return ndjsonType
	case sse > 0:
		return eventStream
	}
	return ""
}

// accepted is how much a type is wanted, from 0 to 1, and whether it is by its own name.
func accepted(accept, kind string) (quality float64, named bool) {
	family, _, _ := strings.Cut(kind, "/")
	ranges := map[string]int{"*/*": 1, family + "/*": 2, kind: 3}
	narrowest := 0
	for one := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(one)
		if at := ranges[kind]; err == nil && at >= max(1, narrowest) {
			narrowest, quality = at, 1
			if params["q"] != "" {
				if quality, err = strconv.ParseFloat(params["q"], 64); err != nil {
					quality = 0
				}
			}
		}
	}
	return quality, narrowest == 3
}

// refuse says why there is no stream. For now, that is: an EventSource gives up for ever on anything but 200, so it gets one that
// ends.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, cause error) error {
	p := problemOf(cause)
	if p.Status != http.StatusTooManyRequests && p.Status != http.StatusServiceUnavailable {
		return cause
	}
	if strings.Join(r.Header.Values("Accept"), ",") != eventStream {
		return p
	}
	tell(r.Context(), s.line(w, r), p, cause)
	w.Header().Set("Content-Type", eventStream)
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(sse{}.Problem(nil, streams.StreamProblem{
		Status: p.Status, Title: p.Title, Detail: p.Detail, Retry: p.RetryAfter + rand.N(p.RetryAfter+time.Second),
	}))
	return err
}
