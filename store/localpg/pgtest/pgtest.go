// Package pgtest gives tests real databases: a private cluster for each test package, and a database for each test.
package pgtest

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"sluice/migrations"
	"sluice/store/localpg"
)

var (
	cluster *localpg.Cluster
	counter atomic.Int64
)

const template = "sluice_template"

// Run starts the package's cluster, runs its tests and removes the cluster. TestMain exits with what it returns.
func Run(m *testing.M) int {
	// The path is short, for it holds a Unix socket, and open to the user that Postgres runs as.
	dir, err := os.MkdirTemp("/tmp", "sluicetest")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	// What tests ask of this cluster is not durability: whoever tests that starts one of their own.
	cluster, err = localpg.Start(ctx, localpg.Options{
		Dir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Settings: map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	defer func() {
		stopping, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_ = cluster.Stop(stopping)
	}()
	if err := makeTemplate(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return m.Run()
}

func makeTemplate(ctx context.Context) error {
	if err := execute("postgres", "create database "+template); err != nil {
		return err
	}
	db, err := sql.Open("postgres", cluster.URL(template))
	if err != nil {
		return err
	}
	defer db.Close()
	return migrations.Up(ctx, db)
}

func execute(database, statement string) error {
	db, err := sql.Open("postgres", cluster.URL(database))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(statement)
	return err
}

// Cluster is the package's cluster.
func Cluster(testing.TB) *localpg.Cluster { return cluster }

// Database makes a database with the schema, dropped when the test ends, and returns how to connect to it.
func Database(t testing.TB) string { return create(t, template) }

// Empty makes a database without the schema.
func Empty(t testing.TB) string { return create(t, "template0") }

func create(t testing.TB, from string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", counter.Add(1))
	if err := execute("postgres", fmt.Sprintf("create database %s template %s", pq.QuoteIdentifier(name), from)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := execute("postgres", "drop database if exists "+pq.QuoteIdentifier(name)+" with (force)"); err != nil {
			t.Error(err)
		}
	})
	return cluster.URL(name)
}
