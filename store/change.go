package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Change is a change of state that goes into the log together with what the log says of it, in one transaction.
type Change interface {
	// Key names the one row that Apply locks, with its table; it is the same at every call. Batches apply their changes in
	// the order of the keys, so that two never wait for each other. Two with one key are applied in the order of arrival.
	Key() string

	// Apply changes the state within tx, which it neither commits nor rolls back, and says what the log is to tell of it;
	// that may be nothing. It locks the row of Key first, and none of the logs: their turn comes after all changes.
	//
	// It is called again after a try that may or may not have been committed, and wherever the batch has to begin anew.
	// So it is idempotent: where it finds its change made, it gives no drafts, since the log has them, or, where its caller
	// is to know their places, the same ones. Their ids derive from the change then and are marked IDGiven, so that the log
	// knows them again.
	//
	// Where it fails, the transaction goes back to where it was before the call, and the error is the answer to this
	// change alone; one that speaks of the database and not of the change ends the whole batch instead.
	Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error)
}

// Sequenced is a Change that also keeps where in the log it stands.
type Sequenced interface {
	Change

	// Placed is called within the transaction of Apply once the drafts that this has given have their places, with these in
	// the same order. It locks no row but those that its Apply has locked, or has made. An error ends the whole batch.
	Placed(ctx context.Context, tx *sqlx.Tx, appended []Appended) error
}

// Joined is a Change that costs less when it is applied together with others of its type.
type Joined interface {
	Change

	// ApplyAll is Apply of all of them, of which the receiver is the first, in the order of their keys. It locks their rows in
	// that order. What it returns has the same order: refused is what Apply would have failed with. Where err is not nil, none
	// was applied; if it speaks of the changes and not of the database, each is applied alone.
	ApplyAll(ctx context.Context, tx *sqlx.Tx, all []Change) (made [][]Draft, refused []error, err error)
}

// Sized is a Change that brings many drafts, and says about how many before it is applied.
type Sized interface {
	Change
	Size() int
}

// Item is one publisher's part of a batch: drafts, or a change that brings its own.
type Item struct {
	Drafts []Draft
	Change Change
}

// Answer is what became of one item of a batch that was committed.
type Answer struct {
	Appended []Appended // in the order of the item's drafts
	Err      error      // of the item's change, of which nothing was kept then: ErrRefused, or what Apply has said
}

// applyChanges applies the changes of a batch, and sets the drafts and the errors of their items. Those that follow each
// other and can be are applied together; where that is refused, each in a savepoint of its own, so that one costs the others
// nothing.
func applyChanges(ctx context.Context, tx *sqlx.Tx, items []Item, drafts [][]Draft, answers []Answer) error {
	for order := changesOf(items); len(order) > 0; {
		together := joined(items, order)
		if len(together) > 1 {
			refused, err := inSavepoint(ctx, tx, func() error {
				made, errs, err := together[0].(Joined).ApplyAll(ctx, tx, together)
				for at := range made {
					drafts[order[at]], answers[order[at]].Err = made[at], errs[at]
				}
				return err
			})
			if err != nil {
				return err
			}
			if refused == nil {
				order = order[len(together):]
				continue
			}
		}
		for _, i := range order[:len(together)] {
			var made []Draft
			refused, err := inSavepoint(ctx, tx, func() (err error) {
				made, err = items[i].Change.Apply(ctx, tx)
				return err
			})
			if err != nil {
				return err
			}
			if drafts[i], answers[i].Err = made, nil; refused != nil {
				drafts[i], answers[i].Err = nil, ofChange(refused)
			}
		}
		order = order[len(together):]
	}
	return nil
}

// joined lists the changes that an order begins with and that can be applied together; at least the first.
func joined(items []Item, order []int) (together []Change) {
	first := items[order[0]].Change
	_, can := first.(Joined)
	for _, i := range order {
		one := items[i].Change
		if len(together) > 0 && (!can || reflect.TypeOf(one) != reflect.TypeOf(first)) {
			break
		}
		together = append(together, one)
	}
	return together
}

// inSavepoint does something, and undoes it where it is refused; any other error is one of the database.
func inSavepoint(ctx context.Context, tx *sqlx.Tx, do func() error) (refused, err error) {
	if _, err := tx.ExecContext(ctx, `savepoint change`); err != nil {
		return nil, err
	}
	if refused = do(); refused == nil {
		_, refused = tx.ExecContext(ctx, `release savepoint change`)
	}
	if refused == nil || ofDatabase(refused) {
		return nil, refused
	}
	// A connection that is gone fails here, whatever do has made of it.
	_, err = tx.ExecContext(ctx, `rollback to savepoint change; release savepoint change`)
	return refused, err
}

// placeChanges tells the changes of a batch where in the log their drafts stand.
func placeChanges(ctx context.Context, tx *sqlx.Tx, items []Item, appended [][]Appended) error {
	for i := range items {
		if change, is := items[i].Change.(Sequenced); is && len(appended[i]) > 0 {
			if err := change.Placed(ctx, tx, appended[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// changesOf lists the items with a change in the order in which they are applied.
func changesOf(items []Item) (order []int) {
	for i := range items {
		if items[i].Change != nil {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(items[a].Change.Key(), items[b].Change.Key()) })
	return order
}

// ofDatabase says of an error of Apply that it tells nothing about the change: another try may well succeed.
func ofDatabase(err error) bool {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var failure *pq.Error
	if !errors.As(err, &failure) {
		return false
	}
	switch failure.Code.Class() {
	case "08", "40", "53", "57", "58": // connections, deadlocks and serialization, lack of resources, operators, the system
		return true
	}
	return failure.Code == "55P03" || failure.Code == "25006" // a lock that was not to be had, a standby
}

// ofChange is the answer to a change: an error of Apply's own as it is, one of Postgres that refuses it as ErrRefused.
func ofChange(err error) error {
	if refused := classify(err); errors.Is(refused, ErrRefused) {
		return refused
	}
	return err
}
