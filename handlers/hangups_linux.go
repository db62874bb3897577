package handlers

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hangups learns at once of peers that have closed, with one goroutine for all sockets: it owns an epoll that waits for
// nothing but that. The epoll itself is waited for by Go's own poller, so no thread is held.
type hangups struct {
	file *os.File
	raw  syscall.RawConn
	fd   int
	done sync.WaitGroup

	mu    sync.Mutex
	sinks map[int32]*socketSink // guarded by mu; by descriptor
}

func newHangups() *hangups {
	h := &hangups{sinks: map[int32]*socketSink{}}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		// Without it, a closed peer is noticed by the next write to it: a ping at the latest.
		slog.Error("closed streams will be noticed late", "err", err)
		return h
	}
	h.fd, h.file = fd, os.NewFile(uintptr(fd), "epoll")
	if h.raw, err = h.file.SyscallConn(); err != nil {
		slog.Error("closed streams will be noticed late", "err", err)
		return h
	}
	h.done.Add(1)
	go h.run()
	return h
}

// watch begins to wait for the sink's peer to close. The caller must not hold the sink's lock.
func (h *hangups) watch(s *socketSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || h.raw == nil {
		return
	}
	h.mu.Lock()
	h.sinks[int32(s.fd)] = s
	h.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(s.fd)}
	_ = unix.EpollCtl(h.fd, unix.EPOLL_CTL_ADD, s.fd, &event)
}

// forget ends that; the caller holds the sink's lock and closes its descriptor afterwards.
func (h *hangups) forget(s *socketSink) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sinks[int32(s.fd)] == s {
		delete(h.sinks, int32(s.fd))
		_ = unix.EpollCtl(h.fd, unix.EPOLL_CTL_DEL, s.fd, nil)
	}
}

func (h *hangups) run() {
	defer h.done.Done()
	events := make([]unix.EpollEvent, 256)
	for {
		n := 0
		err := h.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		for i := range max(n, 0) {
			h.mu.Lock()
			s := h.sinks[events[i].Fd]
			h.mu.Unlock()
			if s != nil {
				s.gone()
			}
		}
	}
}

func (h *hangups) close() {
	if h.file != nil {
		_ = h.file.Close()
	}
	h.done.Wait()
}

// setUserTimeout bounds how long the kernel keeps trying to reach a peer that says nothing.
func setUserTimeout(fd int, after time.Duration) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
}
