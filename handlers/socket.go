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
	lastChunk    = "0\r\n\r\n"
	headersBytes = 1 << 10
)

// socketSink owns an HTTP/1.1 connection in clear text. It writes at once what the kernel takes; the rest waits, without
// a goroutine, until the kernel takes more.
type socketSink struct {
	fd      int
	id      uint64 // among all sockets that there ever were; a descriptor's number comes again
	chunked bool
	timeout time.Duration // without progress
	sockets *sockets
	owner   streams.Owner

	mu     sync.Mutex
	rest   []byte      // guarded by mu: what the kernel has not taken yet; nil: not blocked
	stall  *time.Timer // guarded by mu: ends a sink that makes no progress; nil: not blocked
	ending bool        // guarded by mu: after rest
	closed bool        // guarded by mu: fd is not ours any more
}

// hijack takes the connection from net/http and answers with the headers and the first bytes of the body. Nothing of
// the request is kept.
func (s *Server) hijack(w http.ResponseWriter, r *http.Request, first []byte) (*socketSink, error) {
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
	body := streams.NewPayload(len(first), func(dst []byte) []byte { return append(dst, first...) })
	if chunked {
		head.Write(body.Chunk())
	} else {
		head.Write(body.Raw())
	}
	hijacked, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
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
	sink := &socketSink{fd: fd, chunked: chunked, timeout: s.WriteTimeout, sockets: s.sockets}
	// The head fits into any send buffer that is still empty.
	if sink.write([]byte(head.String())) != head.Len() {
		sink.close(false)
		return nil, http.ErrAbortHandler
	}
	return sink, nil
}

// Start implements streams.Sink.
func (s *socketSink) Start(owner streams.Owner) {
	s.owner = owner
	s.sockets.watch(s)
}

// Transport implements streams.Sink.
func (s *socketSink) Transport() string { return "sse" }

// Offer implements streams.Sink.
func (s *socketSink) Offer(p streams.Payload) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.rest != nil {
		return false
	}
	bytes := s.framed(p)
	n := s.write(bytes)
	if n == len(bytes) {
		return true
	}
	s.block(bytes[n:])
	return false
}

// block keeps what the kernel did not take. The caller holds mu.
func (s *socketSink) block(rest []byte) {
	s.rest = rest
	s.stall = time.AfterFunc(s.timeout, func() { s.gone(streams.ErrStalled) })
	s.sockets.await(s, true)
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

// resume goes on writing the rest now that the kernel takes more, and tells the owner when it is out.
func (s *socketSink) resume() {
	s.mu.Lock()
	if s.closed || s.rest == nil {
		s.mu.Unlock()
		return
	}
	n := s.write(s.rest)
	s.rest = s.rest[n:]
	if len(s.rest) > 0 {
		if n > 0 && !s.ending {
			s.stall.Reset(s.timeout)
		}
		s.sockets.await(s, true)
		s.mu.Unlock()
		return
	}
	s.stall.Stop()
	s.rest, s.stall = nil, nil
	ending := s.ending
	if !ending {
		s.sockets.await(s, false)
	}
	s.mu.Unlock()
	if !ending {
		s.owner.Ready()
	} else if s.close(true) {
		s.owner.Gone(nil)
	}
}

// framed is a payload as the body of this response has it.
func (s *socketSink) framed(p streams.Payload) []byte {
	if s.chunked {
		return p.Chunk()
	}
	return p.Raw()
}

// End implements streams.Sink. Gone is called from a goroutine of its own, for the caller holds its tail's lock.
func (s *socketSink) End(last streams.Payload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending {
		return
	}
	s.ending = true
	if last != nil {
		bytes := s.framed(last)
		if s.rest != nil {
			s.rest = slices.Concat(s.rest, bytes) // a copy: what was offered is shared
		} else if n := s.write(bytes); n < len(bytes) {
			s.block(bytes[n:])
		}
	}
	if s.rest != nil {
		s.stall.Reset(s.timeout) // for all that is left, or a reader that takes a byte now and then would stay for ever
		return
	}
	go func() {
		if s.close(true) {
			s.owner.Gone(nil)
		}
	}()
}

// gone is what a closed, dead or stalled peer leads to.
func (s *socketSink) gone(why error) {
	if s.close(false) {
		s.owner.Gone(why)
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
