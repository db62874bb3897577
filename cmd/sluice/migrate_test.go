package main

import (
	"database/sql"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// migrateLine is one migration as it is printed: pending, or when it was applied.
var migrateLine = regexp.MustCompile(`^(pending|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) +(\S+\.sql)$`)

// migrationStates runs `sluice migrate WORD` and returns what it says of each migration.
func migrationStates(t *testing.T, word, database string) (states []string) {
	t.Helper()
	command := sluice("migrate", word)
	command.Env = append(command.Env, "DATABASE_URL="+database)
	out, notes, status := outcome(t, command)
	if status != 0 || notes != "" {
		t.Fatalf("migrate %s: status %d: %s", word, status, notes)
	}
	for line := range strings.Lines(out) {
		found := migrateLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if found == nil {
			t.Fatalf("not a migration: %q", line)
		}
		states = append(states, found[1])
	}
	if len(states) == 0 {
		t.Fatalf("migrate %s lists nothing", word)
	}
	return states
}

// schemaThere says whether the database has the schema.
func schemaThere(t *testing.T, database string) (there bool) {
	t.Helper()
	db, err := sql.Open("postgres", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(`select exists (select from pg_namespace where nspname = 'sluice')`).Scan(&there); err != nil {
		t.Fatal(err)
	}
	return there
}

// TestMigrate looks at an empty database without changing it, brings it up to date, and does nothing the second time.
func TestMigrate(t *testing.T) {
	database := pgtest.Empty(t)
	for _, state := range migrationStates(t, "status", database) {
		if state != "pending" {
			t.Fatalf("in an empty database: %s", state)
		}
	}
	if schemaThere(t, database) {
		t.Fatal("status has changed the database")
	}
	first := migrationStates(t, "up", database)
	for _, state := range first {
		if at, err := time.Parse(time.RFC3339, state); err != nil || time.Since(at).Abs() > time.Hour {
			t.Fatalf("after up: %s", state)
		}
	}
	for _, word := range []string{"up", "status"} {
		if again := migrationStates(t, word, database); strings.Join(again, " ") != strings.Join(first, " ") {
			t.Fatalf("%s after up: %v, not %v", word, again, first)
		}
	}
	// An instance that only checks starts on it, and serves.
	p := serve(t, "--database-url="+database, "--migrate=false")
	p.mustPublish(admin(t, "1"), event("first", ""))
}

// TestMigrateAtOnce brings one empty database up to date several times at once, beside an instance that starts.
func TestMigrateAtOnce(t *testing.T) {
	database := pgtest.Empty(t)
	var running []*exec.Cmd
	for range 4 {
		command := sluice("migrate", "up", "--database-url="+database)
		command.Stderr = new(logs)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, command)
	}
	p := serve(t, "--database-url="+database)
	for _, command := range running {
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %s", err, command.Stderr)
		}
	}
	p.mustPublish(admin(t, "1"), event("first", ""))
}

// TestMigrateFalse refuses an empty database, says what to run, and leaves it empty.
func TestMigrateFalse(t *testing.T) {
	database := pgtest.Empty(t)
	for _, args := range [][]string{
		{"serve", "--migrate=false", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--jwt-secret=" + testSecret},
		{"epoch", "rotate"},
	} {
		out, notes, status := outcome(t, sluice(append(args, "--database-url="+database)...))
		if status != 1 || out != "" || !strings.Contains(notes, "sluice migrate up") {
			t.Errorf("%s: status %d: %s%s", args[0], status, notes, out)
		}
		if schemaThere(t, database) {
			t.Errorf("%s has changed the database", args[0])
		}
	}
}

// TestMigrateWithoutDatabase fails with what is wrong where nobody listens.
func TestMigrateWithoutDatabase(t *testing.T) {
	out, notes, status := outcome(t, sluice("migrate", "status", "--database-url=postgres://app:hush@"+freePort(t)+"/app?sslmode=disable"))
	if status != 1 || !strings.Contains(notes, "connection refused") || strings.Contains(notes+out, "hush") {
		t.Errorf("status %d: %s%s", status, notes, out)
	}
}
