package bench

import (
	"bytes"
	"errors"
	"fmt"
)

// kind is what a frame is.
type kind byte

const (
	kindNone kind = iota // no event: line yet
	kindEvent
	kindAck
	kindPing
	kindReset
	kindProblem
	kindDrain
	kindReauth
	kindPresence
	kindTyping
	kindAnswer // of a request over a WebSocket
)

// frame is one frame of a stream as far as a measurement needs it.
type frame struct {
	kind  kind
	seq   int64  // of the id: line; -1 without one
	stamp int64  // of data.t, or of a message's clientId, Unix nanoseconds; 0 where it is not looked for
	said  said   // where it is a message
	data  []byte // of frames that are no events; good until the next frame
	any   bool   // a data: line was there
}

// The parts of an HTTP/1.1 response, in their order.
type phase byte

const (
	phaseHead phase = iota
	phaseSize       // the line before a chunk
	phaseBody       // of a chunk, or of an unchunked response
	phaseEnd        // the line end behind a chunk
	phaseOver       // after the last chunk
)

const (
	headMost = 16 << 10
	lineMost = 256 << 10
)

// response reads one streamed HTTP/1.1 response piece by piece: the head, the chunks, and the lines of Server-Sent Events or
// NDJSON, or the frames of a WebSocket. What a piece cuts in two is kept; everything else is looked at where it lies.
type response struct {
	door    door
	phase   phase
	chunked bool
	comment bool // within a chunk extension
	stamps  bool // look for data.t
	chat    bool // look for messages
	left    int  // bytes of the chunk still to come; of an unchunked body: the most there can be
	kept    []byte
	frame   frame
}

// errOver says that the response has ended in good order.
var errOver = errors.New("the response has ended")

// feed takes the next bytes from the socket and calls visit for every frame that they complete.
func (r *response) feed(piece []byte, visit func(*frame)) error {
	for len(piece) > 0 {
		switch r.phase {
		case phaseHead:
			rest, err := r.head(piece)
			if err != nil {
				return err
			}
			piece = rest
		case phaseSize:
			rest, err := r.size(piece)
			if err != nil {
				return err
			}
			piece = rest
		case phaseBody:
			n := min(r.left, len(piece))
			take := r.lines
			if r.door == doorWebSocket {
				take = r.frames
			}
			if err := take(piece[:n], visit); err != nil {
				return err
			}
			piece = piece[n:]
			if r.chunked {
				if r.left -= n; r.left == 0 {
					r.phase = phaseEnd
				}
			}
		case phaseEnd:
			at := bytes.IndexByte(piece, '\n')
			if at < 0 {
				return nil
			}
			piece = piece[at+1:]
			r.phase = phaseSize
		case phaseOver:
			return errOver
		}
	}
	return nil
}

// refused is an answer other than 200.
type refused struct {
	status string // with the version: "HTTP/1.1 401 Unauthorized"
	body   string // what came of it with the head
}

func (e *refused) Error() string { return fmt.Sprintf("%s %s", e.status, e.body) }

var (
	blankLine    = []byte("\r\n\r\n")
	statusOK     = []byte("HTTP/1.1 200")
	statusSocket = []byte("HTTP/1.1 101")
	chunkedField = []byte("transfer-encoding: chunked")
)

// head keeps bytes until the head is whole; what follows it is given back.
func (r *response) head(piece []byte) ([]byte, error) {
	before := len(r.kept)
	r.kept = append(r.kept, piece...)
	at := bytes.Index(r.kept, blankLine)
	if at < 0 {
		if len(r.kept) > headMost {
			return nil, fmt.Errorf("the head of the response is longer than %d bytes", headMost)
		}
		return nil, nil
	}
	head := r.kept[:at]
	rest := piece[at+len(blankLine)-before:]
	wanted := statusOK
	if r.door == doorWebSocket {
		wanted = statusSocket
	}
	if !bytes.HasPrefix(head, wanted) {
		status, _, _ := bytes.Cut(head, []byte("\r\n"))
		return nil, &refused{status: string(status), body: string(bytes.TrimSpace(rest))}
	}
	r.chunked = bytes.Contains(bytes.ToLower(head), chunkedField)
	r.phase = phaseBody
	r.left = 1<<63 - 1
	if r.chunked {
		r.phase, r.left = phaseSize, 0
	}
	r.kept = nil
	r.frame.seq = -1
	return rest, nil
}

// size reads the hexadecimal line before a chunk, digit by digit: it may come in pieces.
func (r *response) size(piece []byte) ([]byte, error) {
	for i, c := range piece {
		digit := -1
		switch {
		case c == '\n':
			r.comment = false
			r.phase = phaseBody
			if r.left == 0 {
				r.phase = phaseOver
			}
			return piece[i+1:], nil
		case r.comment || c == '\r':
			continue
		case c == ';':
			r.comment = true
			continue
		case c >= '0' && c <= '9':
			digit = int(c - '0')
		case c >= 'a' && c <= 'f':
			digit = int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			digit = int(c-'A') + 10
		}
		if digit < 0 || r.left > 1<<40 {
			return nil, fmt.Errorf("%q is not the size of a chunk", piece[:min(len(piece), 16)])
		}
		r.left = r.left<<4 | digit
	}
	return nil, nil
}

// lines takes bytes of the stream, chunks taken off.
func (r *response) lines(piece []byte, visit func(*frame)) error {
	for len(piece) > 0 {
		at := bytes.IndexByte(piece, '\n')
		if at < 0 {
			if len(r.kept)+len(piece) > lineMost {
				return fmt.Errorf("a line is longer than %d bytes", lineMost)
			}
			r.kept = append(r.kept, piece...)
			return nil
		}
		line := piece[:at]
		if len(r.kept) > 0 {
			r.kept = append(r.kept, line...)
			line = r.kept
		}
		if r.door != doorNDJSON {
			r.line(line, visit)
		} else if err := r.message(line, visit); err != nil {
			return err
		}
		r.kept = r.kept[:0]
		piece = piece[at+1:]
	}
	return nil
}

var (
	eventField = []byte("event: ")
	idField    = []byte("id: ")
	dataField  = []byte("data: ")
	stampKey   = []byte(`"t":`)
)

// line takes one line without its end (WHATWG HTML, 9.2.6, for streams that separate lines by LF alone).
func (r *response) line(line []byte, visit func(*frame)) {
	f := &r.frame
	switch {
	case len(line) == 0:
		if f.any || f.kind != kindNone {
			if f.kind == kindNone {
				f.kind = kindEvent // it would be called "message"
			}
			visit(f)
		}
		*f = frame{seq: -1, data: f.data[:0]}
	case bytes.HasPrefix(line, eventField):
		f.kind = kindOf(line[len(eventField):])
	case bytes.HasPrefix(line, idField):
		f.seq = seqOf(line[len(idField):])
	case bytes.HasPrefix(line, dataField):
		f.any = true
		if f.kind != kindEvent {
			f.data = append(f.data[:0], line[len(dataField):]...)
		}
		if r.chat {
			f.said, f.stamp = saidIn(line)
		}
		if r.stamps {
			if at := bytes.Index(line, stampKey); at >= 0 {
				f.stamp = digits(bytes.TrimPrefix(line[at+len(stampKey):], []byte(" "))) // jsonb prints one
			}
		}
	}
}

// kindOf tells the frames that are no events by their names, which no service may have.
func kindOf(name []byte) kind {
	switch string(name) {
	case "ack":
		return kindAck
	case "ping":
		return kindPing
	case "reset":
		return kindReset
	case "problem":
		return kindProblem
	case "drain":
		return kindDrain
	case "reauth":
		return kindReauth
	case "presence":
		return kindPresence
	case "typing":
		return kindTyping
	case "ok":
		return kindAnswer
	}
	return kindEvent
}

// seqOf reads the sequence of a cursor `<epoch>-<seq>`; -1 where there is none.
func seqOf(cursor []byte) int64 {
	at := bytes.IndexByte(cursor, '-')
	if at < 0 || at+1 == len(cursor) {
		return -1
	}
	return digits(cursor[at+1:])
}

// digits reads the decimal number that the text begins with.
func digits(text []byte) (n int64) {
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
