package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loops       = 2         // threads that read
	readBytes   = 256 << 10 // of one read(2)
	openingMost = 256       // connections that wait for their ack at a time
	everyNth    = 16        // reader whose latencies are taken where there is a flood
)

// reader is one connection. Its loop owns it; others look at it before it starts and after the loop has ended.
type reader struct {
	index    int
	fd       int
	property int // -1: reads everything
	response response
	heard    func(*loop, *frame) // what a scenario makes of its frames, in its loop; nil: nothing

	ready        bool  // its ack has come
	start, last  int64 // sequence of the ack, of the newest event
	got          int64 // events
	missing      int64 // sequences left out, for one that reads everything
	repeated     int64 // events that were not after the one before
	finished     bool  // closed, by whomever
	lastReceived time.Time
}

// readers are all connections of a run.
type readers struct {
	loops    []*loop
	all      []*reader
	opening  chan struct{} // a place for each connection without its ack
	failed   chan error    // the first failure
	acked    atomic.Int64
	closing  atomic.Bool
	finished sync.WaitGroup
}

// loop reads some of the connections in one goroutine.
type loop struct {
	readers *readers
	epoll   int
	wake    int // eventfd that ends it

	mu    sync.Mutex
	conns []*reader // guarded by mu; epoll tells the index

	delivered atomic.Int64

	latency  histogram // owned by the loop until it has ended, as all below
	answers  histogram // of requests over WebSockets
	presence histogram // of changes that others have seen
	bytes    int64     // of reads that brought events
	now      time.Time // of the read under way
	current  *reader   //
	events   int64     // of the read under way
	err      error     // of the frame under way
}

// newReaders starts the loops; close ends them.
func newReaders() (*readers, error) {
	rs := &readers{opening: make(chan struct{}, openingMost), failed: make(chan error, 1)}
	for range loops {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			rs.close()
			return nil, os.NewSyscallError("epoll_create1", err)
		}
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err == nil {
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
		}
		if err != nil {
			_ = unix.Close(epoll)
			rs.close()
			return nil, os.NewSyscallError("eventfd", err)
		}
		l := &loop{readers: rs, epoll: epoll, wake: wake}
		rs.loops = append(rs.loops, l)
		rs.finished.Go(l.run)
	}
	return rs, nil
}

// open connects all readers of a load and waits until each of them has its ack: from then on they are served live.
func (rs *readers) open(ctx context.Context, from source, load *load) error {
	for i := range load.readers {
		request, err := from.request(i, load)
		if err != nil {
			return err
		}
		r := &reader{index: i, property: load.propertyOf(i)}
		r.response.door = load.door
		r.response.stamps = load.rate > 0 || i%everyNth == 0
		if err := rs.connect(ctx, r, from, request); err != nil {
			return err
		}
	}
	return rs.acknowledged(ctx, from)
}

// connect has a reader ask, as soon as few enough others wait for their acks.
func (rs *readers) connect(ctx context.Context, r *reader, from source, request []byte) (err error) {
	select {
	case rs.opening <- struct{}{}:
	case err := <-rs.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.fd, err = dial(from.addr(), r.index, request); err != nil {
		return explainDial(from.name(), err)
	}
	rs.all = append(rs.all, r)
	return rs.loops[r.index%len(rs.loops)].add(r)
}

// acknowledged waits until all who are connected have their acks.
func (rs *readers) acknowledged(ctx context.Context, from source) error {
	all := int64(len(rs.all))
	return rs.wait(ctx, 30*time.Second, func() bool { return rs.acked.Load() == all }, func() error {
		return fmt.Errorf("%d of %d readers had no ack from %s: does the database answer? /healthz/ready tells",
			all-rs.acked.Load(), all, from.name())
	})
}

// wait looks at the readers until done, or for so long without a delivery.
func (rs *readers) wait(ctx context.Context, stall time.Duration, done func() bool, late func() error) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	before, moved := int64(-1), time.Now()
	for !done() {
		select {
		case err := <-rs.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if now := rs.delivered() + rs.acked.Load(); now != before {
			before, moved = now, time.Now()
		} else if time.Since(moved) > stall {
			return late()
		}
	}
	return nil
}

func (rs *readers) delivered() (n int64) {
	for _, l := range rs.loops {
		n += l.delivered.Load()
	}
	return n
}

// close ends the loops and closes the connections; afterwards the readers are the caller's to look at.
func (rs *readers) close() {
	if rs.closing.Swap(true) {
		return
	}
	for _, l := range rs.loops {
		_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	rs.finished.Wait()
	for _, l := range rs.loops {
		_ = unix.Close(l.epoll)
		_ = unix.Close(l.wake)
	}
	for _, r := range rs.all {
		if !r.finished {
			_ = unix.Close(r.fd)
		}
	}
}

// fail keeps the first failure; the others follow from it.
func (rs *readers) fail(err error) {
	select {
	case rs.failed <- err:
	default:
	}
}

func (l *loop) add(r *reader) error {
	l.mu.Lock()
	index := len(l.conns)
	l.conns = append(l.conns, r)
	l.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(index)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, r.fd, &event))
}

func (l *loop) run() {
	events := make([]unix.EpollEvent, 1024)
	ready := make([]*reader, 0, len(events))
	buffer := make([]byte, readBytes)
	visit := l.visit // one closure for all frames
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			l.readers.fail(os.NewSyscallError("epoll_wait", err))
			return
		}
		ready = ready[:0]
		l.mu.Lock()
		for i := range n {
			if events[i].Fd < 0 {
				l.mu.Unlock()
				return
			}
			ready = append(ready, l.conns[events[i].Fd])
		}
		l.mu.Unlock()
		for _, r := range ready {
			l.read(r, buffer, visit)
		}
	}
}

// read takes what one connection has, once: epoll tells again of what is left, after the others had their turn.
func (l *loop) read(r *reader, buffer []byte, visit func(*frame)) {
	n, err := unix.Read(r.fd, buffer)
	if err == unix.EAGAIN || err == unix.EINTR || r.finished {
		return
	}
	if n <= 0 {
		l.finish(r, closedBy(err))
		return
	}
	l.now, l.current, l.events, l.err = time.Now(), r, 0, nil
	err = r.response.feed(buffer[:n], visit)
	if l.events > 0 {
		l.delivered.Add(l.events)
		l.bytes += int64(n)
		r.lastReceived = l.now
	}
	if err := errors.Join(l.err, err); err != nil {
		l.finish(r, err)
	}
}

func closedBy(err error) error {
	if err != nil {
		return fmt.Errorf("the connection broke: %w", err)
	}
	return errors.New("the server closed it")
}

// finish gives a connection up, which is a failure of the run.
func (l *loop) finish(r *reader, err error) {
	r.finished = true
	_ = unix.Close(r.fd)
	if !r.ready {
		<-l.readers.opening
	}
	l.readers.fail(explainStream(r.index, err))
}

// visit counts one frame of the current reader.
func (l *loop) visit(f *frame) {
	r := l.current
	switch f.kind {
	case kindAck:
		if !r.ready {
			r.ready = true
			<-l.readers.opening
			l.readers.acked.Add(1)
		}
		r.start, r.last = f.seq, f.seq
	case kindEvent:
		l.events++
		r.got++
		switch {
		case f.seq <= r.last:
			r.repeated++
		case r.property < 0:
			r.missing += f.seq - r.last - 1
		}
		r.last = max(r.last, f.seq)
		if f.stamp > 0 {
			l.latency.add(time.Duration(l.now.UnixNano() - f.stamp))
		}
	case kindReset, kindProblem, kindDrain:
		l.err = &ended{kind: f.kind, data: string(f.data)}
	}
	if r.heard != nil {
		r.heard(l, f)
	}
}
