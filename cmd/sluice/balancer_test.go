package main

import (
	"net"
	"sync"
	"testing"
)

// balancer stands before instances, as a balancer does that knows no uploads: each connection goes to the next of them. Some
// connections are cut.
type balancer struct {
	url string

	mu    sync.Mutex
	to    []string       // guarded by mu: addresses, of the next instance first
	taken map[string]int // guarded by mu: connections, by address
	cuts  []cut          // guarded by mu: that are to come
	sent  int64          // guarded by mu: bytes of clients since the last one
}

// cut is a connection that breaks at a number of bytes that clients have sent since the one before.
type cut struct {
	after int64
	first func() // what breaks it; nil: the network does
}

// newBalancer takes connections at a port of its own until the test ends.
func newBalancer(t testing.TB, cuts []cut, to ...string) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	b := &balancer{url: "http://" + listener.Addr().String(), to: to, taken: map[string]int{}, cuts: cuts}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server := b.dial()
			if server == nil {
				reset(client)
				continue
			}
			go b.pass(client, server, func(int) *cut { return nil })
			go b.pass(server, client, b.count)
		}
	}()
	return b
}

// dial connects to the next instance that is there, or to none.
func (b *balancer) dial() net.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.to {
		next := b.to[0]
		b.to = append(b.to[1:], next)
		if conn, err := net.Dial("tcp", next); err == nil {
			_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // so that what clients have sent is what instances have, about
			b.taken[next]++
			return conn
		}
	}
	return nil
}

// pass copies until one end closes, or the connection is to be cut before what was read is passed on.
func (b *balancer) pass(to, from net.Conn, count func(int) *cut) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if one := count(n); one != nil {
			if one.first != nil {
				one.first()
			}
			reset(from)
			reset(to)
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// count says of the next bytes of a client whether the connection breaks with them.
func (b *balancer) count(n int) *cut {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent += int64(n)
	if len(b.cuts) == 0 || b.sent < b.cuts[0].after {
		return nil
	}
	one := b.cuts[0]
	b.cuts, b.sent = b.cuts[1:], 0
	return &one
}

// left is how many cuts have not come.
func (b *balancer) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.cuts)
}

// users is how many instances have been asked.
func (b *balancer) users() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

// reset has the peer told that the connection is broken, and not that it has ended.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}
