package handlers

import (
	"encoding/binary"
	"time"

	"sluice/store"
	"sluice/streams"
)

// jsonFrames frames a stream as JSON objects that carry their type, `{"type":"ping",…}`. NDJSON and WebSocket differ in
// what stands around the objects alone.
type jsonFrames struct {
	index int
	wrap  func(dst []byte, write func([]byte) []byte) []byte
}

var (
	ndjson       = jsonFrames{ndjsonIndex, line}
	textMessages = jsonFrames{textIndex, message}
)

// line is an object of NDJSON.
func line(dst []byte, write func([]byte) []byte) []byte { return append(write(dst), '\n') }

// message is an object as a text message of one frame (RFC 6455, 5.2). What a server sends is not masked, so it is bytes
// like any other, made once for all readers.
func message(dst []byte, write func([]byte) []byte) []byte {
	const (
		finalText = 0x80 | 1
		header    = 4 // bytes for 126 to 65,535, the usual size
	)
	start := len(dst)
	dst = write(append(dst, finalText, 126, 0, 0))
	size := len(dst) - start - header
	switch {
	case size < 126:
		copy(dst[start+2:], dst[start+header:])
		dst[start+1] = byte(size)
		dst = dst[:len(dst)-2]
	case size < 1<<16:
		binary.BigEndian.PutUint16(dst[start+2:], uint16(size))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[start+header+6:], dst[start+header:start+header+size])
		dst[start+1] = 127
		binary.BigEndian.PutUint64(dst[start+2:], uint64(size))
	}
	return dst
}

// object wraps an object whose fields write appends.
func (f jsonFrames) object(dst []byte, kind string, write func([]byte) []byte) []byte {
	return f.wrap(dst, func(dst []byte) []byte {
		dst = append(append(append(dst, `{"type":"`...), kind...), `",`...)
		return append(write(dst), '}')
	})
}

// Index implements streams.EventEncoder.
func (f jsonFrames) Index() int { return f.index }

// Event implements streams.EventEncoder.
func (f jsonFrames) Event(dst []byte, e *store.Event, epoch string) []byte {
	return f.object(dst, "event", func(dst []byte) []byte {
		dst = append(appendCursor(append(dst, `"cursor":"`...), epoch, e.Seq), `","event":`...)
		return appendEvent(dst, e, epoch)
	})
}

// Pieces implements streams.Encoder.
func (jsonFrames) Pieces() streams.EventEncoder { return bareJSON{} }

// Batch implements streams.Encoder.
func (f jsonFrames) Batch(dst []byte, pieces []streams.Payload, last store.Cursor) []byte {
	return f.object(dst, "batch", func(dst []byte) []byte {
		dst = append(append(append(dst, `"cursor":"`...), last.String()...), `","events":`...)
		for i, piece := range pieces {
			dst = append(append(dst, "[,"[min(i, 1)]), piece.Raw()...)
		}
		return append(dst, ']')
	})
}

// Ack implements streams.Encoder.
func (f jsonFrames) Ack(dst []byte, ack streams.Ack) []byte {
	return f.object(dst, "ack", func(dst []byte) []byte { return ackFields(dst, ack) })
}

// Ping implements streams.Encoder. On a WebSocket it is a message, for pages do not see the protocol's own pings.
func (f jsonFrames) Ping(dst []byte, ping streams.Ping) []byte {
	return f.object(dst, "ping", func(dst []byte) []byte { return pingFields(dst, ping) })
}

// Reset implements streams.Encoder.
func (f jsonFrames) Reset(dst []byte, reset streams.Reset) []byte {
	return f.object(dst, "reset", func(dst []byte) []byte { return resetFields(dst, reset) })
}

// Signal implements streams.Encoder.
func (f jsonFrames) Signal(dst []byte, signal streams.Signal) []byte {
	return f.object(dst, string(signal.Kind), func(dst []byte) []byte { return signalFields(dst, signal) })
}

// Retry implements streams.Encoder.
func (f jsonFrames) Retry(dst []byte, kind streams.RetryKind, after time.Duration) []byte {
	return f.object(dst, string(kind), func(dst []byte) []byte { return retryFields(dst, after) })
}

// Problem implements streams.Encoder.
func (f jsonFrames) Problem(dst []byte, p streams.StreamProblem) []byte {
	return f.object(dst, "problem", func(dst []byte) []byte { return problemFields(dst, p) })
}
