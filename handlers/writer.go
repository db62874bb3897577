package handlers

import (
	"context"
	"net/http"
	"sync"
	"time"

	"sluice/streams"
)

// writerSink writes through net/http: HTTP/2 and TLS, where the connection is not ours. The request's own goroutine
// does the writing, so the sink counts as blocked while it does.
type writerSink struct {
	writer  http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration // without progress
	owner   streams.Owner
	wake    chan struct{} // one slot: there is something to write, or to end

	mu     sync.Mutex
	slot   []byte // guarded by mu: what is to be written
	ending bool   // guarded by mu: after slot
	closed bool   // guarded by mu: nothing can be written any more
}

func newWriterSink(w http.ResponseWriter, timeout time.Duration, first []byte) *writerSink {
	return &writerSink{
		writer: w, control: http.NewResponseController(w), timeout: timeout, slot: first,
		wake: make(chan struct{}, 1),
	}
}

// Start implements streams.Sink.
func (s *writerSink) Start(owner streams.Owner) { s.owner = owner }

// Transport implements streams.Sink.
func (s *writerSink) Transport() string { return "sse" }

// Offer implements streams.Sink.
func (s *writerSink) Offer(p streams.Payload) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	// The stream's first bytes may still be on their way: what comes then follows them.
	if s.slot == nil {
		s.slot = p.Raw()
	} else {
		s.slot = append(s.slot[:len(s.slot):len(s.slot)], p.Raw()...)
	}
	s.signal()
	return false
}

// End implements streams.Sink.
func (s *writerSink) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	s.signal()
}

func (s *writerSink) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// serve writes until the stream ends; it is the request's goroutine.
func (s *writerSink) serve(ctx context.Context) {
	defer func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.owner.Gone()
	}()
	for {
		s.mu.Lock()
		bytes, ending := s.slot, s.ending
		s.slot = nil
		s.mu.Unlock()
		switch {
		case len(bytes) > 0:
			if err := s.write(bytes); err != nil {
				return
			}
			s.mu.Lock()
			more := s.slot != nil
			s.mu.Unlock()
			if !more && !ending {
				s.owner.Ready()
			}
			continue
		case ending:
			return
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// write gives each piece its own time, so that a slow reader that makes progress is not cut off.
func (s *writerSink) write(bytes []byte) error {
	const piece = 16 << 10
	for len(bytes) > 0 {
		n := min(piece, len(bytes))
		if err := s.control.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
			return err
		}
		if _, err := s.writer.Write(bytes[:n]); err != nil {
			return err
		}
		if err := s.control.Flush(); err != nil {
			return err
		}
		bytes = bytes[n:]
	}
	// HTTP/2 resets a stream whose deadline passes, even one that has nothing to write.
	return s.control.SetWriteDeadline(time.Time{})
}
