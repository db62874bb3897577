package handlers

import (
	"net/http"
	"strconv"
	"time"

	"sluice/streams"
)

const (
	waitDefault = 25 * time.Second
	waitMost    = 60 // seconds
)

// poll is GET /v2/realtime/poll: what comes after a cursor, at once or as soon as there is something.
func (s *Server) poll(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	asked, err := askedBy(r)
	if err != nil {
		return err
	}
	wait, err := waitOf(r.URL.Query().Get("wait"))
	if err != nil {
		return err
	}
	sub, err := s.subscription(r.Context(), caller, asked)
	if err != nil {
		return err
	}
	sub.Poll = &streams.Poll{Wait: wait, Encoder: polled{}}
	return s.park(w, r, sub, "poll")
}

// waitOf reads the seconds that a poll waits.
func waitOf(text string) (time.Duration, error) {
	if text == "" {
		return waitDefault, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0 && seconds <= waitMost) {
		return 0, invalid("wait", "0 to %d seconds are expected", waitMost)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// polled writes the answers of /v2/realtime/poll.
type polled struct{}

// Name implements streams.PollEncoder.
func (polled) Name() string { return "v2" }

// Most implements streams.PollEncoder.
func (polled) Most() int { return 100 }

// Answer implements streams.PollEncoder.
func (polled) Answer(dst []byte, a *streams.Answer) []byte {
	dst = append(dst, `{"events":[`...)
	for i, event := range a.Events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendEvent(dst, event, a.Epoch)
	}
	dst = append(append(append(dst, `],"cursor":"`...), a.Cursor.String()...), '"')
	if a.Reset != nil {
		dst = append(resetFields(append(dst, `,"reset":{`...), *a.Reset), '}')
	}
	return append(dst, "}\n"...)
}

// Problem implements streams.PollEncoder.
func (polled) Problem(dst []byte, p streams.StreamProblem) []byte {
	return append(problemFields(append(dst, `{"type":"about:blank",`...), p), "}\n"...)
}

// park lets a poll wait for its answer: without a goroutine where the connection is one that we can own.
func (s *Server) park(w http.ResponseWriter, r *http.Request, sub *streams.Subscription, transport string) error {
	if s.Hub.Draining() {
		return streams.ErrHubDrains
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	if r.ProtoMajor > 1 || r.TLS != nil {
		return s.parkWriter(w, r, sub, transport)
	}
	sink, err := s.newPollSink(w, r, transport)
	if err != nil {
		return err
	}
	sub.Sink = sink
	s.Hub.Subscribe(sub)
	return nil
}

// parkWriter waits with the request's goroutine.
func (s *Server) parkWriter(w http.ResponseWriter, r *http.Request, sub *streams.Subscription, transport string) error {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	sink := &pollWriter{transport: transport, answer: make(chan pollAnswer, 1)}
	sub.Sink = sink
	subscriber := s.Hub.Subscribe(sub)
	defer subscriber.Gone(nil)
	select {
	case <-r.Context().Done():
		return nil
	case answer := <-sink.answer:
		if answer.body == nil {
			return streams.ErrHubDrains
		}
		answer.head(w.Header())
		if err := control.SetWriteDeadline(time.Now().Add(s.WriteTimeout)); err != nil {
			return err
		}
		w.WriteHeader(answer.status)
		_, err := w.Write(answer.body)
		return err
	}
}

// pollAnswer is what a poll is answered with; body is nil where the hub has ended.
type pollAnswer struct {
	status int
	body   []byte
}

func newPollAnswer(last streams.Payload, why streams.Ending) pollAnswer {
	answer := pollAnswer{status: http.StatusOK}
	if last != nil {
		answer.body = last.Raw()
	}
	switch why {
	case streams.EndDenied:
		answer.status = http.StatusUnauthorized
	case streams.EndLater, streams.EndDrained:
		answer.status = http.StatusServiceUnavailable
	}
	return answer
}

// head completes the headers.
func (a *pollAnswer) head(header http.Header) {
	if a.status != http.StatusOK {
		header.Set("Content-Type", "application/problem+json")
	}
	switch a.status {
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "1")
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", challenge)
	}
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
}

// pollWriter hands the answer to the request's goroutine.
type pollWriter struct {
	transport string
	answer    chan pollAnswer // of one slot
}

// Start implements streams.Sink.
func (*pollWriter) Start(streams.Owner) {}

// Offer implements streams.Sink. A poll is only ever ended.
func (*pollWriter) Offer(streams.Payload) bool { return false }

// End implements streams.Sink.
func (p *pollWriter) End(last streams.Payload, why streams.Ending) {
	p.answer <- newPollAnswer(last, why)
}

// Transport implements streams.Sink.
func (p *pollWriter) Transport() string { return p.transport }
