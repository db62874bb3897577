package handlers

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"sluice/streams"
)

// pollSink owns the HTTP/1.1 connection of a poll while it waits. With the answer out, the connection goes back to the
// HTTP server, for the next request.
type pollSink struct {
	*socketSink
	header   string // of the answer, as far as the request told it
	minor    int    // of the version of HTTP/1
	keep     bool   // the connection afterwards
	draining func() bool
	returned *returned
}

// newPollSink takes the connection from net/http. Nothing of the request is kept.
func (s *Server) newPollSink(w http.ResponseWriter, r *http.Request, transport string) (*pollSink, error) {
	header := new(strings.Builder)
	if err := w.Header().WriteSubset(header, map[string]bool{"Content-Type": true}); err != nil {
		return nil, err
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	ahead := buffered.Reader.Buffered() > 0 // of the answer: what came would be lost
	own, err := s.own(conn, transport)
	if err != nil {
		return nil, err
	}
	sink := &pollSink{
		socketSink: own, header: header.String(), minor: r.ProtoMinor, returned: s.returned, draining: s.Hub.Draining,
		// A body that nobody has read would be taken for the next request.
		keep: !ahead && r.ContentLength == 0 && r.ProtoAtLeast(1, 1) && !hasToken(r.Header, "Connection", "close"),
	}
	own.finished = sink.back
	return sink, nil
}

// End implements streams.Sink: it writes the whole answer.
func (s *pollSink) End(last streams.Payload, why streams.Ending) {
	answer := newPollAnswer(last, why)
	if why != streams.EndAnswer || s.draining() { // who comes back finds another instance
		s.keep = false
	}
	extra := http.Header{"Content-Type": {"application/json"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	answer.head(extra)
	if !s.keep {
		extra.Set("Connection", "close")
	}
	head := new(strings.Builder)
	fmt.Fprintf(head, "HTTP/1.%d %d %s\r\n%s", s.minor, answer.status, http.StatusText(answer.status), s.header)
	_ = extra.Write(head) // which a builder takes
	head.WriteString("\r\n")
	s.last(append([]byte(head.String()), answer.body...))
}

// back gives the connection to the HTTP server, or closes it.
func (s *pollSink) back() {
	if !s.keep {
		if s.close(true) {
			s.tellGone(nil)
		}
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	conn, err := s.sockets.hand(s.socketSink)
	s.mu.Unlock()
	if err == nil {
		s.returned.give(conn)
	}
	s.tellGone(nil)
}

// returned are connections that come back to the HTTP server: a listener of its own for it.
type returned struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{} // closed by Close
	close sync.Once
}

func newReturned() *returned {
	return &returned{addr: &net.TCPAddr{}, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection over, or closes it where nobody accepts any more.
func (r *returned) give(conn net.Conn) {
	select {
	case r.conns <- conn:
	case <-r.done:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (r *returned) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		return conn, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (r *returned) Close() error {
	r.close.Do(func() { close(r.done) })
	return nil
}

// Addr implements net.Listener.
func (r *returned) Addr() net.Addr { return r.addr }
