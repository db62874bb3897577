package store

import (
	"context"
	"database/sql/driver"
)

// pqConn is what database/sql uses of a connection of lib/pq.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// uncancelled is a connection through a pooler. What has begun there is not broken off, since PgBouncer 1.18 ends for everybody
// with "FATAL … bad client state" when a client asks to cancel a statement and leaves: a reader who gives up, or
// an instance that ends. The pool's deadline bounds every answer.
type uncancelled struct{ pqConn }

func (c uncancelled) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	return c.pqConn.BeginTx(context.WithoutCancel(ctx), options)
}

func (c uncancelled) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.pqConn.QueryContext(context.WithoutCancel(ctx), query, args)
}

func (c uncancelled) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.pqConn.ExecContext(context.WithoutCancel(ctx), query, args)
}

func (c uncancelled) Ping(ctx context.Context) error {
	return c.pqConn.Ping(context.WithoutCancel(ctx))
}
