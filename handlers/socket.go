package handlers

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/streams"
)

const (
	sendBuffer   = 64 << 10         // of the kernel, a stream
	writePiece   = 16 << 10         // of a blocked sink's rest; each piece has its own time
	deadPeer     = 45 * time.Second // TCP_USER_TIMEOUT
	lastChunk    = "0\r\n\r\n"
	headersBytes = 1 << 10
)

// socketSink owns an HTTP/1.1 connection in clear text. It writes at once what the kernel takes, and needs a goroutine
// only while that is less than it was offered.
type socketSink struct {
	conn    *net.TCPConn
	fd      int
	chunked bool
	timeout time.Duration // without progress
	hangups *hangups
	owner   streams.Owner

	mu     sync.Mutex
	rest   []byte // guarded by mu: what a goroutine is writing; nil: not blocked
	ending bool   // guarded by mu: after rest
	closed bool   // guarded by mu: fd is not ours any more
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
	sink := &socketSink{conn: conn, chunked: chunked, timeout: s.WriteTimeout, hangups: s.hangups}
	if err := sink.begin(head.String()); err != nil {
		conn.Close()
		return nil, http.ErrAbortHandler // the client is gone; there is nobody to tell
	}
	return sink, nil
}

// begin sets the socket up and writes the head, which fits into any send buffer.
func (s *socketSink) begin(head string) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	err = errors.Join(s.conn.SetDeadline(time.Time{}), s.conn.SetWriteBuffer(sendBuffer),
		raw.Control(func(fd uintptr) {
			s.fd = int(fd)
			setUserTimeout(s.fd, deadPeer)
		}))
	if err != nil {
		return err
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	_, err = io.WriteString(s.conn, head)
	return errors.Join(err, s.conn.SetWriteDeadline(time.Time{}))
}

// Start implements streams.Sink.
func (s *socketSink) Start(owner streams.Owner) {
	s.owner = owner
	s.hangups.watch(s)
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
	bytes := p.Chunk()
	if !s.chunked {
		bytes = p.Raw()
	}
	n := s.write(bytes)
	if n == len(bytes) {
		return true
	}
	s.rest = bytes[n:]
	go s.finish()
	return false
}

// write gives the kernel what it takes at once. An error is left to whoever finishes the rest, who meets it again. The
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

// finish writes the rest as the reader takes it, and gives the reader up when it takes nothing for too long.
func (s *socketSink) finish() {
	s.mu.Lock()
	rest := s.rest
	s.mu.Unlock()
	for len(rest) > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
		n, err := s.conn.Write(rest[:min(len(rest), writePiece)])
		rest = rest[n:]
		if err != nil {
			s.gone()
			return
		}
	}
	s.mu.Lock()
	s.rest = nil
	ending := s.ending
	s.mu.Unlock()
	if ending {
		if s.close(true) {
			s.owner.Gone()
		}
		return
	}
	s.owner.Ready()
}

// End implements streams.Sink. Gone is called from a goroutine of its own, for the caller holds its tail's lock.
func (s *socketSink) End() {
	s.mu.Lock()
	s.ending = true
	waits := s.rest != nil || s.closed
	s.mu.Unlock()
	if waits {
		return
	}
	go func() {
		if s.close(true) {
			s.owner.Gone()
		}
	}()
}

// gone is what a closed or dead peer leads to.
func (s *socketSink) gone() {
	if s.close(false) {
		s.owner.Gone()
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
	s.hangups.forget(s)
	_ = s.conn.CloseWrite()
	_ = s.conn.Close()
	return true
}
