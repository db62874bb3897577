package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
)

// everything asks for all that the token allows; a WebSocket with less than this would wait to be told.
func (x *exam) everything() url.Values { return url.Values{"cursor": {x.cursor}} }

// doors opens a stream through each door at once, and returns those that work, still open.
func (x *exam) doors(ctx context.Context) map[string]*stream {
	open := map[string]*stream{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, door := range []string{sse, ndjson, webSocket} {
		group.Go(func() {
			s := x.tried(ctx, door)
			if s == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			open[door] = s
		})
	}
	group.Wait()
	return open
}

// tried opens a stream through a door and says what is wrong with it; nil: it does not work.
func (x *exam) tried(ctx context.Context, door string) *stream {
	if door == webSocket {
		return x.socket(ctx)
	}
	s := x.open(ctx, door, x.everything(), x.Token, "")
	after, err := s.ack(x.Wait)
	if err == nil {
		if s.compressed != "" {
			x.found(door, Fail, "streams are compressed ("+s.compressed+"): what compresses holds frames back", uncompressed...)
		} else {
			x.found(door, OK, fmt.Sprintf("the first frame comes after %v", rounded(after)))
		}
		return s
	}
	s.close()
	if !errors.Is(err, errSilent) {
		x.found(door, Fail, "no stream: "+err.Error(), passedOn...)
		return nil
	}
	x.Note("%s: nothing came within %v; trying with padding", door, x.Wait)
	query := x.everything()
	query.Set("pad", "1")
	s = x.open(ctx, door, query, x.Token, "")
	if after, err = s.ack(x.Wait); err != nil {
		s.close()
		x.found(door, Fail, fmt.Sprintf("frames are held back: the first did not come within %v, with padding neither", x.Wait), unbuffered...)
		return nil
	}
	x.found(door, Fail, fmt.Sprintf("first bytes are held back: the first frame comes with pad=1 alone, after %v", rounded(after)), unbuffered...)
	return s
}

// socket opens a WebSocket from a page of the origin that is asked about, or else of the server's own.
func (x *exam) socket(ctx context.Context) *stream {
	origin := x.Origin
	if origin == "" {
		origin = x.own()
	}
	s := x.open(ctx, webSocket, x.everything(), x.Token, origin)
	after, err := s.ack(x.Wait)
	if status(err) == http.StatusForbidden {
		if origin == x.own() {
			x.found("origin", Fail, "WebSockets and writes from pages of "+origin+" itself are refused: the proxy gives Sluice another Host", sameHost...)
		} else {
			x.found("origin", Fail, "WebSockets from pages of "+origin+" are refused", "sluice serve --allowed-origins="+origin)
		}
		s.close()
		s = x.open(ctx, webSocket, x.everything(), x.Token, "")
		after, err = s.ack(x.Wait)
	}
	if err == nil {
		x.found(webSocket, OK, fmt.Sprintf("the first frame comes after %v", rounded(after)))
		return s
	}
	s.close()
	switch {
	case errors.Is(err, errSilent):
		x.found(webSocket, Fail, fmt.Sprintf("a WebSocket does not open within %v", x.Wait), upgraded...)
	default:
		x.found(webSocket, Fail, "no WebSocket: "+err.Error(), upgraded...)
	}
	return nil
}
