package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// fetch asks for a small answer in JSON, and says how long it took. Any other status than the one expected is a refusal.
func (x *exam) fetch(request *http.Request, within time.Duration, expected int, into any) (*http.Response, time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(request.Context(), within, errSilent)
	defer cancel()
	began := time.Now()
	response, err := x.any.Do(request.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, time.Since(began), err
	}
	defer response.Body.Close()
	if response.StatusCode != expected {
		return response, time.Since(began), refusedBy(response)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	return response, time.Since(began), err
}

// figures is a path that answers at once, and that stands below /v2/: a proxy need not pass on more.
const figures = "/v2/realtime/metrics"

// reach asks without a token whether somebody is there, who it is, and over what. Sluice refuses in a way of its own.
func (x *exam) reach(ctx context.Context) bool {
	request, err := x.request(ctx, http.MethodGet, figures, nil, "")
	if err != nil {
		x.found("reach", Fail, err.Error())
		return false
	}
	asked := time.Now()
	response, took, err := x.fetch(request, x.Wait, http.StatusOK, nil)
	switch code := status(err); {
	case code == http.StatusUnauthorized && response.Header.Get("X-Request-Id") != "" && strings.HasPrefix(response.Header.Get("Content-Type"), problemType):
	case code >= http.StatusMultipleChoices && code < http.StatusBadRequest:
		x.found("reach", Fail, err.Error(), "ask there, and have clients ask there")
		return false
	case code >= http.StatusBadGateway && code <= http.StatusGatewayTimeout:
		x.found("reach", Fail, err.Error()+": the proxy does not get at Sluice", "sluice serve has to run where it looks", passedOn[0], passedOn[1])
		return false
	case code != 0:
		x.found("reach", Fail, fmt.Sprintf("%s is not Sluice's (%v)", figures, err), passedOn...)
		return false
	case err == nil:
		x.found("reach", Fail, figures+" is not Sluice's: whoever answers asks for no token", passedOn...)
		return false
	case errors.Is(err, errSilent):
		x.found("reach", Fail, fmt.Sprintf("no answer within %v", x.Wait), "look whether the address is right and the server runs; --wait waits for longer")
		return false
	default:
		x.found("reach", Fail, err.Error(), "look whether the address is right and the server runs")
		return false
	}
	x.found("reach", OK, fmt.Sprintf("Sluice answers in %v", rounded(took)))
	x.version(response)
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		// It has whole seconds: half of one was cut off on average.
		x.skew = date.Add(time.Second / 2).Sub(asked.Add(took / 2))
	}
	return true
}

// version judges what clients and the proxy speak with one another.
func (x *exam) version(response *http.Response) {
	host := x.base.Hostname()
	address := net.ParseIP(host)
	switch {
	case response.ProtoMajor >= 2:
		x.found("http", OK, response.Proto+" over TLS: all tabs of a browser share one connection")
	case x.base.Scheme == "https":
		x.found("http", Warn, response.Proto+" only: a browser opens six connections to a host, and each tab's stream takes one", overHTTP2...)
	case host == "localhost" || address != nil && address.IsLoopback():
		x.found("http", OK, response.Proto+" in clear text, on this machine")
	default:
		x.found("http", Warn, response.Proto+" in clear text: tokens can be read on the way, and browsers speak HTTP/2 over TLS alone", overHTTP2...)
	}
}

// admitted polls once without waiting, which is the simplest thing that needs a token.
func (x *exam) admitted(ctx context.Context) bool {
	request, err := x.request(ctx, http.MethodGet, "/v2/realtime/poll", url.Values{"wait": {"0"}}, x.Token)
	if err != nil {
		x.found("poll", Fail, err.Error())
		return false
	}
	var answer struct{ Cursor string }
	_, took, err := x.fetch(request, x.Wait, http.StatusOK, &answer)
	switch code := status(err); {
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusBadRequest:
		x.found("token", Fail, err.Error(), "give a reader's --token (sluice token makes one), or --data or --jwt-secret of this server to make it with",
			"where the token is good: the proxy must pass Authorization on")
		return false
	case err != nil:
		x.found("poll", Fail, "a poll fails: "+err.Error(), passedOn...)
		return false
	}
	x.cursor = answer.Cursor
	x.timed(ctx)
	x.found("poll", OK, fmt.Sprintf("answered in %v", rounded(took)))
	return true
}

// timed asks Sluice itself for the time; a Date may be the proxy's. Where it does not say, the Date has to do.
func (x *exam) timed(ctx context.Context) {
	request, err := x.request(ctx, http.MethodGet, figures, nil, x.Token)
	if err != nil {
		return
	}
	var told struct{ Time time.Time }
	asked := time.Now()
	if _, took, err := x.fetch(request, x.Wait, http.StatusOK, &told); err == nil && !told.Time.IsZero() {
		x.skew = told.Time.Sub(asked.Add(took / 2))
	}
}

// pollWaits is a poll that waits through silence, for as long as the clients' do by themselves or as we listen.
func (x *exam) pollWaits(ctx context.Context) {
	const check = "idle poll"
	wait := max(time.Second, min(x.Idle, 25*time.Second)).Truncate(time.Second)
	query := url.Values{"cursor": {x.cursor}, "wait": {strconv.Itoa(int(wait.Seconds()))}}
	request, err := x.request(ctx, http.MethodGet, "/v2/realtime/poll", query, x.Token)
	if err != nil {
		x.found(check, Fail, err.Error())
		return
	}
	_, took, err := x.fetch(request, wait+x.Wait, http.StatusOK, nil)
	switch {
	case errors.Is(err, errSilent):
		x.found(check, Fail, fmt.Sprintf("a poll that waits for %v has no answer after %v", wait, rounded(took)), unbuffered...)
	case err != nil:
		x.found(check, Fail, fmt.Sprintf("a poll that waits for %v is cut after %v: %v", wait, rounded(took), err), patient(60*time.Second)...)
	default:
		x.found(check, OK, fmt.Sprintf("a poll waited for %v", rounded(took)))
	}
}
