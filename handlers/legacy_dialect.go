package handlers

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"sluice/store"
	"sluice/streams"
)

// oldDialect writes the answers of some endpoints of the old API.
type oldDialect struct {
	name  string
	most  int    // events of one answer
	head  string // up to the first event
	event func(dst []byte, e *store.Event) []byte
	now   bool // without events lastEventId is the present, else what the client has sent
}

var (
	fullDialect    = oldDialect{name: "old", most: 200, head: `{"schemaVersion":1,"events":[`, event: appendFull}
	derivedDialect = oldDialect{name: "old derived", most: 200, head: `{"schemaVersion":1,"events":[`, event: appendDerived}
	auditDialect   = oldDialect{name: "old audit", most: 100, head: `{"schemaVersion":1,"events":[`, event: appendFull}
	guestV1        = oldDialect{name: "guest", most: 200, head: `{"events":[`, event: appendBrief}
	financeCounts  = countDialect{oldDialect{name: "old counts", most: 200}}
	guestV3        = oldDialect{name: "guest v3", most: 200, head: `{"events":[`, event: appendBrief, now: true}
)

// Name implements streams.PollEncoder.
func (d *oldDialect) Name() string { return d.name }

// Most implements streams.PollEncoder.
func (d *oldDialect) Most() int { return d.most }

// Answer implements streams.PollEncoder.
func (d *oldDialect) Answer(dst []byte, a *streams.Answer) []byte {
	dst = append(dst, d.head...)
	for i, event := range a.Events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = d.event(dst, event)
	}
	dst = append(dst, `],"lastEventId":`...)
	switch {
	case len(a.Events) > 0:
		dst = appendOldTime(dst, a.Events[len(a.Events)-1].Time)
	case !a.Passed.IsZero():
		dst = appendOldTime(dst, a.Passed) // or the client would look at the same events for ever
	case d.now, a.Reset != nil && a.Reset.Reason == streams.ResetExpired:
		dst = appendOldTime(dst, time.Now())
	default:
		dst = appendString(dst, a.Echo)
	}
	return append(dst, '}')
}

// Problem implements streams.PollEncoder.
func (*oldDialect) Problem(dst []byte, p streams.StreamProblem) []byte {
	return polled{}.Problem(dst, p)
}

// countDialect tells of the events of a poll how many there are, as the old figures of finance had it.
type countDialect struct{ oldDialect }

// Answer implements streams.PollEncoder.
func (d *countDialect) Answer(dst []byte, a *streams.Answer) []byte {
	dst = append(dst, `{"buffers":[`...)
	count, orgs := map[string]int{}, 0
	for _, event := range a.Events {
		count[event.Type]++
	}
	if len(a.Events) > 0 {
		orgs = 1
		dst = appendOldID(append(dst, '{'), "orgId", a.Events[0].Org, false)
		dst = fmt.Appendf(dst, `,"size":%d}`, len(a.Events))
	}
	dst = fmt.Appendf(dst, `],"totals":{"orgs":%d,"totalDropped":0},"publishedByType":{`, orgs)
	for i, kind := range slices.Sorted(maps.Keys(count)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, `"%s":%d`, kind, count[kind])
	}
	return fmt.Appendf(dst, `},"deliveredByType":{},"maxBufferSize":%d,"eventTtlMs":%d}`, d.most, legacyWindow.Milliseconds())
}
