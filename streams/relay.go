package streams

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"sluice/store"
)

// Outbox is the part of the store that the relay needs; its contract is that of store.Outbox.
type Outbox interface {
	Find(ctx context.Context) (waiting int, err error)
	Await(ctx context.Context) error
	Move(ctx context.Context, count int) (moved int, err error)
	Park(ctx context.Context, reason error) error
	Release()
}

const (
	relayBatch     = 250                    // rows of one transaction, so at most 16 MiB of data
	relayBusy      = 4 * time.Millisecond   // between two looks while rows come
	relayElsewhere = 250 * time.Millisecond // while another instance is the relay
	relayFailing   = 200 * time.Millisecond // while the database does not answer
)

// Relay moves what applications publish from SQL into the log. Every instance runs one; the database lets one of them work.
type Relay struct {
	outbox  Outbox
	makeDay func(context.Context) error // makes a missing partition
	metrics *Metrics
	logger  *slog.Logger

	batch   int  // rows of the next transaction: fewer after a refusal, until the bad one stands alone
	failing bool // the last look failed
}

// NewRelay makes a relay; Run runs it. makePartitions is called where the day's partition is missing.
func NewRelay(outbox Outbox, makePartitions func(context.Context) error, metrics *Metrics, logger *slog.Logger) *Relay {
	return &Relay{outbox: outbox, makeDay: makePartitions, metrics: metrics, logger: logger, batch: relayBatch}
}

// Run relays until ctx ends; then another instance may.
func (r *Relay) Run(ctx context.Context) {
	defer r.outbox.Release()
	defer r.metrics.OutboxWaiting.Set(0)
	for {
		pause := r.turn(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// turn looks once and moves what it finds, or waits until there is something; it says how long to wait until the next turn.
func (r *Relay) turn(ctx context.Context) time.Duration {
	attempt, cancel := context.WithTimeout(ctx, appendAttempt)
	defer cancel()
	waiting, err := r.outbox.Find(attempt)
	r.metrics.OutboxWaiting.Set(float64(waiting))
	switch {
	case err != nil:
	case waiting > 0:
		err = r.move(attempt)
	default:
		err = r.outbox.Await(attempt)
	}
	switch {
	case errors.Is(err, store.ErrElsewhere):
		return relayElsewhere
	case err != nil:
		if !r.failing && ctx.Err() == nil {
			r.logger.Warn("the outbox cannot be relayed for now", "err", err)
		}
		r.failing = true
		return relayFailing
	}
	if r.failing {
		r.failing = false
		r.logger.Info("the outbox is relayed again")
	}
	if waiting > 0 && waiting <= relayBatch {
		return relayBusy
	}
	return 0
}

// move brings one batch into the log. A batch that is refused is halved until the bad row stands alone and is parked.
func (r *Relay) move(ctx context.Context) error {
	moved, err := r.outbox.Move(ctx, r.batch)
	switch {
	case err == nil:
		r.batch = min(relayBatch, 2*r.batch)
		r.metrics.Relayed.Add(float64(moved))
		return nil
	case errors.Is(err, store.ErrRefused) && r.batch > 1:
		r.batch /= 2
		return nil
	case errors.Is(err, store.ErrRefused):
		if parking := r.outbox.Park(ctx, err); parking != nil {
			return parking
		}
		r.metrics.Parked.Inc()
		r.logger.Error("the log refuses a row of the outbox; it was moved to sluice.parked", "err", err)
		return nil
	case errors.Is(err, store.ErrNoPartition):
		return errors.Join(err, r.makeDay(ctx))
	}
	return err
}
