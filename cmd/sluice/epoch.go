package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"sluice/store"
)

type epochCmd struct {
	Rotate epochRotateCmd `cmd:"" help:"Begin a new epoch: every subscriber is told to refetch."`
}

// Help shows an example.
func (epochCmd) Help() string {
	return `Example:
  DATABASE_URL=postgres://app@db/app sluice epoch rotate`
}

type epochRotateCmd struct {
	databaseFlags
}

// Help says when to use it.
func (epochRotateCmd) Help() string {
	return `Cursors carry the epoch of the log. Sluice begins a new one by itself when the database was restored
from a backup, promoted or replaced. What it cannot see is a file-system snapshot put back under the
same server: run this then, before anybody publishes again.

Example:
  DATABASE_URL=postgres://app@db/app sluice epoch rotate`
}

// Run rotates the epoch and prints the new one.
func (c epochRotateCmd) Run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	url, done, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	// Opening checks the schema and does not change it: rotating must not migrate by the way.
	events, err := store.Open(ctx, store.Options{URL: url, Log: log})
	if err != nil {
		return err
	}
	defer events.Close()
	epoch, err := events.RotateEpoch(ctx, "")
	if err != nil {
		return err
	}
	fmt.Println(epoch)
	return nil
}
