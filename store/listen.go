package store

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// channel is the one that all notifications travel on.
const channel = "sluice"

// Payloads beside "org:seq" pairs: one that names nobody and concerns everybody, and the mark of a probe.
const (
	wakeAll   = "*"
	probeMark = "?"
)

// Payloads that tell all instances something which is in no log begin with a word of their own: no org does, escaped.
const (
	signalTicket = "!ticket "
	signalUpload = "!upload "

	signalPresence = "!presence "
	signalTyping   = "!typing "

	signalDocument = "!document" // there is something to be read
)

// Notified is what notifications are told to; no function may block.
type Notified struct {
	Grown   func(org string, seq int64) // a hint: org's log may have reached seq
	WakeAll func()                      // anything may have been missed
	Used    func(use TicketUse)         // a ticket was used anew
	Wanted  func(upload, by string)     // an instance wants to write an upload
	Queued  func()                      // there is a document to be read

	Present func(org string, users []string) // who of these is there may have changed; none named: of all of the org
	Typed   func(list []Typing)              // users type
}

// listenSilence is how long a LISTEN connection may be silent, pings and their answers included, before it is given up. No
// answer lifts that: it might be the one before.
const listenSilence = 8 * time.Second

// Listener is a LISTEN connection that is replaced by itself whenever it is lost. It runs nothing of ours: its owner
// drains C without pause, calls Start, Ping and Close, which may block, from goroutines of their own, and pings some times
// within eight seconds.
type Listener struct {
	C <-chan *pq.Notification // nil among them: the connection was made anew

	store *Store
	inner *pq.Listener
	open  openConns
	to    Notified
}

// NewListener makes a listener without waiting for a server. Every (re)connect wakes all, for what was sent in between
// is gone.
func (s *Store) NewListener(to Notified) *Listener {
	l := &Listener{store: s, to: to}
	dial := dialer{deadline: listenSilence, opened: l.open.add}
	l.inner = pq.NewDialListener(dial, s.opts.DirectURL, 100*time.Millisecond, time.Second,
		func(event pq.ListenerEventType, err error) {
			switch event {
			case pq.ListenerEventConnected, pq.ListenerEventReconnected:
				to.WakeAll()
			case pq.ListenerEventDisconnected:
				if l.open.ended() {
					return
				}
				s.log.Warn("the LISTEN connection was lost", "err", err)
			case pq.ListenerEventConnectionAttemptFailed:
				s.log.Debug("the LISTEN connection cannot be made", "err", err)
			}
		})
	l.C = l.inner.Notify
	return l
}

// Start asks for the channel; it blocks until a server has accepted that or the listener is closed.
func (l *Listener) Start() error {
	err := l.inner.Listen(channel)
	if errors.Is(err, pq.ErrChannelAlreadyOpen) {
		return nil
	}
	return err
}

// Ping sees whether the connection lives. One that is silent for eight seconds is closed, and the listener makes another.
func (l *Listener) Ping() error { return l.inner.Ping() }

// Close ends the listener although pings and reads may hang: its connection is closed first. C must be drained until
// it returns.
func (l *Listener) Close() {
	l.open.close()
	l.inner.Close()
}

// Tell passes on what came over C.
func (l *Listener) Tell(notification *pq.Notification) {
	to := l.to
	switch {
	case notification == nil, notification.Extra == wakeAll:
		to.WakeAll()
	case strings.HasPrefix(notification.Extra, probeMark):
		l.store.probes.answer(notification.Extra)
	case strings.HasPrefix(notification.Extra, signalTicket):
		use, err := readTicketUse(strings.TrimPrefix(notification.Extra, signalTicket))
		if err != nil {
			to.WakeAll()
			return
		}
		to.Used(use)
	case strings.HasPrefix(notification.Extra, signalUpload):
		upload, by, _ := strings.Cut(strings.TrimPrefix(notification.Extra, signalUpload), " ")
		to.Wanted(upload, by)
	case strings.HasPrefix(notification.Extra, signalPresence):
		named, err := readPresence(strings.TrimPrefix(notification.Extra, signalPresence))
		if err != nil {
			to.WakeAll()
			return
		}
		for org, users := range named {
			to.Present(org, users)
		}
	case strings.HasPrefix(notification.Extra, signalTyping):
		list, err := readTyping(strings.TrimPrefix(notification.Extra, signalTyping))
		if err != nil {
			to.WakeAll()
			return
		}
		to.Typed(list)
	case notification.Extra == signalDocument:
		to.Queued()
	default:
		for pair := range strings.SplitSeq(notification.Extra, " ") {
			escaped, digits, _ := strings.Cut(pair, ":")
			org, err := url.QueryUnescape(escaped)
			seq, err2 := strconv.ParseInt(digits, 10, 64)
			if err != nil || err2 != nil {
				// Somebody else's words on our channel: a hint that cannot be read may concern anybody.
				to.WakeAll()
				return
			}
			to.Grown(org, seq)
		}
	}
}

// openConns are the connections that a listener has made; closing them ends every read that hangs.
type openConns struct {
	mu     sync.Mutex
	conn   net.Conn // guarded by mu; the newest, for a listener has one at a time
	closed bool     // guarded by mu
}

func (o *openConns) add(conn net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		conn.Close()
		return
	}
	o.conn = conn
}

func (o *openConns) ended() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

func (o *openConns) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.conn != nil {
		o.conn.Close()
	}
}

// probes are notifications sent to ourselves, to see that LISTEN works: a pooler in transaction mode accepts LISTEN
// and never delivers anything.
type probes struct {
	mu      sync.Mutex
	waiting map[string]chan struct{} // guarded by mu
}

func (p *probes) answer(payload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answered, ours := p.waiting[payload]; ours {
		close(answered)
		delete(p.waiting, payload)
	}
}

// ProbeListen sends a notification through the database and waits until the Listener has received it.
func (s *Store) ProbeListen(ctx context.Context) error {
	payload := probeMark + rand.Text()
	answered := make(chan struct{})
	s.probes.mu.Lock()
	if s.probes.waiting == nil {
		s.probes.waiting = map[string]chan struct{}{}
	}
	s.probes.waiting[payload] = answered
	s.probes.mu.Unlock()
	defer func() {
		s.probes.mu.Lock()
		delete(s.probes.waiting, payload)
		s.probes.mu.Unlock()
	}()
	if _, err := s.db.ExecContext(ctx, `select pg_notify($1, $2)`, channel, payload); err != nil {
		return classify(err)
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return errors.New("no notification arrives: is a transaction pooler in between? set --listen-database-url")
	}
}
