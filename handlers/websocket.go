package handlers

import (
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gobwas/ws"

	"sluice/streams"
)

// upgrades says whether a request asks for a WebSocket.
func upgrades(header http.Header) bool {
	return hasToken(header, "Connection", "upgrade") && hasToken(header, "Upgrade", "websocket")
}

// hasToken looks for a token in a header that is a list.
func hasToken(header http.Header, name, token string) bool {
	for _, value := range header.Values(name) {
		for one := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(one), token) {
				return true
			}
		}
	}
	return false
}

// oldProtocol is what clients of the replaced system offer; a browser that offers one closes where none is taken.
const oldProtocol = "encore-ws"

// webSocket answers a stream request that asks for a WebSocket. What can be refused is refused in HTTP, before.
func (s *Server) webSocket(w http.ResponseWriter, r *http.Request) error {
	caller, _, err := s.reader(r)
	if err != nil {
		return err
	}
	if err := s.checkSocketOrigin(r, caller); err != nil {
		return err
	}
	if err := checkUpgrade(w, r); err != nil {
		return err
	}
	asked, err := askedBy(r)
	if err != nil {
		return err
	}
	var sub *streams.Subscription // none: the first message asks
	if asked.given {
		sub, err = s.streamOf(r, caller)
	} else {
		err = s.Hub.Full(caller.Org)
	}
	if err != nil {
		return err
	}
	session := &session{server: s, caller: caller, org: strings.Clone(asked.org), start: asked.start}
	if r.TLS != nil {
		return s.secureWebSocket(w, r, session, sub)
	}
	conn, buffered, err := s.upgrade(w, r)
	if err != nil {
		return err
	}
	sink, err := s.own(conn, "websocket")
	if err != nil {
		return err
	}
	// The sink is watched as soon as its stream begins, and the peer may have closed by then: nothing is read before the
	// session has its stream.
	socket := &webSocket{socketSink: sink, session: session, left: buffered, receiving: true}
	sink.inbound, sink.bye, sink.finished = socket.receive, session.bye, socket.linger
	session.peer = sink
	session.begin(sub)
	sink.mu.Lock()
	socket.receiving = false
	if sink.id == 0 {
		sink.sockets.watch(sink)
	}
	sink.mu.Unlock()
	socket.receive()
	return nil
}

// checkUpgrade checks what RFC 6455, 4.2.1 asks of a handshake.
func checkUpgrade(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.Method != http.MethodGet:
		return problem(http.StatusBadRequest, "a WebSocket begins with a GET of HTTP/1.1")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return upgradeRequired(w, "the version of the WebSocket protocol is 13")
	case !webSocketKey(r.Header.Get("Sec-WebSocket-Key")):
		return invalid("Sec-WebSocket-Key", "16 bytes in base64 are expected")
	}
	return nil
}

// webSocketKey says whether a key is 16 bytes in base64.
func webSocketKey(text string) bool {
	key, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(key) == 16
}

// upgradeRequired is a 426 with the headers that it must have (RFC 9110, 15.5.22 and 7.8).
func upgradeRequired(w http.ResponseWriter, format string, args ...any) error {
	w.Header().Set("Sec-WebSocket-Version", "13")
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	return problem(http.StatusUpgradeRequired, format, args...)
}

// checkStripped finds a handshake that has lost its Upgrade on the way, as proxies that were told nothing of WebSockets let
// it. Its client would wait for a WebSocket while it is given a stream, or while a proxy holds that back.
func checkStripped(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 1 || r.Header.Get("Sec-WebSocket-Key") == "" {
		return nil
	}
	return upgradeRequired(w, "the handshake of a WebSocket came over %s without its Upgrade or Connection header: "+
		"a proxy on the way has to pass both on, over HTTP/1.1", r.Proto)
}

// webSocket is a WebSocket over a connection in clear text, without a goroutine of its own: whatever has come is read
// when it has come.
type webSocket struct {
	*socketSink
	session *session

	left      []byte // owned by receive: of a frame that has not come whole
	receiving bool   // guarded by mu: receive is at it
	again     bool   // guarded by mu: and has to look once more
}

// inboundBuffers are lent to whoever has something to read.
var inboundBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// receive reads what has come. Several may be told to; one does.
func (s *webSocket) receive() {
	s.mu.Lock()
	if s.receiving || s.closed {
		s.again = true
		s.mu.Unlock()
		return
	}
	if s.waits { // whoever tells of something to read is late, or tells of the peer's end
		hungUp := s.sockets.hungUp(s.socketSink)
		s.mu.Unlock()
		if hungUp {
			s.gone(nil)
		}
		return
	}
	s.receiving, s.reading, s.again = true, false, false
	s.mu.Unlock()
	buffer := inboundBuffers.Get().(*[16 << 10]byte)
	defer inboundBuffers.Put(buffer)
	for {
		full := false
		if len(s.left) > 0 {
			s.left, full = s.session.feed(s.left)
		}
		n, err := 0, error(syscall.EAGAIN)
		if !full {
			n, err = s.read(buffer[:])
		}
		switch {
		case n > 0:
			s.left = append(s.left, buffer[:n]...)
			continue
		case err == nil || err != syscall.EAGAIN:
			s.gone(nil) // the peer has closed
			return
		}
		if len(s.left) == 0 {
			s.left = nil
		}
		s.mu.Lock()
		s.waits = full && s.rest != nil // until resume, which has that to write, goes on with this
		if (full || s.again) && !s.waits {
			s.again = false
			s.mu.Unlock()
			continue
		}
		s.receiving, s.reading = false, !s.waits
		s.sockets.await(s.socketSink)
		s.mu.Unlock()
		return
	}
}

// read takes what the kernel has; 0 without an error is the peer's end.
func (s *webSocket) read(buffer []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, nil
	}
	for {
		if n, err = syscall.Read(s.fd, buffer); err != syscall.EINTR {
			return n, err
		}
	}
}

// linger gives the peer time to close after the close frame: closed at once, a connection whose peer is still sending
// would be reset, and what was said last would be lost on the way.
func (s *webSocket) linger() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.stall = time.AfterFunc(closePatience, func() { s.gone(nil) })
	s.reading = !s.receiving
	s.sockets.shut(s.socketSink)
	s.sockets.await(s.socketSink)
}

// upgrade takes the connection and answers that it is a WebSocket now. Bytes are what the client sent too early.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (conn net.Conn, bytes []byte, err error) {
	upgrader := ws.HTTPUpgrader{
		Header: w.Header(), Timeout: s.WriteTimeout, Protocol: func(name string) bool { return name == oldProtocol },
	}
	conn, buffered, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, nil, http.ErrAbortHandler // the client is gone, or was told already
	}
	bytes, _ = buffered.Reader.Peek(buffered.Reader.Buffered())
	return conn, slices.Clone(bytes), nil
}
