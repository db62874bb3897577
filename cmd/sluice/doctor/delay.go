package doctor

import (
	"context"
	"fmt"
	"time"
)

// late is a delay of frames that is worth a word, where it is thrice the delay of a WebSocket's.
const late = 150 * time.Millisecond

// delay asks whether a stream is given on at once. HAProxy waits up to 200 ms for more of an answer before it sends a piece,
// every time; a WebSocket, of which it knows no end, it passes on: so the two are compared, several times, in turn.
func (x *exam) delay(ctx context.Context, open map[string]*stream) {
	if open[sse] == nil || open[webSocket] == nil {
		return
	}
	var shortest, longest time.Duration
	for range 5 {
		streamed, err := x.first(ctx, sse)
		if err != nil {
			return
		}
		passed, err := x.first(ctx, webSocket)
		if err != nil {
			return
		}
		if shortest == 0 {
			shortest = streamed
		}
		shortest, longest = min(shortest, streamed), max(longest, passed)
	}
	if shortest < late || shortest < 3*longest {
		x.found("delay", OK, fmt.Sprintf("a stream begins within %v", rounded(shortest)))
		return
	}
	x.found("delay", Warn, fmt.Sprintf("frames come late: a stream never begins within %v, a WebSocket always within %v", rounded(shortest), rounded(longest)), atOnce...)
}

// first opens a stream and says how long it takes to its first frame.
func (x *exam) first(ctx context.Context, door string) (time.Duration, error) {
	s := x.open(ctx, door, x.everything(), x.Token, "")
	defer s.close()
	return s.ack(x.Wait)
}
