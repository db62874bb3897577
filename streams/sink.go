package streams

import "errors"

// Payload is what a sink is offered: frames of one encoding, framed once for all that read them as one chunk of an
// HTTP/1.1 body. It is shared and never written to again.
type Payload []byte

// The room around the frames: eight hexadecimal digits and CRLF before, CRLF behind.
const (
	chunkHead = 10
	chunkTail = 2
)

// Chunk is the payload with its chunk framing.
func (p Payload) Chunk() []byte { return p }

// Raw is the frames alone: a slice of the same bytes.
func (p Payload) Raw() []byte { return p[chunkHead : len(p)-chunkTail] }

// NewPayload frames what write appends.
func NewPayload(capacity int, write func([]byte) []byte) Payload {
	p := make([]byte, chunkHead, capacity+chunkHead+chunkTail)
	p = write(p)
	size := len(p) - chunkHead
	for i := range 8 {
		p[7-i] = "0123456789abcdef"[size>>(4*i)&15]
	}
	p[8], p[9] = '\r', '\n'
	return append(p, '\r', '\n')
}

// Sink is the way out to one reader. It belongs to one Subscriber, which calls it under its tail's lock; so nothing of
// it may block, and it calls the subscriber back only from goroutines of its own.
type Sink interface {
	// Start tells whom to call back. It is called once, before anything is offered.
	Start(owner Owner)

	// Offer writes what can be written at once. True: all of it, and the sink takes more. False: the sink is blocked;
	// it keeps the rest, which stays as it is, and calls Ready when that is out, or Gone when it never will be.
	// Nothing is offered to a blocked sink.
	Offer(p Payload) bool

	// End writes a last payload, which may be nil, after what was offered, and closes the response in good order, in
	// whatever words its dialect has for why. A sink that is blocked has its usual time for all of that. Nothing is
	// offered afterwards. Gone follows, unless it was called before.
	End(last Payload, why Ending)

	// Transport names the sink's transport in metrics and in the ack: one of Transports.
	Transport() string
}

// Ending is why a stream is ended from this side.
type Ending uint8

// The endings that dialects tell apart.
const (
	EndDrained Ending = iota // the instance goes
	EndDenied                // the token does not allow it any more
	EndLater                 // not for now: a limit, or the log cannot be read
	EndAnswer                // a poll has its answer
)

// ErrStalled is why a sink closes a reader that takes nothing for too long.
var ErrStalled = errors.New("the reader made no progress")

// Owner is whom a sink calls back.
type Owner interface {
	Ready()         // the sink is not blocked any more
	Gone(why error) // the end, called once: nil after the reader or End has closed it, ErrStalled
}
