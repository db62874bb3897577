package handlers

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sockets waits for all sockets of this process that sinks own: for peers that have closed, and, where a sink is
// blocked, for room to write. It owns one epoll and one goroutine for all of them; the epoll itself is waited for by
// Go's own poller, so no thread is held.
//
// The sockets are taken out of Go's poller: what it keeps for each of them, some 500 bytes, is never given back, and
// would stay for ever after a storm of connections.
type sockets struct {
	file *os.File
	raw  syscall.RawConn
	fd   int
	done sync.WaitGroup

	mu    sync.Mutex
	last  uint64                 // guarded by mu: the newest id
	sinks map[uint64]*socketSink // guarded by mu; by id
}

func newSockets() (*sockets, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	s := &sockets{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), sinks: map[uint64]*socketSink{}}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, err
	}
	s.done.Add(1)
	go s.run()
	return s, nil
}

// adopt takes a connection away from package net: what is left of it is a descriptor that does not block.
func (s *sockets) adopt(conn *net.TCPConn) (fd int, err error) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = os.NewSyscallError("fcntl", failed)
	}
	if err == nil {
		setUserTimeout(fd, deadPeer)
	}
	return fd, err
}

// setUserTimeout has the kernel give up sooner than by itself on a peer that vanished without a word.
func setUserTimeout(fd int, after time.Duration) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
}

// watch begins to wait for the sink's peer: to close, and to send where the sink reads. The caller holds the sink's lock.
func (s *sockets) watch(sink *socketSink) {
	if sink.closed {
		return
	}
	s.mu.Lock()
	s.last++
	sink.id = s.last
	s.sinks[sink.id] = sink
	s.mu.Unlock()
	_ = unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, sink.fd, interest(sink))
}

// await waits again for what the sink now waits for. The caller holds the sink's lock.
func (s *sockets) await(sink *socketSink) {
	if sink.id != 0 && !sink.closed {
		_ = unix.EpollCtl(s.fd, unix.EPOLL_CTL_MOD, sink.fd, interest(sink))
	}
}

// interest is what to wait for. Each event comes once and is asked for again: several goroutines never work on one sink.
// It carries the sink's id, not its descriptor: one that was closed may be another stream's when the event is looked at.
func interest(sink *socketSink) *unix.EpollEvent {
	event := &unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(sink.id)), Pad: int32(uint32(sink.id >> 32)),
	}
	if sink.rest != nil {
		event.Events |= unix.EPOLLOUT
	}
	if sink.reading {
		event.Events |= unix.EPOLLIN
	}
	return event
}

// forget ends the waiting for a sink.
func (s *sockets) forget(sink *socketSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sinks, sink.id)
	if len(s.sinks) == 0 {
		s.sinks = map[uint64]*socketSink{} // a map keeps the room of its most crowded moment
	}
}

// hand gives the sink's descriptor back to package net; the caller holds the sink's lock, and the sink is closed.
func (s *sockets) hand(sink *socketSink) (net.Conn, error) {
	s.forget(sink)
	_ = unix.EpollCtl(s.fd, unix.EPOLL_CTL_DEL, sink.fd, nil) // the connection lives on
	file := os.NewFile(uintptr(sink.fd), "")
	defer file.Close()
	return net.FileConn(file)
}

// shut says to the peer that nothing more comes; the caller holds the sink's lock.
func (s *sockets) shut(sink *socketSink) { _ = unix.Shutdown(sink.fd, unix.SHUT_WR) }

// hungUp says whether the peer has closed, or is gone; the caller holds the sink's lock.
func (s *sockets) hungUp(sink *socketSink) bool {
	ends := []unix.PollFd{{Fd: int32(sink.fd), Events: unix.POLLRDHUP}}
	n, _ := unix.Poll(ends, 0)
	return n > 0
}

// release closes the sink's descriptor; the caller holds the sink's lock.
func (s *sockets) release(sink *socketSink) {
	s.forget(sink)
	_ = unix.Shutdown(sink.fd, unix.SHUT_WR)
	_ = unix.Close(sink.fd) // which takes it out of the epoll, too
}

func (s *sockets) run() {
	defer s.done.Done()
	events := make([]unix.EpollEvent, 256)
	for {
		n := 0
		err := s.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		for _, event := range events[:max(n, 0)] {
			s.mu.Lock()
			sink := s.sinks[uint64(uint32(event.Fd))|uint64(uint32(event.Pad))<<32]
			s.mu.Unlock()
			if sink != nil {
				// On a goroutine of its own: what the reader is given next is made under its tail's lock.
				go sink.ready(event.Events&unix.EPOLLOUT != 0,
					event.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
			}
		}
	}
}

func (s *sockets) close() {
	_ = s.file.Close()
	s.done.Wait()
}
