package streams

import (
	"time"

	"sluice/store"
)

// EventEncoder frames events in one way. It holds no state of a stream: what it makes of an event is made once and shared
// by all that read it. All methods of encoders append to dst and return it.
type EventEncoder interface {
	// Index numbers the encoders of the process from 0; it is where a ring keeps what this one made.
	Index() int

	Event(dst []byte, event *store.Event, epoch string) []byte
}

// Encoder frames what a stream carries, in one dialect.
type Encoder interface {
	EventEncoder

	// Pieces is what Batch joins: the frames of this encoder, or of another one, which then are shared with it.
	Pieces() EventEncoder

	// Batch frames two events or more as one write; last is the position of the newest.
	Batch(dst []byte, pieces []Payload, last store.Cursor) []byte

	Ack(dst []byte, ack Ack) []byte
	Ping(dst []byte, ping Ping) []byte
	Reset(dst []byte, reset Reset) []byte
	Signal(dst []byte, signal Signal) []byte
	Retry(dst []byte, kind RetryKind, after time.Duration) []byte
	Problem(dst []byte, problem StreamProblem) []byte
}

// encoders is how many encoders there can be: bare JSON, SSE, NDJSON, WebSocket.
const encoders = 4

// Ack is the first frame: where the stream starts. Resumable is false where a reset follows, which then carries the
// position.
type Ack struct {
	ConnectionID string
	Cursor       store.Cursor
	Resumable    bool
	Services     []string
	Heartbeat    time.Duration
	Transport    string
}

// Ping is sent after silence: everything up to Cursor that the filter admits has been served.
type Ping struct {
	Cursor store.Cursor
	Time   time.Time
}

// Reset says that what was asked for cannot be replayed.
type Reset struct {
	Reason         ResetReason
	Oldest, Latest store.Cursor
}

// ResetReason is why a position cannot be replayed.
type ResetReason string

// The reasons of docs/protocol.md.
const (
	ResetExpired   ResetReason = "expired"   // trimmed, or a hole
	ResetEpoch     ResetReason = "epoch"     // another incarnation of the log
	ResetAhead     ResetReason = "ahead"     // beyond the head
	ResetMalformed ResetReason = "malformed" // not a cursor at all
)

// RetryKind is the name of a frame that asks to come back.
type RetryKind string

// The kinds of docs/protocol.md.
const (
	RetryReauth RetryKind = "reauth" // the token is about to expire
	RetryDrain  RetryKind = "drain"  // the instance goes
)

// StreamProblem ends a stream and says why. Retry, where it is not zero, is when to come back.
type StreamProblem struct {
	Status int
	Title  string
	Detail string
	Retry  time.Duration
}
