package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
)

// SharedKey is the key of 32 bytes that all instances know by a name. Whoever asks first makes it; when it is returned it
// is committed, and it stays the same from then on.
func (s *Store) SharedKey(ctx context.Context, name string) (key []byte, err error) {
	const find = `select key from sluice.keys where name = $1`
	err = s.db.GetContext(ctx, &key, find, name)
	if !errors.Is(err, sql.ErrNoRows) {
		return key, classify(err)
	}
	made := make([]byte, 32)
	_, _ = rand.Read(made) // it never fails
	// One of two that insert at once waits for the other, and finds its key in the statement after that.
	if _, err = s.db.ExecContext(ctx, `insert into sluice.keys (name, key) values ($1, $2) on conflict do nothing`, name, made); err == nil {
		err = s.db.GetContext(ctx, &key, find, name)
	}
	return key, classify(err)
}
