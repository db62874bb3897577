package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"golang.org/x/time/rate"

	"sluice/store"
	"sluice/streams"
)

const (
	messageLimit      = 64 << 10         // bytes of one message from a reader
	handshakePatience = 10 * time.Second // until a WebSocket says what it wants
	closePatience     = 2 * time.Second  // for the peer to close, once everything was said
	lookupPatience    = 10 * time.Second // for what a message needs of the database
	framesASecond     = 100              // from one reader, in the long run
	framesAtOnce      = 200
)

// peer is the way back to a WebSocket's reader.
type peer interface {
	streams.Sink

	// reply writes what answers the reader and is no part of the stream. It is true where so many answers wait that
	// nothing more should be read for now.
	reply(frame []byte) (full bool)

	// last writes what comes last and ends.
	last(frames []byte)
}

// session is the reading side of one WebSocket (RFC 6455): what was sent becomes frames, messages and requests. One
// goroutine at a time works on it.
type session struct {
	server *Server
	caller *Caller
	peer   peer
	org    string        // that a service token names
	start  streams.Start // by Last-Event-ID

	handshake  *time.Timer // until the handshake; nil where the request was it
	stream     *streams.Subscriber
	connection string // as the acks name it
	pace       *rate.Limiter
	message    []byte // the fragments of a text message so far
	fragmented bool
	closing    bool        // nothing is read any more
	ended      atomic.Bool // nor is it once the stream has ended, for then the token may be good no more
}

// begin opens the stream that the request asked for, or, where sub is nil, waits for the message that asks.
func (s *session) begin(sub *streams.Subscription) {
	if sub != nil {
		s.subscribe(sub)
		return
	}
	s.handshake = time.AfterFunc(handshakePatience, func() {
		s.peer.last(closing(ws.StatusPolicyViolation, "the handshake did not come within 10 s"))
	})
}

func (s *session) subscribe(sub *streams.Subscription) {
	sub.Encoder, sub.Sink = textMessages, s.peer
	s.connection = sub.ConnectionID
	s.stream = s.server.Hub.Subscribe(sub)
}

// feed reads the frames that stand whole in what has come, and returns what is left. Full is true where the answers
// have to go out first.
func (s *session) feed(data []byte) (left []byte, full bool) {
	for len(data) > 0 && !full {
		if s.closing || s.ended.Load() {
			return nil, false
		}
		reader := bytes.NewReader(data)
		header, err := ws.ReadHeader(reader)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return data, false
		case err != nil:
			s.fail(ws.StatusProtocolError, "the frame's header is not one")
			return nil, false
		}
		if code, why := s.check(header); code != 0 {
			s.fail(code, why)
			return nil, false
		}
		start := len(data) - reader.Len()
		if int64(len(data)-start) < header.Length {
			return data, false
		}
		payload := data[start : start+int(header.Length)]
		data = data[start+int(header.Length):]
		ws.Cipher(payload, header.Mask, 0)
		full = s.frame(header, payload)
	}
	return data, full
}

// check says with which code a frame is refused, by its header; 0: it is not.
func (s *session) check(header ws.Header) (code ws.StatusCode, why string) {
	state := ws.StateServerSide
	if s.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	switch err := ws.CheckHeader(header, state); {
	case err != nil:
		return ws.StatusProtocolError, err.Error()
	case header.OpCode == ws.OpBinary:
		return ws.StatusUnsupportedData, "messages are text"
	case header.OpCode.IsData() && header.Length+int64(len(s.message)) > messageLimit:
		return ws.StatusMessageTooBig, "a message has at most 65536 bytes"
	}
	return 0, ""
}

// frame takes one frame whose payload is unmasked.
func (s *session) frame(header ws.Header, payload []byte) (full bool) {
	if s.pace == nil {
		s.pace = rate.NewLimiter(framesASecond, framesAtOnce)
	}
	switch {
	case header.OpCode == ws.OpClose:
		s.closed(payload)
	case !s.pace.Allow():
		s.fail(ws.StatusPolicyViolation, "too many frames: at most 100 a second are read")
	case header.OpCode == ws.OpPing:
		return s.peer.reply(ws.MustCompileFrame(ws.NewPongFrame(payload)))
	case header.OpCode == ws.OpPong:
	case header.Fin && !s.fragmented:
		return s.text(payload)
	default:
		s.message, s.fragmented = append(s.message, payload...), !header.Fin
		if header.Fin {
			whole := s.message
			s.message = nil
			return s.text(whole)
		}
	}
	return false
}

// closed answers the peer's close frame with its own code.
func (s *session) closed(payload []byte) {
	code, reason := ws.ParseCloseFrameData(payload)
	switch {
	case len(payload) == 0:
		code = ws.StatusNormalClosure
	case len(payload) == 1 || ws.CheckCloseFrameData(code, reason) != nil:
		code = ws.StatusProtocolError
	}
	s.fail(code, "")
}

// fail ends the WebSocket with a code.
func (s *session) fail(code ws.StatusCode, why string) {
	s.closing = true
	s.stopWaiting()
	s.peer.last(closing(code, why))
}

func (s *session) stopWaiting() {
	if s.handshake != nil {
		s.handshake.Stop()
	}
}

// closing is a close frame.
func closing(code ws.StatusCode, why string) []byte {
	return ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, why)))
}

// bye is the close frame of a stream that the server ends.
func (s *session) bye(why streams.Ending) []byte {
	s.ended.Store(true)
	code := map[streams.Ending]ws.StatusCode{
		streams.EndDrained: ws.StatusGoingAway, streams.EndDenied: ws.StatusPolicyViolation, streams.EndLater: statusTryAgainLater,
	}[why]
	return closing(code, "")
}

// statusTryAgainLater is 1013 of the registry that RFC 6455 set up.
const statusTryAgainLater ws.StatusCode = 1013

// codeOf is the close code that says what a problem's status does.
func codeOf(status int) ws.StatusCode {
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return statusTryAgainLater
	case status >= 500:
		return ws.StatusInternalServerError
	}
	return ws.StatusPolicyViolation
}

// socketRequest is what a message asks for.
type socketRequest struct {
	ref    json.RawMessage // what the answer is to carry; nil: none was given
	kind   string          // "": the handshake
	fields []member        // the others
}

// text takes one message: the handshake, then requests. What is malformed ends the WebSocket, unless it has a ref. What was
// understood and is refused costs that request alone.
func (s *session) text(payload []byte) (full bool) {
	if !utf8.Valid(payload) {
		s.fail(ws.StatusInvalidFramePayloadData, "a text message is UTF-8")
		return false
	}
	var q socketRequest
	err := q.read(payload)
	if err == nil { // the stream ends within a second of the token, and one that has not begun does not end by it
		err = s.caller.current()
	}
	if do := s.operation(q.kind); err == nil && do != nil {
		return s.chat(&q, do)
	}
	if err == nil {
		err = s.request(&q)
	}
	switch {
	case err == nil:
		return false
	case q.ref != nil:
		return s.refuse(&q, err)
	}
	s.end(&q, err)
	return false
}

// read takes a message apart. Where it is an object with a ref, that is known however wrong its other fields are.
func (q *socketRequest) read(payload []byte) error {
	fields, err := members(payload)
	if err != nil {
		return err
	}
	ref, fields := without(fields, "ref")
	if ref != nil {
		if _, err := text(ref); err != nil { // a string or a number, which comes back as it is
			return invalid("ref", "%v", err)
		}
		q.ref = ref
	}
	kind, fields := without(fields, "type")
	if kind != nil {
		if q.kind, err = text(kind); err != nil {
			return invalid("type", "%v", err)
		}
	}
	q.fields = fields
	return nil
}

// without takes a field from the others; nil: it is not there.
func without(fields []member, name string) (value json.RawMessage, others []member) {
	at := slices.IndexFunc(fields, func(one member) bool { return one.name == name })
	if at < 0 {
		return nil, fields
	}
	value = fields[at].value
	return value, slices.Delete(fields, at, at+1)
}

// refuse answers a request, and it alone, with what is wrong. A request without a ref is answered with null for one.
func (s *session) refuse(q *socketRequest, err error) (full bool) {
	p := s.problem(q, err)
	ref := q.ref
	if ref == nil {
		ref = json.RawMessage("null")
	}
	return s.peer.reply(message(nil, func(dst []byte) []byte { return p.object(dst, ref) }))
}

// end says what is wrong and ends the WebSocket.
func (s *session) end(q *socketRequest, err error) {
	p := s.problem(q, err)
	s.closing = true
	s.stopWaiting()
	frame := message(nil, func(dst []byte) []byte { return p.object(dst, nil) })
	s.peer.last(append(frame, closing(codeOf(p.Status), p.Title)...))
}

// problem says what an error means to the peer, and tells the log of it.
func (s *session) problem(q *socketRequest, err error) *Problem {
	p := problemOf(err)
	tell(context.Background(), s.server.Log.With("connection", s.connection, "type", q.kind), p, err)
	return p
}

// operation is what a request asks of a room; nil: it asks for something else, or before the handshake.
func (s *session) operation(kind string) roomOperation {
	if s.stream == nil {
		return nil
	}
	switch kind {
	case "send":
		return s.server.say
	case "typing":
		return s.server.typing
	case "presence":
		return s.server.presence
	case "read":
		return s.server.read
	case "history":
		return s.server.history
	}
	return nil
}

// chat has an operation done. The answer goes to who gave a ref; others hear only of what was refused.
func (s *session) chat(q *socketRequest, do roomOperation) (full bool) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupPatience)
	defer cancel()
	result, err := s.inRoom(ctx, q, do)
	switch {
	case err != nil && q.ref == nil && problemOf(err).Status == http.StatusBadRequest:
		s.end(q, err)
	case err != nil:
		return s.refuse(q, err)
	case q.ref != nil:
		var text bytes.Buffer
		if err := encode(&text, result); err != nil {
			return s.refuse(q, err)
		}
		return s.peer.reply(message(nil, func(dst []byte) []byte { return okObject(dst, q.ref, bytes.TrimSpace(text.Bytes())) }))
	}
	return false
}

// inRoom does what a request asks of the room that it names.
func (s *session) inRoom(ctx context.Context, q *socketRequest, do roomOperation) (any, error) {
	by, err := s.server.actor(ctx, s.caller, s.org)
	if err != nil {
		return nil, err
	}
	named, fields := without(q.fields, "room")
	if named == nil {
		return nil, required("room")
	}
	room, err := text(named)
	if err != nil {
		return nil, invalid("room", "%v", err)
	}
	if !roomID(room) {
		return nil, store.ErrNoRoom
	}
	return do(ctx, &roomRequest{by: by, room: room, fields: fields})
}

// okObject appends the answer to a request as the fields of a frame.
func okObject(dst []byte, ref, result json.RawMessage) []byte {
	dst = append(append(dst, `{"type":"ok","ref":`...), ref...)
	return append(append(append(dst, `,"result":`...), result...), '}')
}

// request makes the stream, or changes what it carries.
func (s *session) request(q *socketRequest) error {
	first := s.stream == nil
	if q.kind != "subscribe" && (q.kind != "" || !first) {
		return invalid("type", "there is no request %q; there are subscribe and, once the stream has begun, send, typing, presence, read and history", q.kind)
	}
	asked, err := askedIn(q.fields, first)
	if err != nil {
		return err
	}
	asked.org = s.org
	if s.start.Kind != streams.StartLive {
		asked.start = s.start
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupPatience)
	defer cancel()
	sub, err := s.server.subscription(ctx, s.caller, asked)
	if err != nil {
		return err
	}
	if !first {
		sub.ConnectionID = s.connection
		s.stream.Change(sub)
		return nil
	}
	if err := s.server.Hub.Full(sub.Org); err != nil {
		return err
	}
	if s.handshake.Stop() { // else it came too late
		s.subscribe(sub)
	}
	return nil
}
