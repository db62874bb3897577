package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/lib/pq"

	"sluice/store/localpg/pgtest"
)

// pooler is a PgBouncer in transaction mode before the cluster of the tests: each transaction gets whatever connection is
// free, and nothing of a session survives it.
type pooler struct {
	*child
	t     testing.TB
	dir   string
	owner *syscall.Credential // nil: our own user
	url   string
}

func startPooler(t testing.TB, database string) *pooler {
	t.Helper()
	to, err := pq.NewConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	p := &pooler{
		t: t, dir: dir,
		url: fmt.Sprintf("host=%s port=6432 user=%s dbname=%s sslmode=disable", dir, to.User, to.Database),
	}
	// It refuses to run as root, and must get at the socket of Postgres: it runs as whom Postgres does.
	sockets, err := os.Stat(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	if stat := sockets.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		p.owner = &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
	}
	err = os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), fmt.Appendf(nil, `[databases]
* = host=%s port=%d user=%s
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = 8
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
`, to.Host, to.Port, to.User, dir), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	t.Cleanup(func() { p.end(syscall.SIGKILL) }) // newer ones wait for their clients when they are asked to end
	return p
}

// start runs it and waits until it answers.
func (p *pooler) start() {
	p.t.Helper()
	p.child = startChild(p.t, p.dir, p.owner, "pgbouncer", filepath.Join(p.dir, "pgbouncer.ini"))
	db := database(p.t, p.url+" binary_parameters=yes")
	p.await(p.t, func() bool { return db.Ping() == nil })
}

// TestPooler does everything through PgBouncer but what needs a session: two instances publish, stream, resume and relay,
// while the pooler and one of the instances are started again.
func TestPooler(t *testing.T) {
	direct := pgtest.Database(t)
	between := startPooler(t, direct)
	flags := []string{"--database-url=" + between.url, "--listen-database-url=" + direct}
	a, b := serve(t, flags...), serve(t, append(flags, "--listen="+freePort(t))...)
	db := database(t, between.url+" binary_parameters=yes")
	all := admin(t, "1")
	f := follow(b, transports()[1], all)
	s := a.open(transports()[0], all, "", "")
	s.wait("ack")
	var want []string
	both := func(name string) {
		t.Helper()
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		publishSQL(t, tx, "1", name+"-sql")
		a.mustPublish(all, event(name+"-http", "")) // while the other is open
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		rolled, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		publishSQL(t, rolled, "1", name+"-never")
		if err := rolled.Rollback(); err != nil {
			t.Fatal(err)
		}
		want = append(want, name+"-http", name+"-sql")
	}
	read := func() {
		t.Helper()
		got := s.events(2)
		if slices.Sort(got); !slices.Equal(got, want[len(want)-2:]) {
			t.Fatalf("read %q, not %q", got, want[len(want)-2:])
		}
	}
	for i := range 20 {
		both(fmt.Sprint("calm", i))
		read()
	}
	s.cut()
	both("away")
	s = a.open(transports()[0], all, "", s.last)
	read()

	between.end(syscall.SIGKILL)
	between.start()
	awaitReady(t, a)
	both("again")
	read()

	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	a = serve(t, flags...)
	s = a.open(transports()[0], all, "", s.last)
	both("restarted")
	read()
	got := f.await(t, len(want), patience)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the other instance's reader has %q, not %q", got, want)
	}
	expectNoSettings(t, db)
}

// expectNoSettings looks at the connections behind a pooler: what the relay sets ends with its transaction.
func expectNoSettings(t *testing.T, db *sql.DB) {
	t.Helper()
	for range 30 {
		var scans, patience string
		err := db.QueryRow(`select current_setting('enable_seqscan'), current_setting('idle_in_transaction_session_timeout')`).
			Scan(&scans, &patience)
		if err != nil || scans != "on" || patience != "0" {
			t.Fatalf("a connection has enable_seqscan %s, a time-out of %s: %v", scans, patience, err)
		}
	}
}
