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
			x.judge("idle "+door, s, s.quiet(ctx, x.Idle))
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

// errLeft is an end that Sluice itself has announced.
var errLeft = errors.New("the server ends the stream")

// silence is what was heard of a stream that was listened to.
type silence struct {
	borne time.Duration // the longest that a frame came after
	last  time.Duration // since the last frame, up to the end
	pings int
	busy  bool  // other frames came, too
	err   error // why the stream has ended; nil: it has not
}

// quiet listens for all of a time: pings come up to a third early, so that the first says little of the longest silence.
func (s *stream) quiet(ctx context.Context, idle time.Duration) (heard silence) {
	over := time.After(idle)
	for {
		before := s.heard
		one, err := s.next(over)
		switch {
		case ctx.Err() != nil:
			heard.err = ctx.Err()
			return heard
		case errors.Is(err, errSilent):
			heard.last = time.Since(before)
			return heard
		case err != nil:
			heard.last, heard.err = s.ended.Sub(before), err
			return heard
		}
		heard.borne = max(heard.borne, one.at.Sub(before))
		switch one.Type {
		case "ping":
			heard.pings++
		case "drain", "reauth", "problem":
			heard.err = fmt.Errorf("%w: %s %s", errLeft, one.Type, one.Detail)
			return heard
		default:
			heard.busy = true
		}
	}
}

// judge says what has become of silence.
func (x *exam) judge(check string, s *stream, heard silence) {
	switch {
	case errors.Is(heard.err, errLeft):
		x.found(check, Warn, heard.err.Error(), "ask again")
	case heard.err != nil:
		change := patient(s.heartbeat)
		if heard.last > 2*time.Second {
			change = append(change, fmt.Sprintf("or sluice serve --heartbeat=%v", max(time.Second, (heard.last*3/5).Truncate(time.Second))))
		}
		x.found(check, Fail, fmt.Sprintf("cut after %v of silence, before the ping that comes after up to %v; %v were borne before (%v)",
			rounded(heard.last), s.heartbeat, rounded(heard.borne), heard.err), change...)
	case heard.last > s.heartbeat+x.Wait/2:
		x.found(check, Fail, fmt.Sprintf("no ping came within %v, though one is due after %v: it is held back, or the connection was forgotten on the way", rounded(heard.last), s.heartbeat), append(patient(s.heartbeat), unbuffered...)...)
	case heard.pings == 0 && heard.busy:
		x.found(check, Warn, fmt.Sprintf("events came all the time, with at most %v between them: ask in a quieter hour, or with a token that sees less", rounded(heard.borne)))
	case heard.pings == 0:
		x.found(check, Warn, fmt.Sprintf("%v of silence changed nothing, but a ping comes after up to %v: ask with a longer --idle", rounded(heard.last), s.heartbeat))
	default:
		x.found(check, OK, fmt.Sprintf("alive; the longest silence was %v, of up to %v", rounded(heard.borne), s.heartbeat))
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
