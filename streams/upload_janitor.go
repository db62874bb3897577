package streams

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sluice/store"
)

const (
	flushEvery     = 250 * time.Millisecond // a look at the uploads that are written here
	flushAfter     = 300 * time.Millisecond // that no request has come, the row is told how far the upload is
	releaseAfter   = 10 * time.Second       // that no request has come, the upload is let go
	orphansEvery   = time.Second
	expireEvery    = 5 * time.Second
	expireBatch    = 100
	leftoversEvery = time.Hour
	leftoverAge    = time.Hour           // bytes without an upload may be those of one that is being made
	forgetAfter    = 30 * 24 * time.Hour // that an upload is over, nothing is known of it any more
)

// Run keeps uploads in order until ctx ends: rows are told of what comes slowly, what nobody goes on with expires,
// verifications that were left are finished, and bytes that nobody needs are deleted. Every instance runs it.
func (u *Uploads) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	for _, chore := range []struct {
		every time.Duration
		do    func(context.Context) error
	}{
		{flushEvery, u.flush}, {orphansEvery, u.adopt}, {expireEvery, u.expire}, {leftoversEvery, u.tidy},
	} {
		group.Go(func() {
			ticker := time.NewTicker(chore.every)
			defer ticker.Stop()
			for {
				if err := chore.do(ctx); err != nil && ctx.Err() == nil {
					u.options.Log.Warn("uploads cannot be kept in order for now", "err", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		})
	}
}

// tidy deletes what nobody needs any more: bytes, and rows of uploads that have long been over.
func (u *Uploads) tidy(ctx context.Context) error {
	err := u.Mark(ctx)
	if err == nil {
		err = u.collectLeftovers(ctx)
	}
	return errors.Join(err, u.log.ForgetUploads(ctx, forgetAfter))
}

// Mark leaves a sign of the database with the bytes, where there are none yet, and fails where the bytes are those of another
// one: what one database knows nothing of may be all that the other has.
func (u *Uploads) Mark(ctx context.Context) error {
	key, err := u.log.SharedKey(ctx, "blobs")
	if err != nil {
		return err
	}
	sign := fmt.Sprintf("database-%x", sha256.Sum256(key))
	foreign := u.blobs.Sees(ctx, sign)
	if foreign == nil {
		return nil
	}
	found := errors.New("there are uploads")
	switch err := u.blobs.Uploads(ctx, func(string, time.Time) error { return found }); {
	case errors.Is(err, found):
		return fmt.Errorf("%s has uploads of another database, so what this one does not know is not deleted there: %w", u.blobs, foreign)
	case err != nil:
		return err
	}
	return u.blobs.Announce(ctx, sign)
}

// flush tells the rows of uploads that no request has come for, and lets go of those that nobody goes on with.
func (u *Uploads) flush(ctx context.Context) error {
	u.mu.Lock()
	sessions := make([]*session, 0, len(u.sessions))
	for _, s := range u.sessions {
		sessions = append(sessions, s)
	}
	u.mu.Unlock()
	for _, s := range sessions {
		select {
		case s.turn <- struct{}{}:
		default:
			continue // a request is at it, and writes the row itself
		}
		switch idle := time.Since(s.used); {
		case !s.owned, s.dropped:
		case idle >= releaseAfter:
			u.release(ctx, s)
		case idle >= flushAfter && s.upload.Offset != s.recordedOffset:
			if err := u.record(ctx, s, nil); errors.Is(err, store.ErrUploadMoved) {
				s.disown()
			}
		}
		if s.dropped {
			<-s.turn
			continue
		}
		u.pass(s)
	}
	return nil
}

// adopt finishes verifications whose process has died.
func (u *Uploads) adopt(ctx context.Context) error {
	orphans, err := u.log.OrphanedUploads(ctx, expireBatch)
	for _, upload := range orphans {
		if failed := u.resume(ctx, upload); failed != nil && !errors.Is(failed, ErrUploadBusy) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// expire ends what nobody has gone on with.
func (u *Uploads) expire(ctx context.Context) error {
	ids, err := u.log.ExpiringUploads(ctx, expireBatch)
	for _, id := range ids {
		_, failed := u.changer.Change(ctx, &store.ExpireUpload{ID: id})
		switch {
		case failed == nil:
			u.metrics.Ended.WithLabelValues(string(store.UploadExpired)).Inc()
			u.discard(ctx, id)
		case !errors.Is(failed, store.ErrUploadMoved):
			err = errors.Join(err, failed)
		}
	}
	return err
}

// collectLeftovers deletes bytes of uploads that are over or were never made, which a crash or a failing store has left, once
// they are old enough.
func (u *Uploads) collectLeftovers(ctx context.Context) error {
	var found []string
	look := func() error {
		needed, err := u.log.NeededUploads(ctx, found)
		if err != nil {
			return err
		}
		for _, id := range found {
			if !slices.Contains(needed, id) {
				u.options.Log.Info("bytes that no upload needs are deleted", "upload", id)
				u.discard(ctx, id)
			}
		}
		found = found[:0]
		return nil
	}
	err := u.blobs.Uploads(ctx, func(upload string, changed time.Time) error {
		if time.Since(changed) < leftoverAge {
			return nil
		}
		found = append(found, upload)
		if len(found) < expireBatch {
			return nil
		}
		return look()
	})
	if err == nil && len(found) > 0 {
		err = look()
	}
	return err
}
