package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// database gives connections to what an instance was started upon, as its application has them.
func database(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// publishSQL calls sluice.publish with the id, which it must answer.
func publishSQL(t testing.TB, on querier, org, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // it must never wait for anybody
	defer cancel()
	var got string
	err := on.QueryRowContext(ctx, `select sluice.publish($1, 'finance', 'expense_added', id => $2)`, org, id).Scan(&got)
	if err != nil || got != id {
		t.Fatalf("publish %s: %q, %v", id, got, err)
	}
}

// TestPublishSQL publishes in transactions: what is rolled back is never seen, and what is held open for long holds up
// nobody, by neither door. The late commit has the lowest id, and is delivered.
func TestPublishSQL(t *testing.T) {
	url := pgtest.Database(t)
	p := serve(t, "--database-url="+url)
	db := database(t, url)
	all := admin(t, "1")
	s := p.open(transports()[0], all, "", "")
	s.wait("ack")
	begin := func() *sql.Tx {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback() })
		return tx
	}
	held, rolled := begin(), begin()
	publishSQL(t, held, "1", "late")
	publishSQL(t, rolled, "1", "never")
	// Both are open while these are published, delivered and read.
	for i := range 3 {
		publishSQL(t, db, "1", fmt.Sprint("sql", i))
		p.mustPublish(all, event(fmt.Sprint("http", i), ""))
		got := s.events(2)
		if slices.Sort(got); !slices.Equal(got, []string{fmt.Sprint("http", i), fmt.Sprint("sql", i)}) {
			t.Fatalf("read %q", got)
		}
	}
	if err := errors.Join(rolled.Rollback(), held.Commit()); err != nil {
		t.Fatal(err)
	}
	if got := s.events(1); got[0] != "late" {
		t.Fatalf("read %q", got)
	}
	// All that a caller may leave out, and what is delivered for it.
	var id string
	err := db.QueryRowContext(t.Context(), `select sluice.publish('1', 'tasks', 'done', '{"b": 1.50, "a": "x\ny"}', '7', 'task', '42', 'u')`).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(s.wait("tasks").text), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "cursor")
	delete(got, "time")
	want := map[string]any{
		"id": id, "orgId": "1", "service": "tasks", "type": "done", "propertyId": "7", "entityType": "task", "entityId": "42",
		"userId": "u", "data": map[string]any{"a": "x\ny", "b": 1.5},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(id) != 36 || id[14] != '7' || !strings.Contains("89ab", id[19:20]) {
		t.Errorf("delivered is %v, not %v", got, want)
	}
	if err := p.stop(); err != nil {
		t.Errorf("the instance ends with %v", err)
	}
}

// TestPublishSQLRoles grants the function to a role that has nothing else, and not to another one.
func TestPublishSQLRoles(t *testing.T) {
	url := pgtest.Database(t)
	p := serve(t, "--database-url="+url)
	db := database(t, url)
	may, mayNot := fmt.Sprint("may", time.Now().UnixNano()), fmt.Sprint("maynot", time.Now().UnixNano())
	_, err := db.Exec(fmt.Sprintf(`create role %[1]s; create role %[2]s; grant usage on schema sluice to %[1]s, %[2]s;
		grant execute on function sluice.publish to %[1]s`, may, mayNot))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec(fmt.Sprintf(`drop owned by %[1]s, %[2]s; drop role %[1]s, %[2]s`, may, mayNot)); err != nil {
			t.Error(err)
		}
	})
	s := p.open(transports()[0], admin(t, "1"), "", "")
	s.wait("ack")
	as := func(role, query string) error {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		// What a caller puts into its own search path must not reach the function.
		if _, err := tx.Exec(`set local role ` + role + `; create temporary table catalogue (document json) on commit drop;
			set local search_path = pg_temp, public`); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(query); err != nil {
			return err
		}
		return tx.Commit()
	}
	const call = `select sluice.publish('1', 'finance', 'x', id => 'granted')`
	if err := as(may, call); err != nil {
		t.Fatal(err)
	}
	if got := s.events(1); got[0] != "granted" {
		t.Errorf("read %q", got)
	}
	for _, c := range [][2]string{
		{mayNot, call},
		{may, `insert into sluice.outbox (org, event_id, service, type) values ('1', 'x', 'finance', 'x')`},
		{may, `select * from sluice.outbox`},
		{may, `select * from sluice.events`},
		{may, `delete from sluice.parked`},
	} {
		var failure *pq.Error
		if err := as(c[0], c[1]); !errors.As(err, &failure) || failure.Code != "42501" {
			t.Errorf("%s: %s: %v", c[0], c[1], err)
		}
	}
}

// deep nests JSON to a depth.
func deep(open, inner, shut string, depth int) string {
	return strings.Repeat(open, depth) + inner + strings.Repeat(shut, depth)
}

// offered is a table of events for both doors.
var offered = []struct {
	name  string
	event map[string]any // fields as strings; data as JSON text; a nil is null
	field string         // that is refused; "": none
	sql   string         // the same by its name in SQL
}{
	{"smallest", map[string]any{}, "", ""},
	{"all fields", map[string]any{"id": "A:1._-z", "propertyId": "7", "entityType": "é", "entityId": "'; --", "userId": "u", "data": `{"a": [1, {"b": null}]}`}, "", ""},
	{"nulls", map[string]any{"id": nil, "propertyId": nil, "entityType": nil, "entityId": nil, "userId": nil, "data": `null`}, "", ""},
	{"empty labels", map[string]any{"propertyId": "", "entityType": "", "entityId": "", "userId": ""}, "", ""},
	{"labels of 128 bytes", map[string]any{"propertyId": strings.Repeat("ж", 64), "userId": strings.Repeat("x", 128)}, "", ""},
	{"a no-break space", map[string]any{"userId": "a\u00a0b"}, "", ""},
	{"longest names", map[string]any{"id": strings.Repeat("i", 128), "type": "t" + strings.Repeat("_", 63)}, "", ""},
	{"no org", map[string]any{"orgId": nil}, "orgId", "org"},
	{"empty org", map[string]any{"orgId": ""}, "orgId", "org"},
	{"any org", map[string]any{"orgId": "*"}, "orgId", "org"},
	{"long org", map[string]any{"orgId": strings.Repeat("ж", 65)}, "orgId", "org"},
	{"org with a line", map[string]any{"orgId": "1\n"}, "orgId", "org"},
	{"no service", map[string]any{"service": nil}, "service", ""},
	{"empty service", map[string]any{"service": ""}, "service", ""},
	{"unknown service", map[string]any{"service": "fun"}, "service", ""},
	{"service in capitals", map[string]any{"service": "Finance"}, "service", ""},
	{"derived", map[string]any{"service": "dashboard"}, "service", ""},
	{"derived from one", map[string]any{"service": "reports"}, "service", ""},
	{"the server's own", map[string]any{"service": "chat"}, "service", ""},
	{"the server's own documents", map[string]any{"service": "documents"}, "service", ""},
	{"no type", map[string]any{"type": nil}, "type", ""},
	{"empty type", map[string]any{"type": ""}, "type", ""},
	{"type in capitals", map[string]any{"type": "aB"}, "type", ""},
	{"type of another script", map[string]any{"type": "é"}, "type", ""},
	{"type that begins with a digit", map[string]any{"type": "1a"}, "type", ""},
	{"type with a line", map[string]any{"type": "a\n"}, "type", ""},
	{"long type", map[string]any{"type": strings.Repeat("t", 65)}, "type", ""},
	{"empty id", map[string]any{"id": ""}, "id", ""},
	{"id with a space", map[string]any{"id": "a b"}, "id", ""},
	{"id of another script", map[string]any{"id": "ж"}, "id", ""},
	{"id with a line", map[string]any{"id": "a\n"}, "id", ""},
	{"long id", map[string]any{"id": strings.Repeat("i", 129)}, "id", ""},
	{"long property", map[string]any{"propertyId": strings.Repeat("x", 129)}, "propertyId", "property_id"},
	{"long entity type", map[string]any{"entityType": strings.Repeat("ж", 65)}, "entityType", "entity_type"},
	{"tab", map[string]any{"entityId": "a\tb"}, "entityId", "entity_id"},
	{"first control character", map[string]any{"userId": "\x01"}, "userId", "user_id"},
	{"last control character", map[string]any{"userId": "a\x1f"}, "userId", "user_id"},
	{"DEL", map[string]any{"userId": "\x7f"}, "userId", "user_id"},
	{"first of C1", map[string]any{"userId": "\u0080"}, "userId", "user_id"},
	{"last of C1", map[string]any{"userId": "\u009f"}, "userId", "user_id"},
	{"data a list", map[string]any{"data": `[]`}, "data", ""},
	{"data a string", map[string]any{"data": `"{}"`}, "data", ""},
	{"data a number", map[string]any{"data": `7`}, "data", ""},
	{"data of 64 KiB", map[string]any{"data": `{"a":"` + strings.Repeat("x", 64<<10-9) + `"}`}, "", ""},
	{"data over 64 KiB", map[string]any{"data": `{"a":"` + strings.Repeat("x", 64<<10) + `"}`}, "data", ""},
	{"data over 64 KiB by bytes", map[string]any{"data": `{"a":"` + strings.Repeat("ж", 32<<10) + `"}`}, "data", ""},
	{"objects of depth 511", map[string]any{"data": deep(`{"a":`, "1", "}", 511)}, "", ""},
	{"objects of depth 512", map[string]any{"data": deep(`{"a":`, "1", "}", 512)}, "data", ""},
	{"lists of depth 511", map[string]any{"data": `{"a":` + deep("[", "", "]", 510) + `}`}, "", ""},
	{"lists of depth 512", map[string]any{"data": `{"a":` + deep("[", "", "]", 511) + `}`}, "data", ""},
	{"deep at the side", map[string]any{"data": `{"a":1,"b":[2,{"c":` + deep("[", "3", "]", 509) + `}]}`}, "data", ""},
	{"braces in a string", map[string]any{"data": `{"a":"` + strings.Repeat("{", 600) + strings.Repeat("[", 600) + `"}`}, "", ""},
}

// TestDoorsAgree offers one table of events to both doors: what one refuses the other does, and each names the field. What
// both take is the same in the log.
func TestDoorsAgree(t *testing.T) {
	url := pgtest.Database(t)
	p := serve(t, "--database-url="+url)
	db := database(t, url)
	service := token(t, handlers.Claims{Org: "*", User: "app", Scope: "publish"})
	for _, c := range offered {
		t.Run(c.name, func(t *testing.T) {
			fields := map[string]any{"orgId": c.name, "service": "finance", "type": "x"}
			for name, value := range c.event {
				if text, is := value.(string); is && name == "data" {
					value = json.RawMessage(text)
				}
				fields[name] = value
			}
			_, overHTTP := p.publish(service, fields)
			if c.field == "" != (overHTTP == nil) || overHTTP != nil && c.field != "data" && !strings.Contains(overHTTP.Error(), `"field":"`+c.field+`"`) {
				t.Errorf("HTTP: %v", overHTTP)
			}
			data := any("{}")
			if given, is := fields["data"].(json.RawMessage); is {
				data = string(given)
			}
			org := fields["orgId"]
			if org == c.name {
				org = c.name + " from SQL" // another log: an id is good once in each
			}
			_, overSQL := db.Exec(`select sluice.publish($1, $2, $3, $4, $5, $6, $7, $8, $9)`, org, fields["service"],
				fields["type"], data, fields["propertyId"], fields["entityType"], fields["entityId"], fields["userId"], fields["id"])
			if c.field != "" {
				name := c.sql
				if name == "" {
					name = c.field
				}
				var failure *pq.Error
				if !errors.As(overSQL, &failure) || failure.Code != "22023" || failure.Column != name || !strings.Contains(failure.Message, name+": ") {
					t.Errorf("SQL: %v (%+v)", overSQL, failure)
				}
				return
			}
			if overSQL != nil {
				t.Fatalf("SQL: %v", overSQL)
			}
			compared := "org is null"
			if fields["id"] != nil {
				compared = "id"
			}
			awaitRow(t, db, `select count(*) from sluice.events where org in ($1, $1 || ' from SQL')`, 2, c.name)
			awaitRow(t, db, `select count(distinct (`+compared+`, service, type, property_id, entity_type, entity_id, user_id, data::jsonb))
				from sluice.events where org in ($1, $1 || ' from SQL')`, 1, c.name)
		})
	}
}

// TestKillRelay kills one of two instances after the other, so that it is the relay's turn again and again, while rows are
// published, bad ones among them. Each is read exactly once.
func TestKillRelay(t *testing.T) {
	url := pgtest.Database(t)
	db := database(t, url)
	var flags [2][]string
	var pair [2]*process
	for i := range pair {
		flags[i] = []string{"--database-url=" + url, "--listen=" + freePort(t)}
		pair[i] = serve(t, flags[i]...)
	}
	f := follow(pair[0], transports()[0], admin(t, "1"))
	var group sync.WaitGroup
	var want [3][]string
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); group.Wait() })
	defer end()
	for w := range want {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("w%d-%d", w, i)
				_, err := db.Exec(`select sluice.publish('1', 'finance', 'x', id => $1)`, id)
				if err == nil && i%100 == 0 {
					_, err = db.Exec(`insert into sluice.outbox (org, event_id, service, type) values ('1', $1, 'nothing', 'x')`, id)
				}
				if err != nil {
					t.Error(err)
					return
				}
				want[w] = append(want[w], id)
			}
		})
	}
	for kill := range 4 {
		relayed := func() (n int) {
			if err := db.QueryRow(`select coalesce(max(seq), 0) from sluice.events`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		pair[kill%2].kill()
		for before, deadline := relayed(), time.After(patience); relayed() < before+300; {
			select {
			case <-deadline:
				t.Fatalf("after kill %d nobody relays", kill)
			case <-time.After(5 * time.Millisecond):
			}
		}
		pair[kill%2] = serve(t, flags[kill%2]...)
	}
	end()
	all := slices.Concat(want[:]...)
	got := f.await(t, len(all), 2*patience)
	awaitRow(t, db, `select count(*) from sluice.outbox`, 0)
	slices.Sort(got)
	slices.Sort(all)
	if !slices.Equal(got, all) {
		t.Fatalf("%d events were read of %d: they differ at %d", len(got), len(all), firstDifference(got, all))
	}
	bad := 0
	for _, ids := range want {
		bad += (len(ids) + 99) / 100
	}
	awaitRow(t, db, `select count(*) from sluice.parked`, bad)
}

// awaitRow polls a query of one number until it is the one wanted.
func awaitRow(t testing.TB, db *sql.DB, query string, want int, args ...any) {
	t.Helper()
	deadline := time.After(patience)
	for got := -1; ; {
		if err := db.QueryRow(query, args...).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s gives %d, not %d", query, got, want)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
