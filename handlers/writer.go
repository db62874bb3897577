package handlers

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"sluice/streams"
)

// writerSink writes through net/http: HTTP/2 and TLS, where the connection is not ours. The request's own goroutine
// does the writing, so the sink counts as blocked while it does.
type writerSink struct {
	writer    io.Writer
	control   writeControl
	transport string
	timeout   time.Duration // without progress
	owner     streams.Owner
	wake      chan struct{}               // one slot: there is something to write, or to end
	bye       func(streams.Ending) []byte // what follows the last payload; nil: nothing

	mu       sync.Mutex
	written  sync.Cond // on mu: slot is empty, or closed
	slot     []byte    // guarded by mu: what is to be written
	ending   bool      // guarded by mu: after slot
	deadline time.Time // guarded by mu: of the end
	closed   bool      // guarded by mu: nothing can be written any more
}

// writeControl is what a sink needs of a connection beside writing; *http.ResponseController has it.
type writeControl interface {
	SetWriteDeadline(time.Time) error
	Flush() error
}

// connKey finds the connection of a request in its context.
type connKey struct{}

// KeepConn is for http.Server.ConnContext: a stream sets limits to the connection that it goes over.
func KeepConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// boundConn limits what the kernel keeps for a stream's connection, and how long it tries to reach a peer that says
// nothing. Over HTTP/2 the connection is shared by what else its client asks for, so it may hold more.
func boundConn(r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	plain, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	size := sendBuffer
	if r.ProtoMajor > 1 {
		size *= 4
	}
	_ = plain.SetWriteBuffer(size)
	if raw, err := plain.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { setUserTimeout(int(fd), deadPeer) })
	}
}

func newWriterSink(w io.Writer, control writeControl, transport string, timeout time.Duration, first []byte) *writerSink {
	s := &writerSink{
		writer: w, control: control, transport: transport, timeout: timeout, slot: first, wake: make(chan struct{}, 1),
	}
	s.written.L = &s.mu
	return s
}

// Start implements streams.Sink.
func (s *writerSink) Start(owner streams.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = owner
	if s.closed {
		go owner.Gone(nil)
	}
}

// Transport implements streams.Sink.
func (s *writerSink) Transport() string { return s.transport }

// Offer implements streams.Sink.
func (s *writerSink) Offer(p streams.Payload) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending {
		return false
	}
	s.put(p.Raw())
	return false
}

// reply writes what answers the reader and is no part of the stream, and returns once it is out.
func (s *writerSink) reply(bytes []byte) (full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending {
		return false
	}
	s.put(bytes)
	for s.slot != nil && !s.closed {
		s.written.Wait()
	}
	return false
}

// End implements streams.Sink.
func (s *writerSink) End(last streams.Payload, why streams.Ending) {
	var bytes []byte
	if last != nil {
		bytes = last.Raw()
	}
	if s.bye != nil {
		bytes = slices.Concat(bytes, s.bye(why))
	}
	s.last(bytes)
}

// last writes what comes last and ends.
func (s *writerSink) last(bytes []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	s.ending, s.deadline = true, time.Now().Add(s.timeout)
	s.put(bytes)
}

// put hands bytes, if any, to the goroutine that writes. What is still on its way goes first. The caller holds mu.
func (s *writerSink) put(bytes []byte) {
	switch {
	case len(bytes) == 0:
	case s.slot == nil:
		s.slot = bytes
	default:
		s.slot = slices.Concat(s.slot, bytes) // a copy: what was offered is shared
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// serve writes until the stream ends; it is the request's goroutine.
func (s *writerSink) serve(ctx context.Context) {
	var why error
	defer func() {
		s.mu.Lock()
		s.closed = true
		owner := s.owner
		s.written.Broadcast()
		s.mu.Unlock()
		if owner != nil {
			owner.Gone(why)
		}
	}()
	for {
		s.mu.Lock()
		bytes, ending, owner := s.slot, s.ending, s.owner
		s.slot = nil
		s.written.Broadcast()
		s.mu.Unlock()
		switch {
		case len(bytes) > 0:
			if err := s.write(bytes); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					why = streams.ErrStalled
				}
				return
			}
			s.mu.Lock()
			more := s.slot != nil
			s.mu.Unlock()
			if !more && !ending && owner != nil {
				owner.Ready()
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

// write gives each piece its own time, so that a slow reader that makes progress is not cut off; at the end there is one
// time for all that is left, or a reader that takes a byte now and then would stay for ever.
func (s *writerSink) write(bytes []byte) error {
	const piece = 16 << 10
	for len(bytes) > 0 {
		n := min(piece, len(bytes))
		deadline := time.Now().Add(s.timeout)
		s.mu.Lock()
		if s.ending {
			deadline = s.deadline
		}
		s.mu.Unlock()
		if err := s.control.SetWriteDeadline(deadline); err != nil {
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
