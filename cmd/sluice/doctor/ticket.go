package doctor

import (
	"context"
	"fmt"
	"net/http"
)

// ticket asks for one and opens a stream with it, as a page does: an EventSource twice, since it comes back with its URL.
func (x *exam) ticket(ctx context.Context, open map[string]*stream) {
	const check = "ticket"
	request, err := x.request(ctx, http.MethodPost, "/v2/tickets", nil, x.Token)
	if err != nil {
		x.found(check, Fail, err.Error())
		return
	}
	var made struct{ Ticket string }
	_, _, err = x.fetch(request, x.Wait, http.StatusCreated, &made)
	switch {
	case status(err) == http.StatusNotFound:
		x.found(check, Warn, "this server, or the path through the proxy, has no tickets: POST /v2/tickets is answered with "+err.Error(),
			"where the server has them: the proxy must pass /v2/tickets on", "where it has not: pages of other origins cannot open an EventSource or a WebSocket by a ticket; everything else works")
		return
	case err != nil || made.Ticket == "":
		x.found(check, Fail, fmt.Sprintf("POST /v2/tickets gives none: %v", err), "the proxy must pass POST and Authorization on")
		return
	}
	door, times := sse, 2
	if open[sse] == nil {
		door, times = webSocket, 1
	}
	if open[door] == nil {
		x.found(check, OK, "one is given; whether it opens a stream shows when streams work")
		return
	}
	query := x.everything()
	query.Set("ticket", made.Ticket)
	query.Set("pad", "1")
	for range times {
		s := x.open(ctx, door, query, "", "")
		_, err := s.ack(x.Wait)
		s.close()
		if err != nil {
			x.found(check, Fail, fmt.Sprintf("a ticket that was just given opens no stream (%s): %v", door, err), "the proxy must pass the query of a URL on as it is, and answer nothing from a cache")
			return
		}
	}
	x.found(check, OK, "given, and a stream opens with it ("+door+")")
}
