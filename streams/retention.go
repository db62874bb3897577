package streams

import (
	"context"
	"log/slog"
	"time"
)

// Trimmer is the part of the store that keeps partitions; its contract is that of store.Store.
type Trimmer interface {
	MakePartitions(ctx context.Context) error
	Trim(ctx context.Context, retention time.Duration) (dropped int, err error)
	ForgetTickets(ctx context.Context) error
	TrimMessages(ctx context.Context, retention time.Duration) (trimmed int64, err error)
	ForgetPositions(ctx context.Context, retention time.Duration) (forgotten int64, err error)
}

// Retain keeps the partitions of the coming days made and drops those past retention, and tickets, and messages of rooms past
// theirs, 0 being never, once a minute until ctx ends.
// Every instance runs it; whoever finds another one at it does nothing.
func Retain(ctx context.Context, log Trimmer, retention, messages time.Duration, logger *slog.Logger) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		if err := log.MakePartitions(ctx); err != nil && ctx.Err() == nil {
			logger.Error("cannot make the partitions of the coming days", "err", err)
		}
		dropped, err := log.Trim(ctx, retention)
		switch {
		case err != nil && ctx.Err() == nil:
			logger.Error("cannot drop what is past retention", "err", err)
		case dropped > 0:
			logger.Info("dropped days past retention", "days", dropped, "retention", retention)
			if _, err := log.ForgetPositions(ctx, retention); err != nil && ctx.Err() == nil {
				logger.Error("cannot forget the positions of readers who are gone", "err", err)
			}
		}
		if err := log.ForgetTickets(ctx); err != nil && ctx.Err() == nil {
			logger.Error("cannot delete the tickets that are over", "err", err)
		}
		trimMessages(ctx, log, messages, logger)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// trimMessages goes on until all is taken away that is to be.
func trimMessages(ctx context.Context, log Trimmer, retention time.Duration, logger *slog.Logger) {
	total := int64(0)
	for ctx.Err() == nil {
		trimmed, err := log.TrimMessages(ctx, retention)
		if err != nil && ctx.Err() == nil {
			logger.Error("cannot take away the messages past retention", "err", err)
		}
		if total += trimmed; err != nil || trimmed == 0 {
			break
		}
	}
	if total > 0 {
		logger.Info("took away messages past retention, or of deleted rooms", "messages", total)
	}
}
