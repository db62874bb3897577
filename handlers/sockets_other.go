//go:build !linux

package handlers

import (
	"io"
	"net"
	"sync"
	"time"
)

// sockets waits for all sockets of this process that sinks own: for peers that have closed, by a goroutine that reads
// from each of them, and, where a sink is blocked, for room to write.
type sockets struct {
	done sync.WaitGroup

	mu    sync.Mutex
	conns map[int]*net.TCPConn // guarded by mu; by descriptor
}

func newSockets() (*sockets, error) { return &sockets{conns: map[int]*net.TCPConn{}}, nil }

// adopt keeps the connection and names its descriptor.
func (s *sockets) adopt(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(own uintptr) { fd = int(own) })
	}
	if err != nil {
		conn.Close()
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[fd] = conn
	return fd, nil
}

func (s *sockets) conn(fd int) *net.TCPConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[fd]
}

func (s *sockets) watch(sink *socketSink) {
	conn := s.conn(sink.fd)
	if conn == nil {
		return // closed
	}
	s.done.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // ends when the peer closes, or we do
		sink.gone(nil)
	})
}

// await calls resume once the socket can be written to; the caller holds the sink's lock.
func (s *sockets) await(sink *socketSink, writable bool) {
	conn := s.conn(sink.fd)
	if !writable || conn == nil {
		return
	}
	s.done.Go(func() {
		raw, err := conn.SyscallConn()
		waited := false
		if err == nil {
			err = raw.Write(func(uintptr) bool {
				waited, err = !waited, nil
				return !waited
			})
		}
		if err != nil {
			sink.gone(nil)
			return
		}
		sink.resume()
	})
}

// release closes the sink's connection; the caller holds the sink's lock.
func (s *sockets) release(sink *socketSink) {
	s.mu.Lock()
	conn := s.conns[sink.fd]
	delete(s.conns, sink.fd)
	s.mu.Unlock()
	if conn != nil {
		_ = conn.CloseWrite()
		_ = conn.Close()
	}
}

func setUserTimeout(int, time.Duration) {}

func (s *sockets) close() { s.done.Wait() }
