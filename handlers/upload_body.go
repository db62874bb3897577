package handlers

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"sluice/store"
	"sluice/streams"
)

const (
	readPatience = 30 * time.Second // between two reads of a body; over so much waiting the rate is averaged
	readGrain    = time.Second      // how exact that is: a deadline is not set anew for every read
	rateMinimum  = 1 << 10          // bytes a second
	drainTime    = 2 * time.Second  // for a body that nobody reads any more, before its answer
	lingerTime   = 10 * time.Second // for one, after it
	drainSize    = 256 << 10        // what net/http drains to keep a connection
)

// uploadBody is a request's body that has to come at some pace, and can be interrupted. The server's own time-out for a whole
// request would cut large uploads, so each read moves the deadline on, once paced has been called. A body that ends early is
// a problem with io.ErrUnexpectedEOF or the connection's error in it, never an end.
type uploadBody struct {
	from    io.ReadCloser
	control *http.ResponseController
	left    int64 // of the body, or -1 where its length is not known
	most    int64 // that may still come, where its length is not known; -1: any number

	patience time.Duration // between two reads, and over which the rate is averaged; 0: no pace
	set      time.Time     // when the deadline was set
	waited   time.Duration // within the window
	came     int64         // bytes within it
	broken   bool          // reading has failed: nothing sensible follows

	mu    sync.Mutex
	whole bool // guarded by mu: all has been read
	over  bool // guarded by mu: nobody reads any more, and the deadline is not the body's
	cut   bool // guarded by mu: it was interrupted
}

// uploads serves a request for an upload. An answer that refuses it goes out while the client still sends.
func (s *Server) uploads(h handler) http.HandlerFunc {
	return s.serve(func(w http.ResponseWriter, r *http.Request) error {
		body := &uploadBody{from: r.Body, control: http.NewResponseController(w), left: r.ContentLength, most: -1, whole: r.ContentLength == 0}
		copied := *r // net/http has to find its own body in r
		copied.Body = body
		err := h(w, &copied)
		if err == nil {
			s.due(w) // what a dialect has answered goes out from here
			return nil
		}
		body.leave(w, r)
		for away, what := range map[error]string{store.ErrUnavailable: "the database does not answer", streams.ErrStorage: "the bytes cannot be stored"} {
			if errors.Is(err, away) {
				p := later("%s for now; HEAD tells from where to go on", what)
				p.cause, err = err, p
				break
			}
		}
		if p := problemOf(err); r.Method == http.MethodHead && p.Status == http.StatusServiceUnavailable && patches(dialectOf(r)) {
			// tus-js-client takes every other refusal of its HEAD for the end of the upload, and sends the file from the start.
			p.Status, p.Title, err = http.StatusLocked, http.StatusText(http.StatusLocked), p
		}
		return err
	})
}

// paced has the body come at some pace from now on, and not be longer than length, where that is not -1.
func (b *uploadBody) paced(patience time.Duration, length int64) {
	b.patience, b.most = patience, length
}

// Close implements io.Closer.
func (b *uploadBody) Close() error { return b.from.Close() }

// Read implements io.Reader.
func (b *uploadBody) Read(p []byte) (int, error) {
	began := time.Now()
	if err := b.extend(began); err != nil {
		return 0, err
	}
	n, err := b.from.Read(p)
	b.broken = err != nil && err != io.EOF
	if b.left > 0 {
		b.left -= int64(n)
	}
	if b.most >= 0 && int64(n) > b.most {
		return int(b.most), streams.ErrChunkLength
	}
	if b.most >= 0 {
		b.most -= int64(n)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && b.patience > 0:
		return n, b.late()
	case err == io.EOF || err == nil && b.left == 0:
		b.end()
		return n, err
	case err != nil:
		p := problem(http.StatusBadRequest, "the body broke off; HEAD tells from where to go on")
		p.cause = err
		return n, p
	}
	b.waited += time.Since(began)
	b.came += int64(n)
	if b.patience > 0 && b.waited >= b.patience {
		if float64(b.came) < b.waited.Seconds()*rateMinimum {
			b.broken = true
			return n, streams.ErrUploadSlow
		}
		b.waited, b.came = 0, 0
	}
	return n, nil
}

// extend gives the next read its time.
func (b *uploadBody) extend(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return streams.ErrUploadYielded
	}
	if b.patience > 0 && now.Sub(b.set) > readGrain {
		b.set = now
		_ = b.control.SetReadDeadline(now.Add(b.patience + readGrain))
	}
	return nil
}

// late says why a read had to end: a newer request wants to, or nothing comes.
func (b *uploadBody) late() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return streams.ErrUploadYielded
	}
	return streams.ErrUploadSlow
}

// interrupt makes reads fail at once. It may be called at any time, by any goroutine.
func (b *uploadBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole && !b.over && !b.cut {
		b.cut = true
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// end says that all has been read.
func (b *uploadBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole = true
}

// stop says that nobody reads any more.
func (b *uploadBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	b.over = true
	if !b.whole {
		_ = b.control.SetReadDeadline(time.Now().Add(drainTime))
	}
}

// leave lets an answer go out before the body has come. net/http reads up to 256 KiB of it first, to keep the connection; it is
// not given long for that. What is longer, or nobody knows how long, or has failed, is given up with the connection: then the
// answer goes out at once, and net/http reads on for a while so that it is seen by who still sends. (Full duplex would do without
// either, but net/http then reads a next request while it still reads this one.)
func (b *uploadBody) leave(w http.ResponseWriter, r *http.Request) {
	b.stop()
	if r.ProtoMajor == 1 && !b.whole && (b.broken || b.left < 0 || b.left > drainSize) {
		w.Header().Set("Connection", "close")
		_ = b.control.SetReadDeadline(time.Now().Add(lingerTime))
	}
}
