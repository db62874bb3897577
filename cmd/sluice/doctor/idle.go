package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// idle listens to silence, on all open streams and a poll at once.
func (x *exam) idle(ctx context.Context, open map[string]*stream) {
	doors := slices.Collect(maps.Keys(open))
	x.Note("listening for up to %v to what becomes of silence: %s", x.Idle, named(append(doors, "poll")))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go x.progress(ctx)
	var group sync.WaitGroup
	group.Go(func() { x.pollWaits(ctx) })
	for door, s := range open {
		group.Go(func() {
			silence, ping, err := s.quiet(ctx, x.Idle)
			x.judge("idle "+door, s, silence, err)
			if err == nil && !ping.Time.IsZero() {
				x.mu.Lock()
				defer x.mu.Unlock()
				x.skew = ping.Time.Sub(ping.at) // of Sluice itself; a Date may be the proxy's
			}
		})
	}
	group.Wait()
}

// progress says that the doctor still listens.
func (x *exam) progress(ctx context.Context) {
	const every = 10 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for gone := every; ; gone += every {
		select {
		case <-tick.C:
			x.Note("still listening, %v of up to %v", gone, x.Idle)
		case <-ctx.Done():
			return
		}
	}
}

// errBusy is what comes of waiting for silence where events come all the time.
var errBusy = errors.New("events came all the time")

// errLeft is an end that Sluice itself has announced.
var errLeft = errors.New("the server ends the stream")

// quiet waits for a ping, which comes after a silence, and returns the longest one that there was.
func (s *stream) quiet(ctx context.Context, idle time.Duration) (silence time.Duration, ping frame, err error) {
	over, busy := time.After(idle), false
	for {
		last := s.heard
		one, err := s.next(over)
		until := one.at
		if errors.Is(err, errSilent) {
			until = time.Now()
		} else if err != nil {
			until = s.ended
		}
		silence = max(silence, until.Sub(last))
		switch {
		case ctx.Err() != nil:
			return silence, one, ctx.Err()
		case errors.Is(err, errSilent) && busy:
			return silence, one, errBusy
		case err != nil:
			return silence, one, err
		}
		switch one.Type {
		case "ping":
			return silence, one, nil
		case "drain", "reauth", "problem":
			return silence, one, fmt.Errorf("%w: %s %s", errLeft, one.Type, one.Detail)
		}
		busy = true
	}
}

// judge says what has become of a silence.
func (x *exam) judge(check string, s *stream, silence time.Duration, err error) {
	switch {
	case err == nil:
		x.found(check, OK, fmt.Sprintf("alive after %v of silence", rounded(silence)))
	case errors.Is(err, errBusy):
		x.found(check, Warn, fmt.Sprintf("events came all the time, with at most %v between them: ask in a quieter hour, or with a token that sees less", rounded(silence)))
	case errors.Is(err, errLeft):
		x.found(check, Warn, err.Error(), "ask again")
	case errors.Is(err, errSilent) && x.Idle <= s.heartbeat+time.Second:
		x.found(check, Warn, fmt.Sprintf("%v of silence changed nothing, but a ping comes after up to %v: ask with a longer --idle", x.Idle, s.heartbeat))
	case errors.Is(err, errSilent):
		x.found(check, Fail, fmt.Sprintf("no ping came within %v, though one is due after %v: it is held back", x.Idle, s.heartbeat), unbuffered...)
	default:
		change := patient(s.heartbeat)
		if silence > 2*time.Second {
			change = append(change, fmt.Sprintf("or sluice serve --heartbeat=%v", max(time.Second, (silence*3/5).Truncate(time.Second))))
		}
		x.found(check, Fail, fmt.Sprintf("cut after %v of silence, before the ping that comes after up to %v (%v)", rounded(silence), s.heartbeat, err), change...)
	}
}

// astray is how far apart clocks are when tokens, which are made by one and judged by another with this leeway, go wrong.
const astray = 30 * time.Second

// clock judges the server's clock beside this machine's.
func (x *exam) clock() {
	where := "ahead of"
	if x.skew < 0 {
		where = "behind"
	}
	says := fmt.Sprintf("the server's is %v %s this machine's", rounded(x.skew.Abs()), where)
	const change = "set both by NTP (timedatectl set-ntp true): a token made by another clock is refused, or ends early"
	switch off := x.skew.Abs(); {
	case off >= astray:
		x.found("clock", Fail, says, change)
	case off >= 5*time.Second:
		x.found("clock", Warn, says, change)
	default:
		x.found("clock", OK, says)
	}
}
