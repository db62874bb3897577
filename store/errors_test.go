package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/lib/pq"

	"sluice/store/localpg/pgtest"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	if err := classify(nil); err != nil {
		t.Errorf("no error is %v", err)
	}
	all := []error{ErrRefused, ErrUnavailable, ErrNoPartition}
	for _, one := range []struct {
		err  error
		want error
	}{
		{&pq.Error{Code: "22P02"}, ErrRefused},                                 // no JSON
		{&pq.Error{Code: "22021"}, ErrRefused},                                 // not UTF-8
		{&pq.Error{Code: "23505", Constraint: "events_pkey"}, ErrRefused},      // unique
		{&pq.Error{Code: "23514", Constraint: "events_seq_check"}, ErrRefused}, // a check that has a name
		{&pq.Error{Code: "23514"}, ErrNoPartition},                             // no partition takes the row
		{&pq.Error{Code: "54000"}, ErrRefused},                                 // an index row too large
		{&pq.Error{Code: "40P01"}, ErrUnavailable},                             // deadlock
		{&pq.Error{Code: "40001"}, ErrUnavailable},                             // serialization
		{&pq.Error{Code: "55P03"}, ErrUnavailable},                             // a lock was not to be had
		{&pq.Error{Code: "57014"}, ErrUnavailable},                             // statement_timeout
		{&pq.Error{Code: "57P01"}, ErrUnavailable},                             // shutdown
		{&pq.Error{Code: "25006"}, ErrUnavailable},                             // a standby
		{&pq.Error{Code: "53100"}, ErrUnavailable},                             // the disk is full
		{&pq.Error{Code: "42P01"}, ErrUnavailable},                             // another database, without the schema
		{fmt.Errorf("wrapped: %w", &pq.Error{Code: "22P02"}), ErrRefused},
		{io.EOF, ErrUnavailable},
		{context.DeadlineExceeded, ErrUnavailable},
		{errStandby, ErrUnavailable},
		{fmt.Errorf("%w: again", ErrRefused), ErrRefused},
		{fmt.Errorf("%w: %w", ErrNoPartition, &pq.Error{Code: "57014"}), ErrNoPartition},
	} {
		got := classify(one.err)
		for _, sentinel := range all {
			if errors.Is(got, sentinel) != (sentinel == one.want) {
				t.Errorf("%v is %v", one.err, got)
			}
		}
		if !errors.Is(got, one.err) {
			t.Errorf("%v has lost its cause: %v", one.err, got)
		}
	}
}

// TestAbsent asks a real server about tables and schemas that are not there.
func TestAbsent(t *testing.T) {
	t.Parallel()
	empty, full := connect(t, pgtest.Empty(t)), connect(t, pgtest.Database(t))
	_, noSchema := empty.Exec(`create table sluice.x ()`)
	_, noTable := empty.Exec(`select from sluice.epoch`)
	_, noColumn := full.Exec(`select nothing from sluice.epoch`)
	if !absent(noSchema) || !absent(noTable) || absent(noColumn) || absent(nil) || absent(io.EOF) {
		t.Errorf("absent: %v, %v; not: %v", noSchema, noTable, noColumn)
	}
}
