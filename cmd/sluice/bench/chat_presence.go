package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sluice/handlers"
)

const (
	changeMost  = 10 * time.Second       // until all have seen a change, or the run has failed
	changePause = 500 * time.Millisecond // between two changes at most, so that they do not keep step with the server
)

// change is a change of somebody's presence that the others are to see.
type change struct {
	number       int64 // from 1
	user, status []byte
	since        time.Time
	seen         atomic.Int64 // members
}

// in says whether a frame of presence tells of the change.
func (c *change) in(data []byte) bool {
	return bytes.Contains(data, c.user) && bytes.Contains(data, c.status)
}

// visits is users who come, are away, are back, and go, one after the other and at each instance in turn.
type visits struct {
	cancel  context.CancelFunc // after the visit under way
	over    chan struct{}
	changes int   // set before over is closed
	err     error // as well
}

// visit begins with visits to the first room.
func (c *crowd) visit(ctx context.Context) *visits {
	going, cancel := context.WithCancel(ctx)
	v := &visits{cancel: cancel, over: make(chan struct{})}
	go func() {
		defer close(v.over)
		for n := 0; v.err == nil && going.Err() == nil; n++ {
			v.err = c.oneVisit(ctx, n, &v.changes)
		}
	}()
	return v
}

// end waits for the visit under way, and gives how many changes all members have seen.
func (v *visits) end() (changes int, err error) {
	v.cancel()
	<-v.over
	return v.changes, v.err
}

// oneVisit is the nth visit.
func (c *crowd) oneVisit(ctx context.Context, n int, changes *int) error {
	visitor := &visitor{crowd: c, at: c.server(n), user: c.visitor(n % len(c.at))}
	defer visitor.leave()
	for _, step := range []struct {
		status string
		do     func() error
	}{
		{"online", visitor.come},
		{"away", func() error { return visitor.is("away") }},
		{"online", func() error { return visitor.is("online") }},
		{"offline", visitor.leave},
	} {
		number := int64(*changes + 1)
		made := &change{
			number: number, user: fmt.Appendf(nil, `"userId":"%s"`, visitor.user), status: fmt.Appendf(nil, `"status":"%s"`, step.status),
			since: time.Now(),
		}
		c.change.Store(made)
		if err := step.do(); err != nil {
			return fmt.Errorf("a visitor cannot be %s: %w", step.status, err)
		}
		if err := c.awaitChange(ctx, made); err != nil {
			return err
		}
		*changes++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(changePause)):
		}
	}
	return nil
}

// awaitChange waits until all members of the first room have seen a change.
func (c *crowd) awaitChange(ctx context.Context, made *change) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for made.seen.Load() < int64(c.members) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if time.Since(made.since) > changeMost {
			return fmt.Errorf("%d of %d members saw within %s that %s %s", made.seen.Load(), c.members, changeMost, made.user, made.status)
		}
	}
	return nil
}

// visitor is somebody with a stream of their own, who only listens.
type visitor struct {
	crowd *crowd
	at    *server
	user  string
	token string
	conn  net.Conn // nil: not there
}

func (v *visitor) come() (err error) {
	if v.token, err = v.at.bearer(claimsOf(v.user)); err != nil {
		return err
	}
	if v.conn, err = net.DialTimeout("tcp", v.at.address.String(), connectMost); err != nil {
		return explainDial(v.at.url, err)
	}
	go func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }(v.conn)
	_, err = v.conn.Write(v.crowd.stream(v.at, v.token))
	return err
}

// is says what the visitor is to be shown as: over the WebSocket, or by a POST where there is none.
func (v *visitor) is(status string) error {
	if v.crowd.door == doorWebSocket {
		_, err := v.conn.Write(clientFrame(fmt.Sprintf(`{"type":"presence","room":"%s","status":"%s"}`, v.crowd.room(0), status)))
		return err
	}
	to := &publisher{server: v.at, token: v.token}
	defer to.close()
	return to.request(http.MethodPost, "/v2/rooms/"+v.crowd.room(0)+"/presence", `{"status":"`+status+`"}`, http.StatusNoContent)
}

func (v *visitor) leave() error {
	if v.conn == nil {
		return nil
	}
	err := v.conn.Close()
	v.conn = nil
	return err
}

// claimsOf are those of an ordinary user, whom others see by their name.
func claimsOf(user string) handlers.Claims {
	return handlers.Claims{User: user, DisplayName: "The " + user}
}
