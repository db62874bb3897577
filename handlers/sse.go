package handlers

import (
	"strconv"
	"time"
	"unicode/utf8"

	"sluice/store"
	"sluice/streams"
)

// sse frames a stream as Server-Sent Events (WHATWG HTML, 9.2): `event:` is the service of an event and the frame's type
// otherwise, `id:` the cursor, `data:` JSON in one line. The line that a reader needs last comes last, so that a frame
// cut short is seen by its JSON.
type sse struct{}

const wireTime = "2006-01-02T15:04:05.000Z"

func (sse) Index() int { return 0 }

// Event implements streams.Encoder.
func (sse) Event(dst []byte, e *store.Event, epoch string) []byte {
	dst = append(append(dst, "event: "...), e.Service...)
	dst = append(appendCursor(append(dst, "\nid: "...), epoch, e.Seq), "\ndata: "...)
	return append(appendEvent(dst, e, epoch), "\n\n"...)
}

// appendEvent is the event's JSON, the same in every dialect (docs/protocol.md, "Events").
func appendEvent(dst []byte, e *store.Event, epoch string) []byte {
	dst = append(append(append(dst, `{"id":"`...), e.ID...), `","cursor":"`...)
	dst = append(appendCursor(dst, epoch, e.Seq), '"')
	for _, field := range [...]struct{ name, value string }{
		{"orgId", e.Org},
		{"service", e.Service},
		{"type", e.Type},
		{"propertyId", e.PropertyID},
		{"entityType", e.EntityType},
		{"entityId", e.EntityID},
		{"userId", e.UserID},
	} {
		if field.value != "" {
			dst = append(append(append(dst, `,"`...), field.name...), `":`...)
			dst = appendString(dst, field.value)
		}
	}
	dst = e.Time.UTC().AppendFormat(append(dst, `,"time":"`...), wireTime)
	dst = append(append(dst, `","data":`...), e.Data...)
	return append(dst, '}')
}

func appendCursor(dst []byte, epoch string, seq int64) []byte {
	return strconv.AppendInt(append(append(dst, epoch...), '-'), seq, 10)
}

// appendString quotes a string as JSON.
func appendString(dst []byte, text string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(text[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
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
	cursor := ack.Cursor.String()
	id := cursor
	if !ack.Resumable {
		id = ""
	}
	dst = append(appendString(append(f.frame(dst, "ack", id), `"connectionId":`...), ack.ConnectionID), `,"cursor":"`...)
	dst = append(append(dst, cursor...), `","services":[`...)
	for i, service := range ack.Services {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, service)
	}
	dst = strconv.AppendInt(append(dst, `],"heartbeatMs":`...), ack.Heartbeat.Milliseconds(), 10)
	return append(appendString(append(dst, `,"transport":`...), ack.Transport), "}\n\n"...)
}

// Ping implements streams.Encoder.
func (f sse) Ping(dst []byte, ping streams.Ping) []byte {
	cursor := ping.Cursor.String()
	dst = append(append(append(f.frame(dst, "ping", cursor), `"cursor":"`...), cursor...), `","time":"`...)
	return append(ping.Time.UTC().AppendFormat(dst, wireTime), "\"}\n\n"...)
}

// Reset implements streams.Encoder.
func (f sse) Reset(dst []byte, reset streams.Reset) []byte {
	latest := reset.Latest.String()
	dst = append(append(f.frame(dst, "reset", latest), `"reason":"`...), reset.Reason...)
	dst = append(append(dst, `","oldest":"`...), reset.Oldest.String()...)
	dst = append(append(dst, `","latest":"`...), latest...)
	return append(append(append(dst, `","cursor":"`...), latest...), "\"}\n\n"...)
}

// Retry implements streams.Encoder. An EventSource heeds the retry: line, others the field.
func (f sse) Retry(dst []byte, kind streams.RetryKind, after time.Duration) []byte {
	dst = append(f.frame(appendRetry(dst, after), string(kind), ""), `"retryMs":`...)
	return append(strconv.AppendInt(dst, after.Milliseconds(), 10), "}\n\n"...)
}

// Problem implements streams.Encoder.
func (f sse) Problem(dst []byte, p streams.StreamProblem) []byte {
	if p.Retry > 0 {
		dst = appendRetry(dst, p.Retry)
	}
	dst = append(f.frame(dst, "problem", ""), `"type":"about:blank","title":`...)
	dst = append(appendString(dst, p.Title), `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status), 10)
	if p.Detail != "" {
		dst = appendString(append(dst, `,"detail":`...), p.Detail)
	}
	return append(dst, "}\n\n"...)
}
