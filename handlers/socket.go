package handlers

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/streams"
)

const (
	sendBuffer   = 64 << 10         // of the kernel, a stream
	deadPeer     = 45 * time.Second // TCP_USER_TIMEOUT
	controlBytes = 16 << 10         // of answers that wait for a reader
	lastChunk    = "0\r\n\r\n"
	headersBytes = 1 << 10
)

// socketSink owns an HTTP/1.1 connection in clear text. It writes at once what the kernel takes; the rest waits, without
// a goroutine, until the kernel takes more.
type socketSink struct {
	fd        int
	id        uint64 // among all sockets that there ever were; a descriptor's number comes again
	transport string
	chunked   bool
	timeout   time.Duration // without progress
	sockets   *sockets

	// What a WebSocket and a poll do otherwise than a stream; nil: nothing.
	inbound  func()                      // there may be something to read, or the peer has closed
	bye      func(streams.Ending) []byte // what follows the last payload
	finished func()                      // all is out, after End; else the connection is closed

	mu      sync.Mutex
	owner   streams.Owner // guarded by mu; nil before Start
	rest    []byte        // guarded by mu: what the kernel has not taken yet; nil: not blocked
	control []byte        // guarded by mu: answers that come after rest
	stall   *time.Timer   // guarded by mu: ends a sink that makes no progress; nil: not blocked
	reading bool          // guarded by mu: inbound is to be told
	waits   bool          // guarded by mu: nothing is read until rest is out
	ending  bool          // guarded by mu: after rest
	closed  bool          // guarded by mu: fd is not ours any more
}

// hijack takes the connection from net/http and answers with the headers and the first bytes of the body. Nothing of
// the request is kept.
func (s *Server) hijack(w http.ResponseWriter, r *http.Request, transport string, first []byte) (*socketSink, error) {
	header := w.Header()
	header.Set("Connection", "close")
	chunked := r.ProtoAtLeast(1, 1)
	if chunked {
		header.Set("Transfer-Encoding", "chunked")
	}
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	head := new(strings.Builder)
	head.Grow(headersBytes)
	fmt.Fprintf(head, "HTTP/1.%d 200 OK\r\n", r.ProtoMinor)
	if err := header.Write(head); err != nil {
		return nil, err
	}
	head.WriteString("\r\n")
	if len(first) > 0 { // an empty chunk would be the last
		body := streams.NewPayload(len(first), func(dst []byte) []byte { return append(dst, first...) })
		if chunked {
			head.Write(body.Chunk())
		} else {
			head.Write(body.Raw())
		}
	}
	hijacked, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	sink, err := s.own(hijacked, transport)
	if err != nil {
		return nil, err
	}
	sink.chunked = chunked
	// The head fits into any send buffer that is still empty.
	if sink.write([]byte(head.String())) != head.Len() {
		sink.close(false)
		return nil, http.ErrAbortHandler
	}
	return sink, nil
}

// own makes a sink of a connection that net/http has let go.
func (s *Server) own(hijacked net.Conn, transport string) (*socketSink, error) {
	conn, ok := hijacked.(*net.TCPConn)
	if !ok {
		hijacked.Close()
		return nil, fmt.Errorf("the connection is a %T", hijacked)
	}
	if err := errors.Join(conn.SetDeadline(time.Time{}), conn.SetWriteBuffer(sendBuffer)); err != nil {
		conn.Close()
		return nil, http.ErrAbortHandler // the client is gone; there is nobody to tell
	}
	fd, err := s.sockets.adopt(conn)
	if err != nil {
		s.Log.Warn("a stream cannot be opened", "err", err) // too few descriptors
		return nil, http.ErrAbortHandler
	}
	return &socketSink{fd: fd, transport: transport, timeout: s.WriteTimeout, sockets: s.sockets}, nil
}

// Start implements streams.Sink. A WebSocket was watched before, and may have ended meanwhile; Gone is called from a
// goroutine of its own, for the caller holds its tail's lock.
func (s *socketSink) Start(owner streams.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = owner
	if s.closed {
		go owner.Gone(nil)
	} else if s.id == 0 {
		s.sockets.watch(s)
	}
}

// Transport implements streams.Sink.
func (s *socketSink) Transport() string { return s.transport }

// Offer implements streams.Sink.
func (s *socketSink) Offer(p streams.Payload) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending {
		return false
	}
	bytes := s.framed(p)
	if s.rest != nil { // answers are on their way
		s.append(bytes)
		return false
	}
	n := s.write(bytes)
	if n == len(bytes) {
		return true
	}
	s.block(bytes[n:])
	return false
}

// append puts bytes behind what is on its way: a copy, for what was offered is shared. The caller holds mu.
func (s *socketSink) append(bytes []byte) {
	s.rest, s.control = slices.Concat(s.rest, s.control, bytes), nil
}

// reply writes what answers the reader and is no part of the stream; the bytes are the sink's from then on. It is true where
// so much of answers waits that nothing more should be read before it is out.
func (s *socketSink) reply(bytes []byte) (full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.ending:
	case s.rest != nil:
		s.control = append(s.control, bytes...)
	default:
		if n := s.write(bytes); n < len(bytes) {
			s.block(bytes[n:])
			return len(s.rest) > controlBytes
		}
	}
	return len(s.control) > controlBytes
}

// block keeps what the kernel did not take. The caller holds mu.
func (s *socketSink) block(rest []byte) {
	s.rest = rest
	s.stall = time.AfterFunc(s.timeout, func() { s.gone(streams.ErrStalled) })
	s.sockets.await(s)
}

// write gives the kernel what it takes at once. An error takes nothing: the poller reports it, too. The
// caller holds mu, and closing needs mu: the descriptor is ours.
func (s *socketSink) write(bytes []byte) (n int) {
	for {
		n, err := syscall.Write(s.fd, bytes)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0)
	}
}

// ready is told that the peer takes more, or that it has sent something or closed.
func (s *socketSink) ready(writable, readable bool) {
	if readable && s.inbound == nil {
		s.gone(nil) // whoever only listens has nothing to send
		return
	}
	if writable {
		s.resume()
	}
	if readable {
		s.inbound()
	}
}

// resume goes on writing the rest now that the kernel takes more, and tells the owner when it is out.
func (s *socketSink) resume() {
	s.mu.Lock()
	if s.closed || s.rest == nil {
		s.mu.Unlock()
		return
	}
	n := s.write(s.rest)
	s.rest = s.rest[n:]
	if len(s.rest) == 0 && len(s.control) > 0 {
		s.rest, s.control = s.control, nil
	}
	if len(s.rest) > 0 {
		if n > 0 && !s.ending {
			s.stall.Reset(s.timeout)
		}
		s.sockets.await(s)
		s.mu.Unlock()
		return
	}
	s.stall.Stop()
	s.rest, s.stall, s.waits = nil, nil, false
	ending, owner := s.ending, s.owner
	if !ending {
		s.sockets.await(s)
	}
	s.mu.Unlock()
	switch {
	case ending:
		s.finish()
	default:
		if owner != nil {
			owner.Ready()
		}
		if s.inbound != nil {
			s.inbound() // which may have waited for room for its answers
		}
	}
}

// framed is a payload, which may be nil, as the body of this response has it.
func (s *socketSink) framed(p streams.Payload) []byte {
	switch {
	case p == nil:
		return nil
	case s.chunked:
		return p.Chunk()
	}
	return p.Raw()
}

// End implements streams.Sink.
func (s *socketSink) End(last streams.Payload, why streams.Ending) {
	bytes := s.framed(last)
	if s.bye != nil {
		bytes = slices.Concat(bytes, s.bye(why))
	}
	s.last(bytes)
}

// last writes what comes last and ends. What follows is done by a goroutine of its own, for the caller may hold its tail's lock.
func (s *socketSink) last(bytes []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending {
		return
	}
	s.ending = true
	if s.rest != nil {
		s.append(bytes)
	} else if n := s.write(bytes); n < len(bytes) {
		s.block(bytes[n:])
	}
	if s.rest != nil {
		s.stall.Reset(s.timeout) // for all that is left, or a reader that takes a byte now and then would stay for ever
		return
	}
	go s.finish()
}

// finish does what comes after the last byte.
func (s *socketSink) finish() {
	if s.finished != nil {
		s.finished()
	} else if s.close(true) {
		s.tellGone(nil)
	}
}

// gone is what a closed, dead or stalled peer leads to.
func (s *socketSink) gone(why error) {
	if s.close(false) {
		s.tellGone(why)
	}
}

func (s *socketSink) tellGone(why error) {
	s.mu.Lock()
	owner := s.owner
	s.mu.Unlock()
	if owner != nil {
		owner.Gone(why)
	}
}

// close gives the connection back; it is true for the one who did. In good order means with the last chunk.
func (s *socketSink) close(orderly bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	if orderly && s.chunked {
		s.write([]byte(lastChunk))
	}
	if s.stall != nil {
		s.stall.Stop()
	}
	s.sockets.release(s)
	return true
}
