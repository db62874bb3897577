package handlers

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"sluice/streams"
)

// secureWebSocket serves a WebSocket over TLS, where the bytes on the wire are not ours to write: the request's goroutine
// writes, and another one reads.
func (s *Server) secureWebSocket(w http.ResponseWriter, r *http.Request, session *session, sub *streams.Subscription) error {
	boundConn(r)
	conn, buffered, err := s.upgrade(w, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return http.ErrAbortHandler
	}
	sink := newWriterSink(conn, secureConn{conn}, "websocket", s.WriteTimeout, nil)
	sink.bye = session.bye
	session.peer = sink
	session.begin(sub)
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		defer cancel()
		receiveFrom(conn, session, buffered)
	})
	sink.serve(ctx)
	// The peer has time to close: a connection that is closed while it still sends is reset, and what was said last may be
	// lost on the way.
	_ = conn.SetReadDeadline(time.Now().Add(closePatience))
	if half, ok := conn.(*tls.Conn); ok {
		_ = half.CloseWrite()
	}
	return nil
}

// receiveFrom reads until the peer closes; what comes after a failure or a close frame is dropped.
func receiveFrom(conn net.Conn, session *session, left []byte) {
	buffer := make([]byte, 4<<10)
	for {
		left, _ = session.feed(left)
		n, err := conn.Read(buffer)
		if err != nil {
			session.stopWaiting()
			return
		}
		left = append(left, buffer[:n]...)
	}
}

// secureConn is a connection that has nothing to flush.
type secureConn struct{ net.Conn }

// Flush implements writeControl.
func (secureConn) Flush() error { return nil }
