package handlers

import (
	"math/rand/v2"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"sluice/store"
	"sluice/streams"
)

const eventStream = "text/event-stream"

// stream is GET /v2/realtime/stream (docs/protocol.md, "Streams"). What it keeps of the request is copied: the stream
// outlives it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	if !acceptsSSE(r.Header) {
		return problem(http.StatusNotAcceptable, "this server streams %s", eventStream)
	}
	sub, err := s.subscription(r, caller)
	if err != nil {
		return err
	}
	if err := s.Hub.Full(sub.Org); err != nil {
		return s.refuse(w, r, err)
	}
	header := w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	first := appendRetry(nil, time.Second+rand.N(2*time.Second))
	if r.URL.Query().Get("pad") == "1" {
		first = append(append(append(first, ':'), strings.Repeat(" ", 2<<10)...), '\n')
	}
	first = append(first, '\n')
	if r.ProtoMajor == 1 && r.TLS == nil {
		sink, err := s.hijack(w, r, first)
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
	sink := newWriterSink(w, s.WriteTimeout, first)
	sub.Sink = sink
	s.Hub.Subscribe(sub)
	sink.serve(r.Context())
	return nil
}

// acceptsSSE says whether SSE is what was asked for, or will do: of the ranges that it falls into the narrowest decides
// (RFC 9110, 12.5.1).
func acceptsSSE(header http.Header) bool {
	text := strings.Join(header.Values("Accept"), ",")
	if strings.TrimSpace(text) == "" {
		return true
	}
	ranges := []string{"*/*", "text/*", eventStream}
	narrowest, accepted := -1, false
	for one := range strings.SplitSeq(text, ",") {
		kind, params, err := mime.ParseMediaType(one)
		if at := slices.Index(ranges, kind); err == nil && at >= narrowest && at >= 0 {
			quality, malformed := strconv.ParseFloat(params["q"], 64)
			narrowest, accepted = at, params["q"] == "" || malformed == nil && quality > 0
		}
	}
	return accepted
}

// refuse says that there is no stream for now. An EventSource gives up for ever on anything but 200, so it gets one that
// ends.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, cause error) error {
	p := problemOf(cause)
	if cause == streams.ErrOrgLimit {
		p = problem(http.StatusTooManyRequests, "%v", cause)
		p.RetryAfter = 5 * time.Second
	}
	if strings.Join(r.Header.Values("Accept"), ",") != eventStream {
		return p
	}
	w.Header().Set("Content-Type", eventStream)
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(sse{}.Problem(nil, streams.StreamProblem{
		Status: p.Status, Title: p.Title, Detail: p.Detail, Retry: p.RetryAfter + rand.N(p.RetryAfter+time.Second),
	}))
	return err
}

// subscription reads what is asked for and checks it against the token.
func (s *Server) subscription(r *http.Request, caller *Caller) (*streams.Subscription, error) {
	query := r.URL.Query()
	sub := &streams.Subscription{
		Org: caller.Org, User: caller.User, ConnectionID: uuid.NewString(), Encoder: sse{}, Expires: caller.Expires,
	}
	if caller.AnyOrg {
		sub.Org = query.Get("orgId")
		if sub.Org == "" || sub.Org == "*" || !label(sub.Org) {
			return nil, invalid("orgId", "a service token names the org that it acts for")
		}
	}
	if query.Has("rooms") && !slices.Contains(listed(query["services"]), "chat") {
		return nil, invalid("rooms", "rooms are of the service chat, which is not asked for")
	}
	var err error
	if sub.Services, sub.Filter.Services, err = s.services(listed(query["services"]), caller); err != nil {
		return nil, err
	}
	if sub.Filter.AllProperties = caller.Admin; !caller.Admin {
		if sub.Filter.Properties, err = s.Auth.Properties(r.Context(), caller, sub.Org); err != nil {
			return nil, err
		}
	}
	if asked := listed(query["propertyId"]); len(asked) > 1 {
		return nil, invalid("propertyId", "one property is expected")
	} else if len(asked) == 1 {
		if !label(asked[0]) {
			return nil, invalid("propertyId", "at most %d bytes without control characters are expected", labelLimit)
		}
		if !sub.Filter.AllProperties && !slices.Contains(sub.Filter.Properties, asked[0]) {
			return nil, problem(http.StatusForbidden, "the token does not allow the property %q", asked[0])
		}
		sub.Filter.AllProperties, sub.Filter.Properties = false, asked
	}
	sub.Start, err = startOf(r.Header.Get("Last-Event-ID"), query.Get("cursor"))
	for _, text := range []*string{&sub.Org, &sub.User} {
		*text = strings.Clone(*text)
	}
	return sub, err
}

// services checks names and gives their bits. None named: all that the token allows, but the server's own.
func (s *Server) services(names []string, caller *Caller) ([]string, uint64, error) {
	if len(names) == 0 {
		for _, name := range s.Catalogue.Usual() {
			if caller.MayService(name) {
				names = append(names, name)
			}
		}
	}
	var mask uint64
	for _, name := range names {
		bits, known := s.Catalogue.Mask(name)
		if !known {
			return nil, 0, invalid("services", "there is no service %q; there are %s", name, strings.Join(s.Catalogue.Names(), ", "))
		}
		if !caller.MayService(name) {
			return nil, 0, problem(http.StatusForbidden, "the token does not allow the service %q", name)
		}
		mask |= bits
	}
	return names, mask, nil
}

// listed reads a list given by commas, by repetition, or both; each once, in order.
func listed(values []string) []string {
	var list []string
	seen := map[string]bool{"": true}
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.Clone(strings.TrimSpace(one)); !seen[one] {
				seen[one] = true
				list = append(list, one)
			}
		}
	}
	return list
}

// startOf reads the position. What a browser repeats by itself for ever must not be an error; what a client wrote is.
func startOf(lastEventID, cursor string) (streams.Start, error) {
	switch {
	case lastEventID != "":
		at, err := store.ParseCursor(lastEventID)
		if err != nil {
			return streams.Start{Kind: streams.StartMalformed}, nil
		}
		return streams.Start{Kind: streams.StartAt, Cursor: at}, nil
	case cursor == "":
		return streams.Start{}, nil
	case cursor == "earliest":
		return streams.Start{Kind: streams.StartEarliest}, nil
	}
	at, err := store.ParseCursor(cursor)
	if err != nil {
		return streams.Start{}, invalid("cursor", "%v", err)
	}
	return streams.Start{Kind: streams.StartAt, Cursor: at}, nil
}
