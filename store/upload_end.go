package store

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// FinishUpload is the Change by which an upload that was verified becomes ready or failed, and its org's log says so. It is
// refused with ErrUploadMoved where somebody else verifies it by now.
type FinishUpload struct {
	ID       string
	Epoch    int64
	SHA256   []byte // of the whole; where it is ready
	MimeType string // what the bytes are
	Reason   string // why it has failed; "": it is ready
	Read     bool   // it is to be read by OCR
}

// Key implements Change.
func (f *FinishUpload) Key() string { return uploadKey(f.ID) }

func uploadKey(id string) string { return "upload " + id }

// Apply implements Change.
func (f *FinishUpload) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	upload, err := lockUpload(ctx, tx, f.ID)
	if err != nil {
		return nil, err
	}
	target := UploadReady
	if f.Reason != "" {
		target = UploadFailed
	}
	switch {
	case upload.Epoch == f.Epoch && upload.State == target: // our first try had been committed
	case upload.Epoch != f.Epoch, upload.State != UploadVerifying:
		return nil, ErrUploadMoved
	default:
		_, err = tx.ExecContext(ctx, `update sluice.uploads set state = $2::text, reason = $3, sha256 = $4, mime_type = $5, owner = '',
			lease_until = '-infinity', held = case when $2::text = 'ready' then greatest(size, 1) else 0 end,
			expires = case when $2::text = 'ready' and kind <> 'partial' then 'infinity' else expires end where id = $1`,
			f.ID, string(target), f.Reason, f.SHA256, f.MimeType)
		if err != nil {
			return nil, err
		}
		upload.State, upload.Reason, upload.SHA256, upload.MimeType = target, f.Reason, f.SHA256, f.MimeType
	}
	if target == UploadFailed {
		return unlessPartial(&upload, uploadFailedEvent), nil
	}
	if f.Read {
		if err := queueDocument(ctx, tx, f.ID); err != nil {
			return nil, err
		}
	}
	_, err = tx.ExecContext(ctx, `update sluice.uploads set state = 'deleted', held = 0, joined_by = $1, epoch = epoch + 1
		where id = any($2) and state = 'ready'`, f.ID, pq.Array(upload.Parts))
	return unlessPartial(&upload, func(u *Upload) Draft { return uploadedEvent(u, f.Read) }), err
}

// queueDocument has an upload read, once.
func queueDocument(ctx context.Context, tx *sqlx.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `with queued as (
			insert into sluice.documents (upload) values ($1) on conflict do nothing
		) select pg_notify($2, $3)`, id, channel, signalDocument)
	return err
}

// unlessPartial is the event of an upload; a part of another one has none.
func unlessPartial(upload *Upload, event func(*Upload) Draft) []Draft {
	if upload.Kind == UploadPartial {
		return nil
	}
	return []Draft{event(upload)}
}

// lockUpload reads an upload whose row stays as it is until the transaction ends.
func lockUpload(ctx context.Context, tx *sqlx.Tx, id string) (Upload, error) {
	if _, err := tx.ExecContext(ctx, `select from sluice.uploads where id = $1 for update`, id); err != nil {
		return Upload{}, err
	}
	return findUpload(ctx, tx, id)
}

// expiring is true of uploads that nobody has gone on with for too long, and of those that could not be verified since.
const expiring = `expires < now() and (state = 'uploading' or state = 'verifying' and lease_until < now() or state = 'ready' and kind = 'partial')`

// ExpireUpload is the Change by which an upload that nobody went on with is over. It is refused with ErrUploadMoved where
// somebody has gone on with it.
type ExpireUpload struct{ ID string }

// Key implements Change.
func (e *ExpireUpload) Key() string { return uploadKey(e.ID) }

// Apply implements Change. A part that was never joined is over like any other, although it is ready.
func (e *ExpireUpload) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	if _, err := lockUpload(ctx, tx, e.ID); err != nil {
		return nil, err
	}
	result, err := tx.ExecContext(ctx, `update sluice.uploads set state = 'expired', held = 0, epoch = epoch + 1, owner = '',
		lease_until = '-infinity' where id = $1 and `+expiring, e.ID)
	if err != nil {
		return nil, err
	}
	changed, err := result.RowsAffected()
	if err != nil {
		return nil, err
	}
	upload, err := findUpload(ctx, tx, e.ID)
	if err == nil && changed == 0 && upload.State != UploadExpired {
		err = ErrUploadMoved
	}
	if err != nil {
		return nil, err
	}
	return unlessPartial(&upload, uploadExpiredEvent), nil
}

// DeleteUpload ends an upload in any state, and refuses what its writer still brings. ErrUploadMoved while somebody
// verifies it. An upload that is over stays as it is.
func (s *Store) DeleteUpload(ctx context.Context, id string) error {
	return classifyUpload(s.deleteUpload(ctx, id))
}

func (s *Store) deleteUpload(ctx context.Context, id string) error {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	upload, err := lockUpload(ctx, tx, id)
	switch {
	case err != nil:
		return err
	case upload.State == UploadVerifying && upload.Leased:
		return ErrUploadMoved
	case upload.State == UploadExpired || upload.State == UploadFailed || upload.State == UploadDeleted:
		return nil
	}
	_, err = tx.ExecContext(ctx, `with gone as (delete from sluice.documents where upload = $1)
		update sluice.uploads set state = 'deleted', held = 0, epoch = epoch + 1, owner = '', lease_until = '-infinity',
			expires = least(expires, now()) where id = $1`, id)
	if err != nil {
		return err
	}
	return tx.Commit()
}

// ExpiringUploads are those that nobody has gone on with for too long, the oldest first.
func (s *Store) ExpiringUploads(ctx context.Context, limit int) (ids []string, err error) {
	err = s.db.SelectContext(ctx, &ids, `select id from sluice.uploads where `+expiring+` order by expires limit $1`, limit)
	return ids, classify(err)
}

// OrphanedUploads are those whose verification has stopped: whoever was at it has died.
func (s *Store) OrphanedUploads(ctx context.Context, limit int) (uploads []Upload, err error) {
	rows, err := s.db.QueryxContext(ctx, `select `+uploadColumns+uploadFrom+`where u.state = 'verifying' and u.lease_until < now() limit $1`, limit)
	uploads, err = readUploads(rows, err)
	return uploads, classify(err)
}

// NeededUploads says which of these uploads need their bytes; of those that are not known here, nobody does.
func (s *Store) NeededUploads(ctx context.Context, ids []string) (needed []string, err error) {
	err = s.db.SelectContext(ctx, &needed, `select id from sluice.uploads where id = any($1) and state in ('uploading', 'verifying', 'ready')`,
		pq.Array(ids))
	return needed, classify(err)
}

// ForgetUploads deletes what is known of uploads that have been over for as long as this.
func (s *Store) ForgetUploads(ctx context.Context, after time.Duration) error {
	_, err := s.db.ExecContext(ctx, `delete from sluice.uploads where state in ('failed', 'expired', 'deleted')
		and expires < now() - make_interval(secs => $1)`, after.Seconds())
	return classify(err)
}

// JoinedUpload is the one that was joined from exactly these parts by this user, where there is one that has not failed.
func (s *Store) JoinedUpload(ctx context.Context, org, user string, parts []string) (Upload, error) {
	upload, err := joinedUpload(ctx, s.db, org, user, parts)
	return upload, classifyUpload(err)
}

func joinedUpload(ctx context.Context, db sqlx.QueryerContext, org, user string, parts []string) (Upload, error) {
	// What holds bytes is in these states, and is found by the index of the user's.
	rows, err := db.QueryxContext(ctx, `select `+uploadColumns+uploadFrom+`where u.org = $1 and u.user_id = $2 and u.held > 0
		and u.kind = 'final' and u.parts = $3 and u.state in ('uploading', 'verifying', 'ready') order by u.created desc limit 1`,
		org, user, pq.Array(parts))
	return oneUpload(rows, err)
}
