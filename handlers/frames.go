package handlers

import (
	"strconv"
	"time"
	"unicode/utf8"

	"sluice/store"
	"sluice/streams"
)

// What the frames of all dialects carry (docs/protocol.md, "Streams"): the fields of their JSON, without the braces.

const wireTime = "2006-01-02T15:04:05.000Z"

// The numbers of the encoders.
const (
	sseIndex = iota
	ndjsonIndex
	textIndex
	bareIndex
)

// bareJSON is an event's JSON alone, which frames of several events are joined from.
type bareJSON struct{}

// Index implements streams.EventEncoder.
func (bareJSON) Index() int { return bareIndex }

// Event implements streams.EventEncoder.
func (bareJSON) Event(dst []byte, e *store.Event, epoch string) []byte {
	return appendEvent(dst, e, epoch)
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

func ackFields(dst []byte, ack streams.Ack) []byte {
	dst = append(appendString(append(dst, `"connectionId":`...), ack.ConnectionID), `,"cursor":"`...)
	dst = append(append(dst, ack.Cursor.String()...), `","services":[`...)
	for i, service := range ack.Services {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, service)
	}
	dst = strconv.AppendInt(append(dst, `],"heartbeatMs":`...), ack.Heartbeat.Milliseconds(), 10)
	return appendString(append(dst, `,"transport":`...), ack.Transport)
}

func pingFields(dst []byte, ping streams.Ping) []byte {
	dst = append(append(append(dst, `"cursor":"`...), ping.Cursor.String()...), `","time":"`...)
	return append(ping.Time.UTC().AppendFormat(dst, wireTime), '"')
}

func resetFields(dst []byte, reset streams.Reset) []byte {
	latest := reset.Latest.String()
	dst = append(append(append(dst, `"reason":"`...), reset.Reason...), `","oldest":"`...)
	dst = append(append(append(dst, reset.Oldest.String()...), `","latest":"`...), latest...)
	return append(append(append(dst, `","cursor":"`...), latest...), '"')
}

// signalFields are those of typing and presence.
func signalFields(dst []byte, signal streams.Signal) []byte {
	dst = appendString(append(dst, `"room":`...), signal.Room)
	dst = appendString(append(dst, `,"userId":`...), signal.User)
	dst = appendString(append(dst, `,"displayName":`...), signal.Name)
	if signal.Kind != streams.SignalPresence {
		return dst
	}
	dst = appendString(append(dst, `,"status":`...), string(signal.Status))
	if signal.LastSeen.IsZero() {
		return append(dst, `,"lastSeen":null`...)
	}
	return append(signal.LastSeen.UTC().AppendFormat(append(dst, `,"lastSeen":"`...), wireTime), '"')
}

func retryFields(dst []byte, after time.Duration) []byte {
	return strconv.AppendInt(append(dst, `"retryMs":`...), after.Milliseconds(), 10)
}

// problemFields are those of a problem+json but for its type, whose name the frame's type takes where it has one.
func problemFields(dst []byte, p streams.StreamProblem) []byte {
	dst = append(appendString(append(dst, `"title":`...), p.Title), `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status), 10)
	if p.Detail != "" {
		dst = appendString(append(dst, `,"detail":`...), p.Detail)
	}
	return dst
}
