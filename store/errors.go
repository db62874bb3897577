package store

import (
	"errors"
	"fmt"

	"github.com/lib/pq"
)

// What can go wrong below, for the floors above to judge. Every error of this package that is none of these is a
// defect or a missing schema.
var (
	// ErrRefused: Postgres will never take this event. Trying again is of no use.
	ErrRefused = errors.New("the log refuses the event")

	// ErrUnavailable: the database did not answer, or not in a way that says anything about the request. What was
	// asked for may have happened.
	ErrUnavailable = errors.New("the database is unavailable")

	// ErrNoPartition: the day's partition is missing; MakePartitions makes it.
	ErrNoPartition = errors.New("no partition for the time of the event")
)

// classify wraps an error of the driver in the sentinel that says what it means.
func classify(err error) error {
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoPartition) || errors.Is(err, ErrElsewhere) {
		return err
	}
	var failure *pq.Error
	if errors.As(err, &failure) {
		switch failure.Code.Class() {
		case "22", "23": // data exceptions and violated constraints
			if failure.Code == "23514" && failure.Constraint == "" {
				return fmt.Errorf("%w: %w", ErrNoPartition, err)
			}
			return fmt.Errorf("%w: %w", ErrRefused, err)
		case "54": // a limit of Postgres, e.g. an index row too large
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// absent says that the schema, or a table of it, is not there.
func absent(err error) bool {
	var failure *pq.Error
	return errors.As(err, &failure) && (failure.Code == "42P01" || failure.Code == "3F000")
}
