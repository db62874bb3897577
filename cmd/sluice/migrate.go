package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"time"

	"sluice/migrations"
	"sluice/store/localpg"
)

// databaseFlags name the database that a command works on: the one given, or the private one under the data directory.
type databaseFlags struct {
	DatabaseURL string `name:"database-url" env:"DATABASE_URL,SLUICE_DATABASE_URL" placeholder:"URL" help:"Postgres to use; none: a private one under --data."`
	Data        string `name:"data" env:"SLUICE_DATA" default:"./data" placeholder:"DIR" help:"Directory of the private Postgres and the generated secret."`
}

// open returns the database's URL. Where that is the private one, it is started for as long as the command runs; a
// running instance holds it, and is named in the error.
func (f databaseFlags) open(ctx context.Context, log *slog.Logger) (url string, done func(), err error) {
	if f.DatabaseURL != "" {
		return f.DatabaseURL, func() {}, checkDatabase("database-url", f.DatabaseURL)
	}
	cluster, err := localpg.Start(ctx, localpg.Options{Dir: f.Data, Log: log})
	if err != nil {
		return "", nil, err
	}
	return cluster.URL("sluice"), func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), postgresStop)
		defer cancel()
		if err := cluster.Stop(stopping); err != nil {
			log.Error("the private Postgres did not stop cleanly", "err", err)
		}
	}, nil
}

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Apply what is pending; several may run it at once."`
	Status migrateStatusCmd `cmd:"" help:"Show every migration and when it was applied."`
}

// Help shows examples.
func (migrateCmd) Help() string {
	return `Examples:
  DATABASE_URL=postgres://app@db/app sluice migrate status
  DATABASE_URL=postgres://app@db/app sluice migrate up
Then start the instances with --migrate=false: they only check.`
}

type migrateUpCmd struct{ databaseFlags }

// Help shows examples.
func (migrateUpCmd) Help() string {
	return `Example:
  sluice migrate up --database-url 'postgres://app@db/app?sslmode=require'`
}

// Run applies what is pending and prints where the schema stands then.
func (c migrateUpCmd) Run(ctx context.Context) error {
	return c.withDatabase(ctx, func(db *sql.DB) error {
		if err := migrations.Up(ctx, db); err != nil {
			return err
		}
		return printMigrations(ctx, db)
	})
}

type migrateStatusCmd struct{ databaseFlags }

// Help shows examples.
func (migrateStatusCmd) Help() string {
	return `Example:
  sluice migrate status --database-url 'postgres://app@db/app?sslmode=require'`
}

// Run prints where the schema stands and changes nothing.
func (c migrateStatusCmd) Run(ctx context.Context) error {
	return c.withDatabase(ctx, func(db *sql.DB) error { return printMigrations(ctx, db) })
}

func (f databaseFlags) withDatabase(ctx context.Context, work func(*sql.DB) error) error {
	url, done, err := f.open(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	defer done()
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer db.Close()
	return work(db)
}

func printMigrations(ctx context.Context, db *sql.DB) error {
	list, err := migrations.List(ctx, db)
	if err != nil {
		return err
	}
	for _, one := range list {
		state := "pending"
		if !one.Applied.IsZero() {
			state = one.Applied.UTC().Format(time.RFC3339)
		}
		fmt.Printf("%-20s  %s\n", state, one.Name)
	}
	return nil
}
