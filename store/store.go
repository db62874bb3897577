package store

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"sluice/migrations"
)

// Options say which database to open and how.
type Options struct {
	URL string // the main connection: a Postgres URL or key=value text

	// DirectURL, where it is not empty, is a direct connection for LISTEN, migrations and retention; URL then goes
	// through a pooler in transaction mode, and nothing is prepared on it.
	DirectURL string

	Migrate      bool // bring the schema up to date; else only check it
	KeepEpoch    bool // a changed timeline alone (a fail-over with synchronous replication) keeps the epoch
	Connections  int  // of the main pool; 0: 16
	Log          *slog.Logger
	EpochChanged func(epoch string) // called whenever the epoch is seen to be another one; must not block
}

// Store is the log in Postgres. It is safe for concurrent use.
type Store struct {
	db     *sqlx.DB // the main pool; every connection of it was verified to be of the known incarnation
	direct *sqlx.DB // few connections, without a deadline, for what takes long
	pooled bool
	opts   Options
	log    *slog.Logger

	// epoch is the log's incarnation as last seen; "" before the first connection.
	epoch atomic.Pointer[string]

	// known holds the orgs whose row in logs was seen, so that appending need not offer to insert it.
	known sync.Map

	probes probes

	lock, headsOf, idsOf, insert, page, polled *statement
	hold, found, foundAll, await, move         *statement // of the outbox
	position, remembered                       *statement
	upload, record                             *statement
	sendLock, send                             *statement
}

// Open connects, brings the schema up to date or checks it, verifies the incarnation and makes the partitions of
// the coming days. It fails where the database does not answer; later interruptions are healed by reconnecting.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Connections == 0 {
		opts.Connections = 16
	}
	s := &Store{opts: opts, log: opts.Log, pooled: opts.DirectURL != "" && opts.DirectURL != opts.URL}
	none := ""
	s.epoch.Store(&none)
	if opts.DirectURL == "" {
		s.opts.DirectURL = opts.URL
	}
	direct, err := s.connector(s.opts.DirectURL, connectorUse{})
	if err != nil {
		return nil, err
	}
	s.direct = sqlx.NewDb(sql.OpenDB(direct), "postgres")
	s.direct.SetMaxOpenConns(4)
	s.direct.SetMaxIdleConns(1)
	main, err := s.connector(opts.URL, connectorUse{deadline: queryDeadline, verify: true, pooled: s.pooled})
	if err != nil {
		return nil, err
	}
	s.db = sqlx.NewDb(sql.OpenDB(main), "postgres")
	s.db.SetMaxOpenConns(opts.Connections)
	s.db.SetMaxIdleConns(opts.Connections)
	if err := s.prepareSchema(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// start does what needs the schema.
func (s *Store) start(ctx context.Context) error {
	if err := s.MakePartitions(ctx); err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	// Where nothing is prepared, nothing else below would connect: the epoch has to be known before the first cursor.
	if err := s.db.PingContext(ctx); err != nil {
		return classify(err)
	}
	for _, one := range []struct {
		to   **statement
		text string
	}{
		{&s.lock, lockSQL},
		{&s.headsOf, headsOfSQL},
		{&s.idsOf, idsOfSQL},
		{&s.insert, insertSQL},
		{&s.page, pageSQL},
		{&s.polled, polledSQL},
		{&s.hold, holdSQL},
		{&s.found, foundSQL},
		{&s.foundAll, foundAllSQL},
		{&s.await, awaitSQL},
		{&s.move, moveSQL},
		{&s.position, positionSQL},
		{&s.remembered, rememberedSQL},
		{&s.upload, uploadSQL},
		{&s.record, recordSQL},
		{&s.sendLock, sendLockSQL},
		{&s.send, sendSQL},
	} {
		text := one.text
		if s.pooled && (one.to == &s.headsOf || one.to == &s.page || one.to == &s.hold || one.to == &s.position) {
			text = checked(text)
		}
		prepared, err := s.statement(ctx, text)
		if err != nil {
			return classify(err)
		}
		*one.to = prepared
	}
	return nil
}

// prepareSchema applies what is pending, or fails where it may not.
func (s *Store) prepareSchema(ctx context.Context) error {
	if !s.opts.Migrate {
		return migrations.Check(ctx, s.direct.DB)
	}
	if err := migrations.Up(ctx, s.direct.DB); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Close ends all connections. Listen must have returned.
func (s *Store) Close() error {
	err := s.db.Close()
	if second := s.direct.Close(); err == nil {
		err = second
	}
	return err
}

// Epoch is the log's incarnation as this process last saw it.
func (s *Store) Epoch() string { return *s.epoch.Load() }

// Ready says whether the database answers and its schema is the one of this binary.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.db.PingContext(ctx); err != nil {
		return classify(err)
	}
	return migrations.Check(ctx, s.direct.DB)
}

// statement is a query that is prepared once per connection, or, behind a pooler that hands each transaction another
// connection, sent anew each time.
type statement struct {
	text     string
	prepared *sqlx.Stmt // nil behind a pooler
}

func (s *Store) statement(ctx context.Context, text string) (*statement, error) {
	if s.pooled {
		return &statement{text: text}, nil
	}
	prepared, err := s.db.PreparexContext(ctx, text)
	return &statement{text: text, prepared: prepared}, err
}

// query runs the statement within tx, or on its own where tx is nil.
func (q *statement) query(ctx context.Context, db *sqlx.DB, tx *sqlx.Tx, args ...any) (*sqlx.Rows, error) {
	switch {
	case q.prepared == nil && tx == nil:
		return db.QueryxContext(ctx, q.text, args...)
	case q.prepared == nil:
		return tx.QueryxContext(ctx, q.text, args...)
	case tx == nil:
		return q.prepared.QueryxContext(ctx, args...)
	default:
		// database/sql closes the statement's copy with the transaction, not the one on the connection.
		return tx.StmtxContext(ctx, q.prepared).QueryxContext(ctx, args...)
	}
}

// queryDeadline bounds the wait for each answer of Postgres on the main pool: a connection that is cut without a
// word would otherwise hold its caller until TCP gives up, a quarter of an hour later.
const queryDeadline = 10 * time.Second

// DSN checks a connection text without connecting, so that a mistyped flag is told apart from a silent database.
func DSN(text string) error {
	_, err := pq.NewConfig(text)
	return err
}
