package store

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
)

// identity tells one incarnation of a database from another: what a restored backup, a promoted standby or another
// server under the same address cannot share with the one that was there before.
type identity struct {
	systemID, timeline, databaseOID string
}

// identitySQL answers where we are and which epoch is kept there. The timeline is read from the position of the
// write-ahead log, for pg_control_checkpoint() lags until the next checkpoint.
const identitySQL = `select (select system_identifier::text from pg_control_system()),
	case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end,
	(select oid::text from pg_database where datname = current_database()),
	coalesce(e.epoch, ''), coalesce(e.system_id, ''), coalesce(e.timeline, ''), coalesce(e.database_oid, '')
	from (select 1) one left join sluice.epoch e on true`

// errStandby says that the server takes no writes: it is in recovery, so no log can be kept there.
var errStandby = errors.New("the server is a standby (in recovery): point the database URL at the primary")

// verify compares the incarnation behind a new connection with the epoch kept there. Where they differ the log was
// restored, promoted or replaced: cursors given out before may mean something else here, so a new epoch begins.
// Whichever instance sees it first writes it; the others find it written.
func (s *Store) verify(ctx context.Context, conn driver.Conn) error {
	for range 8 {
		row, err := queryRow(ctx, conn, identitySQL)
		if absent(err) && s.opts.Migrate {
			if err := s.prepareSchema(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		here := identity{row[0], row[1], row[2]}
		epoch, kept := row[3], identity{row[4], row[5], row[6]}
		if here.timeline == "" {
			return errStandby
		}
		if epoch != "" && here == kept {
			s.see(epoch)
			return nil
		}
		next := newEpoch()
		failedOver := epoch != "" && here.systemID == kept.systemID && here.databaseOID == kept.databaseOID
		if failedOver && s.opts.KeepEpoch {
			next = epoch
		}
		// If we stop after this statement, the next connection finds the new epoch and nothing else to do.
		_, err = conn.(driver.ExecerContext).ExecContext(ctx, replaceEpochSQL, values(next, here.systemID,
			here.timeline, here.databaseOID, epoch, kept.systemID, kept.timeline, kept.databaseOID))
		if err != nil {
			return err
		}
		if epoch != "" {
			s.log.Warn("the database is another incarnation", "epoch", next, "was", epoch, "system", here.systemID,
				"timeline", here.timeline)
		}
	}
	return errors.New("the epoch keeps changing: is more than one server behind this address?")
}

// replaceEpochSQL writes a new epoch only over the one that was read.
const replaceEpochSQL = `insert into sluice.epoch as e (epoch, system_id, timeline, database_oid)
	values ($1, $2, $3, $4) on conflict (singleton) do update
	set epoch = excluded.epoch, system_id = excluded.system_id, timeline = excluded.timeline,
		database_oid = excluded.database_oid, made_at = now()
	where (e.epoch, e.system_id, e.timeline, e.database_oid) = ($5, $6, $7, $8)`

// RotateEpoch begins a new epoch: every cursor given out before is answered by a reset. It is for what an identity
// cannot show, such as a snapshot of the file system put back. It returns the new epoch.
//
// Where from is not empty the epoch is replaced only while it is still that one; the one in force is returned.
func (s *Store) RotateEpoch(ctx context.Context, from string) (string, error) {
	next := newEpoch()
	_, err := s.direct.ExecContext(ctx,
		`update sluice.epoch set epoch = $1, made_at = now() where $2 = '' or epoch = $2`, next, from)
	if err != nil {
		return "", classify(err)
	}
	var epoch string
	if err := s.direct.GetContext(ctx, &epoch, `select epoch from sluice.epoch`); err != nil {
		return "", classify(err)
	}
	s.see(epoch)
	return epoch, nil
}

// see notes the epoch and tells of a change.
func (s *Store) see(epoch string) {
	was := s.epoch.Swap(&epoch)
	if *was == epoch {
		return
	}
	// The rows in logs may be gone with the other incarnation; appending offers them again.
	s.known.Clear()
	if s.opts.EpochChanged != nil {
		s.opts.EpochChanged(epoch)
	}
}

// newEpoch draws ten characters of [0-9a-z]: 51 bits, so that two incarnations never share an epoch.
func newEpoch() string {
	limit := new(big.Int).Exp(big.NewInt(36), big.NewInt(10), nil)
	number, err := rand.Int(rand.Reader, limit)
	if err != nil {
		panic(err) // crypto/rand does not fail on the systems that we run on
	}
	return fmt.Sprintf("%010s", strconv.FormatUint(number.Uint64(), 36))
}

// queryRow reads one row of texts over a connection that database/sql does not own yet.
func queryRow(ctx context.Context, conn driver.Conn, query string) ([]string, error) {
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	cells := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(cells); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("no row")
		}
		return nil, err
	}
	texts := make([]string, len(cells))
	for i, cell := range cells {
		switch value := cell.(type) {
		case string:
			texts[i] = value
		case []byte:
			texts[i] = string(value)
		default:
			return nil, fmt.Errorf("column %d is %T, not text", i, cell)
		}
	}
	return texts, nil
}

func values(texts ...string) []driver.NamedValue {
	named := make([]driver.NamedValue, len(texts))
	for i, text := range texts {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: text}
	}
	return named
}
