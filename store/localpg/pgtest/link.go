package pgtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lib/pq"
)

// Link is a Unix socket in front of Postgres that can swallow what passes, or cut it.
type Link struct {
	URL string // how to connect through it

	mu    sync.Mutex
	away  bool             // guarded by mu: nobody is let in
	conns map[*linked]bool // guarded by mu
}

type linked struct {
	client, server net.Conn
	listening      bool          // guarded by Link.mu: a LISTEN has passed
	swallowing     chan struct{} // closed once nothing passes any more
	once           sync.Once
}

// NewLink stands in front of the database of a connection text.
func NewLink(t testing.TB, database string) *Link {
	t.Helper()
	config, err := pq.NewConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port))
	dir, err := os.MkdirTemp("/tmp", "sluicelink") // short, for it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{
		URL:   fmt.Sprintf("host=%s port=5432 user=%s dbname=%s sslmode=disable", dir, config.User, config.Database),
		conns: map[*linked]bool{},
	}
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", target)
			if err != nil {
				client.Close()
				continue
			}
			one := &linked{client: client, server: server, swallowing: make(chan struct{})}
			l.mu.Lock()
			if l.away {
				client.Close()
				server.Close()
			} else {
				l.conns[one] = true
			}
			l.mu.Unlock()
			go l.pass(one, server, client, true)
			go l.pass(one, client, server, false)
		}
	}()
	return l
}

func (l *Link) pass(one *linked, to, from net.Conn, requests bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if requests && bytes.Contains(buffer[:n], []byte("LISTEN")) {
			l.mu.Lock()
			one.listening = true
			l.mu.Unlock()
		}
		select {
		case <-one.swallowing:
			continue // the bytes are read, so that nobody sees an error, and go nowhere
		default:
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// Swallow makes the LISTEN connections of now silent, without a word to either end, and returns how many there were.
func (l *Link) Swallow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for one := range l.conns {
		if one.listening {
			one.once.Do(func() { close(one.swallowing); n++ })
		}
	}
	return n
}

// Away closes the connections of now and every new one, as a Postgres does that is being started anew; Back ends that.
func (l *Link) Away() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = true
	l.cut()
}

// Back lets connections in again.
func (l *Link) Back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = false
}

// Cut closes the connections of now.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
}

// cut is Cut for who holds the lock.
func (l *Link) cut() {
	for one := range l.conns {
		one.client.Close()
		one.server.Close()
		delete(l.conns, one)
	}
}
