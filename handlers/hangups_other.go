//go:build !linux

package handlers

import (
	"io"
	"sync"
	"time"
)

// hangups learns of peers that have closed by reading from each of them, with a goroutine a socket.
type hangups struct{ done sync.WaitGroup }

func newHangups() *hangups { return &hangups{} }

func (h *hangups) watch(s *socketSink) {
	h.done.Add(1)
	go func() {
		defer h.done.Done()
		_, _ = io.Copy(io.Discard, s.conn) // ends when the peer closes, or we do
		s.gone()
	}()
}

func (h *hangups) forget(*socketSink) {}

func (h *hangups) close() { h.done.Wait() }

func setUserTimeout(int, time.Duration) {}
