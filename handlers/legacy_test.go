package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/store"
	"sluice/streams"
)

// oldAnswer is an answer of the old API as its clients read it.
type oldAnswer struct {
	Events []struct {
		EventID, EventType, Timestamp string
		Metadata                      struct{ N string }
	}
	LastEventID string
}

func (a oldAnswer) ids() (ids []string) {
	for _, e := range a.Events {
		ids = append(ids, e.EventID)
	}
	return ids
}

// old asks an endpoint of the old API and reads its answer.
func (d *door) old(token, path string) (a oldAnswer) {
	d.t.Helper()
	r := d.ask(http.MethodGet, path, token, "")
	if err := json.Unmarshal([]byte(r.body), &a); r.status != http.StatusOK || err != nil {
		d.t.Fatalf("%s: %d %s (%v)", path, r.status, r.body, err)
	}
	return a
}

// quick has polls of the old API not wait.
func quick(d *door) { d.server.Legacy.Wait = time.Millisecond }

// publishAll publishes events as the applications do.
func (d *door) publishAll(events ...string) {
	d.t.Helper()
	if r := d.publish(publisher(d.t, "1"), "["+strings.Join(events, ",")+"]"); r.status != http.StatusCreated {
		d.t.Fatalf("%d %s", r.status, r.body)
	}
}

// TestOldShapes holds every answer of the old API against its bytes.
func TestOldShapes(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	following(d)
	d.publishAll(
		`{"id":"f","service":"finance","type":"expense_added","propertyId":3,"userId":7,"entityType":"expense","entityId":12,"data":{"amountCents":1.50,"currency":"INR"}}`,
		`{"id":"g","service":"guest","type":"guest_created","propertyId":"007","userId":"u","entityType":"guest_checkin","entityId":9007199254740991,"data":{"action":"add"}}`,
		`{"id":"a","service":"guest","type":"audit_viewed","propertyId":0,"userId":9007199254740992,"entityType":"guest_checkin","entityId":"x\"y"}`,
		`{"id":"1","service":"branding","type":"theme_updated","entityType":"branding","entityId":1,"data":{"theme": {"a" : [1, "b c"]}}}`,
		`{"id":"t","service":"tasks","type":"task_created"}`,
	)
	var times []string
	for _, e := range d.logOf("1") {
		times = append(times, e.Time.Format("2006-01-02T15:04:05.000000Z"))
	}
	finance := `{"eventId":"f","eventVersion":"v1","eventType":"expense_added","orgId":1,"propertyId":3,"userId":7,"timestamp":"` + times[0] +
		`","entityId":12,"entityType":"expense","metadata":{"amountCents":1.50,"currency":"INR"}}`
	guest := `{"eventId":"g","eventVersion":"v1","eventType":"guest_created","orgId":1,"propertyId":"007","userId":"u","timestamp":"` + times[1] +
		`","entityId":9007199254740991,"entityType":"guest_checkin","metadata":{"action":"add"}}`
	audit := `{"eventId":"a","eventVersion":"v1","eventType":"audit_viewed","orgId":1,"propertyId":0,"userId":"9007199254740992","timestamp":"` + times[2] +
		`","entityId":"x\"y","entityType":"guest_checkin","metadata":{}}`
	branding := `{"eventId":"1","eventVersion":"v1","eventType":"theme_updated","orgId":1,"propertyId":null,"timestamp":"` + times[3] +
		`","entityId":1,"entityType":"branding","metadata":{"theme":{"a":[1,"b c"]}}}`
	tasks := `{"eventId":"t","eventVersion":"v1","eventType":"task_created","orgId":1,"timestamp":"` + times[4] + `","metadata":{}}`
	derived := finance + "," + strings.Replace(tasks, `"metadata"`, `"entityId":null,"metadata"`, 1)
	const long = "2000-01-01T05:30:00%2B05:30"
	answer := func(events, last string) string {
		return `{"schemaVersion":1,"events":[` + events + `],"lastEventId":"` + last + `"}`
	}
	// Every position is given: how far back one goes without is the next test's, and a matter of seconds.
	for path, want := range map[string]string{
		"finance/realtime/subscribe?lastEventId=" + long:                 answer(finance, times[0]),
		"finance/realtime/subscribe?propertyId=3&lastEventId=" + long:    answer(finance, times[0]),
		"finance/realtime/subscribe?propertyId=4&lastEventId=" + long:    answer("", "2000-01-01T05:30:00+05:30"),
		"finance/realtime/subscribe?propertyId=null&lastEventId=" + long: answer(finance, times[0]),
		"finance/realtime/subscribe?lastEventId=" + times[0]:             answer("", times[0]),
		"staff/realtime/subscribe":                                       answer("", ""),
		"tasks/realtime/subscribe?lastEventId=" + long:                   answer(tasks, times[4]),
		"tasks/realtime/subscribe?propertyId=3&lastEventId=" + long:      answer(tasks, times[4]),
		"tasks/realtime/subscribe?lastEventId=" + times[3]:               answer(tasks, times[4]),
		"properties/realtime/subscribe?lastEventId=":                     answer("", ""),
		"users/realtime/subscribe":                                       answer("", ""),
		"dashboard/realtime/subscribe?lastEventId=" + long:               answer(derived, times[4]),
		"analytics/realtime/subscribe?lastEventId=" + long:               answer(derived, times[4]),
		"branding/realtime/subscribe?propertyId=8&lastEventId=" + long:   answer(branding, times[3]),
		"guest/realtime/subscribe?lastEventId=" + long:                   answer(guest, times[1]),
		"reports/realtime/subscribe?lastEventId=" + long:                 answer(finance, times[0]),
		"guest-checkin/audit-events/subscribe?lastEventId=" + long:       answer(audit, times[2]),
		"guest-checkin/audit-events/subscribe?lastEventId=" + times[2]:   answer("", times[2]),
		"guest-checkin/realtime/subscribe":                               `{"events":[],"lastEventId":""}`,
		"guest-checkin/realtime/subscribe?lastEventId=x":                 `{"events":[],"lastEventId":"x"}`,
	} {
		for _, prefix := range []string{"/", "/v1/"} {
			r := d.ask(http.MethodGet, prefix+path, admin(t, "7"), "")
			if r.status != http.StatusOK || r.body != want {
				t.Errorf("%s%s: %d\n %s\nis not\n %s", prefix, path, r.status, r.body, want)
			}
			if kind, cache := r.header.Get("Content-Type"), r.header.Get("Cache-Control"); kind != "application/json" || cache != "no-store" {
				t.Errorf("%s%s is typed %q, for caches %q", prefix, path, kind, cache)
			}
		}
	}
	d.publishAll(`{"service":"guest","type":"guest_updated","propertyId":3,"entityType":"guest_document","entityId":5,"data":{"status":"ready"}}`)
	last := d.logOf("1")[5].Time.Format("2006-01-02T15:04:05.000000Z")
	want := `{"events":[{"eventType":"guest_updated","timestamp":"` + last +
		`","entityId":5,"entityType":"guest_document","metadata":{"status":"ready"}}],"lastEventId":"` + last + `"}`
	if r := d.ask(http.MethodGet, "/v1/guest-checkin/realtime/subscribe", admin(t, "7"), ""); r.body != want {
		t.Errorf("%s\nis not\n%s", r.body, want)
	}
}

// TestOldNow holds the answers that tell the time against their bytes.
func TestOldNow(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	for path, key := range map[string]string{
		"/v1/guest-checkin/realtime/subscribe-v3": `{"events":[],"lastEventId":"`,
		"/reports/realtime/poll?lastUpdateTime=x": `{"updates":[],"nextPollTime":"`,
		"/v1/reports/realtime/poll":               `{"updates":[],"nextPollTime":"`,
	} {
		r := d.ask(http.MethodGet, path, admin(t, "7"), "")
		text, found := strings.CutPrefix(r.body, key)
		at, err := time.Parse("2006-01-02T15:04:05.000000Z", strings.TrimSuffix(text, `"}`))
		if !found || err != nil || time.Until(at).Abs() > time.Minute {
			t.Errorf("%s: %s (%v)", path, r.body, err)
		}
	}
}

// TestOldClient follows the log as the old clients do: by the time of the last event, through answers of at most 200, and
// past more than one poll looks at.
func TestOldClient(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	following(d)
	want := d.append("1", 450, 100)
	var got []string
	at := "2000-01-01T00:00:00Z"
	for polls := 0; len(got) < len(want); polls++ {
		a := d.old(admin(t, "7"), "/finance/realtime/subscribe?lastEventId="+at)
		if len(a.Events) == 0 || len(a.Events) > 200 || a.LastEventID != a.Events[len(a.Events)-1].Timestamp {
			t.Fatalf("poll %d has %d events up to %s", polls, len(a.Events), a.LastEventID)
		}
		got, at = append(got, a.ids()...), a.LastEventID
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d events are not those %d", len(got), len(want))
	}
	for range 25 { // of a service that the client does not have
		d.append("1", 500, 10)
	}
	d.publishAll(`{"id":"late","service":"tasks","type":"task_created"}`)
	for polls := 0; ; polls++ {
		a := d.old(admin(t, "7"), "/v1/tasks/realtime/subscribe?lastEventId="+at)
		if slices.Equal(a.ids(), []string{"late"}) {
			break
		}
		if len(a.Events) > 0 || polls > 3 {
			t.Fatalf("poll %d: %+v", polls, a)
		}
		at = a.LastEventID
	}
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if a := d.old(admin(t, "7"), "/finance/realtime/subscribe?lastEventId="+future); len(a.Events) > 0 || a.LastEventID != future {
		t.Fatalf("after the future: %+v", a)
	}
}

// lookedUp tells which positions were asked for by their time.
type lookedUp struct {
	*store.Store
	times chan time.Time
}

func (l lookedUp) PositionAt(ctx context.Context, org string, at time.Time) (store.Cursor, error) {
	l.times <- at
	return l.Store.PositionAt(ctx, org, at)
}

// TestOldBeginning reads the first time that there is, which is what some clients have for none yet, as a time: everything
// follows it, not the last 25 s alone.
func TestOldBeginning(t *testing.T) {
	t.Parallel()
	times := make(chan time.Time, 2)
	d := openDoor(t, quick, func(d *door) { d.server.Positions = streams.NewPositions(lookedUp{d.events, times}) })
	d.old(admin(t, "7"), "/finance/realtime/subscribe?lastEventId=0001-01-01T00:00:00Z")
	if len(times) == 0 {
		t.Error("the time was not looked up")
	}
	if d.old(admin(t, "7"), "/finance/realtime/subscribe?lastEventId="); len(times) > 1 {
		t.Error("none was looked up")
	}
}

// TestOldRefusals lists what the old API does not answer.
func TestOldRefusals(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	all := []string{
		"/finance/realtime/subscribe", "/v1/guest-checkin/realtime/subscribe", "/v1/guest-checkin/realtime/subscribe-v3",
		"/v1/guest-checkin/audit-events/subscribe", "/reports/realtime/poll", "/v2/realtime/transport",
	}
	for _, path := range all {
		if r := d.ask(http.MethodGet, path, "", ""); r.status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", path, r.status)
		}
		if r := d.ask(http.MethodPost, path, admin(t, "7"), ""); r.status != http.StatusMethodNotAllowed || r.header.Get("Allow") == "" {
			t.Errorf("POST %s: %d", path, r.status)
		}
	}
	few := mint(t, Claims{Properties: []string{"1"}, Services: []string{"tasks"}})
	for _, path := range all[:5] {
		if r := d.ask(http.MethodGet, path, few, ""); r.status != http.StatusForbidden {
			t.Errorf("%s with a token for tasks: %d", path, r.status)
		}
	}
	of1 := mint(t, Claims{Properties: []string{"1"}})
	for _, path := range all[:4] {
		if r := d.ask(http.MethodGet, path+"?propertyId=2", of1, ""); r.status != http.StatusForbidden {
			t.Errorf("%s of a foreign property: %d", path, r.status)
		}
		if r := d.ask(http.MethodGet, path+"?propertyId=%ff", admin(t, "7"), ""); r.status != http.StatusBadRequest {
			t.Errorf("%s of a property that is no text: %d %s", path, r.status, r.body)
		}
		if r := d.ask(http.MethodGet, path+"?propertyId=1&propertyId=2", of1, ""); r.status != http.StatusBadRequest {
			t.Errorf("%s of two properties: %d", path, r.status)
		}
	}
	if r := d.ask(http.MethodGet, "/branding/realtime/subscribe?propertyId=2", of1, ""); r.status != http.StatusOK {
		t.Errorf("branding, which is of the whole org, by a foreign property: %d", r.status)
	}
	for _, since := range []string{
		"x", "-1", "0", "1732540000000", "2025-01-31", "2025-13-01T00:00:00Z", "2025-01-31T00:00:00." + strings.Repeat("0", 100) + "Z",
		"\x00", "2025-01-31T12:00:00Z'--",
	} {
		for _, path := range []string{all[0], all[3]} {
			if r := d.ask(http.MethodGet, path+"?lastEventId="+url.QueryEscape(since), admin(t, "7"), ""); r.status != http.StatusBadRequest {
				t.Errorf("%s after %q: %d %s", path, since, r.status, r.body)
			} else if p := r.problem(t); p.Field != "lastEventId" {
				t.Errorf("%s after %q: %+v", path, since, p)
			}
		}
	}
	for _, since := range []string{"0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2025-01-31t12:00:00.5z", "2025-01-31T12:00:00+05:30"} {
		if r := d.ask(http.MethodGet, all[0]+"?wait=1e9&lastEventId="+since, admin(t, "7"), ""); r.status != http.StatusOK ||
			!strings.HasPrefix(r.body, `{"schemaVersion":1,"events":[],"lastEventId":"`+strings.ReplaceAll(since, "+", " ")) {
			t.Errorf("after %s: %d %s", since, r.status, r.body)
		}
	}
	for _, path := range []string{"/none/realtime/subscribe", "/chat/realtime/subscribe", "/v1/documents/realtime/subscribe", "/v2/realtime/subscribe", "/a%2fb/realtime/subscribe"} {
		if r := d.ask(http.MethodGet, path, admin(t, "7"), ""); r.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	if r := d.ask(http.MethodGet, all[0]+"?x="+strings.Repeat("x", 2<<20), admin(t, "7"), ""); r.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a huge query: %d", r.status)
	}
	service := mint(t, Claims{Org: "*", Role: "ADMIN"})
	if r := d.ask(http.MethodGet, all[0], service, ""); r.status != http.StatusBadRequest {
		t.Errorf("a service token without an org: %d", r.status)
	}
	if r := d.ask(http.MethodGet, all[0]+"?orgId=2", service, ""); r.status != http.StatusOK {
		t.Errorf("a service token: %d", r.status)
	}
}

// TestOldTenancy has a token see nothing of another org or property, whatever its query says.
func TestOldTenancy(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	d.publishAll(`{"service":"users","type":"user_login","propertyId":3}`, `{"id":"all","service":"users","type":"user_created"}`)
	for token, want := range map[string][]string{
		mint(t, Claims{Org: "2", Role: "ADMIN"}):        nil,
		mint(t, Claims{Properties: []string{"4"}}):      {"all"},
		mint(t, Claims{Properties: []string{}}):         {"all"},
		mint(t, Claims{Properties: []string{"3", "4"}}): {"", "all"},
		mint(t, Claims{Role: "ADMIN"}):                  {"", "all"},
		mint(t, Claims{Role: "admin", Properties: nil}): {"all"},
	} {
		for _, path := range []string{"/users/realtime/subscribe?orgId=1&", "/dashboard/realtime/subscribe?"} {
			if a := d.old(token, path+"lastEventId=2000-01-01T00:00:00Z"); len(a.Events) != len(want) {
				t.Errorf("%s: %+v, not %q", path, a, want)
			}
		}
	}
}

// TestOldCrowd parks some hundred polls of three properties: they hold no goroutine, and an event answers those that its
// property concerns and nobody else.
func TestOldCrowd(t *testing.T) {
	const each = 70
	d := openDoor(t, func(d *door) { d.server.Legacy.Wait = time.Hour })
	following(d)
	before := 0
	conns := map[string][]net.Conn{}
	for i := range 3 * each {
		property := fmt.Sprint(i % 3)
		path := "/v1/tasks/realtime/subscribe"
		if i%2 == 0 {
			path = "/v1/guest-checkin/realtime/subscribe-v3"
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s?propertyId=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, property, admin(t, fmt.Sprint("u", i)))
		conns[property] = append(conns[property], conn)
		if i == 9 || i == 3*each-1 {
			eventually(t, patience, "the polls do not wait", func() bool { return d.server.Hub.Stats("1").Polls == i+1 })
		}
		if i == 9 {
			before = runtime.NumGoroutine()
		}
	}
	figures := httptest.NewRecorder()
	d.server.AdminRoutes().ServeHTTP(figures, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if line := fmt.Sprintf("sluice_active_streams{transport=\"legacy\"} %d\n", 3*each); !strings.Contains(figures.Body.String(), line) {
		t.Errorf("the metrics do not say %s", line)
	}
	eventually(t, patience, "parked polls hold goroutines", func() bool { return runtime.NumGoroutine() <= before+10 })
	d.publishAll(`{"service":"tasks","type":"task_created","propertyId":1}`, `{"service":"guest","type":"guest_created","propertyId":1}`)
	for _, conn := range conns["1"] {
		conn.SetReadDeadline(time.Now().Add(patience))
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), `_created"`) {
			t.Fatalf("%d %s (%v)", response.StatusCode, body, err)
		}
	}
	if polls := d.server.Hub.Stats("1").Polls; polls != 2*each {
		t.Fatalf("%d polls wait after an event for %d of %d", polls, each, 3*each)
	}
}

// TestOldWindow begins some seconds back where a client says nothing, and counts what finance had in them.
func TestOldWindow(t *testing.T) {
	t.Parallel()
	d := openDoor(t, quick)
	following(d)
	d.publishAll(`{"service":"finance","type":"expense_added"}`)
	if a := d.old(mint(t, Claims{Org: "2"}), "/finance/realtime/subscribe"); len(a.Events) > 0 {
		t.Fatalf("%+v", a)
	}
	// A machine may stand still for longer than the window is; then it is tried again.
	eventually(t, patience, "an event is not in the window", func() bool {
		d.publishAll(`{"service":"finance","type":"expense_added","propertyId":3}`, `{"service":"tasks","type":"task_created"}`)
		return len(d.old(admin(t, "7"), "/finance/realtime/subscribe").Events) > 0
	})
	eventually(t, patience, "the figures count nothing", func() bool {
		d.publishAll(`{"service":"finance","type":"revenue_added"}`)
		figures := d.ask(http.MethodGet, "/v1/finance/realtime/metrics", mint(t, Claims{}), "").body
		return strings.HasPrefix(figures, `{"buffers":[{"orgId":1,"size":`) && strings.Contains(figures, `"revenue_added":`) &&
			strings.HasSuffix(figures, `},"deliveredByType":{},"maxBufferSize":200,"eventTtlMs":25000}`) && json.Valid([]byte(figures))
	})
	const none = `{"buffers":[],"totals":{"orgs":0,"totalDropped":0},"publishedByType":{},"deliveredByType":{},"maxBufferSize":200,"eventTtlMs":25000}`
	if figures := d.ask(http.MethodGet, "/finance/realtime/metrics", mint(t, Claims{Org: "2", Role: "ADMIN"}), "").body; figures != none {
		t.Errorf("another org is told %s", figures)
	}
}

// TestOldRetirement goes through the modes of the old API.
func TestOldRetirement(t *testing.T) {
	t.Parallel()
	var mode atomic.Value
	mode.Store(LegacyOn)
	d := openDoor(t, quick, func(d *door) {
		d.server.Legacy.Mode = func() LegacyMode { return mode.Load().(LegacyMode) }
		d.server.Legacy.Sunset = time.Date(2027, time.June, 30, 0, 0, 0, 0, time.UTC)
	})
	const path = "/v1/finance/realtime/subscribe"
	check := func(token string, status int, deprecation, sunset, link string) {
		t.Helper()
		r := d.ask(http.MethodGet, path, token, "")
		if got := []string{r.header.Get("Deprecation"), r.header.Get("Sunset"), r.header.Get("Link")}; r.status != status ||
			!slices.Equal(got, []string{deprecation, sunset, link}) {
			t.Errorf("%v: %d with %q", mode.Load(), r.status, got)
		}
	}
	const deprecated, sunset, link = "@1795564800", "Wed, 30 Jun 2027 00:00:00 GMT", `</migration>; rel="deprecation sunset"; type="text/html"`
	check(admin(t, "7"), http.StatusOK, "", "", "")
	mode.Store(LegacyDeprecated)
	check(admin(t, "7"), http.StatusOK, deprecated, sunset, link)
	check("", http.StatusUnauthorized, deprecated, sunset, link)
	mode.Store(LegacyGone)
	check(admin(t, "7"), http.StatusGone, "", "", link)
	check("", http.StatusGone, "", "", link)
	d.ask(http.MethodGet, path, "", "").problem(t)
	if r := d.ask(http.MethodGet, "/v1/finance/events/subscribe", admin(t, "7"), ""); r.status != http.StatusGone {
		t.Errorf("the blocked endpoint is %d", r.status)
	}
	if r := d.ask(http.MethodGet, "/migration", "", ""); r.status != http.StatusOK || !strings.Contains(r.body, "/v2/realtime/stream") {
		t.Errorf("the guide is %d", r.status)
	}
	if r := d.ask(http.MethodGet, "/v2/realtime/transport", admin(t, "7"), ""); r.body != `{"transport":"stream","reason":"percentage","rolloutPercent":100}`+"\n" {
		t.Errorf("the transport is %s", r.body)
	}
}
