package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// What a server sends is neither masked nor in fragments.
const (
	textMessage  = 0x81
	closeMessage = 0x88
)

// frames takes bytes of a WebSocket.
func (r *response) frames(piece []byte, visit func(*frame)) error {
	for len(piece) > 0 {
		begun, cut := piece, len(r.kept) > 0
		if cut {
			_, size := frameSize(r.kept)
			missing := min(size-len(r.kept), len(piece))
			r.kept = append(r.kept, piece[:missing]...)
			begun, piece = r.kept, piece[missing:]
		}
		head, size := frameSize(begun)
		switch {
		case size > lineMost:
			return fmt.Errorf("a frame is of %d bytes", size)
		case size > len(begun): // as it is where the head is not whole
			if !cut {
				r.kept = append(r.kept, piece...)
				return nil
			}
			continue
		case !cut:
			piece = piece[size:]
		}
		err := r.webSocketFrame(begun[0], begun[head:size], visit)
		r.kept = r.kept[:0]
		if err != nil {
			return err
		}
	}
	return nil
}

// frameSize is the size of a frame's head, 0 where it is not whole, and that of the frame, or as far as it is known.
func frameSize(begun []byte) (head, size int) {
	head = 2
	if len(begun) < head {
		return 0, head
	}
	length := int(begun[1])
	switch length {
	case 126:
		if head = 4; len(begun) < head {
			return 0, head
		}
		length = int(binary.BigEndian.Uint16(begun[2:]))
	case 127:
		if head = 10; len(begun) < head {
			return 0, head
		}
		length = int(min(binary.BigEndian.Uint64(begun[2:]), 2*lineMost))
	}
	return head, head + length
}

func (r *response) webSocketFrame(first byte, payload []byte, visit func(*frame)) error {
	switch first {
	case textMessage:
		return r.message(payload, visit)
	case closeMessage:
		return errOver
	}
	return fmt.Errorf("a frame begins with %#x", first)
}

var (
	typeField   = []byte(`{"type":"`)
	cursorField = []byte(`cursor":"`) // from its rarest letter on: looking for it is most of the work
)

// message takes one JSON object of NDJSON or of a WebSocket. It does not parse: what it looks for stands once in every
// frame, and once in every event, of the data that a measurement publishes.
func (r *response) message(text []byte, visit func(*frame)) error {
	rest, found := bytes.CutPrefix(text, typeField)
	if !found {
		return nil // padding
	}
	name, rest, _ := bytes.Cut(rest, []byte{'"'})
	at := seqAfter(&rest)
	switch string(name) {
	case "event", "batch":
		last := int64(-1)
		for next := seqAfter(&rest); next >= 0; next = seqAfter(&rest) {
			last = next
			visit(r.event(next, rest))
		}
		if at != last {
			return fmt.Errorf("a frame with the cursor %d ends with event %d: %.200s", at, last, text)
		}
	default:
		r.frame = frame{kind: kindOf(name), seq: at, data: append(r.frame.data[:0], text...)}
		visit(&r.frame)
	}
	return nil
}

// seqAfter gives the sequence of the next cursor, -1 where there is none, and moves behind it.
func seqAfter(text *[]byte) int64 {
	at := bytes.Index(*text, cursorField)
	if at < 0 {
		return -1
	}
	*text = (*text)[at+len(cursorField):]
	return seqOf(*text)
}

func (r *response) event(at int64, rest []byte) *frame {
	r.frame = frame{kind: kindEvent, seq: at, data: r.frame.data[:0]}
	if r.chat {
		r.frame.said, r.frame.stamp = saidIn(rest)
	}
	if r.stamps {
		if at := bytes.Index(rest, stampKey); at >= 0 {
			r.frame.stamp = digits(bytes.TrimPrefix(rest[at+len(stampKey):], []byte(" ")))
		}
	}
	return &r.frame
}
