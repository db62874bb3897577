package main

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/handlers"
	"sluice/store/localpg/pgtest"
)

// TestPropertiesSQL asks the operator's query for the properties of a MANAGER whose token names none. A token that
// names some is taken at its word, and a user whom the query does not know sees what is org-wide.
func TestPropertiesSQL(t *testing.T) {
	database := pgtest.Database(t)
	db, err := sql.Open("postgres", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`create table public.holds (org text, member text, property int);
		insert into public.holds values ('1', 'ann', 4), ('1', 'ann', 5), ('2', 'ann', 6), ('1', 'bob', 6)`)
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t, "--database-url="+database, "--properties-sql=select property from public.holds where org = $1 and member = $2")
	p.mustPublish(admin(t, "1"), []any{event("wide", ""), event("four", "4"), event("five", "5"), event("six", "6"), event("end", "")})
	manager := func(user string, properties ...string) string {
		return token(t, handlers.Claims{Org: "1", User: user, Role: "MANAGER", Properties: properties})
	}
	for _, c := range []struct{ token, query, want string }{
		{manager("ann"), "", "wide four five end"},
		{manager("ann"), "&propertyId=5", "wide five end"},
		{manager("ann", "6"), "", "wide six end"},
		{manager("bob"), "", "wide six end"},
		{manager("eve"), "", "wide end"},
	} {
		want := strings.Fields(c.want)
		for _, via := range transports() {
			if got := p.open(via, c.token, "cursor=earliest"+c.query, "").events(len(want)); !slices.Equal(got, want) {
				t.Errorf("%s %s: %v, not %v", via.name, c.query, got, want)
			}
		}
	}
	for user, property := range map[string]string{"ann": "6", "eve": "4"} {
		if _, err := p.tryOpen(transports()[0], manager(user), "propertyId="+property, ""); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("%s asks for property %s: %v", user, property, err)
		}
	}
}

// TestPropertiesSQLFails grants nothing where the query cannot be run, and tells a stranger nothing of it.
func TestPropertiesSQLFails(t *testing.T) {
	p := serve(t, append(shared(t), "--properties-sql=select property from public.nowhere where org = $1 and member = $2")...)
	manager := token(t, handlers.Claims{Org: "1", User: "ann", Role: "MANAGER"})
	refused := p.open(transports()[0], manager, "", "").wait("problem")
	if !strings.Contains(refused.text, "503") || strings.Contains(refused.text, "nowhere") {
		t.Errorf("%s", refused.text)
	}
	deadline := time.After(patience) // what the instance writes comes through a pipe
	for !strings.Contains(p.errors.String(), "nowhere") {
		select {
		case <-deadline:
			t.Fatalf("the log does not tell why: %s", p.errors)
		case <-time.After(5 * time.Millisecond):
		}
	}
	p.open(transports()[0], admin(t, "1"), "", "").wait("ack")
}

// TestCatalogue serves other services than the embedded ones, a derived one among them. A second instance that brings
// another catalogue is ready; the first then is not, and is again once both have the same.
func TestCatalogue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "catalogue.json")
	text := `{"services": [{"name": "pool"}, {"name": "spa"}, {"name": "wellness", "sources": ["pool", "spa"]}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	database := pgtest.Database(t)
	p := serve(t, "--database-url="+database, "--catalogue="+file)
	all := admin(t, "1")
	s := p.open(transports()[0], all, "services=wellness", "")
	s.wait("ack")
	p.mustPublish(all, []any{
		map[string]any{"id": "one", "service": "pool", "type": "opened"}, map[string]any{"id": "two", "service": "spa", "type": "opened"},
	})
	for _, want := range []frame{{kind: "pool", text: `"one"`}, {kind: "spa", text: `"two"`}} {
		if got, _ := s.next(); got.kind != want.kind || !strings.Contains(got.text, want.text) {
			t.Errorf("%+v, not %+v", got, want)
		}
	}
	for _, service := range []string{"finance", "wellness"} {
		_, err := p.publish(all, map[string]any{"service": service, "type": "opened"})
		if err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("publishing to %s: %v", service, err)
		}
	}
	p.untilReady(http.StatusOK)
	q := serve(t, "--database-url="+database)
	q.untilReady(http.StatusOK)
	p.untilReady(http.StatusServiceUnavailable)
	if _, body := get(t, p.url+"/healthz/ready", ""); !strings.Contains(body, `"catalogue":"failed"`) {
		t.Error(body)
	}
	if err := q.stop(); err != nil {
		t.Fatal(err)
	}
	q = serve(t, "--database-url="+database, "--catalogue="+file)
	for _, one := range []*process{p, q} {
		one.untilReady(http.StatusOK)
	}
}

// untilReady asks for readiness until it is answered with the status.
func (p *process) untilReady(status int) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		response, err := http.Get(p.url + "/healthz/ready")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == status {
				return
			}
		}
		select {
		case <-deadline:
			p.t.Fatalf("readiness is not %d but %v (%v)", status, response, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestCatalogueRefused names the flag and what is wrong with the file.
func TestCatalogueRefused(t *testing.T) {
	database := pgtest.Database(t)
	for text, says := range map[string]string{
		``: "--catalogue", `{"services": [{"name": "pool"}, {"name": "pool"}]}`: "twice", `{"services": [{"name": "reset"}]}`: `"reset"`,
		`{"services": [{"name": "pool", "sauces": []}]}`: "sauces",
	} {
		file := filepath.Join(t.TempDir(), "catalogue.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, notes, status := outcome(t, sluice("serve", "--catalogue="+file, "--database-url="+database, "--jwt-secret="+testSecret,
			"--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--blobs=file://"+blobsOf(t)))
		if status != 1 || !strings.Contains(notes, "--catalogue "+file) || !strings.Contains(notes, says) {
			t.Errorf("%s: status %d: %s", text, status, notes)
		}
	}
}
