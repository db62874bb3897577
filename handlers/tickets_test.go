package handlers

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// ticket asks for a ticket and gives it with its end.
func (d *door) ticket(token string) (ticket string, expires time.Time) {
	d.t.Helper()
	got := d.ask(http.MethodPost, "/v2/tickets", token, "")
	var made struct {
		Ticket    string
		ExpiresAt time.Time
	}
	if err := json.Unmarshal([]byte(got.body), &made); err != nil || got.status != http.StatusCreated || made.Ticket == "" {
		d.t.Fatalf("%d %s (%v)", got.status, got.body, err)
	}
	return made.Ticket, made.ExpiresAt
}

// socketStatus opens a WebSocket by a query alone and gives 101, or with what it was refused.
func (d *door) socketStatus(query string, headers ...string) int {
	d.t.Helper()
	c, err := d.tryDialSocket("", query, headers...)
	var status ws.StatusError
	if errors.As(err, &status) {
		return int(status)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	c.expect("ack")
	c.conn.Close()
	return http.StatusSwitchingProtocols
}

// TestTicketOnce opens a WebSocket by a ticket, once: it carries what its maker may see, and no second one comes of it.
func TestTicketOnce(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	following(d)
	ticket, expires := d.ticket(mint(t, Claims{Role: "MANAGER", Properties: []string{"7"}, Services: []string{"finance"}}))
	if left := time.Until(expires); left > 31*time.Second || left < 20*time.Second {
		t.Errorf("to be used within %v", left)
	}
	c := d.dialSocket("", "cursor=earliest&ticket="+ticket)
	if ack := c.expect("ack"); len(ack.Services) != 1 || ack.Services[0] != "finance" {
		t.Errorf("%+v", ack)
	}
	for _, body := range []string{
		`{"service":"finance","type":"t","id":"theirs","propertyId":"8"}`, `{"service":"finance","type":"t","id":"ours","propertyId":"7"}`,
	} {
		d.mustPublish(publisher(t, "1"), body)
	}
	if got := c.events(1); got[0] != "ours" {
		t.Error(got)
	}
	if status := d.socketStatus("services=finance&ticket=" + ticket); status != 401 {
		t.Errorf("a second WebSocket: %d", status)
	}
	if got := d.ask("GET", "/v2/realtime/stream?ticket="+ticket, "", ""); got.status != 401 || !strings.Contains(got.problem(t).Detail, "POST /v2/tickets") {
		t.Errorf("a stream after it: %d %s", got.status, got.body)
	}
}

// TestTicketRefusals shows what opens nothing, and that no ticket is logged.
func TestTicketRefusals(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	good, _ := d.ticket(admin(t, "7"))
	for _, path := range []string{"/v2/realtime/poll?ticket=", "/v2/realtime/metrics?ticket=", "/v2/realtime/stream?ticket=x", "/v2/realtime/stream?ticket=&x="} {
		if got := d.ask("GET", path+good, "", ""); got.status != 401 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	if got := d.ask("HEAD", "/v2/realtime/stream?ticket="+good, "", ""); got.status != 401 {
		t.Errorf("HEAD: %d", got.status)
	}
	if got := d.ask("POST", "/v2/tickets?ticket="+good, "", ""); got.status != 401 {
		t.Errorf("a ticket for a ticket: %d", got.status)
	}
	if status := d.socketStatus("services=finance&ticket="+good, "Origin", "https://evil.example"); status != 403 {
		t.Errorf("from a foreign page: %d", status)
	}
	soon, expires := d.ticket(mint(t, Claims{Expires: time.Now().Add(5 * time.Second)}))
	if time.Until(expires) > 6*time.Second {
		t.Errorf("a ticket outlives its token: %v", expires)
	}
	if text := d.log.String(); strings.Contains(text, good) || strings.Contains(text, soon) {
		t.Errorf("the log has a ticket: %s", text)
	}
}

// TestTicketRequests shows who is given a ticket.
func TestTicketRequests(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	const kind = "Content-Type"
	cookie := "sluice_token=" + admin(t, "7")
	for name, c := range map[string]struct {
		token, body string
		headers     []string
		status      int
	}{
		"nobody":                  {"", "", nil, 401},
		"garbage":                 {"garbage", "", nil, 401},
		"within the leeway":       {mint(t, Claims{Expires: time.Now().Add(-10 * time.Second)}), "", nil, 401},
		"an empty object":         {admin(t, "7"), "{}", []string{kind, "application/json"}, 201},
		"a field":                 {admin(t, "7"), `{"ttl":5}`, []string{kind, "application/json"}, 400},
		"an array":                {admin(t, "7"), `[]`, []string{kind, "application/json"}, 400},
		"null":                    {admin(t, "7"), `null`, []string{kind, "application/json"}, 400},
		"text":                    {admin(t, "7"), `{}`, []string{kind, "text/plain"}, 415},
		"by cookie, from nowhere": {"", "", []string{"Cookie", cookie}, 403},
		"by cookie, from a page":  {"", "", []string{"Cookie", cookie, "Origin", d.url}, 201},
		"by cookie, from another": {"", "", []string{"Cookie", cookie, "Origin", "https://evil.example"}, 403},
	} {
		if got := d.ask("POST", "/v2/tickets", c.token, c.body, c.headers...); got.status != c.status {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	eventually(t, patience, "tickets without end", func() bool {
		got := d.ask("POST", "/v2/tickets", mint(t, Claims{User: "greedy"}), "")
		return got.status == 429 && got.header.Get("Retry-After") == "1"
	})
}

// TestQueryToken takes a token from the URL by permission only.
func TestQueryToken(t *testing.T) {
	t.Parallel()
	closed := openDoor(t)
	opened := openDoor(t, func(d *door) {
		d.server.Auth = NewAuthenticator(AuthOptions{Secret: []byte(testSecret), QueryToken: true})
	})
	path := "/v2/realtime/poll?access_token=" + admin(t, "7")
	if got := closed.ask("GET", path, "", ""); got.status != 401 || !strings.Contains(got.problem(t).Detail, "/v2/tickets") {
		t.Errorf("without permission: %d %s", got.status, got.body)
	}
	if got := closed.ask("GET", path, admin(t, "7"), ""); got.status != 200 {
		t.Errorf("beside a header: %d %s", got.status, got.body)
	}
	if got := opened.ask("GET", path, "", ""); got.status != 200 {
		t.Errorf("by permission: %d %s", got.status, got.body)
	}
	if got := opened.ask("GET", "/v2/realtime/poll?access_token=garbage", "", "", "Cookie", "sluice_token="+admin(t, "7")); got.status != 401 {
		t.Errorf("a bad one beside a cookie: %d %s", got.status, got.body)
	}
	if status := opened.socketStatus("services=finance&access_token=" + admin(t, "7")); status != 101 {
		t.Errorf("a WebSocket: %d", status)
	}
	if text := opened.log.String() + closed.log.String(); strings.Contains(text, admin(t, "7")[:40]) {
		t.Errorf("the log has a token: %s", text)
	}
}
