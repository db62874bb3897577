// Package doctor probes a deployed Sluice from outside, through whatever stands before it, and says in plain words what to
// change there. It publishes nothing: what is held back or cut on the way shows in when the server's own first frames,
// pings and empty polls arrive.
package doctor

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Visit says whom to examine, and how.
type Visit struct {
	URL    string        // of the server, as clients have it: http or https
	Token  string        // of a reader
	Org    string        // to act for, with a service's token; else empty
	Origin string        // of the pages that read from another address; empty: of pages of the server's own
	Wait   time.Duration // longest wait for an answer, and for the first frame of a stream
	Idle   time.Duration // how long to listen to silence; twice the heartbeat or more has some of the longest there is
	Note   func(format string, args ...any)
}

// exam is a visit that is under way.
type exam struct {
	Visit
	base *url.URL
	any  *http.Client // speaks HTTP/2 where it is offered
	old  *http.Client // HTTP/1.1 alone, for WebSockets

	cursor string        // head of the log, from the first poll
	skew   time.Duration // of the server's clock; positive: it is ahead

	mu       sync.Mutex
	findings []Finding // guarded by mu
}

// Examine probes one thing after the other, and stops where the next cannot be. It takes no longer than a few times Wait,
// and Idle. What is found after ctx has ended means nothing.
func (v Visit) Examine(ctx context.Context) (Report, error) {
	base, err := url.Parse(v.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return Report{}, errNoAddress
	}
	x := &exam{Visit: v, base: base, any: newClient(false), old: newClient(true)}
	defer x.any.CloseIdleConnections()
	defer x.old.CloseIdleConnections()
	switch {
	case !x.reach(ctx):
	case !x.admitted(ctx):
		if x.skew.Abs() >= astray {
			x.clock() // it may be why
		}
	default:
		open := x.doors(ctx)
		x.delay(ctx, open)
		x.ticket(ctx, open)
		x.cors(ctx)
		x.idle(ctx, open)
		for _, one := range open {
			one.close()
		}
		x.clock()
	}
	return Report{URL: v.URL, Findings: x.findings}, ctx.Err()
}

// newClient makes a client that sees what a proxy does: it follows no redirect and unpacks nothing by itself.
func newClient(old bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	if old {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		transport.ForceAttemptHTTP2 = false
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request makes one to the server. With a token it is the reader's, for the org to act for.
func (x *exam) request(ctx context.Context, method, path string, query url.Values, token string) (*http.Request, error) {
	to := x.base.JoinPath(path)
	asked := url.Values{}
	for name, values := range query {
		asked[name] = values
	}
	if x.Org != "" {
		asked.Set("orgId", x.Org)
	}
	to.RawQuery = asked.Encode()
	request, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return request, nil
}

// own is the origin of the pages that the server's address itself serves.
func (x *exam) own() string { return x.base.Scheme + "://" + x.base.Host }

// found keeps what a probe has found.
func (x *exam) found(check string, level Level, says string, change ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.findings = append(x.findings, Finding{Check: check, Level: level, Says: says, Change: change})
}
