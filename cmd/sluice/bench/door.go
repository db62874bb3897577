package bench

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// door is how a reader reads.
type door string

const (
	doorSSE       door = "sse"
	doorNDJSON    door = "ndjson"
	doorWebSocket door = "websocket"
)

// headers are those of a request that asks for the door.
func (d door) headers() string {
	switch d {
	case doorNDJSON:
		return "Accept: application/x-ndjson\r\n"
	case doorWebSocket:
		return "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	return ""
}

// greeting is what the floor answers a reader with.
func (d door) greeting() string {
	const ack = `{"type":"ack","cursor":"floor-0"}`
	switch d {
	case doorNDJSON:
		return "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(ack+"\n")
	case doorWebSocket:
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + string(textFrame(ack))
	}
	return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("event: ack\nid: floor-0\ndata: {}\n\n")
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// write makes one write of the floor's: so many events after a sequence, as long as the server's, since the kernel copies
// every byte.
func (d door) write(after int64, events int) []byte {
	made := make([]string, events)
	for i := range made {
		made[i] = fmt.Sprintf(`{"id":"01a20d86-7184-75d6-84c5-b24c0f91521c","cursor":"floor00000-%d","orgId":"bench-aaaaaaaa","service":"finance","type":"expense_added","propertyId":"7","time":"2026-01-01T00:00:00.000Z","data":{"t":%d}}`,
			after+int64(i)+1, time.Now().UnixNano())
	}
	return d.frame("finance", after, made)
}

// frame makes one write of events of a service, the first of which comes after a sequence.
func (d door) frame(service string, after int64, events []string) []byte {
	var made strings.Builder
	if d == doorSSE {
		for i, event := range events {
			fmt.Fprintf(&made, "event: %s\nid: floor00000-%d\ndata: %s\n\n", service, after+int64(i)+1, event)
		}
		return []byte(chunk(made.String()))
	}
	begin, end := `"event","cursor":"floor00000-%d","event":`, "}"
	if len(events) > 1 {
		begin, end = `"batch","cursor":"floor00000-%d","events":[`, "]}"
	}
	fmt.Fprintf(&made, `{"type":`+begin, after+int64(len(events)))
	made.WriteString(strings.Join(events, ",") + end)
	if d == doorWebSocket {
		return textFrame(made.String())
	}
	return []byte(chunk(made.String() + "\n"))
}

// textFrame is a text message of one frame, as servers send it.
func textFrame(text string) []byte {
	frame := []byte{0x81}
	switch {
	case len(text) < 126:
		frame = append(frame, byte(len(text)))
	case len(text) < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(len(text)))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 127), uint64(len(text)))
	}
	return append(frame, text...)
}
