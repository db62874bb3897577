package handlers

import (
	"strconv"
	"time"

	"sluice/store"
	"sluice/streams"
)

// sse frames a stream as Server-Sent Events (WHATWG HTML, 9.2): `event:` is the service of an event and the frame's type
// otherwise, `id:` the cursor, `data:` JSON in one line. The line that a reader needs last comes last, so that a frame
// cut short is seen by its JSON.
type sse struct{}

// Index implements streams.EventEncoder.
func (sse) Index() int { return sseIndex }

// Event implements streams.EventEncoder.
func (sse) Event(dst []byte, e *store.Event, epoch string) []byte {
	dst = append(append(dst, "event: "...), e.Service...)
	dst = append(appendCursor(append(dst, "\nid: "...), epoch, e.Seq), "\ndata: "...)
	return append(appendEvent(dst, e, epoch), "\n\n"...)
}

// Pieces implements streams.Encoder.
func (f sse) Pieces() streams.EventEncoder { return f }

// Batch implements streams.Encoder: SSE has no frame of several events.
func (sse) Batch(dst []byte, pieces []streams.Payload, _ store.Cursor) []byte {
	for _, piece := range pieces {
		dst = append(dst, piece.Raw()...)
	}
	return dst
}

// frame begins one that is no event; id may be empty.
func (sse) frame(dst []byte, kind, id string) []byte {
	dst = append(append(dst, "event: "...), kind...)
	if id != "" {
		dst = append(append(dst, "\nid: "...), id...)
	}
	return append(dst, "\ndata: {"...)
}

func appendRetry(dst []byte, after time.Duration) []byte {
	return append(strconv.AppendInt(append(dst, "retry: "...), after.Milliseconds(), 10), '\n')
}

// Ack implements streams.Encoder.
func (f sse) Ack(dst []byte, ack streams.Ack) []byte {
	id := ""
	if ack.Resumable {
		id = ack.Cursor.String()
	}
	return append(ackFields(f.frame(dst, "ack", id), ack), "}\n\n"...)
}

// Ping implements streams.Encoder.
func (f sse) Ping(dst []byte, ping streams.Ping) []byte {
	return append(pingFields(f.frame(dst, "ping", ping.Cursor.String()), ping), "}\n\n"...)
}

// Reset implements streams.Encoder.
func (f sse) Reset(dst []byte, reset streams.Reset) []byte {
	return append(resetFields(f.frame(dst, "reset", reset.Latest.String()), reset), "}\n\n"...)
}

// Signal implements streams.Encoder.
func (f sse) Signal(dst []byte, signal streams.Signal) []byte {
	return append(signalFields(f.frame(dst, string(signal.Kind), ""), signal), "}\n\n"...)
}

// Retry implements streams.Encoder. An EventSource heeds the retry: line, others the field.
func (f sse) Retry(dst []byte, kind streams.RetryKind, after time.Duration) []byte {
	return append(retryFields(f.frame(appendRetry(dst, after), string(kind), ""), after), "}\n\n"...)
}

// Problem implements streams.Encoder.
func (f sse) Problem(dst []byte, p streams.StreamProblem) []byte {
	if p.Retry > 0 {
		dst = appendRetry(dst, p.Retry)
	}
	dst = append(f.frame(dst, "problem", ""), `"type":"about:blank",`...)
	return append(problemFields(dst, p), "}\n\n"...)
}
