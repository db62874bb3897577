// Package migrations holds the schema of Sluice as plain SQL, in order, and brings a database to it.
//
// Everything lives in the Postgres schema "sluice", the table of applied versions too, so that Sluice can share a
// database with the application it serves. schema.sql is dumped from these files and held equal to them by a test.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Status is one migration and when it was applied; a zero Applied means that it is pending.
type Status struct {
	Version int64
	Name    string
	Applied time.Time
}

// schemaLock serializes `create schema`, which two sessions may not do at once even with "if not exists".
const schemaLock = 0x736c7569 // "slui"

// Up applies what is pending. Several instances may call it at once: one works and the others wait for it. A migration
// that fails is rolled back whole, and the next call tries it again.
func Up(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock($1)`, schemaLock); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `create schema if not exists sluice`); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	provider, err := provider(db)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// List tells the state of every migration, oldest first, without changing anything.
func List(ctx context.Context, db *sql.DB) ([]Status, error) {
	versions, err := embedded()
	if err != nil {
		return nil, err
	}
	applied := map[int64]time.Time{}
	var there bool
	err = db.QueryRowContext(ctx, `select to_regclass('sluice.migrations') is not null`).Scan(&there)
	if err != nil {
		return nil, err
	}
	if there {
		rows, err := db.QueryContext(ctx, `select version_id, tstamp from sluice.migrations where is_applied`)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var version int64
			var at time.Time
			if err := rows.Scan(&version, &at); err != nil {
				return nil, err
			}
			applied[version] = at
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	for i := range versions {
		versions[i].Applied = applied[versions[i].Version]
	}
	return versions, nil
}

// Check fails unless every migration of this binary is applied; it changes nothing.
func Check(ctx context.Context, db *sql.DB) error {
	list, err := List(ctx, db)
	if err != nil {
		return err
	}
	for _, one := range list {
		if one.Applied.IsZero() {
			return fmt.Errorf("migration %s is not applied: run `sluice migrate up`", one.Name)
		}
	}
	return nil
}

// embedded lists the migrations of this binary, in order.
func embedded() ([]Status, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var list []Status
	for _, entry := range entries {
		version, err := goose.NumericComponent(entry.Name())
		if err != nil {
			continue // schema.sql is a picture of the result, not a step towards it.
		}
		list = append(list, Status{Version: version, Name: entry.Name()})
	}
	return list, nil
}

// provider builds goose upon the embedded files. The lock is polled each second: goose's own five seconds would be
// spent by every instance that starts beside another.
func provider(db *sql.DB) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("sluice.migrations"),
		goose.WithSessionLocker(locker),
		goose.WithExcludeNames([]string{"schema.sql"}),
	)
}
