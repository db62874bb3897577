package bench

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// said is what a measurement sees of a message; the zero value is none.
type said struct {
	seq    int64 // in its room, from 1
	number int64 // in the load, from 0
}

var (
	typeKey     = []byte(`"type":"`)
	messageType = []byte(`message_created"`)
	seqKey      = []byte(`"seq":`)
	clientKey   = []byte(`"clientId":"`)
	refField    = []byte(`{"type":"ok","ref":"`)
)

// clientID is the id of the load's nth message, which says when it was sent.
func clientID(number int64, at time.Time) string { return fmt.Sprintf("%d-%d", number, at.UnixNano()) }

// sentAs reads a client id: the message's number, and when it was sent in Unix nanoseconds.
func sentAs(id []byte) (number, stamp int64) {
	before, after, _ := bytes.Cut(id, []byte{'-'})
	return digits(before), digits(after)
}

// saidIn finds a message in the text that an event's begins. What follows the event may be others.
func saidIn(text []byte) (m said, stamp int64) {
	_, rest, _ := bytes.Cut(text, typeKey)
	rest, found := bytes.CutPrefix(rest, messageType)
	if !found {
		return m, 0
	}
	_, rest, _ = bytes.Cut(rest, seqKey)
	m.seq = digits(rest)
	_, rest, _ = bytes.Cut(rest, clientKey)
	m.number, stamp = sentAs(rest)
	return m, stamp
}

// clientFrame is a text message of one frame, as clients send it: masked (RFC 6455, 5.3), with a key that changes nothing.
func clientFrame(text string) []byte {
	plain := textFrame(text)
	head := len(plain) - len(text)
	frame := append(make([]byte, 0, len(plain)+4), plain[:head]...)
	frame[1] |= 0x80
	return append(append(frame, 0, 0, 0, 0), text...)
}

// words are what the load says, about as long as what people do.
func words(number int64) string {
	return "message " + strconv.FormatInt(number, 10) + ": most of what is said in a room is about as long as this"
}
