//go:build !linux

package handlers

import (
	"net"
	"sync"
	"time"
)

// sockets waits for all sockets of this process that sinks own: for peers that have closed or sent something, and, where
// a sink is blocked, for room to write; by a goroutine each.
type sockets struct {
	done sync.WaitGroup

	mu    sync.Mutex
	last  uint64               // guarded by mu: the newest id
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

// watch begins to wait for the sink's peer; the caller holds the sink's lock.
func (s *sockets) watch(sink *socketSink) {
	s.mu.Lock()
	s.last++
	sink.id = s.last
	s.mu.Unlock()
	s.await(sink)
}

// await waits for what the sink now waits for; the caller holds the sink's lock.
func (s *sockets) await(sink *socketSink) {
	conn := s.conn(sink.fd)
	if conn == nil || sink.id == 0 {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return // closed
	}
	once := func(wait func(func(uintptr) bool) error, writable bool) {
		waited := false
		if wait(func(uintptr) bool { waited = !waited; return !waited }) == nil {
			sink.ready(writable, !writable)
		}
	}
	if sink.rest != nil {
		s.done.Go(func() { once(raw.Write, true) })
	}
	if sink.reading || sink.inbound == nil && sink.rest == nil {
		s.done.Go(func() { once(raw.Read, false) })
	}
}

// hand gives the sink's connection back to package net; the caller holds the sink's lock, and the sink is closed.
func (s *sockets) hand(sink *socketSink) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.conns[sink.fd]
	delete(s.conns, sink.fd)
	if conn == nil {
		return nil, net.ErrClosed
	}
	return conn, conn.SetDeadline(time.Time{})
}

// shut says to the peer that nothing more comes; the caller holds the sink's lock.
func (s *sockets) shut(sink *socketSink) {
	if conn := s.conn(sink.fd); conn != nil {
		_ = conn.CloseWrite()
	}
}

// hungUp is for pollers that tell of a peer's end unasked. These do not.
func (s *sockets) hungUp(*socketSink) bool { return false }

// release closes the sink's connection; the caller holds the sink's lock.
func (s *sockets) release(sink *socketSink) {
	if conn, err := s.hand(sink); err == nil {
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.Close()
	}
}

func setUserTimeout(int, time.Duration) {}

func (s *sockets) close() { s.done.Wait() }
